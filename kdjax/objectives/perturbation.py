"""Objectives that perturb what the student sees, and ask it to say the same."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.base import EMPTY, Objective
from kdjax.losses import contrastive, numerics
from kdjax.objectives.lift import reduce


def mix_distribution(
    *,
    temperature: Any = 0.1,
    concentration: float = 0.5,
    player: str = "student",
    embedding: str = "embedding",
    image: str = "image",
) -> Objective:
    """KD³'s contrast of an image and the same with statistics mixed in from another image.

    The student sees each image once more by `mix_statistics` with another of the batch, and is to
    tell its own embedding of that view from those of all other images (InfoNCE).

    Args:
      temperature: of the contrast.
      concentration: of the beta distribution that shares are drawn from, above 0.
      player: whose network is run on the view.
      embedding: its signal `[batch, width]`.
      image: field of the batch with images `[batch, …]`.

    Returns:
      A coupled objective with the term `mix_distribution`.

    Raises:
      ValueError: if the concentration is not above 0.

    References:
      Tang et al., Distribution Shift Matters for Knowledge Distillation with Webly Collected
      Images, arXiv:2307.11469. (There the statistics are those of features; its code is not
      public.)
    """
    numerics.check_positive(concentration=concentration)

    def apply(variables, context):
        del variables
        images = numerics.as_float(context.batch[image])
        if jnp.issubdtype(jnp.asarray(context.batch[image]).dtype, jnp.integer):
            images = images / 255
        keys = jax.random.split(context.key)
        order = jax.random.permutation(keys[0], len(images))
        share = jax.random.beta(keys[1], concentration, concentration, (len(images),))
        view = mix_statistics(images, images[order], share)
        seen = context.networks[player]({**context.batch, image: view})[embedding]
        values = contrastive.info_nce(seen, context.get(embedding), temperature=temperature)
        return {"mix_distribution": reduce(values)}, {}

    return Objective(lambda key, context: EMPTY, apply, coupled=True)


def mix_statistics(
    images: Float[Array, "batch ..."],
    others: Float[Array, "batch ..."],
    share: Float[Array, " batch"],
) -> Float[Array, "batch ..."]:
    """Images whose mean and spread are in part those of others (MixStyle).

        σ' (x - m_x) / σ_x + m',    m' = a m_x + (1 - a) m_o,    σ' likewise

    Args:
      images: `x`, `[batch, …, channels]`; statistics are of each channel.
      others: `o`, the same shape.
      share: `a`, of each image's own statistics, `[batch]`, from 0 to 1.

    Returns:
      Images of the same shape.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> x = jnp.array([[[0.0], [2.0]]])
      >>> mix_statistics(x, 10 * x, jnp.array([0.5]))[0, :, 0]
      Array([ 0., 11.], dtype=float32)

    References:
      Zhou et al., Domain Generalization with MixStyle, arXiv:2104.02008.
    """
    numerics.check_pair(images, others, ("images", "others"))
    images, others = numerics.as_float(images), numerics.as_float(others)
    axes = tuple(range(1, images.ndim - 1))

    def statistics(x):
        mean = jnp.mean(x, axis=axes, keepdims=True)
        return mean, jnp.sqrt(jnp.mean(jnp.square(x - mean), axis=axes, keepdims=True) + 1e-12)

    (mean, spread), (mean_o, spread_o) = statistics(images), statistics(others)
    share = jnp.reshape(share, (-1,) + (1,) * (images.ndim - 1))
    normal = (images - mean) / spread
    spread = share * spread + (1 - share) * spread_o
    return spread * normal + share * mean + (1 - share) * mean_o
