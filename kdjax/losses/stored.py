"""Soft labels of regions: stored with only their largest probabilities, and calibrated."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax.losses import divergences, numerics
from kdjax.losses.divergences import Labels, Logits, Mask, PerExample

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


def fer_kd(
    student_logits: Logits,
    teacher_logits: Logits,
    labels: Labels,
    *,
    discard: Any = 0.15,
    soften: Any = 0.3,
    smoothing: Any = 0.1,
    where: Mask | None = None,
) -> PerExample:
    """FerKD: soft labels of regions, of which the doubtful ones are calibrated or left out.

        -sum_c target_c log q_c,    target of `calibrate_regions`

    Args:
      student_logits: `[*batch, classes]`, of a region (a crop) of each image.
      teacher_logits: the same shape, of the same region, a constant; stored ones are brought back
        by `recover_top_k`.
      labels: as for `cross_entropy`, of the whole image.
      discard: as for `calibrate_regions`.
      soften: as for `calibrate_regions`.
      smoothing: as for `calibrate_regions`.
      where: classes or rows that exist, broadcast against the logits.

    Returns:
      `[*batch]`, in nats; 0 for a region that is left out.

    Raises:
      ValueError: if the shapes differ, labels are out of range or the thresholds are not ordered.

    Example:
      >>> teacher = jnp.log(jnp.array([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]]))
      >>> values = fer_kd(teacher, teacher, jnp.array([0, 0, 0]), discard=0.55, soften=0.7)
      >>> [round(value, 3) for value in values.tolist()]
      [0.325, 0.531, 0.0]

    References:
      Shen, FerKD: Surgical Label Adaptation for Efficient Distillation, arXiv:2312.17473.
    """
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    target, kept = calibrate_regions(
        teacher_logits, labels, discard=discard, soften=soften, smoothing=smoothing, where=where
    )
    values = divergences.soft_cross_entropy(student_logits, target, where=where)
    return jnp.where(kept, values, 0)


def calibrate_regions(
    teacher_logits: Logits,
    labels: Labels,
    *,
    discard: Any = 0.15,
    soften: Any = 0.3,
    smoothing: Any = 0.1,
    where: Mask | None = None,
) -> tuple[Logits, Bool[Array, "*batch"]]:
    """FerKD's targets by the teacher's largest probability `m` for a region.

    Below `discard` a region shows nothing and is left out; from there to `soften` its target is the
    label of the image, smoothed; above, the teacher's own prediction stands.

    Args:
      teacher_logits: `[*batch, classes]`, constants.
      labels: as for `cross_entropy`, of the whole image.
      discard: regions with a smaller `m` are left out, from 0 to `soften`.
      soften: regions with a smaller `m` get the smoothed label, up to 1.
      smoothing: of the label, as for `cross_entropy`.
      where: classes or rows that exist.

    Returns:
      Log-probabilities `[*batch, classes]`, constants, and which regions are kept, `[*batch]`.

    Raises:
      ValueError: if labels are out of range or the thresholds are not ordered within [0, 1].

    Example:
      >>> teacher = jnp.log(jnp.array([[0.9, 0.1], [0.6, 0.4]]))
      >>> target, kept = calibrate_regions(teacher, jnp.array([1, 1]), soften=0.7)
      >>> jnp.exp(target)[:, 0]
      Array([0.9 , 0.05], dtype=float32)

    References:
      Shen, FerKD, arXiv:2312.17473. (The released code reads labels that were calibrated before;
      thresholds and smoothing are ours.)
    """
    numerics.check_fraction(discard=discard, soften=soften, smoothing=smoothing)
    if isinstance(discard, (int, float)) and isinstance(soften, (int, float)) and discard > soften:
        raise ValueError(f"discard is {discard} and soften {soften}, wanted discard <= soften")
    log_p = numerics.log_probabilities(jax.lax.stop_gradient(teacher_logits), where=where)
    best = jnp.exp(jnp.max(log_p, axis=-1))
    exists = jnp.broadcast_to(True if where is None else where, log_p.shape)
    even = exists / jnp.maximum(jnp.sum(exists, axis=-1, keepdims=True), 1)
    truth = numerics.label_distribution(labels, teacher_logits)
    truth = jnp.where(exists, (1 - smoothing) * truth + smoothing * even, 0)
    known = truth > 0
    softened = jnp.where(known, jnp.log(jnp.where(known, truth, 1)), numerics.LOG_ZERO)
    target = jnp.where((best < soften)[..., None], softened, log_p)
    return target, (best >= discard) & (best > 0)
