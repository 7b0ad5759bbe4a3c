"""Two gradients that may contradict each other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from optax import tree_utils

from kdjax.base import PyTree


def gradient_align(anchor: PyTree, other: PyTree) -> PyTree:
    """A sum of gradients in which the second never works against the first.

        a + b - min(<a, b>, 0) / ‖a‖² · a

    The inner product is over all leaves together. Only the second is changed.

    Args:
      anchor: `a`, the gradient that is kept, such as that of the labels.
      other: `b`, of the same structure, such as that of the distillation.

    Returns:
      The merged gradient, of the same structure and types.

    Raises:
      ValueError: if the structures differ.

    Example:
      >>> gradient_align({"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([-3.0, 2.0])})
      {'w': Array([1., 2.], dtype=float32)}

    References:
      Yang et al., Dual-Head Knowledge Distillation, arXiv:2411.08937.
    """
    product = tree_utils.tree_vdot(anchor, other)
    size = tree_utils.tree_vdot(anchor, anchor)
    against = jnp.where(size > 0, jnp.minimum(product, 0) / jnp.where(size > 0, size, 1), 0)
    return jax.tree.map(lambda a, b: (a + b - against * a).astype(b.dtype), anchor, other)
