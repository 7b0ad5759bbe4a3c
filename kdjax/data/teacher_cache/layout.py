"""How what is kept of a teacher's signals becomes rows of bytes of one size, and back."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.data.dataset import Feature
from kdjax.distributions import Samples, Sparse

KINDS = {"sparse": Sparse, "samples": Samples}
"""Signals that are made of several arrays; any other is one array."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The arrays of a row, one after the other.

    Attributes:
      kinds: by signal: `'array'`, `'sparse'` or `'samples'`.
      parts: by signal, its arrays by name, without the example axis.
    """

    kinds: Mapping[str, str]
    parts: Mapping[str, Mapping[str, Feature]]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(_nbytes(feature) for _, _, feature in self._each())

    def pack(self, kept: Mapping[str, Any]) -> np.ndarray:
        """Rows of bytes `[batch, row_bytes]`, uint8."""
        kept = {name: _parts(value) for name, value in kept.items()}
        pieces = [
            np.ascontiguousarray(kept[name][part]).reshape(len(kept[name][part]), -1)
            for name, part, _ in self._each()
        ]
        return np.concatenate([piece.view(np.uint8) for piece in pieces], axis=1)

    def unpack(self, rows: np.ndarray) -> dict[str, Any]:
        """What `pack` was given, as numpy arrays; classes become int32."""
        found: dict[str, dict[str, np.ndarray]] = {name: {} for name in self.kinds}
        start = 0
        for name, part, feature in self._each():
            stop = start + _nbytes(feature)
            piece = np.ascontiguousarray(rows[:, start:stop]).view(feature.dtype)
            found[name][part] = piece.reshape(len(rows), *feature.shape)
            start = stop
        return {name: _join(self.kinds[name], parts) for name, parts in found.items()}

    def to_json(self) -> dict[str, Any]:
        """A form for JSON."""
        return {
            name: {
                "kind": self.kinds[name],
                "arrays": {p: [f.dtype.name, list(f.shape)] for p, f in parts.items()},
            }
            for name, parts in self.parts.items()
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Layout:
        """What `to_json` gave."""
        parts = {
            name: {
                part: Feature(tuple(shape), jnp.dtype(dtype))
                for part, (dtype, shape) in signal["arrays"].items()
            }
            for name, signal in found.items()
        }
        return cls({name: signal["kind"] for name, signal in found.items()}, parts)

    def _each(self) -> Iterator[tuple[str, str, Feature]]:
        for name, parts in self.parts.items():
            for part, feature in parts.items():
                yield name, part, feature


def layout_of(kept: Mapping[str, Any]) -> Layout:
    """The layout of what is kept of a batch; arrays or their shapes.

    Raises:
      ValueError: there is nothing, or an array without an example axis.
    """
    if not kept:
        raise ValueError("keep: gave no signals, wanted at least one")
    parts = {}
    for name, value in kept.items():
        parts[name] = {}
        for part, array in _parts(value).items():
            if not array.shape:
                raise ValueError(f"keep: {name!r} gave a scalar {part}, wanted [batch, …]")
            parts[name][part] = Feature(tuple(array.shape[1:]), np.dtype(array.dtype))
    return Layout({name: _kind(value) for name, value in kept.items()}, parts)


def check_numbers(kept: Mapping[str, Any], ids: np.ndarray) -> None:
    """Raises `ValueError` if a value is NaN, with the example."""
    for name, value in kept.items():
        for array in jax.tree.leaves(value):
            bad = np.isnan(array[: len(ids)]).reshape(len(ids), -1).any(1)
            if bad.any():
                raise ValueError(f"teacher: {name!r} of the example {ids[bad][0]} is NaN")


def _kind(value: Any) -> str:
    return next((kind for kind, made in KINDS.items() if isinstance(value, made)), "array")


def _parts(value: Any) -> dict[str, Any]:
    if _kind(value) == "array":
        return {"values": value}
    return {name: array for name, array in value.rows.items() if array is not None}


def _join(kind: str, parts: dict[str, np.ndarray]) -> Any:
    if kind == "array":
        return parts["values"]
    return KINDS[kind](**{**parts, "ids": parts["ids"].astype(np.int32)})


def _nbytes(feature: Feature) -> int:
    return math.prod(feature.shape) * feature.dtype.itemsize
