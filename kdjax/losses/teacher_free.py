"""Self-distillation without a teacher: targets made of labels and of the student itself."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kdjax.losses import divergences, numerics
from kdjax.losses import logits as logit_losses
from kdjax.losses.divergences import Labels, Logits, Mask, PerExample


def tf_kd(
    student_logits: Logits,
    labels: Labels,
    *,
    correct: Any = 0.99,
    temperature: Any = 20.0,
    soften: str = "logits",
    where: Mask | None = None,
) -> PerExample:
    """Teacher-free distillation from a virtual teacher, `KL(softmax(t/T) ‖ softmax(s))`.

    The student has no temperature and there is no factor of `T²`. The paper adds `cross_entropy`
    with a share of 0.9; as released the other share of 0.1 is multiplied by `100 / classes`.

    Args:
      student_logits: `[*batch, classes]`.
      labels: as for `cross_entropy`; of probabilities, the most likely class counts.
      correct: the virtual teacher's probability of the label, from 0 to 1.
      temperature: `T` of the virtual teacher, above 0.
      soften: what is divided by `T`: the teacher's `'logits'`, or its `'probabilities'` as in the
        released code, which is close to an even target.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if the temperature is not positive, `correct` not from 0 to 1, labels are out of
        range, or `soften` is not known.

    Example:
      >>> tf_kd(jnp.array([[1.0, 0.0]]), jnp.array([0]), temperature=1.0)
      Array([0.2673], dtype=float32)

    References:
      Yuan et al., Revisiting Knowledge Distillation via Label Smoothing Regularization,
      arXiv:1909.11723. Its other form, Tf-KD by self-training, is `kd` from a copy of the student
      that was trained before.
    """
    numerics.check_positive(temperature=temperature)
    if soften not in ("logits", "probabilities"):
        raise ValueError(f"soften is {soften!r}, wanted 'logits' or 'probabilities'")
    teacher = virtual_teacher(labels, student_logits, correct=correct, where=where)
    teacher = jnp.exp(teacher) if soften == "probabilities" else teacher
    return divergences.kl_divergence(student_logits, teacher / temperature, where=where)


def virtual_teacher(
    labels: Labels, like: Logits, *, correct: Any = 0.99, where: Mask | None = None
) -> Logits:
    """Logits of a teacher who gives the label a fixed probability and the rest evenly to others.

    Args:
      labels: as for `cross_entropy`; of probabilities, the most likely class counts.
      like: logits whose shape is wanted, `[*batch, classes]`.
      correct: probability of the label, from 0 to 1.
      where: classes or rows that exist; the others get `LOG_ZERO`.

    Returns:
      Log-probabilities `[*batch, classes]`.

    Raises:
      ValueError: if `correct` is not from 0 to 1, or labels are out of range.

    Example:
      >>> jnp.exp(virtual_teacher(jnp.array([2]), jnp.zeros((1, 3)), correct=0.8)).round(2)
      Array([[0.1, 0.1, 0.8]], dtype=float32)

    References:
      Yuan et al., arXiv:1909.11723.
    """
    numerics.check_fraction(correct=correct)
    is_label = numerics.target_mask(labels, like)
    exists = jnp.broadcast_to(True if where is None else where, is_label.shape)
    others = jnp.sum(exists & ~is_label, axis=-1, keepdims=True)
    share = numerics.as_float(jnp.where(is_label, correct, (1 - correct) / jnp.maximum(others, 1)))
    known = exists & (share > 0)
    return jnp.where(known, jnp.log(jnp.where(known, share, 1)), numerics.LOG_ZERO)


@numerics.batch_coupled
def uskd(
    student_logits: Logits,
    weak_logits: Logits,
    labels: Labels,
    *,
    alpha: Any = 1.0,
    beta: Any = 0.1,
    mu: Any = 0.005,
    rank: str = "probability",
    where: Mask | None = None,
) -> PerExample:
    """Universal self-distillation: soft labels from the student and from a weak head of its own.

        -alpha p̃_y log q_y  -  beta sum_{c≠y} z_c log q̂_c  +  mu CE(w, 0.9 y + 0.1 / classes)

    with `p̃_y = q_y² + y_y - mean_b q_y²`, `q̂` the softmax over the other classes, and `z` Zipf's
    law, one over the rank, renormalised over the other classes. The rank is that of the sum of
    weak head `w` and student, each over one minus its value at the label. Targets are constants.
    Add `cross_entropy` with weight 1.

    Args:
      student_logits: `[*batch, classes]`.
      weak_logits: of a linear head on a middle layer, the same shape; see `kdjax.objectives.uskd`.
      labels: as for `cross_entropy`; of probabilities, the most likely class counts.
      alpha: weight of the target part.
      beta: weight of the non-target part.
      mu: weight of the weak head's own loss.
      rank: the student's share in the ranking, by `'probability'` or, as in the released code, by
        `'log_probability'`.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`; the mean over `b` is taken over the global batch.

    Raises:
      ValueError: if the shapes differ, labels are out of range or the rank is not known.

    Example:
      >>> logits = jnp.array([[2.0, 1.0, 0.0]])
      >>> uskd(logits, logits, jnp.array([0]))
      Array([0.4815], dtype=float32)

    References:
      Yang et al., From Knowledge Distillation to Self-Knowledge Distillation, arXiv:2303.13005.
    """
    numerics.check_pair(student_logits, weak_logits, ("student_logits", "weak_logits"))
    if rank not in ("probability", "log_probability"):
        raise ValueError(f"rank is {rank!r}, wanted 'probability' or 'log_probability'")
    hard = logit_losses.cross_entropy(student_logits, labels, where=where)
    _, others = logit_losses.split_target(student_logits, labels, where=where)
    belief = own_belief(student_logits, labels, where=where)
    ranked = zipf_target(student_logits, weak_logits, labels, rank=rank, where=where)
    log_others = numerics.log_probabilities(student_logits, where=others)
    weak = logit_losses.cross_entropy(weak_logits, labels, where=where, label_smoothing=0.1)
    return alpha * belief * hard - beta * jnp.sum(ranked * log_others, axis=-1) + mu * weak


def own_belief(student_logits: Logits, labels: Labels, *, where: Mask | None = None) -> PerExample:
    """USKD's target for the label: its own squared probability about the batch's mean, plus 1.

    Example:
      >>> own_belief(jnp.log(jnp.array([[0.5, 0.5], [0.1, 0.9]])), jnp.array([0, 1]))
      Array([0.72, 1.28], dtype=float32)
    """
    log_q = numerics.log_probabilities(jax.lax.stop_gradient(student_logits), where=where)
    label = numerics.target_mask(labels, student_logits)
    square = jnp.sum(jnp.where(label, jnp.exp(2 * log_q), 0), axis=-1)
    exists = None if where is None else jnp.any(jnp.broadcast_to(where, label.shape), axis=-1)
    share = jnp.max(numerics.label_distribution(labels, student_logits), axis=-1)
    return square + share - numerics.masked_mean(square, exists)


def zipf_target(
    student_logits: Logits,
    weak_logits: Logits,
    labels: Labels,
    *,
    rank: str = "probability",
    where: Mask | None = None,
) -> Logits:
    """USKD's target for the other classes: one over the rank, renormalised without the label.

    Example:
      >>> logits = jnp.array([[2.0, 1.0, 0.0]])
      >>> zipf_target(logits, logits, jnp.array([0])).round(2)
      Array([[0. , 0.6, 0.4]], dtype=float32)
    """
    label = numerics.target_mask(labels, student_logits)
    exists = jnp.broadcast_to(True if where is None else where, label.shape)

    def over_the_rest(x: Logits) -> Logits:
        own = jnp.sum(jnp.where(label, x, 0), axis=-1, keepdims=True)
        return x / (1 - own + 1e-6)

    log_q, log_w = (
        numerics.log_probabilities(jax.lax.stop_gradient(x), where=where)
        for x in (student_logits, weak_logits)
    )
    student = log_q if rank == "log_probability" else jnp.exp(log_q)
    score = jnp.where(exists, over_the_rest(jnp.exp(log_w)) + over_the_rest(student), -jnp.inf)
    place = jnp.argsort(jnp.argsort(-score, axis=-1), axis=-1)
    law = jnp.where(exists & ~label, 1 / (place + 1.0), 0)
    return law / jnp.maximum(jnp.sum(law, axis=-1, keepdims=True), 1e-12)
