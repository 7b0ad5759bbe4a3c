"""The words of kdjax as types: models, objectives, algorithms and what passes between them.

Everything else in the library is a function that takes or gives one of the three pairs below,
in the manner of `optax.GradientTransformation`. Nothing here holds hidden state: every array
that changes during training lives in a `TrainState`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

PyTree = Any
Key = jax.Array
Variables = Mapping[str, PyTree]
"""A model's variables: `{'params': …}` and any further collections (`batch_stats`, …)."""
Signals = Mapping[str, Any]
"""What one forward pass gives: `logits`, `embedding`, `taps/<path>`, …"""
Batch = Mapping[str, Any]
"""Named arrays (or nested mappings of them) whose leading axis is the example axis."""

ROW = "row"
"""Field of a batch: the row numbers of its examples, where the examples lie on the device."""
COLUMNS = "columns"
"""Where a compiled step finds the data set that these are rows of, beside the frozen teachers."""


class ModelInit(Protocol):
    """Makes a model's variables from a key and an example batch."""

    def __call__(self, key: Key, batch: Batch) -> Variables:
        """Makes the variables."""
        ...


class ModelApply(Protocol):
    """One forward pass: signals, and the collections that it changed (`{}` if none)."""

    def __call__(
        self, variables: Variables, batch: Batch, *, key: Key | None = None, train: bool = False
    ) -> tuple[Signals, Variables]:
        """Makes one forward pass."""
        ...


class Model(NamedTuple):
    """A network as a pair of pure functions.

    Attributes:
      init: `init(key, batch) -> variables`.
      apply: `apply(variables, batch, *, key=None, train=False) -> (signals, model_state)` where
        `model_state` holds the non-trainable collections that the pass changed (batch
        statistics), `{}` if there are none.
    """

    init: ModelInit
    apply: ModelApply


class Term(NamedTuple):
    """A summand of the total loss, kept as a sum and a count until the step divides once.

    The loss is `weight * total / count`, with `total` and `count` summed over micro-batches and
    devices first, so that gradients do not depend on how a batch was split. A term whose weight is
    `None` is reported, but not minimised.
    """

    total: jax.Array
    count: jax.Array
    weight: jax.Array | float | None = 1.0

    @property
    def mean(self) -> jax.Array:
        """`total / count`, and 0 where nothing was counted."""
        return jnp.where(self.count > 0, self.total / jnp.where(self.count > 0, self.count, 1), 0)


Terms = Mapping[str, Term]


class Context(NamedTuple):
    """What an objective may look at when it is evaluated.

    Attributes:
      signals: signals by role: `student` (the player whose objective this is), `teacher` and every
        other player or teacher under its own name. All but the player's own are stop-gradient.
      batch: the batch, after augmentation.
      step: number of updates made so far, an int32 scalar.
      key: a PRNG key for this objective and step.
      networks: players and teachers as callables, `networks['critic'](batch) -> signals`; the
        player's own variables are differentiable, those of others are constants.
    """

    signals: Mapping[str, Signals]
    batch: Batch
    step: jax.Array | int = 0
    key: Key | None = None
    networks: Mapping[str, Callable[[Batch], Signals]] = {}

    def get(self, name: str, role: str = "student") -> Any:
        """Looks a signal up by name: `'logits'`, or with its role `'teacher:logits'`.

        The role `batch` reads the batch. Raises `KeyError` with the names there are.
        """
        role, _, signal = name.rpartition(":") if ":" in name else (role, "", name)
        sources = {**self.signals, "batch": self.batch}
        if role not in sources:
            raise KeyError(
                f"no signals from {role!r} (asked for {name!r}); there are {sorted(sources)}"
            )
        if signal not in sources[role]:
            raise KeyError(f"{role!r} gives no signal {signal!r}; it gives {sorted(sources[role])}")
        return sources[role][signal]


class ObjectiveVariables(NamedTuple):
    """An objective's own arrays: `params` are trained with its player, `state` is carried."""

    params: PyTree
    state: PyTree


EMPTY = ObjectiveVariables({}, {})


class Objective(NamedTuple):
    """A loss with what it needs around it, as a pair of pure functions.

    Attributes:
      init: `init(key, context) -> ObjectiveVariables`.
      apply: `apply(variables, context) -> (terms, state)`.
      coupled: whether examples of one batch meet in the loss, or state is carried. Such an
        objective is always evaluated on the whole global batch, also under gradient accumulation
        and `pmap`.
    """

    init: Callable[[Key, Context], ObjectiveVariables]
    apply: Callable[[ObjectiveVariables, Context], tuple[Terms, PyTree]]
    coupled: bool = False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlayerState:
    """One player's arrays.

    Attributes:
      params: `{'model': …, 'objective': …}`, all that its optimiser trains.
      model_state: the model's other collections (`batch_stats`, …).
      objective_state: what its objective carries (queues, adaptive weights, past predictions, …).
      opt_state: the optimiser's state.
    """

    params: PyTree
    model_state: PyTree
    objective_state: PyTree
    opt_state: PyTree

    @property
    def variables(self) -> Variables:
        """The model's variables as its `apply` takes them."""
        return {"params": self.params["model"], **self.model_state}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that decides the future of a run, as one pytree.

    Attributes:
      players: a `PlayerState` per player.
      averages: variables of the teachers that are moving averages of a player.
      step: number of steps made, an int32 scalar.
      key: the PRNG key that all randomness of a step is derived from.
    """

    players: Mapping[str, PlayerState]
    averages: Mapping[str, Variables]
    step: jax.Array
    key: Key

    def replace(self, **changes: Any) -> TrainState:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


class Algorithm(NamedTuple):
    """Who plays, on what, in which order, as a pair of pure functions.

    Attributes:
      init: `init(key, batch, frozen=None, variables=None) -> TrainState`.
      step: `step(state, batch, frozen=None) -> (state, metrics)`.
      several: `several(state, batches, frozen=None) -> (state, metrics)` makes a step with each of
        some batches in one call, and gives metrics `[steps]`; of compiled algorithms only.
    """

    init: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    several: Callable[..., tuple[TrainState, dict[str, jax.Array]]] | None = None
