"""An optimiser that ends at the mean of its last parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdjax import algorithms

PARAMS = {"a": jnp.arange(3.0), "b": jnp.ones((2, 2), jnp.bfloat16)}
STEPS = 8


def path(optimizer):
    """The parameters after each step, down the same noisy gradients."""
    params, state, found = PARAMS, optimizer.init(PARAMS), []
    for step in range(STEPS):
        key = jax.random.key(step)
        grads = jax.tree.map(lambda p, key=key: jax.random.normal(key, p.shape, p.dtype), params)
        updates, state = jax.jit(optimizer.update)(grads, state, params)
        params = optax.apply_updates(params, updates)
        found.append(params)
    return found


@pytest.mark.parametrize("share, counted", [(0.25, 2), (0.5, 4), (1.0, 8), (0.01, 1)])
def test_only_the_last_step_differs_and_is_the_mean(share, counted):
    inner = optax.adam(0.1)
    plain = path(inner)
    made = path(algorithms.stochastic_weight_averaging(inner, total_steps=STEPS, share=share))
    for one, other in zip(plain[:-1], made[:-1], strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    mean = np.mean([p["a"] for p in plain[-counted:]], axis=0)
    np.testing.assert_allclose(made[-1]["a"], mean, rtol=1e-5)
    assert made[-1]["b"].dtype == jnp.bfloat16
    mean = np.mean([np.float32(p["b"]) for p in plain[-counted:]], axis=0)
    np.testing.assert_allclose(np.float32(made[-1]["b"]), mean, rtol=0.03, atol=0.03)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="total_steps is 0, wanted at least 1"):
        algorithms.stochastic_weight_averaging(optax.sgd(1.0), total_steps=0)
    with pytest.raises(ValueError, match="share is 0, wanted above 0 to 1"):
        algorithms.stochastic_weight_averaging(optax.sgd(1.0), total_steps=4, share=0)
    optimizer = algorithms.stochastic_weight_averaging(optax.sgd(1.0), total_steps=4)
    with pytest.raises(ValueError, match="wants the parameters, got None"):
        optimizer.update(PARAMS, optimizer.init(PARAMS))
