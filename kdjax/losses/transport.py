"""Optimal transport between the predictions of a batch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.losses import numerics
from kdjax.losses.divergences import Labels, Mask


@numerics.batch_coupled
def sinkhorn_kd(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    labels: Labels | None = None,
    *,
    temperature: Any = 2.0,
    eps: Any = 0.1,
    iterations: int = 20,
    reduction: str = "mean",
    where: Mask | None = None,
) -> Float[Array, ""]:
    """SinKD: the cost of moving the batch's student predictions onto the teacher's.

        sum_ij P_ij C_ij / n,    C_ij = sum_c |q_ic - p_jc|

    with `q, p` the softmax of student `i` and teacher `j` at `T`, and `P` the plan of
    `sinkhorn_plan`. The gradient passes through the plan. It exists for the global batch of `n`
    examples; add it to `kd`.

    Args:
      student_logits: `[*batch, classes]`; all axes but the last are one batch.
      teacher_logits: the same shape, a constant.
      labels: not used.
      temperature: `T`, above 0. There is no factor of `T²`.
      eps: strength of the entropy, above 0.
      iterations: of the plan.
      reduction: `'mean'` divides by `n`; `'sum'` is the released loss, which grows with the batch
        and is weighted by 0.001 or 0.0008.
      where: elements that count, broadcast against the logits.

    Returns:
      A scalar.

    Raises:
      ValueError: if the shapes differ, temperature, eps or iterations are not positive, or the
        reduction is not known.

    Example:
      >>> logits = jnp.array([[9.0, 0.0], [0.0, 9.0]])
      >>> print(sinkhorn_kd(logits, logits).round(3), sinkhorn_kd(logits, 0 * logits).round(3))
      0.0 0.978

    References:
      Cui et al., Sinkhorn Distance Minimization for Knowledge Distillation,
      arXiv:2402.17110. (The released class has a temperature of 2 whatever it is given.)
    """
    del labels
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}, wanted 'mean' or 'sum'")
    classes = jnp.shape(student_logits)[-1]
    if where is not None:
        where = jnp.broadcast_to(where, jnp.shape(student_logits)).reshape(-1, classes)

    def probabilities(logits: Array) -> Array:
        logits = jnp.reshape(logits, (-1, classes))
        return jnp.exp(numerics.log_probabilities(logits, temperature=temperature, where=where))

    q, p = probabilities(student_logits), jax.lax.stop_gradient(probabilities(teacher_logits))
    examples = jnp.ones(len(q), bool) if where is None else jnp.any(where, axis=-1)
    cost = jnp.sum(jnp.abs(q[:, None] - p[None]), axis=-1)
    plan = sinkhorn_plan(cost, eps=eps, iterations=iterations, where=examples)
    total = jnp.sum(plan * cost)
    return total if reduction == "sum" else total / jnp.maximum(jnp.sum(examples), 1)


def sinkhorn_plan(
    cost: Float[Array, "n n"],
    *,
    eps: Any = 0.1,
    iterations: int = 20,
    where: Bool[Array, " n"] | None = None,
) -> Float[Array, "n n"]:
    """The entropic transport plan, `exp(-C / eps)` with rows and columns normalised in turn.

    Args:
      cost: from row to column.
      eps: strength of the entropy, above 0. Logarithms are iterated, so it may be small.
      iterations: each divides the rows by their sums, then the columns by theirs.
      where: rows, and the columns of the same number, that exist.

    Returns:
      The plan; each existing column sums to 1.

    Raises:
      ValueError: if eps or iterations are not positive.

    Example:
      >>> sinkhorn_plan(jnp.array([[0.0, 1.0], [1.0, 0.0]]), eps=1.0)[0, 1]
      Array(0.2689, dtype=float32)

    References:
      Cuturi, Sinkhorn Distances, arXiv:1306.0895.
    """
    numerics.check_positive(eps=eps, iterations=iterations)
    cost = numerics.as_float(cost)
    where = jnp.ones(cost.shape[0], bool) if where is None else where
    both = where[:, None] & where

    def normalize(log_plan: Array, axis: int) -> Array:
        # `both` is symmetric, so it serves rows and columns alike.
        total = numerics.log_sum_exp(jnp.moveaxis(log_plan, axis, -1), where=both)
        return jnp.where(both, log_plan - jnp.expand_dims(total, axis), 0)

    def iterate(log_plan: Array, _: None) -> tuple[Array, None]:
        return normalize(normalize(log_plan, axis=1), axis=0), None

    log_plan, _ = jax.lax.scan(iterate, -cost / eps, length=iterations)
    return jnp.where(both, jnp.exp(log_plan), 0)
