"""Steps over meshes of models that are not all parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kdjax
from kdjax import algorithms, losses, models, parallel
from kdjax.parallel import P, Rules

RULES = Rules(smallest=2)
ROWS = 8


def batch():
    key = jax.random.key(3)
    return {"image": jax.random.normal(key, (ROWS, 6, 6, 3)), "label": jnp.arange(ROWS) % 4}


def small_resnet():
    return models.from_linen(models.zoo.build("resnet", num_classes=4, width=8, depth=8))


def with_unused_parameter():
    def init(key):
        return {"w": jax.random.normal(key, (3, 4)), "unused": jnp.ones((8, 8))}

    return models.from_callable(lambda params, x: x.mean((1, 2)) @ params["w"], init)


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("make", [small_resnet, with_unused_parameter])
def test_batch_statistics_and_unused_parameters(make, explicit):
    made = algorithms.distill(make(), None, kdjax.lift(losses.cross_entropy), optax.sgd(0.1))
    mesh = parallel.make_mesh(2, 4, explicit=explicit)
    answers = []
    for options in ({}, {"mesh": mesh, "rules": RULES}):
        compiled = parallel.compile(made, **options)
        state = compiled.init(jax.random.key(0), batch())
        for _ in range(3):
            state, metrics = compiled.step(state, batch())
        answers.append((float(metrics["loss"]), state.players))
    for a, b in zip(*map(jax.tree.leaves, answers), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_rules_that_do_not_fit():
    tree = {"head": {"kernel": jnp.ones((6, 10))}}
    mesh = parallel.make_mesh(2, 2, 2)
    for spec, problem in (
        (P("model"), "no axis 'model'"),
        (P(None, None, "tensor"), "3 entries for 2 axes"),
        (P(None, ("data", "fsdp", "tensor")), "10 does not divide into 8 parts"),
    ):
        with pytest.raises(ValueError, match=f"rule 'kernel' gives head/kernel .*{problem}"):
            Rules((("kernel", spec),)).specs(tree, mesh)


def test_meshes_that_do_not_fit():
    for sizes in ((3, 1, 1), (-1, -1, 1), (0, 1, 1), (2, 2, 1)):
        with pytest.raises(ValueError, match="devices"):
            parallel.make_mesh(*sizes)


def test_batches_that_do_not_split():
    made = with_unused_parameter()
    made = algorithms.distill(made, None, kdjax.lift(losses.cross_entropy), optax.sgd(0.1))
    compiled = parallel.compile(made, mesh=parallel.make_mesh(2, 2, 2))
    with pytest.raises(ValueError, match=r"batch\['image'\] has shape \(6, .* multiple of the 4"):
        compiled.init(jax.random.key(0), jax.tree.map(lambda x: x[:6], batch()))
