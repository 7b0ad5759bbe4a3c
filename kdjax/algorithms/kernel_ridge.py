"""Iterated self-distillation of kernel ridge regression, in closed form.

An exact case that a loop of generations can be held against.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses import numerics

Matrix = Float[Array, "n n"]


def rbf_kernel(
    x: Float[Array, "n width"], y: Float[Array, "m width"], gamma: Any
) -> Float[Array, "n m"]:
    """`exp(-gamma ‖x_i - y_j‖²)`.

    Example:
      >>> rbf_kernel(jnp.array([[0.0]]), jnp.array([[0.0], [2.0]]), gamma=0.25)
      Array([[1. , 0.3679]], dtype=float32)
    """
    difference = numerics.as_float(x)[:, None] - numerics.as_float(y)[None]
    return jnp.exp(-gamma * jnp.sum(jnp.square(difference), axis=-1))


def kernel_self_distillation(
    kernel: Matrix,
    targets: Float[Array, "n ..."],
    *,
    ridge: Any,
    generations: int,
    label_share: Any = 0.0,
) -> Float[Array, "generations n ..."]:
    """Fits of kernel ridge regression, each to a mixture of the truth and the fit before it.

        y_k = K (K + ridge)⁻¹ (a y + (1 - a) y_{k-1}),    y_0 = y

    Args:
      kernel: `K` of the training points, symmetric and positive semi-definite.
      targets: `y`, the truth.
      ridge: above 0.
      generations: number of fits; the first has no teacher.
      label_share: `a`, the share of the truth, from 0 to 1.

    Returns:
      The fits at the training points, `[generations, n, …]`.

    Raises:
      ValueError: if ridge or generations are not positive, the share is not from 0 to 1, or the
        kernel is not `[n, n]`.

    Example:
      >>> kernel_self_distillation(jnp.eye(1), jnp.array([8.0]), ridge=1.0, generations=3)
      Array([[4.],
             [2.],
             [1.]], dtype=float32)

    References:
      Borup and Andersen, Even your Teacher Needs Guidance, arXiv:2102.13088.
    """
    numerics.check_positive(generations=generations)
    values, vectors, coefficients = _decompose(kernel, targets, ridge, label_share)
    shrink, now, fits = values / (values + ridge), coefficients, []
    for _ in range(generations):
        now = shrink * (label_share * coefficients + (1 - label_share) * now)
        fits.append(vectors @ now)
    return jnp.stack(fits).reshape(generations, *jnp.shape(targets))


def kernel_self_distillation_limit(
    kernel: Matrix,
    targets: Float[Array, "n ..."],
    *,
    ridge: Any,
    label_share: Any = 0.0,
) -> Float[Array, "n ..."]:
    """Where the fits of `kernel_self_distillation` go: ridge regression with `ridge / label_share`.

        a K (a K + ridge)⁻¹ y

    Args:
      kernel: as for `kernel_self_distillation`.
      targets: the truth.
      ridge: above 0.
      label_share: `a`, from 0 to 1. Without any truth the limit is 0.

    Returns:
      The limit at the training points, of the shape of the targets.

    Raises:
      ValueError: as `kernel_self_distillation` does.

    Example:
      >>> kernel_self_distillation_limit(jnp.eye(1), jnp.array([8.0]), ridge=1.0, label_share=0.5)
      Array([2.6667], dtype=float32)

    References:
      Borup and Andersen, arXiv:2102.13088.
    """
    values, vectors, coefficients = _decompose(kernel, targets, ridge, label_share)
    shrink = label_share * values / (label_share * values + ridge)
    return (vectors @ (shrink * coefficients)).reshape(jnp.shape(targets))


def optimal_label_share(
    truth: Float[Array, "n ..."],
    by_truth: Float[Array, "n ..."],
    by_teacher: Float[Array, "n ..."],
) -> Float[Array, ""]:
    """The share of the truth with the smallest squared error on held-out data, in closed form.

        a = <y - u, v - u> / ‖v - u‖²

    As kernel ridge regression is linear in its targets, the student of a mixture predicts the same
    mixture of `v` and `u`, and its error is a parabola in `a`. Applied at each generation this
    gives the weights of repeated self-distillation.

    Args:
      truth: `y`, the held-out targets.
      by_truth: `v`, predictions there of a fit to the truth alone, the same shape.
      by_teacher: `u`, predictions of a fit to the generation before alone.

    Returns:
      A scalar; it may lie outside [0, 1]. It is 1 where both predict the same.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> optimal_label_share(jnp.array([1.0]), jnp.array([2.0]), jnp.array([0.0]))
      Array(0.5, dtype=float32)

    References:
      Borup and Andersen, arXiv:2102.13088. (Derived here.)
    """
    shapes = [jnp.shape(x) for x in (truth, by_truth, by_teacher)]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"truth, by_truth and by_teacher have shapes {shapes}, wanted the same for all"
        )
    y, v, u = (numerics.as_float(x) for x in (truth, by_truth, by_teacher))
    size = jnp.sum(jnp.square(v - u))
    share = jnp.sum((y - u) * (v - u)) / jnp.where(size > 0, size, 1)
    return jnp.where(size > 0, share, 1)


def _decompose(
    kernel: Matrix, targets: Array, ridge: Any, share: Any
) -> tuple[Array, Array, Array]:
    """Eigenvalues as a column, eigenvectors, and the targets in their basis.

    All powers of the smoother share them, and shrinking factors lie between 0 and 1.
    """
    numerics.check_positive(ridge=ridge)
    numerics.check_fraction(label_share=share)
    size = jnp.shape(targets)[0]
    if jnp.shape(kernel) != (size, size):
        raise ValueError(f"kernel has shape {jnp.shape(kernel)}, wanted {(size, size)}")
    values, vectors = jnp.linalg.eigh(numerics.as_float(kernel))
    flat = numerics.as_float(targets).reshape(size, -1)
    return jnp.maximum(values, 0)[:, None], vectors, vectors.T @ flat
