"""Losses on class logits: labels, Hinton's distillation, its decoupled and relational forms."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses import divergences, numerics
from kdjax.losses.divergences import Labels, Logits, Mask, PerExample


def cross_entropy(
    student_logits: Logits,
    labels: Labels,
    *,
    temperature: Any = 1.0,
    where: Mask | None = None,
    label_smoothing: Any = 0.0,
) -> PerExample:
    """Cross-entropy with the labels, `-sum_c y_c log softmax(s)_c`.

    Args:
      student_logits: `[*batch, classes]`.
      labels: classes `[*batch]`, or probabilities `[*batch, classes]` (mixup, stored soft labels).
      temperature: divides the logits.
      where: classes or rows that exist, broadcast against the logits. A row with none, or one whose
        label does not exist, has loss 0.
      label_smoothing: share of the label's mass that is spread evenly over the classes.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: for labels of another shape or, where they are concrete, out of range; for a
        temperature that is not positive; for a smoothing that is not from 0 to 1.

    Example:
      >>> cross_entropy(jnp.array([[2.0, 0.0]]), jnp.array([0]))
      Array([0.1269], dtype=float32)
    """
    numerics.check_fraction(label_smoothing=label_smoothing)
    log_q = numerics.log_probabilities(student_logits, temperature=temperature, where=where)
    target = numerics.label_distribution(labels, student_logits)
    if not (isinstance(label_smoothing, (int, float)) and label_smoothing == 0):
        exists = jnp.broadcast_to(True if where is None else where, target.shape)
        even = exists / jnp.maximum(jnp.sum(exists, axis=-1, keepdims=True), 1)
        target = (1 - label_smoothing) * target + label_smoothing * even
    if where is not None:
        target = jnp.where(where, target, 0)
    return -jnp.sum(target * log_q, axis=-1)


def kd(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    temperature: Any = 4.0,
    scale_by_t2: bool = True,
    **options: Any,
) -> PerExample:
    """Hinton's distillation, `T² KL(softmax(t/T) ‖ softmax(s/T))`.

    Add `cross_entropy` with a weight of its own; the usual shares are 0.9 and 0.1.

    Args:
      student_logits: `[*batch, classes]`.
      teacher_logits: the same shape, a constant.
      labels: not used.
      temperature: `T`, above 0.
      scale_by_t2: whether to multiply by `T²`.
      **options: `where`, `label_smoothing`, `teacher_gradient` as in `divergences.evaluate`.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if the shapes differ or the temperature is not positive.

    Example:
      >>> kd(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 4.0]]), temperature=2.0)
      Array([1.3113], dtype=float32)

    References:
      Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, arXiv:1503.02531; pixel
      by pixel in Neupane, Aryal, Rajabifard, arXiv:2311.03867.
    """
    return divergences.kl_divergence(
        student_logits,
        teacher_logits,
        labels,
        temperature=temperature,
        scale_by_t2=scale_by_t2,
        **options,
    )


def split_target(
    logits: Logits, labels: Labels, *, where: Mask | None = None
) -> tuple[Float[Array, "*batch 2"], Mask]:
    """The two questions that decoupled losses ask of logits.

    Args:
      logits: `[*batch, classes]`, already divided by a temperature.
      labels: as for `cross_entropy`; of probabilities, the most likely class counts.
      where: classes or rows that exist.

    Returns:
      Logits of "the labelled class, or another one" `[*batch, 2]`, and the mask of the other
      classes `[*batch, classes]`, over which the second question is asked.

    Example:
      >>> pair, others = split_target(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([2]))
      >>> pair
      Array([[3.    , 2.3133]], dtype=float32)
      >>> others
      Array([[ True,  True, False]], dtype=bool)
    """
    is_target = numerics.target_mask(labels, logits)
    exists = True if where is None else where
    target = numerics.log_sum_exp(logits, where=is_target & exists)
    others = ~is_target & exists
    rest = numerics.log_sum_exp(logits, where=others)
    return jnp.stack([target, rest], axis=-1), jnp.broadcast_to(others, jnp.shape(logits))


def dkd(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels,
    *,
    alpha: Any = 1.0,
    beta: Any = 8.0,
    temperature: Any = 4.0,
    where: Mask | None = None,
) -> PerExample:
    """Decoupled distillation, `T² (alpha TCKD + beta NCKD)`.

    TCKD is the KL divergence of "the labelled class, or another one"; NCKD the one among the other
    classes, renormalised. The paper adds `cross_entropy` and warms the loss up over 20 epochs.

    Args:
      student_logits: `[*batch, classes]`.
      teacher_logits: the same shape, a constant.
      labels: as for `cross_entropy`.
      alpha: weight of the target part.
      beta: weight of the non-target part.
      temperature: `T`, above 0.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if the shapes differ, the temperature is not positive or labels are out of range.

    Example:
      >>> student, teacher = jnp.array([[4.0, 0.0, 0.0]]), jnp.array([[4.0, 4.0, 0.0]])
      >>> dkd(student, teacher, jnp.array([0]))
      Array([14.9637], dtype=float32)

    References:
      Zhao et al., Decoupled Knowledge Distillation, arXiv:2203.08679. The released code subtracts
      1000 from the labelled logit; leaving the class out is the same without the rounding.
    """
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    numerics.check_positive(temperature=temperature)
    student = numerics.as_float(student_logits) / temperature
    teacher = jax.lax.stop_gradient(numerics.as_float(teacher_logits)) / temperature
    student_pair, others = split_target(student, labels, where=where)
    teacher_pair, _ = split_target(teacher, labels, where=where)
    target_part = divergences.kl_divergence(student_pair, teacher_pair)
    other_part = divergences.kl_divergence(student, teacher, where=others)
    return temperature**2 * (alpha * target_part + beta * other_part)


def nkd(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels,
    *,
    gamma: Any = 1.5,
    temperature: Any = 1.0,
    where: Mask | None = None,
) -> PerExample:
    """Normalised distillation: target and non-target cross-entropies, each normalised by itself.

        -p_y log q_y  -  gamma T² sum_{c≠y} p̂_c log q̂_c

    with `p_y, q_y` at temperature 1 and `p̂, q̂` the softmax over the other classes at `T`. Add
    `cross_entropy` with weight 1.

    Args:
      student_logits: `[*batch, classes]`.
      teacher_logits: the same shape, a constant.
      labels: as for `cross_entropy`.
      gamma: weight of the non-target part.
      temperature: `T` of the non-target part, above 0.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if the shapes differ, the temperature is not positive or labels are out of range.

    Example:
      >>> nkd(jnp.array([[2.0, 0.0, 0.0]]), jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0]))
      Array([1.1991], dtype=float32)

    References:
      Yang et al., From Knowledge Distillation to Self-Knowledge Distillation, arXiv:2303.13005.
    """
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    numerics.check_positive(temperature=temperature)
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
    student_pair, others = split_target(student_logits, labels, where=where)
    teacher_pair, _ = split_target(teacher_logits, labels, where=where)
    # A row whose label does not exist asks no question: both of its log-probabilities are LOG_ZERO.
    asked = student_pair > numerics.LOG_ZERO
    log_p = numerics.log_probabilities(teacher_pair, where=asked)[..., 0]
    log_q = numerics.log_probabilities(student_pair, where=asked)[..., 0]
    target_part = divergences.cross_entropy_term(log_p, log_q)
    other_part = divergences.soft_cross_entropy(
        student_logits, teacher_logits, temperature=temperature, where=others, scale_by_t2=True
    )
    return target_part + gamma * other_part


@numerics.batch_coupled
def dist(
    student_logits: Float[Array, "batch classes"],
    teacher_logits: Float[Array, "batch classes"],
    labels: Labels | None = None,
    *,
    beta: Any = 1.0,
    gamma: Any = 1.0,
    temperature: Any = 1.0,
    where: Mask | None = None,
    eps: float = 1e-8,
    clamp_norms: bool = False,
) -> Float[Array, ""]:
    """Distillation from a stronger teacher: correlations instead of an exact match.

        T² (beta mean_b (1 - ρ(p_b, q_b)) + gamma mean_c (1 - ρ(p_·c, q_·c)))

    with `ρ` Pearson's correlation over the classes of an example, and over the batch for a class.
    It exists for a batch of at least two examples and is taken over the global batch.

    Args:
      student_logits: `[*batch, classes]`; all axes but the last are one batch.
      teacher_logits: the same shape, a constant.
      labels: not used.
      beta: weight of the correlation within an example.
      gamma: weight of the correlation within a class.
      temperature: `T`, above 0.
      where: elements that count, broadcast against the logits.
      eps: added to the product of the two norms.
      clamp_norms: bounds each norm by `eps` from below instead, as torchdistill does; it differs
        for classes that hardly ever change.

    Returns:
      A scalar.

    Raises:
      ValueError: if the shapes differ or the temperature is not positive.

    Example:
      >>> logits = jnp.array([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
      >>> bool(dist(logits, logits) < 1e-6)
      True

    References:
      Huang et al., Knowledge Distillation from A Stronger Teacher, arXiv:2205.10536.
    """
    del labels
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    classes = jnp.shape(student_logits)[-1]
    if where is not None:
        where = jnp.broadcast_to(where, jnp.shape(student_logits)).reshape(-1, classes)

    def probabilities(logits: Array) -> Array:
        logits = jnp.reshape(logits, (-1, classes))
        return jnp.exp(numerics.log_probabilities(logits, temperature=temperature, where=where))

    q, p = probabilities(student_logits), jax.lax.stop_gradient(probabilities(teacher_logits))
    options = {"where": where, "eps": eps, "clamp_norms": clamp_norms}
    within_example = 1 - numerics.pearson(p, q, axis=-1, **options)
    within_class = 1 - numerics.pearson(p, q, axis=0, **options)
    examples = None if where is None else jnp.any(where, axis=-1)
    existing = None if where is None else jnp.any(where, axis=0)
    return temperature**2 * (
        beta * numerics.masked_mean(within_example, examples)
        + gamma * numerics.masked_mean(within_class, existing)
    )


def standardize(
    logits: Logits, *, where: Mask | None = None, ddof: int = 1, eps: float = 1e-7
) -> Logits:
    """Logit standardisation, `z = (x - mean(x)) / (std(x) + eps)` over the classes.

    Args:
      logits: `[*batch, classes]`.
      where: classes or rows that exist, broadcast against the logits; others become 0.
      ddof: 1 for the unbiased standard deviation (as released), 0 for the biased one.
      eps: added to the standard deviation.

    Returns:
      The same shape; zeros where a row has a single class or none. `-inf` entries count as absent
      and stay `-inf`.

    Example:
      >>> standardize(jnp.array([[1.0, 2.0, 3.0]])).round(3)
      Array([[-1.,  0.,  1.]], dtype=float32)

    References:
      Sun et al., Logit Standardization in Knowledge Distillation, arXiv:2403.01427.
    """
    x = numerics.as_float(logits)
    finite = x > -jnp.inf
    exists = finite if where is None else finite & where
    x = jnp.where(exists, x, 0)
    count = jnp.sum(exists, axis=-1, keepdims=True)
    mean = jnp.sum(x, axis=-1, keepdims=True) / jnp.maximum(count, 1)
    centred = jnp.where(exists, x - mean, 0)
    variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / jnp.maximum(count - ddof, 1)
    return jnp.where(finite, centred / (numerics.safe_sqrt(variance) + eps), -jnp.inf)


def standardized(loss: Callable[..., Array], **options: Any) -> Callable[..., Array]:
    """A loss on logits, applied to standardised logits of student and teacher.

    Args:
      loss: any `(student_logits, teacher_logits, labels=None, *, …)`, such as `kd` or `dkd`.
      **options: options of `standardize`, fixed.

    Returns:
      A loss with the same arguments. The paper's base temperature is 2, its weight 9.

    Example:
      >>> student, teacher = jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[10.0, 20.0, 30.0]])
      >>> standardized(kd)(student, teacher, temperature=2.0).round(6)
      Array([0.], dtype=float32)

    References:
      Sun et al., Logit Standardization in Knowledge Distillation, arXiv:2403.01427.
    """

    @functools.wraps(loss)
    def wrapped(student_logits, teacher_logits, *args, where=None, **kwargs):
        numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
        student_logits = standardize(student_logits, where=where, **options)
        teacher_logits = standardize(teacher_logits, where=where, **options)
        return loss(student_logits, teacher_logits, *args, where=where, **kwargs)

    return wrapped


def kd_logit_standardization(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    temperature: Any = 2.0,
    **options: Any,
) -> PerExample:
    """`standardized(kd)`: Hinton's distillation of standardised logits.

    Args:
      student_logits: `[*batch, classes]`.
      teacher_logits: the same shape, a constant.
      labels: not used.
      temperature: the base temperature, above 0.
      **options: as for `kd`.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: as `kd` does.

    Example:
      >>> kd_logit_standardization(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[3.0, 2.0, 1.0]]))
      Array([1.2806], dtype=float32)

    References:
      Sun et al., Logit Standardization in Knowledge Distillation, arXiv:2403.01427.
    """
    return standardized(kd)(
        student_logits, teacher_logits, labels, temperature=temperature, **options
    )
