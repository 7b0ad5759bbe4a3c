"""A run goes on on another number of devices: the same parameters, examples and losses."""

import jax
import numpy as np
import pytest
import tiny

from kdjax import data, parallel
from kdjax.train import loop
from kdjax.train.stopping import Interrupted, Stop

STEPS, BEFORE = 12, 5
MESHES = {
    "one": None,
    "data": (4, 1, 1, 4),
    "fsdp": (1, 2, 1, 2),
    "all_axes": (2, 2, 2, 8),
}
RULES = parallel.Rules(smallest=2)


class Watched:
    """Batches whose labels and rows are remembered."""

    def __init__(self):
        self.iterator = data.batches(tiny.dataset(), batch_size=8, seed=3)
        self.ids = []

    def __iter__(self):
        return self

    def __next__(self):
        batch = next(self.iterator)
        self.ids.append((self.iterator.get_state()["next_batch"], batch["id"].tolist()))
        return batch

    def get_state(self):
        return self.iterator.get_state()

    def set_state(self, state):
        self.iterator.set_state(state)


def algorithm(mesh):
    made = tiny.plain_algorithm()
    if mesh is None:
        return parallel.compile(made), None
    *sizes, count = MESHES[mesh]
    mesh = parallel.make_mesh(*sizes, devices=jax.devices()[:count])
    layout = parallel.Layout(mesh, RULES)
    return parallel.compile(made, mesh=mesh, rules=RULES), layout.rows


class StopAfter(Stop):
    """Asks to stop after some steps."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    @property
    def asked(self):
        self.left -= 1
        if self.left < 0:
            self.ask()
        return self.signal is not None


def fit(folder, mesh, stop_after=10**6):
    compiled, sharding = algorithm(None if mesh == "one" else mesh)
    batches = Watched()
    columns = tiny.dataset().arrays
    example = {name: jax.numpy.asarray(column[:8]) for name, column in columns.items()}
    state = compiled.init(jax.random.key(0), example, {})
    budget = loop.Budget(STEPS, log_every=1, save_every=100)
    try:
        outcome = loop.fit(
            compiled,
            state,
            batches,
            budget,
            folder,
            batch_size=8,
            sharding=sharding,
            stop=StopAfter(stop_after - 1),
        )
    except Interrupted:
        return None, batches.ids
    return outcome.state, batches.ids


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    state, ids = fit(folder, "one")
    return state, ids[:STEPS], tiny.rows(folder)


@pytest.mark.parametrize(
    ("before", "after"),
    [("one", "data"), ("data", "fsdp"), ("fsdp", "all_axes"), ("all_axes", "one")],
)
def test_goes_on(undisturbed, tmp_path, before, after):
    expected, ids, rows = undisturbed
    stopped, _ = fit(tmp_path, before, BEFORE)
    assert stopped is None
    state, resumed = fit(tmp_path, after)
    assert resumed[: STEPS - BEFORE] == ids[BEFORE:]
    for a, b in zip(jax.tree.leaves(state.players), jax.tree.leaves(expected.players), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    losses = [row["loss"] for row in tiny.rows(tmp_path)]
    np.testing.assert_allclose(losses, [row["loss"] for row in rows], rtol=1e-5)
