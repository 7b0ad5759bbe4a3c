"""Transforms of what the teacher says, before a divergence compares the student with it.

A target transform takes logits or probabilities and gives logits, so that it goes in front of any
loss on logits. Most papers on logits change one of four things: the target, the divergence, the
weights per example, the reduction.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses import divergences, numerics
from kdjax.losses.divergences import Labels, Logits, Mask, PerExample


def committee(
    teacher_logits: Float[Array, "*batch members classes"],
    weights: Float[Array, "*#batch members"] | None = None,
    *,
    temperature: Any = 1.0,
    where: Mask | None = None,
) -> Logits:
    """Log of the (weighted) mean of the members' probabilities, `log sum_n w_n softmax(t_n / T)`.

    Args:
      teacher_logits: `[*batch, members, classes]`, as `kdjax.models.ensemble` gives them.
      weights: `[members]`, or one row per example; normalised to sum 1. Even by default.
      temperature: `T`, above 0. The result is at that temperature: compare it at temperature 1 with
        the student's logits over `T`.
      where: classes that exist, broadcast against the result.

    Returns:
      Logits `[*batch, classes]`, normalised.

    Raises:
      ValueError: if there is no axis of members.

    Example:
      >>> logits = jnp.log(jnp.array([[[0.9, 0.1], [0.5, 0.5]]]))
      >>> jnp.exp(committee(logits))
      Array([[0.7, 0.3]], dtype=float32)
      >>> jnp.exp(committee(logits, jnp.array([[0.0, 2.0]])))
      Array([[0.5, 0.5]], dtype=float32)

    References:
      Shen and Savvides, MEAL V2, arXiv:2009.08453.
    """
    if jnp.ndim(teacher_logits) < 2:
        raise ValueError(
            f"teacher_logits have shape {jnp.shape(teacher_logits)}, wanted "
            "[*batch, members, classes]"
        )
    if where is not None:
        where = jnp.expand_dims(where, -2)
    log_p = numerics.log_probabilities(teacher_logits, temperature=temperature, where=where)
    members = log_p.shape[-2]
    weights = jnp.ones(members) if weights is None else numerics.as_float(weights)
    weights = weights / jnp.sum(weights, axis=-1, keepdims=True)
    probabilities = jnp.einsum("...nc,...n->...c", jnp.exp(log_p), weights)
    positive = probabilities > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, probabilities, 1)), numerics.LOG_ZERO)


def interpolate(student_logits: Logits, teacher_logits: Logits, t: Any) -> Logits:
    """`(1 - t) s + t z`: from the student's own logits (a constant) to the teacher's.

    Args:
      student_logits: `s`, `[*batch, classes]`.
      teacher_logits: `z`, the same shape.
      t: from 0 to 1.

    Example:
      >>> interpolate(jnp.array([0.0, 2.0]), jnp.array([4.0, 2.0]), 0.25)
      Array([1., 2.], dtype=float32)

    References:
      Shing et al., TAID, arXiv:2501.16937.
    """
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    numerics.check_fraction(t=t)
    student = jax.lax.stop_gradient(numerics.as_float(student_logits))
    teacher = numerics.as_float(teacher_logits)
    mixed = (1 - t) * student + t * teacher
    # An excluded class (-inf) stays excluded, also where its share is 0 and 0 · inf would be NaN.
    excluded = (student == -jnp.inf) & (t < 1) | (teacher == -jnp.inf) & (t > 0)
    finite = jnp.where(jnp.isfinite(mixed), mixed, jnp.where(t > 0, teacher, student))
    return jnp.where(excluded, -jnp.inf, finite)


def taid(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels | None = None,
    *,
    t: Any,
    where: Mask | None = None,
    subtract_entropy: bool = True,
) -> PerExample:
    """Divergence from an interpolated teacher, `KL(softmax((1-t) s + t z) ‖ softmax(s))`.

    Args:
      student_logits: `[*batch, classes]`.
      teacher_logits: the same shape, a constant.
      labels: not used.
      t: how far the target has moved from the student to the teacher, from 0 to 1.
      where: classes or rows that exist.
      subtract_entropy: the KL divergence; `False` gives the cross-entropy of the released code,
        with the same gradient.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if the shapes differ or `t` is not from 0 to 1.

    Example:
      >>> student, teacher = jnp.array([[0.0, 0.0]]), jnp.array([[4.0, 0.0]])
      >>> taid(student, teacher, t=0.0), taid(student, teacher, t=1.0)
      (Array([0.], dtype=float32), Array([0.6031], dtype=float32))

    References:
      Shing et al., TAID: Temporally Adaptive Interpolated Distillation, arXiv:2501.16937.
      `kdjax.objectives.taid` moves `t` as the paper does.
    """
    target = interpolate(student_logits, teacher_logits, t)
    loss = divergences.kl_divergence if subtract_entropy else divergences.soft_cross_entropy
    return loss(student_logits, target, labels, where=where)


def ps_kd(
    student_logits: Logits,
    teacher_probabilities: Logits,
    labels: Labels,
    *,
    share: Any,
    where: Mask | None = None,
) -> PerExample:
    """Cross-entropy with labels softened by a past prediction, `-sum ((1-a) y + a p_past) log q`.

    Args:
      student_logits: `[*batch, classes]`.
      teacher_probabilities: the past prediction `p_past` for the same examples, a constant.
      labels: as for `cross_entropy`.
      share: `a`, from 0 to 1; the paper's grows linearly over training to 0.8.
      where: classes or rows that exist.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if shapes differ, labels are out of range or `share` is not from 0 to 1.

    Example:
      >>> past = jnp.array([[0.5, 0.5]])
      >>> ps_kd(jnp.zeros((1, 2)), past, jnp.array([0]), share=0.5)
      Array([0.6931], dtype=float32)

    References:
      Kim et al., Self-Knowledge Distillation with Progressive Refinement of Targets,
      arXiv:2006.12000. `kdjax.objectives.ps_kd` remembers the past predictions.
    """
    numerics.check_pair(
        student_logits, teacher_probabilities, ("student_logits", "teacher_probabilities")
    )
    numerics.check_fraction(share=share)
    log_q = numerics.log_probabilities(student_logits, where=where)
    target = soften(labels, teacher_probabilities, share)
    target = target if where is None else jnp.where(where, target, 0)
    return -jnp.sum(target * log_q, axis=-1)


def ofa(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels,
    *,
    gamma: Any = 1.5,
    temperature: Any = 1.0,
    where: Mask | None = None,
) -> PerExample:
    """Cross-entropy with a teacher whose belief in the label is boosted.

        -sum_c ((p_c + y_c)^gamma - y_c) log q_c

    With a gamma of 1 it is the soft cross-entropy. The paper sums it over exit branches of the
    student, each against the teacher's last logits, so that the two may be built quite differently.
    Add `cross_entropy` with weight 1.

    Args:
      student_logits: `[*batch, classes]`.
      teacher_logits: the same shape, a constant.
      labels: as for `cross_entropy`; of a soft label the likeliest class.
      gamma: from 1 on; the paper's choice depends on the data, 1 on CIFAR, 1.5 here on ImageNet.
      temperature: `T` of both sides, above 0. There is no factor of `T²`.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if the shapes differ, the temperature is not positive or labels are out of range.

    Example:
      >>> student, teacher = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 0.0]])
      >>> ofa(student, teacher, jnp.array([0]), gamma=1.0)
      Array([1.1269], dtype=float32)
      >>> ofa(student, teacher, jnp.array([0]), gamma=2.0)
      Array([0.6904], dtype=float32)

    References:
      Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
      Distillation, arXiv:2310.19444.
    """
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    log_q = numerics.log_probabilities(student_logits, temperature=temperature, where=where)
    log_p = numerics.log_probabilities(teacher_logits, temperature=temperature, where=where)
    label = numerics.target_mask(labels, student_logits)
    target = (jnp.exp(log_p) + label) ** gamma - label
    return -jnp.sum(jax.lax.stop_gradient(target) * log_q, axis=-1)


def soften(labels: Labels, probabilities: Logits, share: Any) -> Logits:
    """`(1 - share) y + share p`, with `p` a constant.

    Example:
      >>> soften(jnp.array([1]), jnp.array([[0.5, 0.5]]), 0.8)
      Array([[0.4, 0.6]], dtype=float32)
    """
    past = jax.lax.stop_gradient(numerics.as_float(probabilities))
    return (1 - share) * numerics.label_distribution(labels, probabilities) + share * past


def permute_others(teacher_logits: Logits, key: Array) -> Logits:
    """DKPP's target: the largest logit stays, all others change places, anew for each example.

    What is left of the teacher is how sure it is; what it says about the other classes is gone.

    Args:
      teacher_logits: `[*batch, classes]`.
      key: of the permutations.

    Returns:
      Logits of the same shape.

    Example:
      >>> jnp.sort(permute_others(jnp.array([[1.0, 5.0, 2.0, 3.0]]), jax.random.key(0)))
      Array([[1., 2., 3., 5.]], dtype=float32)

    References:
      Furlanello et al., Born Again Neural Networks, arXiv:1805.04770.
      `kdjax.objectives.dkpp` is the distillation.
    """
    teacher_logits = numerics.as_float(teacher_logits)
    shape = teacher_logits.shape
    best = jnp.argmax(teacher_logits, axis=-1, keepdims=True) == jnp.arange(shape[-1])
    # Both orders keep the best in front; the others are ranked as they stand, and at random.
    drawn = jnp.argsort(jnp.where(best, -1.0, jax.random.uniform(key, shape)), axis=-1)
    places = jnp.argsort(jnp.where(best, -1, jnp.arange(shape[-1])), axis=-1)
    shuffled = jnp.take_along_axis(teacher_logits, drawn, axis=-1)
    return jnp.take_along_axis(shuffled, jnp.argsort(places, axis=-1), axis=-1)
