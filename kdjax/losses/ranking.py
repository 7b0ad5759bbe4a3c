"""Losses on the order of the classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from kdjax.losses import numerics
from kdjax.losses.divergences import Labels, Logits, Mask, PerExample


def pld(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels,
    *,
    temperature: Any = 1.0,
    rank_weights: str = "teacher",
    where: Mask | None = None,
) -> PerExample:
    """Plackett-Luce distillation: the likelihood of the label, then of the teacher's ranking.

        sum_k a_k (log sum_{l≥k} exp s[o_l] - s[o_k])

    with `o` the label, then the other classes from the teacher's first to its last, and `a_k` the
    teacher's probability of class `o_k`. It takes the place of cross-entropy and distillation.

    Args:
      student_logits: `s`, `[*batch, classes]`; they have no temperature.
      teacher_logits: the same shape, a constant.
      labels: as for `cross_entropy`; of probabilities, the most likely class counts.
      temperature: of the weights `a` alone, above 0. The paper takes 1 (ImageNet) and 4 (CIFAR).
      rank_weights: `'teacher'`, or `'uniform'` for a weight of 1 at every rank (ListMLE).
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if the shapes differ, the temperature is not positive, labels are out of range or
        rank_weights is not known.

    Example:
      >>> student, teacher = jnp.array([[2.0, 1.0, 0.0]]), jnp.array([[0.0, 3.0, 1.0]])
      >>> pld(student, teacher, jnp.array([0])), pld(student, teacher, jnp.array([2]))
      (Array([0.2815], dtype=float32), Array([1.3831], dtype=float32))

    References:
      Bassam et al., PLD: A Choice-Theoretic List-Wise Knowledge Distillation, arXiv:2506.12542.
    """
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    if rank_weights not in ("teacher", "uniform"):
        raise ValueError(f"rank_weights is {rank_weights!r}, wanted 'teacher' or 'uniform'")
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
    log_q = numerics.log_probabilities(student_logits, where=where)
    log_p = numerics.log_probabilities(teacher_logits, temperature=temperature, where=where)
    exists = jnp.broadcast_to(True if where is None else where, log_p.shape)
    share = jnp.exp(log_p) if rank_weights == "teacher" else exists.astype(log_p.dtype)
    order = label_first(log_p, labels, where=where)
    log_q, share = (jnp.take_along_axis(x, order, axis=-1) for x in (log_q, share))
    remaining = jax.lax.cumlogsumexp(log_q, axis=log_q.ndim - 1, reverse=True)
    return jnp.sum(share * (remaining - log_q), axis=-1)


def label_first(
    logits: Logits, labels: Labels, *, where: Mask | None = None
) -> Int[Array, "*batch classes"]:
    """The classes in order: the label, the others by descending logit, those that do not exist.

    Args:
      logits: `[*batch, classes]`.
      labels: as for `cross_entropy`.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      Classes `[*batch, classes]`; equal logits keep the order of the classes.

    Example:
      >>> label_first(jnp.array([[0.0, 3.0, 1.0]]), jnp.array([2]))
      Array([[2, 1, 0]], dtype=int32)
    """
    x = jnp.maximum(numerics.as_float(logits), numerics.LOG_ZERO)
    x = jnp.where(numerics.target_mask(labels, logits), jnp.inf, x)
    x = x if where is None else jnp.where(where, x, -jnp.inf)
    return jnp.argsort(-x, axis=-1, stable=True)
