"""Which of several source models to learn from, before any training."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from numpy import triu_indices

from kdjax.losses import numerics


def parc(
    features: Float[Array, "examples width"], labels: Int[Array, " examples"]
) -> Float[Array, ""]:
    """PARC: how far a model's distances between examples agree with those of their labels.

    Spearman's rank correlation of `1 - ρ(f_i, f_j)` with the same of the one-hot labels, over the
    pairs of examples. Ties have their mean rank.

    Args:
      features: of a probe set, by the model that is judged, `[examples, width]`.
      labels: its classes `[examples]`.

    Returns:
      A scalar from -1 to 1, 0 where all distances are the same.

    Raises:
      ValueError: if the shapes do not go together or there are fewer than three examples.

    Example:
      >>> features = jnp.array([[1.0, 0.0, 0.0], [1.0, 0.1, 0.0], [0.0, 0.0, 1.0], [0.0, 0.1, 1.0]])
      >>> parc(features, jnp.array([0, 0, 1, 1])), parc(features, jnp.array([0, 1, 0, 1]))
      (Array(0.8402, dtype=float32), Array(-0.4201, dtype=float32))

    References:
      Bolya et al., Scalable Diverse Model Selection for Accessible Transfer Learning,
      arXiv:2111.06977.
    """
    shapes = jnp.shape(features), jnp.shape(labels)
    if len(shapes[0]) != 2 or shapes[1] != shapes[0][:1] or shapes[0][0] < 3:
        raise ValueError(
            f"features have shape {shapes[0]} and labels {shapes[1]}; wanted [examples, width] and "
            "[examples], of three examples or more"
        )
    x, labels = numerics.as_float(features), jnp.asarray(labels)
    x = numerics.normalize(x - jnp.mean(x, axis=-1, keepdims=True))
    distance = 1 - jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    # One-hot rows are at one of two distances, and only their order counts.
    differ = labels[:, None] != labels
    pairs = triu_indices(len(x), k=1)
    ranks = (jax.scipy.stats.rankdata(d[pairs]) for d in (distance, differ))
    return numerics.pearson(*ranks)


def source_weights(
    scores: Float[Array, " sources"], *, power: Any = 1.0
) -> Float[Array, " sources"]:
    """A share of each source, `max(score, 0)^power` normalised; even where no score is above 0.

    Args:
      scores: of the sources, such as `parc` gives, `[sources]`.
      power: the larger, the more the best sources count.

    Returns:
      `[sources]`, of sum 1, constants.

    Raises:
      ValueError: if the power is not positive.

    Example:
      >>> source_weights(jnp.array([0.1, 0.3, -0.2]))
      Array([0.25, 0.75, 0.  ], dtype=float32)

    References:
      Borup et al., Distilling from Similar Tasks for Transfer Learning on a Budget,
      arXiv:2304.12314.
    """
    numerics.check_positive(power=power)
    useful = jnp.maximum(jax.lax.stop_gradient(numerics.as_float(scores)), 0)
    # The largest becomes 1, so that no power is lost to underflow.
    useful = (useful / jnp.maximum(jnp.max(useful), jnp.finfo(useful.dtype).tiny)) ** power
    useful = jnp.where(jnp.sum(useful) > 0, useful, 1)
    return useful / jnp.sum(useful)
