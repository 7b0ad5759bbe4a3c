"""Pieces of clothing before a cluttered background, with masks of their pixels.

Shared by the miniatures on segmentation. Every scene is 16 by 16 pixels, and a mask has a class, 0
or 1, for each of them.
"""

from __future__ import annotations

import functools

import numpy as np
from flax import linen as nn
from scipy import ndimage

from benchmarks.miniatures import common
from kdjax import models
from kdjax.base import Model, Variables

SIDE = 16


class Segmenter(nn.Module):
    """Convolutions at full size, and a linear layer for the classes of a pixel.

    Attributes:
      widths: of the convolutions.
    """

    widths: tuple[int, ...] = (16, 16, 16)

    @nn.compact
    def __call__(self, image):
        """Gives logits `[batch, height, width, 2]`."""
        for width in self.widths:
            image = nn.relu(nn.Conv(width, (3, 3))(image))
        return nn.Dense(2)(image)


SEGMENTER = models.from_linen(Segmenter())
train = functools.partial(common.train, batch_size=16, compiled_loop=False)


@functools.cache
def scenes(split: str, count: int) -> common.Columns:
    """The first images of a split of Fashion-MNIST, at half their size, as scenes."""
    pixels = common.columns("fashion_mnist", split)["image"][:count, ..., 0]
    count, draw = len(pixels), np.random.default_rng(len(split) + count)
    things = pixels.reshape(count, 14, 2, 14, 2).mean((2, 4))
    ink = np.zeros((count, SIDE, SIDE), np.float32)
    for canvas, thing, (i, j) in zip(ink, things, draw.integers(0, 3, (count, 2)), strict=True):
        canvas[i : i + 14, j : j + 14] = thing
    mask = ink > 0.1
    clutter = ndimage.uniform_filter(draw.uniform(size=ink.shape), (0, 3, 3), mode="wrap")
    image = np.where(mask, ink, 3 * clutter - 1) + draw.normal(0, 0.15, ink.shape)
    return {"image": np.float32(image[..., None]), "label": np.int32(mask)}


def some(examples: common.Columns, count: int, seed: int) -> common.Columns:
    """So many of the scenes, drawn for a seed."""
    return common.rows(
        examples, np.random.default_rng(seed).permutation(len(examples["label"]))[:count]
    )


def shifted(examples: common.Columns, seed: int = 0) -> common.Columns:
    """Masks that lie one or two pixels too low and too far right."""
    far = np.random.default_rng(seed).integers(1, 3, (len(examples["label"]), 2))
    moved = [
        np.pad(mask, ((i, 0), (j, 0)))[: mask.shape[0], : mask.shape[1]]
        for mask, (i, j) in zip(examples["label"], far, strict=True)
    ]
    return {**examples, "label": np.stack(moved)}


def iou(model: Model, variables: Variables, examples: common.Columns) -> float:
    """Intersection over union of all pixels that are the thing or are taken for it, in percent."""
    found = common.signals(model, variables, examples)["logits"].argmax(-1) == 1
    there = examples["label"] == 1
    return 100 * float(np.sum(found & there) / np.sum(found | there))
