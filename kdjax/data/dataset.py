"""`Dataset`: named columns with one row per example, in memory or read from disk as needed."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np


class Feature(NamedTuple):
    """Shape (without the example axis) and type of one column."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Rows(Protocol):
    """Random access to the examples behind a `Dataset`."""

    @property
    def features(self) -> Mapping[str, Feature]:
        """Shape and type of each column."""
        ...

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Gathers rows."""
        ...

    def fingerprint(self) -> str:
        """Tells this content from any other, across processes and machines."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with random access by row.

    Attributes:
      name: what it is called in logs and reports.
      rows: where the examples are.
      num_classes: number of classes of `label`, None without labels.
      place: where it was loaded from in words, such as its split and folder.
    """

    name: str
    rows: Rows
    num_classes: int | None = None
    place: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.rows)

    @property
    def origin(self) -> str:
        """Name and place, for messages."""
        return f"{self.name!r}, {self.place}" if self.place else repr(self.name)

    @property
    def features(self) -> Mapping[str, Feature]:
        """Shape and type of each column."""
        return self.rows.features

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """The whole columns, read-only; `TypeError` if they were too large to hold in memory."""
        if not isinstance(self.rows, ArrayRows):
            raise TypeError(
                f"{self.name!r} is read from disk row by row; use take(indices), or load it with a "
                "larger memory_limit"
            )
        return self.rows.arrays

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the content, equal across processes and machines (64 hexadecimal digits).

        In memory: of every column's name, type, shape and bytes. On disk: of the prepared
        dataset's name, version, split and the sizes of its shards.
        """
        return self.rows.fingerprint()

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Gathers rows.

        Args:
          indices: integers `[batch]`, in `0 .. size - 1`.

        Returns:
          Each column as `[batch, …]`.

        Raises:
          DataError: a file that holds the rows is damaged.
        """
        return self.rows.take(np.asarray(indices))


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayRows:
    """Rows of arrays in memory."""

    arrays: Mapping[str, np.ndarray]

    @property
    def features(self) -> Mapping[str, Feature]:
        """Shape and type of each column."""
        return {name: Feature(a.shape[1:], a.dtype) for name, a in self.arrays.items()}

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Gathers rows."""
        return {name: array[indices] for name, array in self.arrays.items()}

    def fingerprint(self) -> str:
        """A hash of every column's name, type, shape and bytes."""
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            array = self.arrays[name]
            array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.reshape(-1).view(np.uint8))
        return digest.hexdigest()


def from_arrays(
    arrays: Mapping[str, np.ndarray], *, name: str = "arrays", num_classes: int | None = None
) -> Dataset:
    """Makes a dataset of arrays in memory.

    Args:
      arrays: columns `[size, …]` of one size, at least one. An `id` column must hold distinct
        integers; without it, it is added as the row number (int64).
      name: what the dataset is called.
      num_classes: number of classes of `label`. By default one more than the largest label, if
        `label` is a column of integers `[size]`.

    Returns:
      A dataset that shares memory with the arrays.

    Raises:
      ValueError: no columns, an empty or scalar one, sizes that differ, text, or bad ids or labels.

    Example:
      >>> import numpy as np
      >>> from kdjax.data import from_arrays
      >>> dataset = from_arrays({'image': np.zeros((3, 8, 8, 1), np.uint8), 'label': [0, 2, 1]})
      >>> dataset.size, dataset.num_classes, dataset.arrays['id']
      (3, 3, array([0, 1, 2]))
    """
    columns = {column: _read_only(values) for column, values in arrays.items()}
    _check_sizes(columns)
    size = len(next(iter(columns.values())))
    if "id" not in columns:
        columns["id"] = _read_only(np.arange(size, dtype=np.int64))
    _check_ids(columns["id"])
    num_classes = _num_classes(columns.get("label"), num_classes)
    return Dataset(name, ArrayRows(columns), num_classes)


def _read_only(values: np.ndarray) -> np.ndarray:
    array = np.asarray(values).view()
    array.flags.writeable = False
    return array


def _check_sizes(columns: Mapping[str, np.ndarray]) -> None:
    shapes = {column: array.shape for column, array in columns.items()}
    if not columns:
        raise ValueError("arrays: got no columns, wanted at least one")
    for column, array in columns.items():
        if not array.ndim or not len(array):
            raise ValueError(f"arrays[{column!r}]: shape {array.shape}, wanted [size >= 1, …]")
        if array.dtype.kind not in "biufV":  # V: bfloat16 and its kind
            raise ValueError(f"arrays[{column!r}]: dtype {array.dtype}, wanted numbers")
    if len({shape[0] for shape in shapes.values()}) > 1:
        raise ValueError(f"arrays: leading sizes differ: {shapes}, wanted one size")


def _check_ids(ids: np.ndarray) -> None:
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or len(np.unique(ids)) != len(ids):
        raise ValueError(
            f"arrays['id']: {ids.dtype} of shape {ids.shape} with {len(np.unique(ids))} distinct "
            "values, wanted distinct integers [size]"
        )


def _num_classes(label: np.ndarray | None, num_classes: int | None) -> int | None:
    if label is None or label.ndim != 1 or label.dtype.kind not in "iu":
        return num_classes
    found = int(label.max()) + 1
    if label.min() < 0 or found > (num_classes or found):
        raise ValueError(
            f"arrays['label']: values in {label.min()}..{label.max()}, wanted 0..num_classes - 1 "
            f"with num_classes={num_classes or found}"
        )
    return num_classes or found
