"""Augmentation as a function of example and view, so that a teacher's answers can be stored."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from kdjax.base import Batch
from kdjax.data.augment import Augmentation, check_image


def example_keys(seed: int, batch: Batch) -> Key[Array, " batch"]:
    """A key per example, `fold_in(fold_in(key(seed), id), view)`; the same in any batch.

    Args:
      seed: of all keys.
      batch: with integers `id` `[batch]`, and `view` `[batch]` where there are several views.

    Returns:
      Keys `[batch]`.

    Raises:
      ValueError: the batch has no field `id`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> alone = example_keys(0, {'id': jnp.array([7])})
      >>> bool((alone == example_keys(0, {'id': jnp.array([3, 7])})[1]).all())
      True
    """
    if "id" not in batch:
        raise ValueError(f"batch: has {sorted(batch)}, wanted a field 'id'")
    ids = jnp.asarray(batch["id"])
    views = jnp.broadcast_to(jnp.asarray(batch.get("view", 0)), ids.shape)
    # Other generators than threefry may draw differently under vmap, hence with the batch.
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.vmap(lambda i, view: jax.random.fold_in(jax.random.fold_in(key, i), view))(
        ids, views
    )


@dataclasses.dataclass(frozen=True)
class Repeatable:
    """A repeatable augmentation; made by `repeatable`."""

    augmentation: Augmentation
    seed: int

    def __call__(self, key: jax.Array | None, batch: Batch) -> Batch:
        """Augments the images; the key is not used."""
        image = check_image(batch)

        def augment_one(key: jax.Array, image: Array) -> Array:
            answer = self.augmentation(key, {"image": image[None]})
            if set(answer) != {"image"}:
                raise ValueError(
                    f"augmentation: gave {sorted(answer)} for 'image'; wanted one that changes "
                    "each image by itself"
                )
            return answer["image"][0]

        return {**batch, "image": jax.vmap(augment_one)(example_keys(self.seed, batch), image)}


def repeatable(augmentation: Augmentation, seed: int = 0) -> Repeatable:
    """Makes an augmentation a function of `(seed, id, view)` alone.

    The key that a train step passes is not used. Whatever the batch, the epoch or the run, view
    `v` of example `i` is the same picture, so that a teacher's answer to it can be stored
    (`write_teacher_cache`) and belongs to exactly the picture that the student sees. `batches(…,
    views=n)` gives the field `view`; without it the view is 0.

    Args:
      augmentation: of each image by itself (crops, flips, noise). Those that mix examples or add
        fields cannot be repeated; in use they raise.
      seed: of the pictures.

    Returns:
      `augment(key, batch) -> batch`, which reads `image` `[batch, height, width, channels]`, `id`
      and `view`.

    Raises:
      TypeError: the augmentation is not callable.
      ValueError: the seed is not an integer of at least 0; in use, a batch without `id`, or an
        augmentation that does not work on images alone.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from kdjax.data import random_crop, repeatable
      >>> augment = repeatable(random_crop(2), seed=1)
      >>> batch = {'image': jnp.ones((2, 8, 8, 1)), 'id': jnp.array([4, 9])}
      >>> one = augment(jax.random.key(0), batch)['image']
      >>> bool((one == augment(jax.random.key(5), batch)['image']).all())
      True

    References:
      Shen and Xing, A fast knowledge distillation framework for visual recognition,
      arXiv 2112.01528.
    """
    if not callable(augmentation):
        raise TypeError(f"augmentation: got {augmentation!r}, wanted augment(key, batch) -> batch")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed: got {seed!r}, wanted an integer >= 0")
    return Repeatable(augmentation, int(seed))
