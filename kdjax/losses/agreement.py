"""Several teachers who do not say the same: how far they agree, and what that is worth."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses import divergences, numerics, targets
from kdjax.losses.divergences import Labels, Logits, Mask, PerExample

Committee = Float[Array, "*batch members classes"]


def consensus_kd(
    student_logits: Logits,
    teacher_logits: Committee,
    labels: Labels | None = None,
    *,
    sharpness: Any = 1.0,
    temperature: Any = 1.0,
    scale_by_t2: bool = True,
    where: Mask | None = None,
) -> PerExample:
    """Distillation from the mean of several teachers, weighted by how far they agree.

        w · T² KL(mean_n softmax(t_n / T) ‖ softmax(s / T)),    w of `agreement_weights`

    Args:
      student_logits: `[*batch, classes]`, of a strong view in self-training.
      teacher_logits: the committee's, `[*batch, members, classes]`, constants.
      labels: not used.
      sharpness: of the weights, at least 0; 0 counts all examples alike.
      temperature: `T`, above 0, of the weights too.
      scale_by_t2: whether to multiply by `T²`.
      where: classes or rows that exist, broadcast against the student's logits.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if the shapes do not go together or the temperature is not positive.

    Example:
      >>> student, sure = jnp.array([[1.0, 0.0]]), jnp.array([[20.0, 0.0], [0.0, 20.0]])
      >>> consensus_kd(student, sure[None, :1]), consensus_kd(student, sure[None])
      (Array([0.3133], dtype=float32), Array([0.06], dtype=float32))

    References:
      Ohkawa et al., Domain Adaptive Hand Keypoint and Pixel Localization in the Wild (C-GAC),
      arXiv:2203.08344. (The weights' form is ours: the code is not public.)
    """
    del labels
    options = {"temperature": temperature, "where": where}
    target = targets.committee(teacher_logits, **options)
    numerics.check_pair(student_logits, target, ("student_logits", "the teachers' mean"))
    student = numerics.as_float(student_logits) / temperature
    values = divergences.kl_divergence(student, target, where=where)
    values = values * temperature**2 if scale_by_t2 else values
    return agreement_weights(teacher_logits, sharpness=sharpness, **options) * values


def agreement_weights(
    teacher_logits: Committee,
    *,
    sharpness: Any = 1.0,
    temperature: Any = 1.0,
    where: Mask | None = None,
) -> Float[Array, "*batch"]:
    """Confidence from agreement, `exp(-sharpness · JS(p_1, …, p_n))`, from above 0 to 1.

    The Jensen-Shannon divergence of several distributions is their mean divergence from their mean.

    Args:
      teacher_logits: `[*batch, members, classes]`, constants.
      sharpness: how fast the weight falls, at least 0.
      temperature: of the predictions, above 0.
      where: classes that exist, broadcast against `[*batch, classes]`.

    Returns:
      `[*batch]`, constants.

    Raises:
      ValueError: if there is no axis of members or the temperature is not positive.

    Example:
      >>> sure = jnp.array([[20.0, 0.0], [0.0, 20.0]])
      >>> agreement_weights(jnp.stack([sure, sure[::-1]], axis=1))
      Array([0.5, 0.5], dtype=float32)

    References:
      Ohkawa et al., C-GAC, arXiv:2203.08344.
    """
    teacher_logits = jax.lax.stop_gradient(teacher_logits)
    mean = targets.committee(teacher_logits, temperature=temperature, where=where)
    each = numerics.as_float(teacher_logits) / temperature
    mask = None if where is None else jnp.expand_dims(where, -2)
    mean = jnp.broadcast_to(mean[..., None, :], each.shape)
    apart = jnp.mean(divergences.kl_divergence(mean, each, where=mask), axis=-1)
    return jnp.exp(-sharpness * apart)
