"""Two levels: a player that is judged by what another one learns under it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kdjax.algorithms import engine, players
from kdjax.algorithms.gradients import Phase
from kdjax.algorithms.guards import Guards, counted, guarded, settled, watched
from kdjax.algorithms.players import Player, Setting, Teacher
from kdjax.base import Algorithm, Batch, Key, TrainState, Variables
from kdjax.objectives.compose import total_loss
from kdjax.parallel import Layout


def bilevel(
    lower: Mapping[str, Player],
    upper: Mapping[str, Player],
    teachers: Mapping[str, Teacher] | None = None,
    *,
    augment: engine.Augment | None = None,
    validation: str = "validation",
    guards: Guards | None = None,
) -> Algorithm:
    """A student learns the lower loss; a second player learns what makes the student validate best.

    At each `every`-th step of the upper player (`u`, with parameters `φ`), the student's next
    update is looked ahead, through its own optimiser, and differentiated:

        θ'(φ) = θ + update(∇_θ lower(θ, φ; batch))
        φ ← φ + update_u(∇_φ upper(θ'(φ); validation))

    Then the student makes its step with the new `φ`. The student's optimiser is differentiated, so
    it must be smooth: give Adam an `eps_root` above 0 (1e-10), as the slope of its square root is
    infinite where a gradient has always been 0.

    Args:
      lower: one player, the student. Its objective calls the upper player through
        `context.networks`.
      upper: one player; its objective is evaluated with the looked-ahead student's signals on the
        validation batch, under the role `student`.
      teachers: as for `kdjax.algorithms.algorithm`.
      augment: as for `kdjax.algorithms.algorithm`; the validation batch is left as it is.
      validation: the field of each batch that holds the validation batch, a batch of its own.
      guards: as for `kdjax.algorithms.algorithm`.

    Returns:
      `Algorithm(init, step)` like `kdjax.algorithms.algorithm` gives.

    Raises:
      ValueError: if a level has not exactly one player; KeyError: if a batch has no validation
        part.

    References:
      Hu et al., TGeo-KD, arXiv:2312.15112; one-step lookahead: Liu et al., DARTS, arXiv:1806.09055.
    """
    for level, named in (("lower", lower), ("upper", upper)):
        if len(named) != 1:
            raise ValueError(f"{level} has the players {sorted(named)}, wanted exactly one")
    (student, lower_player), (judge, upper_player) = (
        (name, player._replace(optimizer=guarded(player.optimizer, guards)))
        for level in (lower, upper)
        for name, player in level.items()
    )
    everyone = {student: lower_player, judge: upper_player._replace(forward=False, phase=1)}
    setting = Setting(everyone, dict(teachers or {}))
    whole = engine.algorithm(everyone, teachers)

    def init(key: Key, batch: Batch, frozen: Any = None, variables: Any = None) -> TrainState:
        return whole.init(key, _training(batch, validation), frozen, variables)

    def lower_loss(phase: Phase, theta: Any, phi: Any, batch: Batch, key: Key) -> Any:
        """The student's loss, with both players' parameters differentiable."""
        live = {student: theta, judge: phi}
        signals, model_states = phase.forward(live, batch, key)
        terms, states = phase.objectives(live, signals, batch, key, live=frozenset({judge}))
        return total_loss(terms[student]), (terms[student], model_states, states)

    def upper_loss(phase: Phase, phi: Any, batch: Batch, key: Key) -> Any:
        """The validation loss of the student after its next update."""
        own = phase.state.players[student]
        grads = jax.grad(lambda theta: lower_loss(phase, theta, phi, batch, key)[0])(own.params)
        updates, _ = lower_player.optimizer.update(grads, own.opt_state, own.params)
        ahead = {student: optax.apply_updates(own.params, updates), judge: phi}
        held_out = batch[validation]
        judged = phase._replace(names=(judge,))
        signals, _ = judged.forward(ahead, held_out, key)
        signals = {**signals, "student": signals[student]}
        terms, _ = judged.objectives(
            ahead, signals, held_out, key, live=frozenset({student, "student"})
        )
        return total_loss(terms[judge])

    def move_upper(phase: Phase, batch: Batch, key: Key) -> tuple[Any, dict[str, jax.Array]]:
        own = phase.state.players[judge]
        loss, grads = jax.value_and_grad(lambda phi: upper_loss(phase, phi, batch, key))(own.params)
        updates, opt_state = upper_player.optimizer.update(grads, own.opt_state, own.params)
        params = optax.apply_updates(own.params, updates)
        moved = players.replace(own, params=params, opt_state=opt_state)
        return settled(own, moved, guards), {"loss": loss, **watched(grads, guards)}

    def step(
        state: TrainState,
        batch: Batch,
        frozen: Mapping[str, Variables] | None = None,
        *,
        layout: Layout | None = None,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        placed = setting._replace(layout=layout)
        key = jax.random.fold_in(state.key, state.step)
        training = _training(batch, validation)
        if augment is not None:
            training = augment(players.role_key(key, "augment"), training)
        batch = {**training, validation: batch[validation]}
        phase = Phase(placed, (student,), state, dict(frozen or {}), None)
        idle = dict.fromkeys(["loss", *watched({}, guards)], jnp.full((), jnp.nan))
        moved, judged = jax.lax.cond(
            state.step % upper_player.every == 0,
            lambda: move_upper(phase, batch, key),
            lambda: (state.players[judge], idle),
        )
        own = state.players[student]
        grads, (terms, model_states, states) = jax.grad(
            lambda theta: lower_loss(phase, theta, moved.params, training, key), has_aux=True
        )(own.params)
        updates, opt_state = lower_player.optimizer.update(grads, own.opt_state, own.params)
        trained = players.replace(
            own,
            params=optax.apply_updates(own.params, updates),
            opt_state=opt_state,
            objective_state=states[student],
            model_state={**own.model_state, **model_states.get(student, {})},
        )
        trained = settled(own, trained, guards)
        learned = {name: term.mean for name, term in terms.items()} | {"loss": total_loss(terms)}
        metrics = {
            student: learned | watched(grads, guards) | counted(trained, guards),
            judge: judged | counted(moved, guards),
        }
        state = state.replace(players={student: trained, judge: moved})
        state = state.replace(averages=engine.move_averages(setting, state), step=state.step + 1)
        return state, engine.flatten(metrics)

    return Algorithm(init, step)


def _training(batch: Batch, validation: str) -> Batch:
    if validation not in batch:
        raise KeyError(f"the batch has no {validation!r}; it has {sorted(batch)}")
    return {name: value for name, value in batch.items() if name != validation}
