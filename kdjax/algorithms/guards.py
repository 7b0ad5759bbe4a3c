"""Guards: what happens to a gradient that is not finite, and how large gradients are.

All of it acts on the gradient that a player's optimiser is given: summed over micro-batches and
devices already, so that all of them decide alike.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from kdjax.base import PlayerState

POLICIES = ("raise", "skip", "zero")
NORM, BROKEN = "grad_norm", "non_finite_gradient"
SKIPPED, ZEROED = "skipped_updates", "zeroed_entries"
COUNTERS = (SKIPPED, ZEROED)
"""Metrics that count from the start of a run."""
_LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Guards:
    """What is watched of the gradient of each player, as an option of an algorithm.

    Attributes:
      non_finite: what happens to a gradient with a NaN or an infinity in it. `'raise'` reports it
        as the metric `non_finite_gradient` (1 or 0), at which the training loop stops. `'skip'`
        leaves the player's parameters and its model's, objective's and optimiser's state as they
        were; `skipped_updates` counts. `'zero'` puts 0 in place of the entries that are not
        finite; `zeroed_entries` counts them.
      spike: above 0, the gradient's global norm is reported as `grad_norm`, and the training loop
        writes down each norm above `spike` times the running median.

    Raises:
      ValueError: for an unknown policy, or a spike that is not a number of at least 0.

    Example:
      >>> import jax, jax.numpy as jnp, kdjax, optax
      >>> apply = lambda params, x: x @ params["kernel"]
      >>> step = kdjax.train_step(
      ...     apply, None, kdjax.lift(kdjax.losses.cross_entropy), optax.sgd(0.1),
      ...     guards=Guards('skip'))
      >>> batch = {"image": jnp.full((1, 3), jnp.nan), "label": jnp.zeros(1, int)}
      >>> state = step.init({"kernel": jnp.eye(3)}, None, batch)
      >>> state, metrics = step.step(state, batch)
      >>> int(metrics["skipped_updates"])
      1
      >>> bool((state.players["student"].params["model"]["kernel"] == jnp.eye(3)).all())
      True
    """

    non_finite: str = "raise"
    spike: float = 0.0

    def __post_init__(self) -> None:
        if self.non_finite not in POLICIES:
            raise ValueError(f"non_finite is {self.non_finite!r}, wanted one of {list(POLICIES)}")
        if isinstance(self.spike, bool) or not isinstance(self.spike, int | float):
            raise ValueError(f"spike is {self.spike!r}, wanted a number")
        if not 0 <= self.spike < float("inf"):
            raise ValueError(f"spike is {self.spike}, wanted a finite number of at least 0")


class ZeroedState(NamedTuple):
    """How many entries of gradients were replaced by 0 so far, an int32 scalar."""

    total: jax.Array


def guarded(
    optimizer: optax.GradientTransformation, guards: Guards | None
) -> optax.GradientTransformation:
    """The optimiser with the policy in front of it; the counter is in its state."""
    if guards is None or guards.non_finite == "raise":
        return optimizer
    if guards.non_finite == "skip":
        return optax.apply_if_finite(optimizer, max_consecutive_errors=_LARGEST)
    return optax.chain(_zero_non_finite(), optimizer)


def settled(before: PlayerState, after: PlayerState, guards: Guards | None) -> PlayerState:
    """The state after an update, or the one before where the update was skipped."""
    if guards is None or guards.non_finite != "skip":
        return after
    kept = after.opt_state.last_finite

    def choose(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, old)

    return PlayerState(
        choose(after.params, before.params),
        choose(after.model_state, before.model_state),
        choose(after.objective_state, before.objective_state),
        after.opt_state,
    )


def watched(grads: Any, guards: Guards | None) -> dict[str, jax.Array]:
    """Metrics of one gradient."""
    metrics = {}
    if guards is not None and guards.non_finite == "raise":
        metrics[BROKEN] = jnp.logical_not(_finite(grads)).astype(jnp.float32)
    if guards is not None and guards.spike:
        metrics[NORM] = optax.global_norm(grads).astype(jnp.float32)
    return metrics


def counted(state: PlayerState, guards: Guards | None) -> dict[str, jax.Array]:
    """Metrics of what was done to a player's gradients since the start."""
    if guards is not None and guards.non_finite == "skip":
        return {SKIPPED: state.opt_state.total_notfinite}
    if guards is not None and guards.non_finite == "zero":
        return {ZEROED: state.opt_state[0].total}
    return {}


def _zero_non_finite() -> optax.GradientTransformation:
    """`optax.zero_nans` for infinities too, which counts."""

    def init(params: Any) -> ZeroedState:
        return ZeroedState(jnp.zeros((), jnp.int32))

    def update(updates: Any, state: ZeroedState, params: Any = None) -> tuple[Any, ZeroedState]:
        broken = [jnp.sum(~jnp.isfinite(leaf)) for leaf in jax.tree.leaves(updates)]
        total = state.total
        for count in broken:
            # Stays at the largest integer instead of turning negative.
            total = total + jnp.minimum(count.astype(jnp.int32), _LARGEST - total)
        clean = jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0), updates)
        return clean, ZeroedState(total)

    return optax.GradientTransformation(init, update)


def _finite(tree: Any) -> jax.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)] or [True]).all()
