"""Reading a teacher's answers: by example and view, as columns of batches."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.base import Variables
from kdjax.data.dataset import Dataset
from kdjax.data.errors import DataError
from kdjax.data.pipeline import HostBatch
from kdjax.data.repeatable import Repeatable
from kdjax.data.teacher_cache import identity, shards
from kdjax.data.teacher_cache.layout import Layout

INDEX, PLAN, IDS = "index.json", "plan.json", "ids.npy"


class TeacherCache:
    """A teacher's answers on disk; opened by `open_teacher_cache`.

    Attributes:
      folder: where it is.
      size: number of examples.
      views: number of views of each.
      bytes_per_example: bytes on disk for one view of one example, all overheads included.
    """

    def __init__(self, folder: Path, memory_limit: int = 2**30):
        self.folder, self._index = folder, identity.from_bytes(folder / INDEX)
        self.size, self.views = self._index["size"], self._index["views"]
        self._layout = Layout.from_json(self._index["signals"])
        self._per_shard = self._index["rows_per_shard"]
        self._ids = self._read_ids()
        self._order = np.argsort(self._ids, kind="stable")
        sizes = self._index["shards"].values()
        self.bytes_per_example = sum(sizes) / (self.size * self.views)
        whole = self.size * self.views * self._layout.row_bytes
        self._in_memory = whole <= memory_limit
        self._whole: dict[int, np.ndarray] = {}
        self._readers: dict[Path, shards.ShardReader] = {}
        self._check_files()

    @property
    def identity(self) -> Mapping[str, Any]:
        """What it belongs to and how it was written."""
        return {name: value for name, value in self._index.items() if name != "shards"}

    def take(self, ids: np.ndarray, views: np.ndarray | int = 0) -> dict[str, Any]:
        """The teacher's answers.

        Args:
          ids: of examples, `[batch]`.
          views: which view of each, `[batch]` or one for all.

        Returns:
          By signal, what was kept of it: an array `[batch, …]`, or a `Sparse` or `Samples` of such
          arrays, all of numpy.

        Raises:
          ValueError: an example or a view that is not in the cache.
          DataError: a file is damaged; the message names it.
        """
        ids = np.asarray(ids)
        views = np.broadcast_to(np.asarray(views), ids.shape)
        if views.size and not 0 <= views.min() <= views.max() < self.views:
            raise ValueError(
                f"views: got {views.min()}..{views.max()}, the cache in {self.folder} has "
                f"0..{self.views - 1}"
            )
        positions = self._positions(ids)
        rows = np.empty((len(ids), self._layout.row_bytes), np.uint8)
        for view in np.unique(views).tolist():
            mine = views == view
            rows[mine] = self._rows(view, positions[mine])
        return self._layout.unpack(rows)

    def join(self, batch: HostBatch) -> HostBatch:
        """Adds the teacher's answers to a host batch, as fields `teacher_<signal>`.

        A `preprocess` for `batches`; it reads the batch's `id`, and `view` if there is one.
        """
        kept = self.take(batch["id"], batch.get("view", 0))
        return {**batch, **{f"teacher_{name}": value for name, value in kept.items()}}

    def _positions(self, ids: np.ndarray) -> np.ndarray:
        place = np.searchsorted(self._ids, ids, sorter=self._order)
        positions = self._order[np.minimum(place, self.size - 1)]
        strange = self._ids[positions] != ids
        if strange.any():
            raise ValueError(
                f"ids: {ids[strange][0]} is not among the {self.size} examples of the cache in "
                f"{self.folder}"
            )
        return positions

    def _rows(self, view: int, positions: np.ndarray) -> np.ndarray:
        if self._in_memory:
            if view not in self._whole:
                self._whole[view] = self._read_view(view)
            return self._whole[view][positions]
        rows = np.empty((len(positions), self._layout.row_bytes), np.uint8)
        numbers = positions // self._per_shard
        for number in np.unique(numbers).tolist():
            mine = numbers == number
            reader = self._reader(view, number)
            local = positions[mine] - number * self._per_shard
            rows[mine] = reader.read(local, self._ids[positions[mine]])
        return rows

    def _read_view(self, view: int) -> np.ndarray:
        parts = []
        for number, start in enumerate(range(0, self.size, self._per_shard)):
            ids = self._ids[start : start + self._per_shard]
            path = self.folder / shard_name(view, number)
            parts.append(shards.read_shard(path, ids, view, self._layout.row_bytes))
        return np.concatenate(parts)

    def _reader(self, view: int, number: int) -> shards.ShardReader:
        path = self.folder / shard_name(view, number)
        if path not in self._readers:
            self._readers[path] = shards.ShardReader(path, view, self._layout.row_bytes)
        return self._readers[path]

    def _read_ids(self) -> np.ndarray:
        if self._index["ids"] is None:
            return np.arange(self.size)
        path = self.folder / IDS
        try:
            data = path.read_bytes()
        except OSError as error:
            raise shards.missing(path) from error
        if ids_checksum(data) != self._index["ids"]:
            raise shards.damaged(path, "does not match its checksum")
        return np.load(io.BytesIO(data))

    def _check_files(self) -> None:
        for name, size in self._index["shards"].items():
            path = self.folder / name
            if not path.is_file():
                raise shards.missing(path)
            if os.path.getsize(path) != size:
                raise shards.damaged(path, f"has {os.path.getsize(path)} bytes, wanted {size}")


def open_teacher_cache(
    folder: str | os.PathLike[str],
    dataset: Dataset,
    *,
    teacher: Variables | str | None = None,
    augment: Repeatable | None = None,
    memory_limit: int = 2**30,
) -> TeacherCache:
    """Opens a cache, after a check that it belongs to the data, teacher and augmentation at hand.

    Args:
      folder: of the cache.
      dataset: what is trained on.
      teacher: the teacher's variables, or their `variables_fingerprint`; `None` takes the answers
        of whatever teacher wrote them.
      augment: what the student's pictures are made with; `None` for none.
      memory_limit: bytes up to which answers are held in memory, read view by view; a larger cache
        is read from disk batch by batch.

    Returns:
      The cache. `batches(dataset, …, preprocess=cache.join, views=cache.views)` gives batches with
      fields `teacher_<signal>`.

    Raises:
      ValueError: it belongs to another teacher, other data or another augmentation; the message
        says which.
      DataError: it is not there, not finished, or damaged; the message says what to do.

    Example:
      >>> import tempfile, numpy as np
      >>> from kdjax.base import Model
      >>> from kdjax.data import batches, from_arrays, open_teacher_cache, write_teacher_cache
      >>> teacher = Model(None, lambda variables, batch, **_: ({'logits': batch['image']}, {}))
      >>> dataset = from_arrays({'image': np.eye(4, dtype=np.float32)})
      >>> folder = tempfile.mkdtemp()
      >>> written = write_teacher_cache(folder, dataset, teacher, {})
      >>> cache = open_teacher_cache(folder, dataset, teacher={})
      >>> batch = next(batches(dataset, batch_size=2, seed=0, preprocess=cache.join))
      >>> bool((batch['teacher_logits'] == batch['image']).all())
      True
    """
    folder = Path(folder)
    if not (folder / INDEX).is_file():
        begun = "not finished" if (folder / PLAN).is_file() else "no cache"
        raise DataError(f"{folder}: {begun}; write it with write_teacher_cache")
    cache = TeacherCache(folder, memory_limit)
    identity.check_dataset(folder, cache.identity, dataset)
    if teacher is not None:
        wanted = teacher if isinstance(teacher, str) else identity.variables_fingerprint(teacher)
        identity.check_teacher(folder, cache.identity, wanted)
    described = identity.describe_augmentation(augment, dataset, cache.views)
    identity.check_augmentation(folder, cache.identity, described)
    return cache


def shard_name(view: int, number: int) -> str:
    """The file of a part of a view."""
    return f"view-{view:05d}-part-{number:05d}.array_record"


def ids_checksum(data: bytes) -> str:
    """Eight hexadecimal digits that tell one file of ids from another."""
    return f"{zlib.crc32(data):08x}"
