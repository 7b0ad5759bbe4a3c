"""A data set that lies on the device: the host names rows, the compiled step takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np

from kdjax.base import COLUMNS, ROW
from kdjax.data.dataset import Dataset, Feature, Rows
from kdjax.data.device import narrow


class Resident(NamedTuple):
    """A data set on the device.

    Attributes:
      columns: its arrays `[size, …]`, on the device.
      rows: a data set of its row numbers alone, with its size, fingerprint and name.
    """

    columns: dict[str, jax.Array]
    rows: Dataset


def on_device(dataset: Dataset, sharding: jax.sharding.Sharding | None = None) -> Resident:
    """Lays a data set on the device, once for a whole training.

    Batches of `rows` hold the field `row` alone, four bytes per example. A step that
    `kdjax.parallel.compile` made takes the examples themselves from the columns, if it finds them:
    `step(state, batch, {**frozen, kdjax.data.COLUMNS: columns})`. The order, and the iterator's
    state, are those of the data set itself. It pays where a step takes a few milliseconds or less,
    and costs the data set's size in device memory.

    Args:
      dataset: in memory.
      sharding: of the columns. Over a mesh a step lays them whole on each device, whatever this is.

    Returns:
      The columns, in the 32-bit types of JAX, and the data set of row numbers.

    Raises:
      TypeError: the data set is read from disk row by row.
      ValueError: a 64-bit integer does not fit into 32 bits.

    Example:
      >>> import numpy as np
      >>> from kdjax.data import batches, from_arrays, on_device
      >>> columns, rows = on_device(from_arrays({'label': np.array([3, 1, 2])}))
      >>> next(batches(rows, batch_size=2, seed=0, shuffle=False))
      {'row': array([0, 1], dtype=int32)}
      >>> columns['label']
      Array([3, 1, 2], dtype=int32)
    """
    columns = {name: narrow(array) for name, array in dataset.arrays.items()}
    rows = dataclasses.replace(dataset, rows=RowNumbers(dataset.rows))
    return Resident(jax.device_put(columns, sharding), rows)


@dataclasses.dataclass(frozen=True, eq=False)
class RowNumbers:
    """The row numbers of a data set, known by its content."""

    of: Rows

    @property
    def features(self) -> Mapping[str, Feature]:
        """The field `row` alone."""
        return {ROW: Feature((), np.dtype(np.int32))}

    def __len__(self) -> int:
        return len(self.of)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """The numbers themselves."""
        return {ROW: indices.astype(np.int32)}

    def fingerprint(self) -> str:
        """That of the data set."""
        return self.of.fingerprint()


__all__ = ["COLUMNS", "Resident", "RowNumbers", "on_device"]
