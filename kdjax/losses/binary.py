"""Losses that ask about each class by itself: yes or no."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.losses import numerics
from kdjax.losses.divergences import Labels, Logits, Mask, PerExample


def binary_kl(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    temperature: Any = 2.0,
    where: Mask | None = None,
) -> PerExample:
    """Divergence of each class's yes or no, `T² sum_c KL(Bernoulli(p_c) ‖ Bernoulli(q_c))`.

    With `p_c, q_c` the sigmoid of the logits over `T`. For classes that do not exclude each other;
    on a single head it fights with `cross_entropy` (see `binary_kl_norm`).

    Args:
      student_logits: `[*batch, classes]`.
      teacher_logits: the same shape, a constant.
      labels: not used.
      temperature: `T`, above 0.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if the shapes differ or the temperature is not positive.

    Example:
      >>> binary_kl(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 2.0]]))
      Array([0.4438], dtype=float32)

    References:
      Yang et al., Dual-Head Knowledge Distillation, arXiv:2411.08937.
    """
    del labels
    student, teacher = _tempered(student_logits, teacher_logits, temperature)
    values = sum(
        jnp.exp(jax.nn.log_sigmoid(t)) * (jax.nn.log_sigmoid(t) - jax.nn.log_sigmoid(s))
        for s, t in ((student, teacher), (-student, -teacher))
    )
    return temperature**2 * _sum(values, where)


def binary_kl_norm(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    temperature: Any = 2.0,
    where: Mask | None = None,
) -> PerExample:
    """Dual-head distillation's loss: how far each class's difference of logits is from even.

        T² sum_c KL(Bernoulli(1/2) ‖ Bernoulli(sigmoid((s_c - t_c) / T)))

    It wants equal logits, which would spoil a head that learns labels: give it a head of its own.

    Args:
      student_logits: `s`, of the auxiliary head, `[*batch, classes]`.
      teacher_logits: `t`, the same shape, a constant.
      labels: not used.
      temperature: `T`, above 0.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats; 0 where the logits are equal.

    Raises:
      ValueError: if the shapes differ or the temperature is not positive.

    Example:
      >>> binary_kl_norm(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 2.0]]))
      Array([0.4805], dtype=float32)

    References:
      Yang et al., Dual-Head Knowledge Distillation, arXiv:2411.08937.
    """
    del labels
    student, teacher = _tempered(student_logits, teacher_logits, temperature)
    difference = student - teacher
    values = jax.nn.log_sigmoid(difference) + jax.nn.log_sigmoid(-difference)
    return temperature**2 * _sum(-jnp.log(2.0) - 0.5 * values, where)


def _tempered(student: Logits, teacher: Logits, temperature: Any) -> tuple[Array, Array]:
    """Both sides over the temperature, bounded so that an excluded class (-inf) stays finite."""
    numerics.check_pair(student, teacher, ("student_logits", "teacher_logits"))
    numerics.check_positive(temperature=temperature)
    bound = -numerics.LOG_ZERO
    student, teacher = (
        jnp.clip(numerics.as_float(x) / temperature, -bound, bound) for x in (student, teacher)
    )
    return student, jax.lax.stop_gradient(teacher)


def _sum(values: Array, where: Mask | None) -> PerExample:
    return jnp.sum(values if where is None else jnp.where(where, values, 0), axis=-1)
