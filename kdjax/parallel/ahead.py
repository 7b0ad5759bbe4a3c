"""A teacher on a mesh of its own, at work on the next batch while the student learns from this one.

What it answers moves to the student's mesh as soon as it is made. A language model's answer moves
as hidden states, with the head sent once, where these are the smaller ones.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdjax.base import Batch, Model, Signals, Variables
from kdjax.distributions import Linear
from kdjax.parallel.layout import Layout, place

TRAVELS = ("auto", "logits", "hidden")


class AheadTeacher(NamedTuple):
    """A teacher that has done its work before the step.

    Attributes:
      model: the teacher as the step sees it; it reads its signals from the batch.
      variables: what the step is given for its variables: the heads whose hidden states travel.
      batches: puts the teacher's signals into batches, `batches(iterator, ahead=1) -> iterator`.
      bytes_per_example: what travels with each example.
    """

    model: Model
    variables: Variables
    batches: Callable[..., AheadBatches]
    bytes_per_example: float


def teacher_ahead(
    teacher: Model,
    variables: Variables,
    example: Batch,
    *,
    layout: Layout,
    student: Layout,
    signals: tuple[str, ...] = ("logits",),
    role: str = "teacher",
    travel: str = "auto",
) -> AheadTeacher:
    """Makes a teacher on its own devices give its signals ahead of the student's step.

    Args:
      teacher: the network. A signal may be an array or a `kdjax.distributions.Linear`.
      variables: of the network; moved to its mesh once.
      example: a batch, or the shapes of one.
      layout: the teacher's mesh, and the rules for its variables under the name `role`.
      student: the student's.
      signals: those that are wanted; others do not travel.
      role: name of the teacher in the algorithm, and of the field that its signals get in a batch.
      travel: of a `Linear`: `'hidden'` states with the head sent once, `'logits'`, or `'auto'` for
        the fewer bytes per example.

    Returns:
      An `AheadTeacher`; build the algorithm with its `model`, train on `batches(iterator)`, and
      give `{role: variables}` to `init` and `step`.

    Raises:
      ValueError: for an unknown `travel`, a signal that the teacher does not give, or devices of
        other processes.

    Example:
      >>> import kdjax
      >>> model = kdjax.models.from_callable(lambda params, x: x @ params, lambda key: jnp.eye(3))
      >>> mesh = kdjax.parallel.make_mesh(devices=jax.devices()[:1])
      >>> batch = {'image': jnp.ones((2, 3))}
      >>> ahead = teacher_ahead(
      ...     model, model.init(jax.random.key(0), batch), batch, layout=Layout(mesh),
      ...     student=Layout(mesh))
      >>> given = next(ahead.batches(iter([batch])))
      >>> ahead.model.apply(ahead.variables, given)[0]['logits'].shape
      (2, 3)
    """
    if travel not in TRAVELS:
        raise ValueError(f"travel is {travel!r}, wanted one of {TRAVELS}")
    if layout.mesh.is_multi_process or student.mesh.is_multi_process:
        raise ValueError("a mesh has devices of other processes; wanted both within this one")
    shapes = jax.eval_shape(lambda v, b: teacher.apply(v, b)[0], variables, dict(example))
    for name in signals:
        if name not in shapes:
            raise ValueError(f"the teacher gives no signal {name!r}; it gives {sorted(shapes)}")
    split = {name: _sends_hidden(shapes[name], travel) for name in signals}
    heads = _heads(teacher, variables, example, [name for name in signals if split[name]])
    placed = place(dict(variables), layout.frozen({role: dict(variables)})[role])

    @jax.jit
    def answer(variables: Variables, batch: Batch) -> dict[str, Any]:
        forward = layout.forward(role, teacher.apply)
        given = forward(variables, batch)[0]
        return {name: _travelling(given[name], split[name]) for name in signals}

    def send(batch: Batch) -> dict[str, Any]:
        made = answer(placed, layout.place_batch(batch))
        return {**student.place_batch(batch), role: jax.device_put(made, student.rows)}

    def apply(
        variables: Variables, batch: Batch, *, key: Any = None, train: bool = False
    ) -> tuple[Signals, Variables]:
        arrived = batch[role]
        return {
            name: _joined(shapes[name], arrived[name], variables["params"].get(name))
            for name in signals
        }, {}

    travels = jax.eval_shape(
        lambda s: {name: _travelling(s[name], split[name]) for name in signals}, shapes
    )
    rows = len(jax.tree.leaves(dict(example))[0])
    size = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(travels))
    return AheadTeacher(
        Model(lambda key, batch: {"params": heads}, apply),
        {"params": heads},
        lambda iterator, ahead=1: AheadBatches(iter(iterator), send, ahead),
        size / rows,
    )


class AheadBatches(Iterator[dict[str, Any]]):
    """Batches with the teacher's signals, the next ones under way; made by `AheadTeacher.batches`.

    It can be resumed if the wrapped iterator has `get_state` and `set_state`.
    """

    def __init__(self, iterator: Iterator[Batch], send: Callable[[Batch], Any], ahead: int):
        if ahead < 0:
            raise ValueError(f"ahead is {ahead}, wanted an integer >= 0")
        self._iterator, self._send, self._ahead = iterator, send, ahead
        self._queue: collections.deque[tuple[dict[str, Any], Any]] = collections.deque()
        self._state = self._source_state()

    def _source_state(self) -> Any:
        return self._iterator.get_state() if hasattr(self._iterator, "get_state") else None

    def _fill(self, wanted: int) -> None:
        while len(self._queue) < wanted:
            try:
                batch = next(self._iterator)
            except StopIteration:
                return
            self._queue.append((self._send(batch), self._source_state()))

    def __next__(self) -> dict[str, Any]:
        # Nothing here waits: the teacher's next passes are queued on its devices before the student
        # is given its batch.
        self._fill(1 + self._ahead)
        if not self._queue:
            raise StopIteration
        batch, self._state = self._queue.popleft()
        return batch

    def get_state(self) -> Any:
        """The state of the wrapped iterator after the last batch given, not the last fetched."""
        return self._state

    def set_state(self, state: Any) -> None:
        """Drops what is under way and moves the wrapped iterator."""
        self._iterator.set_state(state)
        self._queue.clear()
        self._state = state


def _sends_hidden(shape: Any, travel: str) -> bool:
    """Whether a signal travels as hidden states."""
    if not isinstance(shape, Linear) or travel == "logits":
        return False
    per_logit = 4 * shape.vocabulary
    return travel == "hidden" or shape.hidden.shape[-1] * shape.hidden.dtype.itemsize < per_logit


def _travelling(signal: Any, split: bool) -> Any:
    if split:
        return signal.hidden
    return signal.materialize() if isinstance(signal, Linear) else signal


def _joined(shape: Any, arrived: Any, head: Any) -> Any:
    if head is None:
        return arrived
    return dataclasses.replace(shape, hidden=arrived, **head)


def _heads(teacher: Model, variables: Variables, example: Batch, names: list[str]) -> dict:
    """Kernel and bias of the heads, which are the same for every batch."""
    if not names:
        return {}
    one = jax.tree.map(lambda x: jnp.zeros_like(x, shape=(1, *x.shape[1:])), dict(example))

    @jax.jit
    def heads(variables: Variables) -> dict:
        given = teacher.apply(variables, one)[0]
        return {name: {"kernel": given[name].kernel, "bias": given[name].bias} for name in names}

    return heads(dict(variables))
