"""Data that do not come: a bound on how long a source may take for a batch."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.data.dataset import ArrayRows, Dataset, Feature, Rows
from kdjax.data.errors import SourceTimeout


def with_timeout(dataset: Dataset, seconds: float) -> Dataset:
    """The same data; rows that do not arrive in time are an error instead of a wait without end.

    Args:
      dataset: what to read. One in memory is given back as it is.
      seconds: that the rows of one batch may take; 0 for as long as it takes.

    Returns:
      A dataset with the same content and fingerprint. After a timeout, all later reads fail at
      once.

    Raises:
      ValueError: `seconds` is negative or not finite.

    Example:
      >>> import numpy as np
      >>> from kdjax.data import from_arrays, with_timeout
      >>> with_timeout(from_arrays({'label': np.arange(3)}), 600.0).take([2])['label']
      array([2])
    """
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"seconds: got {seconds!r}, wanted a finite number >= 0")
    if not seconds or isinstance(dataset.rows, ArrayRows):
        return dataset
    return dataclasses.replace(dataset, rows=_WatchedRows(dataset.rows, seconds, dataset.origin))


class _WatchedRows:
    """Rows that are read in a thread of their own.

    The thread is a daemon: a read that hangs must not keep the process from ending.
    """

    def __init__(self, rows: Rows, seconds: float, origin: str):
        self._rows, self._seconds, self._origin = rows, seconds, origin
        self._hung = False

    @property
    def features(self) -> Mapping[str, Feature]:
        return self._rows.features

    def __len__(self) -> int:
        return len(self._rows)

    def fingerprint(self) -> str:
        return self._rows.fingerprint()

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        # Batches are asked for ahead: without this, each of them would wait once more.
        if self._hung:
            raise self._error()
        answer: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def read() -> None:
            try:
                answer.put((self._rows.take(indices), None))
            except BaseException as error:  # raised again where the rows are waited for
                answer.put((None, error))

        threading.Thread(target=read, name="kdjax-rows", daemon=True).start()
        try:
            rows, error = answer.get(timeout=self._seconds)
        except queue.Empty:
            self._hung = True
            raise self._error() from None
        if error is not None:
            raise error
        return rows

    def _error(self) -> SourceTimeout:
        return SourceTimeout(
            f"{self._origin} gave nothing for {self._seconds:g} s; look at the disk or the network "
            "behind it, or allow it a longer timeout"
        )
