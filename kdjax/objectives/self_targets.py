"""Self-distillation with a weak head of the student's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kdjax.base import Objective, ObjectiveVariables
from kdjax.losses import numerics, teacher_free
from kdjax.objectives.lift import reduce
from kdjax.objectives.teachers import dense_stack


def uskd(
    *,
    feature: str = "embedding",
    alpha: Any = 1.0,
    beta: Any = 0.1,
    mu: Any = 0.005,
    rank: str = "probability",
    student: str = "logits",
    labels: str = "label",
) -> Objective:
    """Universal self-distillation: `losses.uskd` with its weak head, a linear layer.

    The head reads a pooled feature from the middle of the network, is trained along and is dropped
    afterwards. Add `cross_entropy` with weight 1.

    Args:
      feature: the student's signal that the head reads, `[batch, …, width]`; axes between are
        averaged over.
      alpha: weight of the target part.
      beta: weight of the non-target part.
      mu: weight of the head's own loss.
      rank: as for `losses.uskd`.
      student: the student's logits `[batch, classes]`.
      labels: field of the batch with the labels.

    Returns:
      A coupled objective with the term `uskd`; its parameters are the head's.

    References:
      Yang et al., From Knowledge Distillation to Self-Knowledge Distillation, arXiv:2303.13005.
    """

    def init(key, context):
        widths = (jnp.shape(context.get(feature))[-1], jnp.shape(context.get(student))[-1])
        return ObjectiveVariables(dense_stack(key, widths), {})

    def apply(variables, context):
        pooled = numerics.as_float(context.get(feature))
        pooled = jnp.mean(pooled, axis=tuple(range(1, pooled.ndim - 1)))
        params = variables.params
        weak = jnp.matmul(pooled, params["kernel_0"], precision=jax.lax.Precision.HIGHEST)
        values = teacher_free.uskd(
            context.get(student),
            weak + params["bias_0"],
            context.get(labels, role="batch"),
            alpha=alpha,
            beta=beta,
            mu=mu,
            rank=rank,
        )
        return {"uskd": reduce(values)}, {}

    return Objective(init, apply, coupled=True)
