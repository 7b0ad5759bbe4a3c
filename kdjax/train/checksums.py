"""A checksum of arrays that does not depend on where they live."""

from __future__ import annotations

import math
import zlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdjax.base import PyTree

_BLOCK = 1 << 20


def checksum(tree: PyTree) -> str:
    """Eight hexadecimal digits over all arrays, wherever and in whatever containers they are.

    Each element's bits are mixed with its position in the whole array, and the results are added
    up, so that the parts of an array can be taken in any order and on any process. A single flipped
    bit always changes the sum.

    Args:
      tree: of numpy or jax arrays; with several processes all must call it.

    Example:
      >>> import jax.numpy as jnp
      >>> checksum({'a': jnp.arange(6.0)}) == checksum([np.arange(6.0, dtype=np.float32)])
      True
      >>> checksum([np.array([1.0, 2.0])]) == checksum([np.array([2.0, 1.0])])
      False
    """
    own, shared, leaves = 0, 0, jax.tree.leaves(tree)
    for leaf in leaves:
        kind = zlib.crc32(f"{np.shape(leaf)} {np.dtype(leaf.dtype)}".encode())
        if _is_shared(leaf):
            shared += _of_parts(leaf)
        else:
            own += _of_parts(leaf)
        own += kind
    if any(map(_is_shared, leaves)):
        halves = np.array(divmod(shared % 2**64, 2**32), np.uint32)
        every = multihost_utils.process_allgather(halves).reshape(-1, 2)
        shared = sum((int(high) << 32) + int(low) for high, low in every)
    high, low = divmod((own + shared) % 2**64, 2**32)
    return f"{high ^ low:08x}"


def _is_shared(leaf: Any) -> bool:
    """Whether other processes have parts of it that this one has not, or copies of it."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def _of_parts(leaf: Any) -> int:
    """The sum over those parts of an array that are this process's to count."""
    if not isinstance(leaf, jax.Array):
        return _of_part(np.asarray(leaf), (), np.shape(leaf))
    return sum(
        _of_part(np.asarray(shard.data), shard.index, leaf.shape)
        for shard in leaf.addressable_shards
        if shard.replica_id == 0
    )


def _of_part(part: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...]) -> int:
    starts = [one.start or 0 for one in index] or [0] * part.ndim
    total, words = 0, _words(part)
    for begin in range(0, part.size, _BLOCK):
        local = np.arange(begin, min(begin + _BLOCK, part.size))
        places = [i + start for i, start in zip(_unravel(local, part.shape), starts, strict=True)]
        position = np.zeros(len(local), np.uint64)
        for axis, place in enumerate(places):
            position += place.astype(np.uint64) * np.uint64(math.prod(shape[axis + 1 :]))
        block = words[begin : begin + len(local)].astype(np.uint64)
        total += int(np.sum(_mixed(block + _mixed(position + np.uint64(1))), dtype=np.uint64))
    return total


def _unravel(local: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    return np.unravel_index(local, shape) if shape else ()


def _words(part: np.ndarray) -> np.ndarray:
    """The elements' bits as unsigned integers."""
    flat = np.ascontiguousarray(part).reshape(-1)
    if flat.dtype.itemsize in (1, 2, 4, 8):
        return flat.view(f"u{flat.dtype.itemsize}")
    raise TypeError(f"an array of {part.dtype} has no checksum, wanted elements of 1 to 8 bytes")


def _mixed(x: np.ndarray) -> np.ndarray:
    """A permutation of the 64-bit integers in which each bit reaches all others (splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
