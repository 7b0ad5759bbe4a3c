"""Losses on the last embedding: its direction and its norm."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.losses import numerics
from kdjax.losses.divergences import Labels, PerExample

Embedding = Float[Array, "*batch width"]


def nd(
    student_embedding: Embedding,
    teacher_embedding: Embedding,
    labels: Labels,
    *,
    centers: Float[Array, "classes width"],
    eps: float = 1e-12,
    where: Bool[Array, "*batch"] | None = None,
) -> PerExample:
    """KD++'s norm and direction: a long embedding that points to the teacher's centre of the class.

        1 - <f_s, u_y> / max(‖f_s‖, ‖f_t‖),    u_y = c_y / ‖c_y‖

    Below the teacher's norm longer is better; above it only the direction counts. It is added to
    any other distillation, with a weight of 0.5 to 4.

    Args:
      student_embedding: `f_s`, `[*batch, width]`, brought to the teacher's width by a projector.
      teacher_embedding: `f_t`, the same shape, a constant.
      labels: classes `[*batch]`, or probabilities `[*batch, classes]`.
      centers: `c`, the teacher's mean embedding of each class (`class_centers`), a constant.
      eps: keeps the norm from 0.
      where: examples that exist, `[*batch]`.

    Returns:
      `[*batch]`, from 0 to 2.

    Raises:
      ValueError: if the shapes differ or labels are out of range.

    Example:
      >>> embedding, centers = jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 0.0], [0.0, 2.0]])
      >>> nd(embedding, 2 * embedding, jnp.array([0]), centers=centers)
      Array([0.5], dtype=float32)

    References:
      Wang et al., Improving Knowledge Distillation via Regularizing Feature Norm and Direction,
      arXiv:2305.17007.
    """
    numerics.check_pair(
        student_embedding, teacher_embedding, ("student_embedding", "teacher_embedding")
    )
    width = jnp.shape(student_embedding)[-1]
    if jnp.ndim(centers) != 2 or jnp.shape(centers)[1] != width:
        raise ValueError(f"centers have shape {jnp.shape(centers)}, wanted (classes, {width})")
    student = numerics.as_float(student_embedding)
    teacher, centers = jax.lax.stop_gradient(
        (numerics.as_float(teacher_embedding), numerics.normalize(numerics.as_float(centers)))
    )
    target = _directions(labels, centers, student)
    norm = jnp.maximum(numerics.safe_norm(student), numerics.safe_norm(teacher))
    values = 1 - jnp.sum(student * target, axis=-1) / jnp.maximum(norm, eps)
    return values if where is None else jnp.where(where, values, 0)


def class_centers(
    embeddings: Float[Array, "examples width"], labels: Labels, num_classes: int
) -> Float[Array, "classes width"]:
    """The mean embedding of each class, 0 for a class without examples.

    Args:
      embeddings: of all training examples, `[examples, width]`.
      labels: classes `[examples]`, or probabilities `[examples, classes]`.
      num_classes: rows of the result.

    Returns:
      `[classes, width]`.

    Raises:
      ValueError: if labels are out of range.

    Example:
      >>> class_centers(jnp.array([[1.0], [3.0], [5.0]]), jnp.array([0, 0, 1]), 2)
      Array([[2.],
             [5.]], dtype=float32)

    References:
      Wang et al., arXiv:2305.17007.
    """
    embeddings = numerics.as_float(embeddings)
    label = numerics.label_distribution(labels, jnp.zeros((len(embeddings), num_classes)))
    sums = jnp.matmul(label.T, embeddings, precision=jax.lax.Precision.HIGHEST)
    counts = jnp.sum(label, axis=0)[:, None]
    return jnp.where(counts > 0, sums / jnp.where(counts > 0, counts, 1), 0)


def _directions(labels: Labels, centers: Array, like: Any) -> Array:
    """The (mean) direction of each example's label."""
    classes = jnp.zeros((*jnp.shape(like)[:-1], centers.shape[0]))
    label = numerics.label_distribution(labels, classes)
    return jnp.matmul(label, centers, precision=jax.lax.Precision.HIGHEST)
