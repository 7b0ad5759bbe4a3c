"""What the miniatures share: data, the loop, measures, and what their claims are made of."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kdjax import data
from kdjax.algorithms import Player, Teacher, algorithm
from kdjax.atlas import verdicts
from kdjax.base import Algorithm, Model, Objective, TrainState, Variables

Columns = Mapping[str, np.ndarray]


class Claim(NamedTuple):
    """What a paper says.

    Attributes:
      title: of the method.
      arxiv: the paper's id; empty if it is not known.
      text: the claim.
      measure: what the arms' numbers are; higher is better.
    """

    title: str
    arxiv: str
    text: str
    measure: str = "accuracy, %"


class Compared(NamedTuple):
    """Two arms of which a claim says which one is better.

    Attributes:
      method: the arm that the claim is about.
      other: what it is compared with.
      worse: the claim is that the method is worse.
      margin: what the method may lose and the claim still hold.
    """

    method: str
    other: str
    worse: bool = False
    margin: float = 0.0

    def __str__(self) -> str:
        """The claim in words."""
        if self.margin:
            return f"{self.method} within {self.margin:g} of {self.other}"
        return f"{self.method} {'below' if self.worse else 'above'} {self.other}"


def judge(results: Mapping[str, Mapping[str, float]], compared: Compared) -> dict[str, Any]:
    """What the seeds say about a comparison.

    Args:
      results: the arms' numbers by seed, as text: `{'0': {'kd': 93.1, …}, …}`.
      compared: which arms.

    Returns:
      The mean of the paired differences, its standard error (none for a single seed), and the
      verdict of the atlas: where Student's t interval at 95 percent lies.

    Example:
      >>> results = {str(k): {"kd": 92.0 + k, "labels": 90.0 + 0.9 * k} for k in range(3)}
      >>> judge(results, Compared("kd", "labels"))["verdict"]
      'reproduced'
    """
    one, other = (
        {int(seed): arms[name] for seed, arms in results.items()}
        for name in (compared.method, compared.other)
    )
    found = verdicts.paired_difference(one, other)
    pairs = [one[seed] - other[seed] for seed in one]
    error = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else None
    said = verdicts.verdict(found, "accuracy", worse=compared.worse, margin=compared.margin)
    return {"difference": found.mean, "standard_error": error, "verdict": said}


@functools.cache
def columns(name: str, split: str) -> Columns:
    """A split of a data set, as arrays; images from 0 to 1."""
    arrays = data.load(name, split).arrays
    return {"image": np.float32(arrays["image"]) / 255, "label": np.int32(arrays["label"])}


def rows(examples: Columns, chosen: Any) -> Columns:
    """Some of the examples."""
    return {name: values[chosen] for name, values in examples.items()}


def optimizer(rate: float, steps: int) -> optax.GradientTransformation:
    """Adam, whose rate falls to 0 as a cosine."""
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def learner(
    model: Model,
    objective: Objective,
    tx: optax.GradientTransformation,
    teachers: Mapping[str, Model] | None = None,
    **options: Any,
) -> Algorithm:
    """One student, and frozen teachers by name."""
    frozen = {name: Teacher(teacher) for name, teacher in (teachers or {}).items()}
    return algorithm({"student": Player(model, objective, tx)}, frozen, **options)


def train(
    made: Algorithm,
    examples: Columns,
    seed: int,
    steps: int,
    *,
    frozen: Mapping[str, Variables] | None = None,
    variables: Mapping[str, Variables] | None = None,
    batch_size: int = 64,
    compiled_loop: bool = True,
) -> TrainState:
    """The state after some steps on batches that are drawn evenly from the examples.

    Args:
      made: the algorithm. Kept from one seed to the next, it is compiled once.
      examples: columns of equal length.
      seed: of the first variables, the batches and all else that is drawn.
      steps: how many.
      frozen: variables of frozen teachers.
      variables: of players that start from elsewhere.
      batch_size: examples per step.
      compiled_loop: `False` calls one compiled step after the other, which suits convolutions:
        processors do them slowly inside of a compiled loop.
    """
    drawn = np.random.default_rng(seed).integers(0, len(examples["label"]), (steps, batch_size))
    given = (frozen or {}, variables or {})
    on_device = {name: jnp.asarray(values) for name, values in examples.items()}
    example = drawn[0] if steps else np.zeros(batch_size, int)
    state = _start(made.init, jax.random.key(seed), on_device, example, given)
    if compiled_loop:
        return _run(made.step, state, on_device, drawn, given[0])
    for chosen in drawn:
        state = _step(made.step, state, on_device, chosen, given[0])
    return state


@functools.partial(jax.jit, static_argnums=0)
def _start(init, key, examples, chosen, given):
    return init(key, {name: values[chosen] for name, values in examples.items()}, *given)


@functools.partial(jax.jit, static_argnums=0)
def _run(step, state, examples, drawn, frozen):
    def one(state, chosen):
        return _step(step, state, examples, chosen, frozen), None

    return jax.lax.scan(one, state, drawn)[0]


@functools.partial(jax.jit, static_argnums=0)
def _step(step, state, examples, chosen, frozen):
    return step(state, {name: values[chosen] for name, values in examples.items()}, frozen)[0]


def student(state: TrainState, name: str = "student") -> Variables:
    """A player's variables."""
    return state.players[name].variables


def signals(model: Model, variables: Variables, examples: Columns) -> dict[str, np.ndarray]:
    """What a model answers to all examples."""
    return jax.device_get(_apply(model.apply, variables, dict(examples)))


@functools.partial(jax.jit, static_argnums=0)
def _apply(apply, variables, examples):
    return apply(variables, examples)[0]


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """In percent."""
    return 100 * float(np.mean(np.argmax(logits, axis=-1) == labels))


def score(model: Model, variables: Variables, examples: Columns) -> float:
    """Accuracy of a model's `logits`, in percent."""
    return accuracy(signals(model, variables, examples)["logits"], examples["label"])


def balanced_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean of the classes' accuracies, in percent."""
    right = np.argmax(logits, axis=-1) == labels
    return 100 * float(np.mean([np.mean(right[labels == c]) for c in np.unique(labels)]))
