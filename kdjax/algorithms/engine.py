"""The engine under every algorithm: phases of players over a shared batch, one pytree of state.

A step
  1. augments the batch,
  2. for each phase: runs teachers and players forward, adds up the losses of the phase's players,
     takes one gradient for all of them, and updates each with its own optimiser,
  3. moves the averaged teachers.

Players of one phase see each other as constants, as they were before the phase.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdjax.algorithms.gradients import Phase, Result, phase_gradients
from kdjax.algorithms.guards import Guards, counted, guarded, settled, watched
from kdjax.algorithms.players import (
    Player,
    Setting,
    Sources,
    Teacher,
    forward_all,
    local_key,
    look_through,
    role_key,
    view_for,
)
from kdjax.base import COLUMNS, Algorithm, Batch, Context, Key, PlayerState, TrainState, Variables
from kdjax.parallel import Layout

Augment = Callable[[Key, Batch], Batch]
Frozen = Mapping[str, Variables]


def algorithm(
    players: Mapping[str, Player],
    teachers: Mapping[str, Teacher] | None = None,
    *,
    augment: Augment | None = None,
    microbatches: int = 1,
    axis_name: str | None = None,
    guards: Guards | None = None,
) -> Algorithm:
    """Makes an algorithm of players and teachers.

    Args:
      players: by name. A single player is usually called `student`.
      teachers: by name. `teacher` is the one that objectives mean if they name none.
      augment: `augment(key, batch) -> batch`, run on the device before anything else.
      microbatches: splits each batch into that many parts, one after the other, to save memory.
        What is minimised stays the same, also for objectives that couple examples.
      axis_name: set inside `pmap` or `shard_map`: the axis over which the batch is spread.
      guards: what happens to gradients that are not finite, and whether norms are reported. Without
        them nothing is looked at.

    Returns:
      `Algorithm(init, step)`:
        `init(key, batch, frozen=None, variables=None) -> TrainState`, where `frozen` holds the
        frozen teachers' variables and `variables` those of players that do not start from
        `model.init`;
        `step(state, batch, frozen=None, *, layout=None) -> (state, metrics)`, with one scalar per
        term and `loss`, after the player's name and a slash where several play. Terms of a player
        that did not move in a step are NaN. `layout` says where arrays live in a step over a mesh;
        `kdjax.parallel.compile` gives it.

    Raises:
      ValueError: if names clash, a teacher averages an unknown player, periods within a phase
        differ, or `microbatches` is not positive.
    """
    players = {
        name: player._replace(optimizer=guarded(player.optimizer, guards))
        for name, player in players.items()
    }
    setting = Setting(players, dict(teachers or {}))
    _check(setting, microbatches)

    def init(
        key: Key,
        batch: Batch,
        frozen: Frozen | None = None,
        variables: Mapping[str, Variables] | None = None,
    ) -> TrainState:
        if augment is not None:
            batch = augment(role_key(key, "augment"), batch)
        return _init(setting, key, batch, dict(frozen or {}), dict(variables or {}))

    def step(
        state: TrainState,
        batch: Batch,
        frozen: Frozen | None = None,
        *,
        layout: Layout | None = None,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        placed = setting._replace(layout=layout)
        key = jax.random.fold_in(state.key, state.step)
        if augment is not None:
            batch = augment(local_key(role_key(key, "augment"), axis_name), batch)
        metrics: dict[str, Any] = {}
        for names in _phases(setting.players):
            phase = Phase(placed, names, state, dict(frozen or {}), axis_name)
            state, more = _run(phase, batch, key, microbatches, guards)
            metrics |= more
        for name, player in state.players.items():
            metrics[name] |= counted(player, guards)
        state = state.replace(averages=move_averages(setting, state), step=state.step + 1)
        return state, flatten(metrics)

    return Algorithm(init, step)


def _init(
    setting: Setting,
    key: Key,
    batch: Batch,
    frozen: dict[str, Variables],
    given: dict[str, Variables],
) -> TrainState:
    made = {
        name: _start(player, given.get(name), role_key(key, name), batch)
        for name, player in setting.players.items()
    }
    averages = {
        name: made[teacher.average_of]
        for name, teacher in setting.teachers.items()
        if teacher.average_of is not None
    }
    sources = Sources(made, {**frozen, **averages})
    shapes = jax.eval_shape(
        lambda: forward_all(setting, sources, batch, key, train=frozenset(setting.players))[0]
    )
    states = {}
    for name, player in setting.players.items():
        context = Context(view_for(name, shapes), batch, jnp.zeros((), jnp.int32), key)
        own = player.objective.init(role_key(key, name + "/objective"), context)
        params = {"model": made[name]["params"], "objective": own.params}
        rest = {collection: v for collection, v in made[name].items() if collection != "params"}
        states[name] = PlayerState(params, rest, own.state, player.optimizer.init(params))
    state = TrainState(states, averages, jnp.zeros((), jnp.int32), key)
    # Steps may donate the state; copies keep the caller's own arrays alive.
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


def update(
    setting: Setting, name: str, state: PlayerState, result: Result, guards: Guards | None = None
) -> PlayerState:
    """One optimiser update of a player from the gradients of its phase."""
    optimizer = setting.players[name].optimizer
    updates, opt_state = optimizer.update(result.grads[name], state.opt_state, state.params)
    after = PlayerState(
        optax.apply_updates(state.params, updates),
        {**state.model_state, **result.model_states.get(name, {})},
        result.objective_states[name],
        opt_state,
    )
    return settled(state, after, guards)


def _run(
    phase: Phase, batch: Batch, key: Key, microbatches: int, guards: Guards | None
) -> tuple[TrainState, dict[str, dict[str, jax.Array]]]:
    """One phase: gradients and updates of its players, if it is their turn."""

    def move(state: TrainState) -> tuple[TrainState, Any]:
        result = phase_gradients(phase._replace(state=state), batch, key, microbatches)
        moved = {
            name: update(phase.setting, name, state.players[name], result, guards)
            for name in phase.names
        }
        metrics = {
            name: own | watched(result.grads[name], guards) for name, own in result.metrics.items()
        }
        return state.replace(players={**state.players, **moved}), metrics

    state, every = phase.state, phase.setting.players[phase.names[0]].every
    if every == 1:
        return move(state)
    _, metrics = jax.eval_shape(move, state)
    idle = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), metrics)
    return jax.lax.cond(state.step % every == 0, move, lambda state: (state, idle), state)


def flatten(metrics: Mapping[str, Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    """Metrics by term, after the player's name where several play."""
    if len(metrics) == 1:
        return dict(next(iter(metrics.values())))
    return {f"{name}/{key}": v for name, values in metrics.items() for key, v in values.items()}


def move_averages(setting: Setting, state: TrainState) -> dict[str, Variables]:
    """The averaged teachers after the players have moved."""
    averages = {}
    for name, average in state.averages.items():
        teacher = setting.teachers[name]
        decay = teacher.decay(state.step) if callable(teacher.decay) else teacher.decay
        averages[name] = optax.incremental_update(
            state.players[teacher.average_of].variables, average, 1 - decay
        )
    return averages


def _start(player: Player, given: Variables | None, key: Key, batch: Batch) -> Variables:
    if given is None:
        return player.model.init(key, look_through(player.view, batch))
    return as_variables(given)


def as_variables(given: Any) -> dict[str, Any]:
    """Bare parameters become `{'params': …}`; collections stay as they are."""
    if isinstance(given, Mapping) and "params" in given:
        return dict(given)
    return {"params": given}


def _phases(players: Mapping[str, Player]) -> list[tuple[str, ...]]:
    order = sorted({player.phase for player in players.values()})
    return [tuple(n for n, player in players.items() if player.phase == k) for k in order]


def _check(setting: Setting, microbatches: int) -> None:
    players, teachers = setting.players, setting.teachers
    if not players:
        raise ValueError("players is empty, wanted at least one")
    if clash := sorted(set(teachers) & {"batch", "student", COLUMNS, *players}):
        raise ValueError(f"teachers may not be called {clash}: the names are taken")
    if "batch" in players:
        raise ValueError("a player may not be called 'batch': the name is taken")
    for name, teacher in teachers.items():
        if teacher.average_of is not None and teacher.average_of not in players:
            raise ValueError(
                f"teacher {name!r} averages {teacher.average_of!r}; the players are "
                f"{sorted(players)}"
            )
    if not (isinstance(microbatches, int) and microbatches >= 1):
        raise ValueError(f"microbatches is {microbatches!r}, wanted a positive integer")
    for names in _phases(players):
        periods = sorted({players[name].every for name in names})
        if len(periods) > 1 or periods[0] < 1:
            raise ValueError(
                f"players {list(names)} of one phase have periods every={periods}; wanted one "
                "positive period"
            )
