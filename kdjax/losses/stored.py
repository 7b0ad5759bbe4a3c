"""Soft labels that were stored with only their largest probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kdjax.losses import numerics
from kdjax.losses.divergences import Logits

RESTS = ("spread", "drop", "hard")


def recover_top_k(
    indices: Int[Array, "*batch top"],
    probabilities: Float[Array, "*batch top"],
    *,
    num_classes: int,
    rest: str = "spread",
) -> Logits:
    """The soft label of a stored top K: what is not stored is spread, dropped, or all is made hard.

    FKD is the soft cross-entropy with it, without a factor of `T²`, on several stored crops of each
    image.

    Args:
      indices: classes of the largest probabilities, `[*batch, top]`, distinct in each row.
      probabilities: theirs, `[*batch, top]`, as stored: they need not add up to 1.
      num_classes: of the result.
      rest: `'spread'`, the missing mass evenly over the other classes (marginal smoothing, and for
        a top 1 label smoothing); `'drop'`, the stored ones renormalised; `'hard'`, the first alone.

    Returns:
      Log-probabilities `[*batch, num_classes]`, constants, for any loss on teacher logits at a
      temperature of 1.

    Raises:
      ValueError: if the shapes differ, `num_classes` is below their length, or rest is not known.

    Example:
      >>> target = recover_top_k(jnp.array([[3, 0]]), jnp.array([[0.5, 0.3]]), num_classes=4)
      >>> jnp.exp(target).round(3)
      Array([[0.3, 0.1, 0.1, 0.5]], dtype=float32)

    References:
      Shen and Xing, A Fast Knowledge Distillation Framework for Visual Recognition,
      arXiv:2112.01528; Shen, FerKD, arXiv:2312.17473.
    """
    numerics.check_pair(indices, probabilities, ("indices", "probabilities"))
    if rest not in RESTS:
        raise ValueError(f'rest is "{rest}"{numerics.nearest(rest, RESTS)}')
    top = jnp.shape(indices)[-1]
    if num_classes < top:
        raise ValueError(f"num_classes is {num_classes}, wanted at least the {top} stored ones")
    stored = jax.lax.stop_gradient(numerics.as_float(probabilities))
    if rest == "hard":
        indices, stored = indices[..., :1], jnp.ones_like(stored[..., :1])
    places = jax.nn.one_hot(indices, num_classes, dtype=stored.dtype)
    dense = jnp.einsum("...k,...kc->...c", stored, places, precision=jax.lax.Precision.HIGHEST)
    if rest == "spread":
        missing = jnp.maximum(1 - jnp.sum(stored, axis=-1, keepdims=True), 0)
        free = jnp.sum(places, axis=-2) == 0
        dense = dense + free * missing / max(num_classes - top, 1)
    known = dense > 0
    return numerics.log_probabilities(
        jnp.where(known, jnp.log(jnp.where(known, dense, 1)), -jnp.inf)
    )
