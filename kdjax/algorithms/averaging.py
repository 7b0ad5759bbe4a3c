"""An optimiser that ends at the mean of where it was."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AverageState(NamedTuple):
    """State of `stochastic_weight_averaging`.

    Attributes:
      inner: of the optimiser.
      mean: of the parameters after each step that counted.
      step: number of steps made.
    """

    inner: Any
    mean: Any
    step: jax.Array


def stochastic_weight_averaging(
    optimizer: optax.GradientTransformation, *, total_steps: int, share: float = 0.25
) -> optax.GradientTransformation:
    """SWA: the last step goes to the mean of the parameters of the last part of training.

        w_T = mean (w_{T-n+1}, …, w_{T-1}, w_T - e),    n = share · T

    where `w_T - e` is where the optimiser itself would end. Batch statistics are not recomputed:
    those of the last step stay.

    Args:
      optimizer: the optimiser that is averaged.
      total_steps: `T`, of the whole training.
      share: of the steps that count, above 0 to 1.

    Returns:
      An optimiser whose updates are the same until the last step.

    Raises:
      ValueError: if there is no step, or the share is out of range.

    Example:
      >>> optimizer = stochastic_weight_averaging(optax.sgd(1.0), total_steps=4, share=0.5)
      >>> params, state = jnp.zeros(()), optimizer.init(jnp.zeros(()))
      >>> for _ in range(4):  # to 1, 2, 3 and, of 3 and 4, the mean
      ...     updates, state = optimizer.update(-jnp.ones(()), state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> params
      Array(3.5, dtype=float32)

    References:
      Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization,
      arXiv:1803.05407; for a teacher, KD-OCT.
    """
    if total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}, wanted at least 1")
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}, wanted above 0 to 1")
    counted = max(1, round(share * total_steps))

    def init(params):
        mean = jax.tree.map(jnp.zeros_like, params)
        return AverageState(optimizer.init(params), mean, jnp.zeros((), jnp.int32))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("stochastic_weight_averaging wants the parameters, got None")
        updates, inner = optimizer.update(updates, state.inner, params)
        after = optax.apply_updates(params, updates)
        step = state.step + 1
        # The k-th of those that count moves the mean by 1/k of the way to it.
        seen = step - (total_steps - counted)
        rate = jnp.where(seen > 0, 1 / jnp.maximum(seen, 1), 0)
        mean = jax.tree.map(lambda m, w: m + (rate * (w - m)).astype(m.dtype), state.mean, after)
        last = step >= total_steps
        updates = jax.tree.map(
            lambda u, m, w: jnp.where(last, (m - w).astype(u.dtype), u), updates, mean, params
        )
        return updates, AverageState(inner, mean, step)

    return optax.GradientTransformation(init, update)
