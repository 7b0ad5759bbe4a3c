"""Losses on how predictions and features go together: with one another, and over the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.losses import features, numerics
from kdjax.losses import logits as logit_losses
from kdjax.losses.divergences import Labels, Logits, Mask

Examples = Bool[Array, " batch"]
EXACT = jax.lax.Precision.HIGHEST


@numerics.batch_coupled
def multi_level_kd(
    student_logits: Float[Array, "*batch classes"],
    teacher_logits: Float[Array, "*batch classes"],
    labels: Labels | None = None,
    *,
    temperature: Any = (2.0, 3.0, 4.0, 5.0, 6.0),
    class_weight: Any = 1.0,
    batch_weight: Any = 1.0,
    where: Mask | None = None,
) -> Float[Array, ""]:
    """Multi-level logit distillation: each example, how classes, and how examples go together.

        mean_b T² KL(p_b ‖ q_b)  +  ‖PᵀP - QᵀQ‖² / classes  +  ‖PPᵀ - QQᵀ‖² / batch

    with `P, Q` the `[batch, classes]` predictions at `T`; the mean over several temperatures.

    Args:
      student_logits: `[*batch, classes]`; all axes but the last are one batch.
      teacher_logits: the same shape, a constant.
      labels: not used.
      temperature: `T`, above 0, or several.
      class_weight: of the second term.
      batch_weight: of the third.
      where: elements that count, broadcast against the logits.

    Returns:
      A scalar.

    Raises:
      ValueError: if the shapes differ or a temperature is not positive.

    Example:
      >>> logits = jnp.array([[0.0, 2.0], [1.0, 0.0]])
      >>> multi_level_kd(logits, 2 * logits, temperature=4.0)
      Array(0.2827, dtype=float32)

    References:
      Jin et al., Multi-Level Logit Distillation, CVPR 2023. (The released code masks examples the
      teacher is unsure of after it has averaged over them, which only scales the loss; give such a
      mask as `where` instead.)
    """
    del labels
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    several = isinstance(temperature, (tuple, list))
    levels = [
        _one_level(student_logits, teacher_logits, t, class_weight, batch_weight, where)
        for t in (temperature if several else [temperature])
    ]
    return sum(levels) / len(levels)


def gram_distance(
    student: Float[Array, "rows columns"], teacher: Float[Array, "rows columns"]
) -> Float[Array, ""]:
    """How differently the columns of two matrices go together, `‖TᵀT - SᵀS‖²`, the teacher fixed.

    Example:
      >>> gram_distance(jnp.eye(2), jnp.ones((2, 2)))
      Array(10., dtype=float32)
    """
    teacher = jax.lax.stop_gradient(teacher)
    mine, theirs = (jnp.matmul(x.T, x, precision=EXACT) for x in (student, teacher))
    return jnp.sum(jnp.square(theirs - mine))


def _one_level(
    student: Logits, teacher: Logits, t: Any, class_weight: Any, batch_weight: Any, where: Any
) -> Float[Array, ""]:
    classes = jnp.shape(student)[-1]
    where = jnp.broadcast_to(True if where is None else where, jnp.shape(student))
    where = where.reshape(-1, classes)
    student, teacher = (jnp.reshape(x, (-1, classes)) for x in (student, teacher))
    q, p = (
        jnp.exp(numerics.log_probabilities(x, temperature=t, where=where))
        for x in (student, teacher)
    )
    rows, columns = jnp.any(where, axis=1), jnp.any(where, axis=0)
    each = logit_losses.kd(student, teacher, temperature=t, where=where)
    by_class = gram_distance(q, p) / jnp.maximum(jnp.sum(columns), 1)
    by_example = gram_distance(q.T, p.T) / jnp.maximum(jnp.sum(rows), 1)
    instance = numerics.masked_mean(each, rows)
    return instance + class_weight * by_class + batch_weight * by_example


@numerics.batch_coupled
def dist_plus(
    student: Sequence[Array],
    teacher: Sequence[Array],
    labels: Labels | None = None,
    *,
    beta: Any = 1.0,
    gamma: Any = 1.0,
    channel_weight: Any = 1.0,
    spatial_weight: Any = 1.0,
    temperature: Any = 1.0,
    torchdistill: bool = False,
    where: Examples | None = None,
) -> Float[Array, ""]:
    """DIST on logits, and the same idea on features: correlations instead of an exact match.

        dist(s, t) + channel_weight · channels(f_s, f_t) + spatial_weight · positions(f_s, f_t)

    Args:
      student: logits `[batch, classes]` and features `[batch, …, channels]`; `lift` makes the pair
        of `student=["logits", "taps/…"]`.
      teacher: the same shapes, constants.
      labels: not used.
      beta: weight of the correlation within an example, see `dist`.
      gamma: weight of the correlation within a class.
      channel_weight: of `channel_correlation`.
      spatial_weight: of `spatial_correlation`.
      temperature: of the logits, above 0.
      torchdistill: gives the loss of the library of that name, which adds the correlation of the
        channels itself, so that it drives them apart, and bounds most norms from below.
      where: examples that count, `[batch]`.

    Returns:
      A scalar.

    Raises:
      ValueError: if shapes differ or the temperature is not positive.

    Example:
      >>> pair = jnp.array([[2.0, 0.0], [0.0, 3.0]]), jnp.arange(8.0).reshape(2, 2, 2) ** 2
      >>> bool(dist_plus(pair, pair) < 1e-5)
      True

    References:
      Huang et al., DIST+: Knowledge Distillation From a Stronger Adaptive Teacher, TPAMI 2025;
      DIST is arXiv:2205.10536.
    """
    del labels
    (student_logits, student_features), (teacher_logits, teacher_features) = student, teacher
    rows = None if where is None else where[:, None]
    total = logit_losses.dist(
        student_logits,
        teacher_logits,
        beta=beta,
        gamma=gamma,
        temperature=temperature,
        where=rows,
        clamp_norms=torchdistill,
    )
    channels = channel_correlation(student_features, teacher_features, where=where)
    channels = numerics.masked_mean(1 - channels if torchdistill else channels, where)
    positions = spatial_correlation(
        student_features, teacher_features, clamp_norms=torchdistill, where=where
    )
    return total + channel_weight * channels + spatial_weight * positions


def channel_correlation(
    student_features: features.Features,
    teacher_features: features.Features,
    *,
    where: Examples | None = None,
) -> Float[Array, " batch"]:
    """How differently the channels go together, `mean_x (1 - ρ(f_s[x], f_t[x]))`.

    Args:
      student_features: `[batch, …, channels]`.
      teacher_features: the same shape, a constant.
      where: examples that count, `[batch]`.

    Returns:
      `[batch]`, from 0 to 2; 0 for examples that do not count.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> x = jnp.array([[[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]])
      >>> channel_correlation(x, 1 - x)
      Array([2.], dtype=float32)

    References:
      Huang et al., DIST+, TPAMI 2025.
    """
    features.check_features(student_features, teacher_features)
    teacher_features = jax.lax.stop_gradient(teacher_features)
    rho = numerics.pearson(student_features, teacher_features, axis=-1)
    values = jnp.mean(1 - rho, axis=tuple(range(1, rho.ndim)))
    return values if where is None else jnp.where(where, values, 0)


@numerics.batch_coupled
def spatial_correlation(
    student_features: features.Features,
    teacher_features: features.Features,
    *,
    clamp_norms: bool = False,
    where: Examples | None = None,
) -> Float[Array, ""]:
    """How differently a position goes over the batch, `1 - mean_x ρ_b(sum_c f_s, sum_c f_t)`.

    Args:
      student_features: `[batch, …, channels]`.
      teacher_features: the same shape, a constant.
      clamp_norms: bounds each norm from below, instead of adding to their product.
      where: examples that count, `[batch]`.

    Returns:
      A scalar from 0 to 2; 0 where no example counts.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> x = jnp.array([[[1.0, 2.0]], [[3.0, 4.0]]])
      >>> spatial_correlation(x, -x)
      Array(2., dtype=float32)

    References:
      Huang et al., DIST+, TPAMI 2025.
    """
    features.check_features(student_features, teacher_features)
    student, teacher = (
        jnp.sum(numerics.as_float(x), axis=-1)
        for x in (student_features, jax.lax.stop_gradient(teacher_features))
    )
    student, teacher = (x.reshape(x.shape[0], -1) for x in (student, teacher))
    counted = None if where is None else where[:, None]
    rho = numerics.pearson(student, teacher, axis=0, where=counted, clamp_norms=clamp_norms)
    value = 1 - jnp.mean(rho)
    return value if where is None else jnp.where(jnp.any(where), value, 0)
