"""Players, teachers, and what they see of each other."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from kdjax.base import (
    Batch,
    Context,
    Key,
    Model,
    Objective,
    ObjectiveVariables,
    PlayerState,
    Signals,
    Terms,
    TrainState,
    Variables,
)
from kdjax.parallel import Layout


class Player(NamedTuple):
    """A set of variables that learns.

    Attributes:
      model: its network.
      objective: what it minimises. Its parameters (a projector's, say) are trained along.
      optimizer: any `optax.GradientTransformation`.
      every: update at each `every`-th step only.
      phase: players of one phase are updated together; phases follow one another within a step.
      forward: whether the model is run on the batch. A critic that is only called by objectives
        (`context.networks['critic']`) sets it to False.
      view: fields of the batch it sees under another name, `{'image': 'strong_image'}`.
      anchor: the term of its objective that no other may work against: their gradient is projected
        (`gradient_align`). It costs a second backward pass.
    """

    model: Model
    objective: Objective
    optimizer: optax.GradientTransformation
    every: int = 1
    phase: int = 0
    forward: bool = True
    view: Mapping[str, str] | None = None
    anchor: str | None = None


class Teacher(NamedTuple):
    """Something that gives teacher signals and does not learn by gradient.

    Attributes:
      model: its network. Variables of a frozen teacher are handed to each step.
      average_of: the player whose moving average it is, kept in the train state; `None` if frozen.
      decay: of the moving average, a number or a schedule of the step.
      train: runs it in training mode (batch statistics of the batch, dropout).
      view: as for `Player`.
    """

    model: Model
    average_of: str | None = None
    decay: float | Callable[[Any], Any] = 0.999
    train: bool = False
    view: Mapping[str, str] | None = None


class Setting(NamedTuple):
    """What stays the same during a step and is shared by the functions below.

    Attributes:
      players: by name.
      teachers: by name.
      layout: where arrays live, in a step over a mesh.
    """

    players: Mapping[str, Player]
    teachers: Mapping[str, Teacher]
    layout: Layout | None = None

    def forward(
        self, name: str, variables: Variables, batch: Batch, *, key: Key, train: bool
    ) -> tuple[Signals, Variables]:
        """A forward pass of a player or teacher."""
        apply = {**self.teachers, **self.players}[name].model.apply
        if self.layout is not None:
            apply = self.layout.forward(name, apply)
        return apply(variables, batch, key=key, train=train)


class Sources(NamedTuple):
    """Variables of everybody, as the models take them."""

    players: Mapping[str, Variables]
    teachers: Mapping[str, Variables]


def role_key(key: Key, name: str) -> Key:
    """A key for a named role, independent of who else takes part."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def local_key(key: Key, axis_name: str | None) -> Key:
    """A key of this device's own, inside a mapped axis."""
    if axis_name is None:
        return key
    return jax.random.fold_in(key, jax.lax.axis_index(axis_name))


def forward_all(
    setting: Setting, sources: Sources, batch: Batch, key: Key, *, train: frozenset[str]
) -> tuple[dict[str, Signals], dict[str, Variables]]:
    """Signals of all teachers and players, and the collections that players changed.

    `train` names the players in training mode. Teachers' signals are constants.
    """
    signals: dict[str, Signals] = {}
    changed: dict[str, Variables] = {}
    for name, teacher in setting.teachers.items():
        out, _ = setting.forward(
            name,
            jax.lax.stop_gradient(sources.teachers.get(name, {})),
            look_through(teacher.view, batch),
            key=role_key(key, name),
            train=teacher.train,
        )
        signals[name] = jax.lax.stop_gradient(out)
    for name, player in setting.players.items():
        if player.forward:
            signals[name], changed[name] = setting.forward(
                name,
                sources.players[name],
                look_through(player.view, batch),
                key=role_key(key, name),
                train=name in train,
            )
    return signals, changed


def view_for(
    name: str, signals: Mapping[str, Signals], live: frozenset[str] = frozenset()
) -> dict[str, Signals]:
    """Signals as one player's objective sees them: its own under `student`, others as constants.

    Signals of the players in `live` keep their gradient too.
    """
    seen = {
        role: value if role == name or role in live else jax.lax.stop_gradient(value)
        for role, value in signals.items()
    }
    return {**seen, "student": seen[name]} if name in seen else seen


def networks_for(
    name: str, setting: Setting, sources: Sources, key: Key, live: frozenset[str] = frozenset()
) -> dict[str, Callable[[Batch], Signals]]:
    """All players and teachers as callables.

    Variables of `name` and of those in `live` are differentiable.
    """
    everyone = {**sources.teachers, **sources.players}

    def network(other: str) -> Callable[[Batch], Signals]:
        variables = everyone.get(other, {})
        if other != name and other not in live:
            variables = jax.lax.stop_gradient(variables)

        def call(batch: Batch) -> Signals:
            train = other == name
            return setting.forward(other, variables, batch, key=role_key(key, other), train=train)[
                0
            ]

        return call

    return {other: network(other) for other in (*setting.teachers, *setting.players)}


def evaluate_objective(
    name: str,
    setting: Setting,
    sources: Sources,
    own: ObjectiveVariables,
    signals: Mapping[str, Signals],
    batch: Batch,
    step: Any,
    key: Key,
    live: frozenset[str] = frozenset(),
) -> tuple[Terms, Any]:
    """Terms and next state of one player's objective."""
    context = Context(
        view_for(name, signals, live),
        batch,
        step,
        role_key(key, name + "/objective"),
        networks_for(name, setting, sources, key, live),
    )
    return setting.players[name].objective.apply(own, context)


def look_through(view: Mapping[str, str] | None, batch: Batch) -> Batch:
    """The batch with some fields replaced by others."""
    if not view:
        return batch
    for field in view.values():
        if field not in batch:
            raise KeyError(f"the view asks for {field!r}, the batch has {sorted(batch)}")
    return {**batch, **{name: batch[field] for name, field in view.items()}}


def sources_of(state: TrainState, frozen: Mapping[str, Variables], params: Any = None) -> Sources:
    """Everybody's variables, with some players' parameters replaced."""
    players = {}
    for name, player in state.players.items():
        own = (params or {}).get(name, player.params)
        players[name] = {"params": own["model"], **player.model_state}
    return Sources(players, {**frozen, **state.averages})


def replace(state: PlayerState, **changes: Any) -> PlayerState:
    """A copy with some fields changed."""
    return dataclasses.replace(state, **changes)
