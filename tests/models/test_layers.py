"""Convolutions of tiny images, which have a way of their own on CPUs."""

from functools import partial

import jax
import numpy as np
import pytest
from flax import linen as nn

from kdjax.models import _layers


@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (4, 4), (1, 1), (5, 5), (2, 9)])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 5])
def test_a_convolution_is_that_of_flax(shape, size, stride, channels):
    x = jax.random.normal(jax.random.key(0), (3, *shape, channels))
    ours = _layers._conv(7, size, stride, name="conv")
    flax = nn.Conv(7, (size, size), stride, use_bias=False)
    variables = flax.init(jax.random.key(1), x)

    def answer(layer):
        def energy(variables, x):
            y = layer.apply(variables, x)
            return (y**2).sum(), y

        return jax.jit(jax.value_and_grad(energy, (0, 1), has_aux=True))(variables, x)

    for a, b in zip(*(jax.tree.leaves(answer(layer)) for layer in (ours, flax)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("platform", "product"), [("cpu", True), ("tpu", False), ("cuda", False)])
def test_which_way_is_taken(platform, product):
    """One of the two alone is in the program of a platform."""
    layer = _layers._conv(7, 3, name="conv")
    x = jax.ShapeDtypeStruct((3, 2, 2, 5), np.float32)
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    lowered = jax.jit(layer.apply).trace(variables, x).lower(lowering_platforms=(platform,))
    text = lowered.as_text()
    assert ("stablehlo.convolution" in text) is not product
    assert ("stablehlo.dot_general" in text) is product
    if platform == "cpu":
        assert "conditional" not in lowered.compile().as_text()


@pytest.mark.parametrize("shape", [(4, 4), (7, 5), (1, 1), (2, 3)])
def test_halving_is_max_pooling(shape):
    x = jax.random.normal(jax.random.key(0), (3, *shape, 5))

    def energy(pool, x):
        y = pool(x)
        return (y**2).sum(), y

    def answer(pool):
        return jax.value_and_grad(energy, 1, has_aux=True)(pool, x)

    flax = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2), padding="SAME")
    for a, b in zip(*(jax.tree.leaves(answer(f)) for f in (_layers.halve, flax)), strict=True):
        np.testing.assert_array_equal(a, b)
