"""A network that moves images to where teacher and student disagree (HARD)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.base import EMPTY, Model, Objective
from kdjax.losses import divergences, logits
from kdjax.objectives.lift import reduce
from kdjax.objectives.teachers import dense_stack

Images = Float[Array, "batch height width channels"]


def affine_augmentor(
    *, max_shift: float = 2.0, max_angle: float = 0.0, max_scale: float = 0.0, hidden: int = 16
) -> Model:
    """Learnt shifts, turns and zooms of images, each within its bound.

    A small network maps noise, drawn anew for each image, to `tanh(…)` times the bounds; images are
    read at the moved places, linearly, and are 0 outside. It starts near the identity.

    Args:
      max_shift: pixels in each direction.
      max_angle: radians.
      max_scale: relative change of size, below 1.
      hidden: width of the network, and of its noise.

    Returns:
      A model that reads `image` from its batch and gives `image`, in floating point (integers are
      divided by 255). Without a key all noise is 0.

    Raises:
      ValueError: if a bound is below 0 or the scale is not below 1.

    Example:
      >>> augmentor, batch = affine_augmentor(), {"image": jnp.ones((2, 4, 4, 1))}
      >>> variables = augmentor.init(jax.random.key(0), batch)
      >>> augmentor.apply(variables, batch, key=jax.random.key(1))[0]["image"].shape
      (2, 4, 4, 1)

    References:
      HARD: Hard Augmentations for Robust Distillation, arXiv:2305.14890.
    """
    if min(max_shift, max_angle, max_scale) < 0 or max_scale >= 1:
        raise ValueError(
            f"max_shift is {max_shift}, max_angle {max_angle} and max_scale {max_scale}; wanted "
            "none below 0, and a scale below 1"
        )
    bounds = jnp.array([max_shift, max_shift, max_angle, max_scale], jnp.float32)

    def init(key, batch):
        del batch
        params = dense_stack(key, (hidden, hidden, len(bounds)))
        last = {"kernel_1": 0.1 * params["kernel_1"], "bias_1": jnp.zeros(len(bounds))}
        return {"params": {**params, **last}}

    def apply(variables, batch, *, key=None, train=False):
        del train
        image, params = _unit(batch["image"]), variables["params"]
        shape = (image.shape[0], hidden)
        noise = jnp.zeros(shape) if key is None else jax.random.normal(key, shape)
        x = jnp.tanh(noise @ params["kernel_0"] + params["bias_0"])
        moves = jnp.tanh(x @ params["kernel_1"] + params["bias_1"]) * bounds
        return {"image": jax.vmap(_warp)(image, moves)}, {}

    return Model(init, apply)


def disagreement(
    *,
    temperature: Any = 1.0,
    stability_weight: float = 1.0,
    ceiling: float = 2.0,
    augmentor: str = "augmentor",
    student: str = "student",
    teacher: str = "teacher",
) -> Objective:
    """What the augmentor minimises: agreement on its images, and change of the teacher's answer.

        -min(KL(t(x') ‖ s(x')), ceiling)  +  stability_weight · KL(t(x) ‖ t(x'))

    Beyond the ceiling nothing is gained: the augmentor waits until the student has caught up.

    Args:
      temperature: of all three predictions.
      stability_weight: of the second term.
      ceiling: in nats, above 0.
      augmentor: the player that makes `x'`.
      student: the player that learns.
      teacher: the teacher.

    Returns:
      An objective with the terms `agreement` and `stability`.

    References:
      HARD, arXiv:2305.14890. (Its phases change by thresholds of the loss; the ceiling is ours.)
    """

    def apply(variables, context):
        del variables
        moved = _moved(context, augmentor)
        own, theirs = (context.networks[name](moved)["logits"] for name in (student, teacher))
        before = context.get("logits", role=teacher)
        apart = divergences.kl_divergence(
            own, theirs, temperature=temperature, teacher_gradient=True
        )
        changed = divergences.kl_divergence(theirs, before, temperature=temperature)
        return {
            "agreement": reduce(-jnp.minimum(apart, ceiling)),
            "stability": reduce(changed)._replace(weight=stability_weight),
        }, {}

    return Objective(lambda key, context: EMPTY, apply)


def augmented_kd(
    *,
    temperature: Any = 4.0,
    clean_weight: float = 1.0,
    augmentor: str = "augmentor",
    student: str = "student",
    teacher: str = "teacher",
) -> Objective:
    """`losses.kd` on the augmentor's images and on those of the batch.

    Args:
      temperature: of the divergence.
      clean_weight: of the images as they are.
      augmentor: the player that makes the images.
      student: the player that learns.
      teacher: the teacher.

    Returns:
      An objective with the terms `hard` and `clean`.

    References:
      HARD, arXiv:2305.14890.
    """

    def apply(variables, context):
        del variables
        moved = jax.lax.stop_gradient(_moved(context, augmentor))
        own, theirs = (context.networks[name](moved)["logits"] for name in (student, teacher))
        hard = logits.kd(own, theirs, temperature=temperature)
        clean = logits.kd(
            context.get("logits"), context.get("logits", role=teacher), temperature=temperature
        )
        return {"hard": reduce(hard), "clean": reduce(clean)._replace(weight=clean_weight)}, {}

    return Objective(lambda key, context: EMPTY, apply)


def _moved(context, augmentor):
    """The batch with the augmentor's images."""
    image = context.networks[augmentor](context.batch)["image"]
    return {**context.batch, "image": image}


def _unit(image):
    image = jnp.asarray(image)
    return image if jnp.issubdtype(image.dtype, jnp.floating) else image.astype(jnp.float32) / 255


def _warp(
    image: Float[Array, "height width channels"], move: Float[Array, " moves"]
) -> Float[Array, "height width channels"]:
    """Reads an image at places that are shifted, turned and scaled about its centre."""
    height, width, _ = image.shape
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    middle = (height - 1) / 2, (width - 1) / 2
    y, x = rows - middle[0], columns - middle[1]
    down, right, angle, scale = move
    cosine, sine = jnp.cos(angle) * (1 + scale), jnp.sin(angle) * (1 + scale)
    places = [
        cosine * y - sine * x + down + middle[0],
        sine * y + cosine * x + right + middle[1],
    ]

    def read(channel):
        return jax.scipy.ndimage.map_coordinates(channel, places, order=1, mode="constant")

    return jax.vmap(read, in_axes=-1, out_axes=-1)(image)
