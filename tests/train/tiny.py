"""A problem so small that a step takes no time, and what a run leaves behind."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

import kdjax
from kdjax import data, losses
from kdjax.train import loop
from kdjax.train.checkpoints import Checkpoints
from kdjax.train.logging import read_metrics

BATCH = 4


def dataset(broken=None):
    """Twenty rows; the broken one has an infinite image."""
    draw = np.random.default_rng(0)
    image = draw.normal(size=(20, 3)).astype(np.float32)
    if broken is not None:
        image[broken] = np.inf
    return data.from_arrays({"image": image, "label": np.arange(20) % 2})


class Hidden:
    """Rows of which nobody knows that they are in memory."""

    def __init__(self, rows):
        self.features, self.take, self.fingerprint = rows.features, rows.take, rows.fingerprint
        self._size = len(rows)

    def __len__(self):
        return self._size


def plain_algorithm(learning_rate=0.1, guards=None):
    def init(key, batch):
        return {"params": {"w": jax.random.normal(key, (3, 2))}}

    def apply(variables, batch, *, key=None, train=False):
        return {"logits": batch["image"] @ variables["params"]["w"]}, {}

    objective = kdjax.lift(losses.cross_entropy)
    optimizer = optax.adam(learning_rate)
    return kdjax.algorithms.distill(
        kdjax.Model(init, apply), None, objective, optimizer, guards=guards
    )


def algorithm(*args, **options):
    return kdjax.parallel.compile(plain_algorithm(*args, **options))


def fit(folder, budget, *, made=None, broken=None, **options):
    """Trains in a folder, anew or from what is there."""
    train, made = dataset(broken), algorithm() if made is None else made
    iterator = data.batches(train, batch_size=BATCH, seed=3)
    example = {name: jnp.asarray(column[:BATCH]) for name, column in train.arrays.items()}
    state = made.init(jax.random.key(0), example, {})
    return loop.fit(made, state, iterator, budget, folder, batch_size=BATCH, **options)


def arrays(state):
    """All arrays of a state, the key as integers."""
    state = state.replace(key=jax.random.key_data(state.key))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def equal(first, second):
    """Whether two states are the same, bit by bit."""
    return all(
        a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in zip(arrays(first), arrays(second), strict=True)
    )


def final_arrays(folder):
    """The arrays of the newest checkpoint in a run's folder."""
    with Checkpoints(folder / "checkpoints", read_only=True) as keeper:
        if keeper.latest_step is None:
            return None, {}
        return keeper.latest_step, jax.tree.map(np.asarray, keeper.read(keeper.latest_step))


def rows(folder):
    return read_metrics(folder / "metrics.jsonl")


def result(folder):
    """The result without what depends on the clock."""
    found = json.loads((folder / "result.json").read_text())
    return {k: v for k, v in found.items() if k not in ("seconds", "examples_per_second")}
