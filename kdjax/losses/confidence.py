"""Losses weighted, example by example, by how sure student and teacher are.

The weights are constants for the gradient.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses import divergences, numerics
from kdjax.losses import logits as logit_losses
from kdjax.losses.divergences import Labels, Logits, Mask, PerExample


def wsld(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels,
    *,
    temperature: Any = 4.0,
    where: Mask | None = None,
) -> PerExample:
    """Weighted soft labels: less of the teacher where the student is already better than it.

        (1 - exp(-CE(s, y) / CE(t, y))) · T² CE(softmax(t/T), softmax(s/T))

    The paper gives it a weight of 2.25 and adds `cross_entropy`.

    Args:
      student_logits: `[*batch, classes]`.
      teacher_logits: the same shape, a constant.
      labels: as for `cross_entropy`.
      temperature: `T` of the soft labels, above 0; the weights have none.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if the shapes differ, the temperature is not positive or labels are out of range.

    Example:
      >>> student, teacher = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 0.0]])
      >>> wsld(student, teacher, jnp.array([0])), wsld(student, teacher, jnp.array([1]))
      (Array([4.0779], dtype=float32), Array([9.5286], dtype=float32))

    References:
      Zhou et al., Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff
      Perspective, arXiv:2102.00650.
    """
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    student = logit_losses.cross_entropy(student_logits, labels, where=where)
    teacher = logit_losses.cross_entropy(teacher_logits, labels, where=where)
    weight = jax.lax.stop_gradient(-jnp.expm1(-student / (teacher + 1e-7)))
    return weight * divergences.soft_cross_entropy(
        student_logits, teacher_logits, temperature=temperature, where=where, scale_by_t2=True
    )


def balanced_kl(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    high: Any = 1.0,
    low: Any = 0.5,
    temperature: Any = 1.0,
    scale_by_t2: bool = True,
    where: Mask | None = None,
) -> PerExample:
    """Both directions of the KL divergence, weighted by who is surer, `T² (a KL(p‖q) + b KL(q‖p))`.

    `(a, b)` is `(high, low)` where the student's entropy is below the teacher's, so that a student
    that is too sure is made to spread, and `(low, high)` elsewhere.

    Args:
      student_logits: `[*batch, classes]`.
      teacher_logits: the same shape, a constant.
      labels: not used.
      high: the larger weight.
      low: the smaller one; exchange the two for the opposite rule.
      temperature: `T`, above 0, of the entropies too.
      scale_by_t2: whether to multiply by `T²`.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if the shapes differ or the temperature is not positive.

    Example:
      >>> sure, unsure = jnp.array([[0.0, 4.0]]), jnp.array([[0.0, 0.0]])
      >>> balanced_kl(sure, unsure), balanced_kl(sure, unsure, high=0.5, low=1.0)
      (Array([1.6265], dtype=float32), Array([1.2656], dtype=float32))

    References:
      Amara et al., BD-KD: Balancing the Divergences for Online Knowledge Distillation,
      arXiv:2212.12965. (The weights' rule and defaults are ours: the paper's code is not public.)
    """
    del labels
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    options = {"temperature": temperature, "where": where}
    forward, reverse = entropy_balance(
        student_logits, teacher_logits, high=high, low=low, **options
    )
    options["scale_by_t2"] = scale_by_t2
    loss = forward * divergences.kl_divergence(student_logits, teacher_logits, **options)
    return loss + reverse * divergences.reverse_kl(student_logits, teacher_logits, **options)


def entropy_balance(
    student_logits: Logits,
    teacher_logits: Logits,
    *,
    high: Any = 1.0,
    low: Any = 0.5,
    temperature: Any = 1.0,
    where: Mask | None = None,
) -> tuple[PerExample, PerExample]:
    """Weights of forward and reverse divergence, `(high, low)` where the student is surer.

    Example:
      >>> sure, unsure = jnp.array([[0.0, 4.0]]), jnp.array([[0.0, 0.0]])
      >>> entropy_balance(sure, unsure)
      (Array([1.], dtype=float32), Array([0.5], dtype=float32))
    """
    options = {"temperature": temperature, "where": where}
    student, teacher = jax.lax.stop_gradient((student_logits, teacher_logits))
    student, teacher = (divergences.soft_cross_entropy(x, x, **options) for x in (student, teacher))
    surer = student < teacher
    high, low = numerics.as_float(high), numerics.as_float(low)
    return jnp.where(surer, high, low), jnp.where(surer, low, high)


@numerics.batch_coupled
def cwtm(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
) -> PerExample:
    """Born-again networks' CWTM: cross-entropy weighted by the teacher's confidence.

        n · max_c p_bc / sum_b max_c p_bc · CE(s_b, y_b)

    Args:
      student_logits: `[*batch, classes]`.
      teacher_logits: the same shape, a constant.
      labels: as for `cross_entropy`.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats; the weights have a mean of 1 over the global batch of `n` examples.

    Raises:
      ValueError: if the shapes differ or labels are out of range.

    Example:
      >>> teacher = jnp.log(jnp.array([[0.9, 0.1], [0.4, 0.6]]))
      >>> cwtm(jnp.zeros((2, 2)), teacher, jnp.array([0, 0]))
      Array([0.8318, 0.5545], dtype=float32)

    References:
      Furlanello et al., Born Again Neural Networks, arXiv:1805.04770.
    """
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    weights = confidence_weights(teacher_logits, where=where)
    return weights * logit_losses.cross_entropy(student_logits, labels, where=where)


def confidence_weights(
    teacher_logits: Logits, *, where: Mask | None = None
) -> Float[Array, "*batch"]:
    """The teacher's largest probability for each example, over its mean in the batch; constants.

    Example:
      >>> confidence_weights(jnp.log(jnp.array([[0.9, 0.1], [0.4, 0.6]])))[0]
      Array(1.2, dtype=float32)
    """
    log_p = numerics.log_probabilities(jax.lax.stop_gradient(teacher_logits), where=where)
    confidence = jnp.exp(jnp.max(log_p, axis=-1))
    # A row without a class has no confidence at all, and does not count.
    mean = numerics.masked_mean(confidence, confidence > 0)
    return confidence / jnp.where(mean > 0, mean, 1)
