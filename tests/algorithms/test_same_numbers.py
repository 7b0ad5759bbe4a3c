"""Every exemplar gives the same numbers compiled, in micro-batches, over any mesh, under pmap.

Compared are the metrics of each of five steps, and after them all parameters, the optimiser's
moments of the gradients, and what models and objectives carry. By default some exemplars go through
all forms and the others through every fifth; `KDJAX_FULL_TESTS=1` runs all of all.
"""

import functools
import os

import jax
import numpy as np
import pytest
from exemplars import batch, exemplars, rules, run

from kdjax import parallel

ALL = exemplars()
TOLERANCE = 1e-5
MESHES = {
    "data": {"data": 8},
    "fsdp": {"data": 1, "fsdp": 8},
    "all_axes": {"data": 2, "fsdp": 2, "tensor": 2},
    "explicit": {"data": 2, "fsdp": 2, "tensor": 2, "explicit": True},
}


FULL = bool(os.environ.get("KDJAX_FULL_TESTS"))
ALWAYS = ("kd_with_labels", "info_nce", "meal_v2_adversarial")


def pairs(forms):
    """Exemplars with the forms that they are run in."""
    return [
        (name, form)
        for row, name in enumerate(ALL)
        for column, form in enumerate(forms)
        if FULL or name in ALWAYS or (row + column) % 5 == 0
    ]


@functools.cache
def reference(name):
    make, frozen = ALL[name]
    return run(parallel.compile(make()), frozen)


def assert_close(got, expected, tolerance, scale=None):
    """Relative to each array's largest entry, or to a scale."""
    leaves = jax.tree_util.tree_leaves_with_path(got)
    for (path, a), b in zip(leaves, jax.tree.leaves(expected), strict=True):
        largest = float(np.max(np.abs(np.nan_to_num(b)), initial=0))
        atol = tolerance * max(1e-3, largest if scale is None else scale)
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=atol, err_msg=name)


def assert_same(name, state, history, tolerance=TOLERANCE):
    expected_state, expected_history = reference(name)
    for got, expected in zip(history, expected_history, strict=True):
        # A divergence of two networks that agree is a difference of numbers as large as the loss.
        scale = max(float(np.abs(np.nan_to_num(value))) for value in expected.values())
        assert_close(got, expected, tolerance, scale)
    assert_close(state.players, expected_state.players, tolerance)


def over(mesh_name, name, **options):
    make, frozen = ALL[name]
    mesh = parallel.make_mesh(**MESHES[mesh_name])
    return run(parallel.compile(make(**options), mesh=mesh, rules=rules), frozen)


@pytest.mark.parametrize("name", ALL)
def test_trains(name):
    state, history = reference(name)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(history))
    assert int(state.step) == 5
    make, frozen = ALL[name]
    before = make().init(jax.random.key(0), batch(), frozen)
    moved = jax.tree.map(
        lambda a, b: bool(np.any(np.asarray(a) != np.asarray(b))),
        {n: p.params["model"] for n, p in before.players.items()},
        {n: p.params["model"] for n, p in state.players.items()},
    )
    assert all(any(jax.tree.leaves(player)) for player in moved.values())


@pytest.mark.parametrize(("name", "microbatches"), pairs([2, 4]))
def test_microbatches(name, microbatches):
    make, frozen = ALL[name]
    assert_same(name, *run(parallel.compile(make(microbatches=microbatches)), frozen))


@pytest.mark.parametrize(("name", "mesh"), pairs([None, "all_axes"]))
def test_several_steps_in_one_call(name, mesh):
    make, frozen = ALL[name]
    placed = {} if mesh is None else {"mesh": parallel.make_mesh(**MESHES[mesh]), "rules": rules}
    algorithm = parallel.compile(make(), **placed)
    state = algorithm.init(jax.random.key(0), batch(), frozen)
    history = []
    for steps in (range(2), range(2, 5)):
        state, metrics = algorithm.several(state, tuple(map(batch, steps)), frozen)
        metrics = jax.tree.map(np.asarray, metrics)
        history += [{key: value[k] for key, value in metrics.items()} for k in range(len(steps))]
    assert_same(name, state, history)


@pytest.mark.parametrize(("name", "mesh"), pairs(MESHES))
def test_mesh(name, mesh):
    state, history = over(mesh, name)
    assert_same(name, state, history)
    if mesh != "data":
        parts = [leaf for leaf in jax.tree.leaves(state) if not leaf.is_fully_replicated]
        assert parts, "nothing was split"


@pytest.mark.parametrize(("name", "microbatches"), pairs([2, 4]))
def test_microbatches_over_a_mesh(name, microbatches):
    assert_same(name, *over("all_axes", name, microbatches=microbatches))


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in pairs([None, None])))
def test_pmap(name):
    make, frozen = ALL[name]
    algorithm = parallel.compile(make(axis_name=parallel.PMAP_AXIS), how="pmap")
    state, history = run(algorithm, frozen)
    assert_same(name, parallel.unreplicate(state), history)
