"""Augmentations by name, for configs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from kdjax import data
from kdjax.base import Batch, Key
from kdjax.losses.numerics import nearest
from kdjax.train.errors import RecipeError

NAMES = (
    "cutmix",
    "function_matching",
    "mixup",
    "random_crop",
    "random_flip",
    "random_noise",
    "random_resized_crop",
    "random_shift",
)


def build(section: str, options: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    """`{'random_shift': {'max_shift': 1}, 'mixup': {'alpha': 0.2}}`, in that order, if any.

    Teacher and student see the same view; `{'separate_views': {'student': {…}, 'teacher': {…}}}`
    adds a second one, `teacher_image`. Integer images are first divided by 255, as the models do,
    so that a view of another type keeps their range.
    """
    made = _made(section, options or {}, facts)
    return data.compose(_unit_range, *made) if made else None


def _made(section: str, options: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Any]:
    made = []
    for name, given in options.items():
        if name == "separate_views":
            made.append(_two_views(f"{section}.{name}", given, facts))
            continue
        if name not in NAMES:
            known = [*NAMES, "separate_views"]
            raise RecipeError(f"config.{section} has no {name!r}{nearest(name, known)}")
        maker = getattr(data, name)
        given = dict(given)
        if "num_classes" in inspect.signature(maker).parameters:
            given.setdefault("num_classes", facts["num_classes"])
        try:
            made.append(maker(**given))
        except (TypeError, ValueError) as error:
            raise RecipeError(f"config.{section}.{name}: {' '.join(str(error).split())}") from error
    return made


def _two_views(section: str, given: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    """`{'student': {…}, 'teacher': {…}}`: `image` and `teacher_image`, drawn apart."""
    sides = ("student", "teacher")
    if set(given) != set(sides):
        raise RecipeError(f"config.{section} has {sorted(given)}, wanted student and teacher")
    views = [data.compose(*_made(f"{section}.{side}", given[side], facts)) for side in sides]
    return data.separate_views(*views)


def _unit_range(key: Key, batch: Batch) -> Batch:
    image = batch["image"]
    if jnp.issubdtype(image.dtype, jnp.integer):
        image = image.astype(jnp.float32) / 255
    return {**batch, "image": image}
