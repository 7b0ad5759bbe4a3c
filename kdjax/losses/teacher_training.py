"""Losses that make a better teacher: of logits and labels, before anything is distilled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses import logits as logit_losses
from kdjax.losses import numerics
from kdjax.losses.divergences import Labels, Logits, Mask, PerExample


def focal(
    student_logits: Logits,
    labels: Labels,
    *,
    gamma: Any = 2.0,
    class_weights: Float[Array, " classes"] | None = None,
    weighted_probability: bool = False,
    where: Mask | None = None,
) -> PerExample:
    """Focal loss, `-w_y (1 - q_y)^gamma log q_y`: easy examples count less.

    Args:
      student_logits: of the network that is trained, `[*batch, classes]`.
      labels: as for `cross_entropy`; for probabilities `-log q_y` is the cross-entropy.
      gamma: from 0, the plain cross-entropy, on.
      class_weights: `w`, `[classes]`; 1 by default.
      weighted_probability: `True` gives the released form of KD-OCT, `(1 - q_y^w_y)^gamma`, in
        which the class weight also changes what counts as easy.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats. The mean is over examples, not over weights.

    Raises:
      ValueError: if labels are out of range, or the weights are not one per class.

    Example:
      >>> logits = jnp.array([[2.0, 0.0]])
      >>> focal(logits, jnp.array([0])), focal(logits, jnp.array([1]))
      (Array([0.0018], dtype=float32), Array([1.6501], dtype=float32))

    References:
      Lin et al., Focal Loss for Dense Object Detection, arXiv:1708.02002.
    """
    loss = logit_losses.cross_entropy(student_logits, labels, where=where)
    weight = 1.0 if class_weights is None else _of_label(class_weights, labels, student_logits)
    ease = -jnp.expm1(-(weight * loss if weighted_probability else loss))
    # At 0 a power below 1 has no derivative, and the loss is 0 whatever it is.
    hard = ease > 0
    return weight * loss * jnp.where(hard, jnp.where(hard, ease, 1) ** gamma, 0)


def mcmi(
    student_logits: Logits,
    labels: Labels,
    *,
    centroids: Float[Array, "classes classes"],
    weight: Any = -0.15,
    where: Mask | None = None,
) -> PerExample:
    """MCMI: cross-entropy and a negative weight on the conditional mutual information.

        CE(s, y) + weight · KL(softmax(s) ‖ Q_y)

    It fine-tunes a converged teacher (20 epochs, half its learning rate) whose predictions then
    differ more within a class.

    Args:
      student_logits: of the network that is trained, the teacher to be, `[*batch, classes]`.
      labels: as for `cross_entropy`.
      centroids: `Q`, the mean prediction for each class, a constant that is computed once before
        the fine-tuning (`class_sums`).
      weight: of the information, below 0 to raise it.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if labels are out of range, or the centroids are not a row per class.

    Example:
      >>> even = jnp.full((2, 2), 0.5)
      >>> mcmi(jnp.array([[2.0, 0.0]]), jnp.array([0]), centroids=even)
      Array([0.0778], dtype=float32)

    References:
      Ye et al., Bayes Conditional Distribution Estimation for Knowledge Distillation Based on
      Conditional Mutual Information, arXiv:2401.08732.
    """
    hard = logit_losses.cross_entropy(student_logits, labels, where=where)
    information = conditional_mutual_information(
        student_logits, labels, centroids=centroids, where=where
    )
    return hard + weight * information


def conditional_mutual_information(
    student_logits: Logits,
    labels: Labels,
    *,
    centroids: Float[Array, "classes classes"],
    where: Mask | None = None,
) -> PerExample:
    """How much a prediction tells beyond the label, `KL(softmax(s) ‖ Q_y)` for each example.

    Args:
      student_logits: `[*batch, classes]`; the gradient passes through both factors.
      labels: as for `cross_entropy`.
      centroids: `Q`, the mean prediction for each class. A class that was never seen has a row of
        zeros, and its examples tell nothing.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats; its mean over a data set is the conditional mutual information.

    Raises:
      ValueError: if labels are out of range, or the centroids are not a row per class.

    Example:
      >>> conditional_mutual_information(
      ...     jnp.array([[2.0, 0.0]]), jnp.array([0]), centroids=jnp.full((2, 2), 0.5)
      ... )
      Array([0.3278], dtype=float32)

    References:
      Ye et al., arXiv:2401.08732.
    """
    classes = jnp.shape(student_logits)[-1]
    if jnp.shape(centroids) != (classes, classes):
        raise ValueError(
            f"centroids have shape {jnp.shape(centroids)}, wanted {(classes, classes)}: a row of "
            "probabilities per class"
        )
    mean = jax.lax.stop_gradient(_of_label(centroids, labels, student_logits))
    if where is not None:
        mean = jnp.where(where, mean, 0)
    seen = mean > 0
    log_mean = jnp.where(seen, jnp.log(jnp.where(seen, mean, 1)), -jnp.inf)
    log_mean = numerics.log_probabilities(log_mean)
    log_q = numerics.log_probabilities(student_logits, where=where)
    values = jnp.sum(jnp.exp(log_q) * (log_q - log_mean), axis=-1)
    return jnp.where(jnp.any(seen, axis=-1), values, 0)


def _of_label(table: Any, labels: Labels, logits: Logits) -> Array:
    """Rows of a table by class, averaged where a label is soft."""
    table = numerics.as_float(table)
    classes = jnp.shape(logits)[-1]
    if table.shape[:1] != (classes,):
        raise ValueError(f"class_weights have shape {table.shape}, wanted ({classes},)")
    target = numerics.label_distribution(labels, logits)
    return jnp.tensordot(target, table, axes=1, precision=jax.lax.Precision.HIGHEST)
