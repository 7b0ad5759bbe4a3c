"""Running a model over a whole data set: its predictions, and what they are worth."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import data, evaluation, losses, parallel
from kdjax.base import Model, Variables
from kdjax.data import Dataset


def predict(model: Model, variables: Variables, dataset: Dataset, batch_size: int) -> np.ndarray:
    """Logits of a whole data set, in its order, `[size, …, classes]`."""
    return answers(model, variables, dataset, batch_size, ("logits",))["logits"]


def answers(
    model: Model, variables: Variables, dataset: Dataset, batch_size: int, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Signals of a whole data set, in its order, `[size, …]`."""
    apply = _signals_of(model, names)
    parts = []
    for batch in data.prefetch_to_device(data.eval_batches(dataset, batch_size)):
        mask = np.asarray(batch.pop("mask"))
        given = apply(variables, batch)
        parts.append({name: np.asarray(given[name], np.float32)[mask] for name in names})
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def labels_of(dataset: Dataset, batch_size: int) -> np.ndarray:
    """Labels of a whole data set, in its order, `[size]`."""
    return column_of(dataset, "label", batch_size)


def column_of(dataset: Dataset, name: str, batch_size: int) -> np.ndarray:
    """A field of a whole data set, in its order, `[size, …]`."""
    batches = data.eval_batches(dataset, batch_size)
    return np.concatenate([batch[name][batch["mask"]] for batch in batches])


def measure(
    logits: np.ndarray, labels: np.ndarray, teacher_logits: np.ndarray | None = None
) -> dict[str, Any]:
    """The fields `metrics`, `reliability` and `confusion` of a `RunResult`.

    Args:
      logits: `[size, classes]`.
      labels: `[size]`.
      teacher_logits: `[size, classes]`, or `[size, members, classes]` of a committee.
    """
    if teacher_logits is not None and teacher_logits.ndim == 3:
        teacher_logits = np.asarray(losses.committee(teacher_logits))
    return {
        "metrics": evaluation.summarize(logits, labels, teacher_logits),
        "reliability": evaluation.reliability_curve(logits, labels)._asdict(),
        "confusion": evaluation.confusion_matrix(logits, labels),
    }


def evaluator_of(
    model: Model, dataset: Dataset, batch_size: int, layout: parallel.Layout | None = None
) -> Callable[[Variables], dict[str, float]]:
    """A function from variables to loss and accuracy on a data set; compiled once.

    With a layout the variables are those of a train state on its mesh.
    """

    @jax.jit
    def sums(variables, batch):
        logits, mask = model.apply(variables, batch)[0]["logits"], batch["mask"]
        loss = jnp.where(mask, losses.cross_entropy(logits, batch["label"]), 0)
        right = (jnp.argmax(logits, axis=-1) == batch["label"]) & mask
        return jnp.sum(loss), jnp.sum(right)

    def evaluate(variables: Variables) -> dict[str, float]:
        batches = data.eval_batches(dataset, batch_size)
        if layout is None:
            batches = data.prefetch_to_device(batches)
        elif batch_size % parallel.batch_shards(layout.mesh) == 0:
            share = jax.process_index(), jax.process_count()
            batches = data.eval_batches(
                dataset, batch_size, process_index=share[0], process_count=share[1]
            )
            batches = data.prefetch_to_device(batches, sharding=layout.rows)
        else:  # whole on each device; numpy arrays are alike in all processes
            batches = map(dict, batches)
        totals = jax.device_get([sums(variables, batch) for batch in batches])
        loss, right = (float(sum(column)) for column in zip(*totals, strict=True))
        return {"loss": loss / dataset.size, "accuracy": right / dataset.size}

    return evaluate


@functools.lru_cache(maxsize=4)
def _signals_of(model: Model, names: tuple[str, ...]) -> Callable[..., dict[str, jax.Array]]:
    def chosen(variables: Variables, batch: Any) -> dict[str, jax.Array]:
        signals = model.apply(variables, batch)[0]
        return {name: signals[name] for name in names}

    return jax.jit(chosen)
