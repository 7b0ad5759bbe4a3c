"""A model's own rematerialisation, inside of the layout's checkpoint."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kdjax
from kdjax import algorithms, losses, models, parallel
from kdjax.parallel.layout import Layout
from kdjax.parallel.remat import keep_remat
from kdjax.parallel.stacks import keep_layers_split

DEPTH = 3


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + jnp.sin(nn.Dense(8)(jnp.sin(nn.Dense(16)(x))))


class Net(nn.Module):
    """Blocks one after the other or scanned, rematerialised or not."""

    remat: bool = True
    scanned: bool = False

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
        block = nn.remat(Block) if self.remat else Block
        if self.scanned:
            scan = nn.scan(
                lambda module, x, _: (module(x), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=DEPTH,
            )
            x, _ = scan(block(name="blocks"), x, None)
        else:
            for index in range(DEPTH):
                x = block(name=f"block_{index}")(x)
        return nn.Dense(8, name="head")(x)


def batch():
    key = jax.random.key(1)
    return {"image": jax.random.normal(key, (8, 8)), "label": jnp.arange(8)}


def counted(program, found=None):
    """How often each primitive occurs in a program, at any depth."""
    found = collections.Counter() if found is None else found
    for equation in program.eqns:
        found[equation.primitive.name] += 1
        for value in equation.params.values():
            for each in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(each, "jaxpr", each)
                if hasattr(inner, "eqns"):
                    counted(inner, found)
    return found


def sines(function, *args):
    return counted(jax.make_jaxpr(jax.grad(function))(*args).jaxpr)["sin"]


@pytest.mark.parametrize("scanned", [False, True])
def test_layers_are_computed_again_over_fsdp(scanned):
    layout = Layout(parallel.make_mesh(1, 8), parallel.Rules(smallest=2))
    counts = {}
    for remat in (False, True):
        model = models.from_linen(Net(remat, scanned))
        variables = model.init(jax.random.key(0), batch())
        forward = layout.forward("student", model.apply)

        def loss(variables, forward=forward):
            return forward(variables, batch())[0]["logits"].sum()

        counts[remat] = sines(loss, variables)
    # Twice per block forward, and again in the backward pass.
    per_block = 1 if scanned else DEPTH
    assert counts[False] == 2 * per_block and counts[True] >= 4 * per_block


@pytest.mark.parametrize("scanned", [False, True])
def test_the_numbers_are_those_of_one_device(scanned):
    model = models.from_linen(Net(True, scanned))
    made = algorithms.distill(model, None, kdjax.lift(losses.cross_entropy), optax.sgd(0.1))
    states = []
    for options in ({}, {"mesh": parallel.make_mesh(2, 4), "rules": parallel.Rules(smallest=2)}):
        compiled = parallel.compile(made, **options)
        state = compiled.init(jax.random.key(0), batch())
        for _ in range(2):
            state, _ = compiled.step(state, batch())
        states.append(jax.tree.map(np.asarray, state.players["student"].params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), *states)


def inner(x, scale, count, key):
    """With an integer, a key and a nested checkpoint among what it takes and does."""
    noise = jax.random.normal(key, x.shape)
    nested = jax.checkpoint(lambda x: jnp.sin(x) * scale)
    return jnp.sin(nested(x)) * count + noise, count + 1


@pytest.mark.parametrize("wrap", [jax.checkpoint, jax.jit, lambda f: jax.jit(jax.checkpoint(f))])
def test_gradients(wrap):
    args = jnp.linspace(-1.0, 1.0, 5), jnp.float32(0.7), jnp.int32(3), jax.random.key(0)

    def total(function):
        return lambda x, scale: function(x, scale, *args[2:])[0].sum()

    wanted = jax.value_and_grad(total(inner), (0, 1))(*args[:2])
    kept = keep_remat(wrap(inner))
    found = jax.value_and_grad(total(kept), (0, 1))(*args[:2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), found, wanted)
    assert kept(*args)[1] == 4
    outer = jax.checkpoint(total(kept), policy=keep_layers_split)
    again = jax.grad(outer, (0, 1))(*args[:2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), again, wanted[1])


def test_what_has_no_checkpoint_is_left_alone():
    kept = keep_remat(lambda x: {"double": 2 * x})
    assert jax.jvp(kept, (1.0,), (1.0,))[1] == {"double": 2.0}
