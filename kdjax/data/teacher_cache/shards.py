"""Shards of rows as array_record files: whole or not there, each row with a checksum."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kdjax.data.errors import DataError

CHECKSUM_BYTES = 4
_RANDOM_ACCESS = "readahead_buffer_size:0,max_parallelism:0"
_GROUP_BYTES = 2**14


def write_shard(path: Path, rows: np.ndarray, ids: np.ndarray, view: int) -> None:
    """Writes a shard under another name, and renames it when it is on disk.

    Args:
      path: of the shard.
      rows: `[size, row_bytes]`, uint8.
      ids: of the examples, `[size]`.
      view: of the examples.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    # Records of a group are compressed, and read, together.
    group = min(max(_GROUP_BYTES // rows.shape[1], 1), 256)
    with _committed(path) as temporary:
        writer = ArrayRecordWriter(str(temporary), f"group_size:{group}")
        for row, example in zip(rows, ids, strict=True):
            data = row.tobytes()
            writer.write(data + _checksum(data, example, view))
        writer.close()


def write_file(path: Path, data: bytes, writer: int = 0) -> None:
    """Writes a file under another name, and renames it when it is on disk.

    Args:
      path: of the file.
      data: what is in it, the same from all writers.
      writer: number of the process, where several write at the same time.
    """
    with _committed(path, writer) as temporary:
        temporary.write_bytes(data)


def read_shard(path: Path, ids: np.ndarray, view: int, row_bytes: int) -> np.ndarray:
    """All rows of a shard, `[size, row_bytes]`.

    Raises:
      DataError: it is damaged or missing, or holds other examples.
    """
    with _named(path):
        records = _reader(path, "").read_all()
    return _verified(path, records, ids, view, row_bytes)


class ShardReader:
    """Random access to the rows of one shard."""

    def __init__(self, path: Path, view: int, row_bytes: int):
        self._path, self._view, self._row_bytes = path, view, row_bytes
        with _named(path):
            self._reader = _reader(path, _RANDOM_ACCESS)

    def read(self, positions: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Rows at these positions, which must be of these examples, `[batch, row_bytes]`."""
        with _named(self._path):
            records = self._reader.read(positions.tolist())
        return _verified(self._path, records, ids, self._view, self._row_bytes)


def damaged(path: Path, reason: str) -> DataError:
    """The error for a file that cannot be read, with what to do."""
    return DataError(
        f"{path}: {reason}; delete it and write the cache again, which keeps the other shards"
    )


def missing(path: Path) -> DataError:
    """The error for a file that is not there, with what to do."""
    return DataError(f"{path}: missing; write the cache again, which keeps the other shards")


def _reader(path: Path, options: str):
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(str(path), options)


def _verified(
    path: Path, records: list[bytes], ids: np.ndarray, view: int, row_bytes: int
) -> np.ndarray:
    if len(records) != len(ids):
        raise damaged(path, f"has {len(records)} rows, wanted {len(ids)}")
    for record, example in zip(records, ids, strict=True):
        data, checksum = record[:-CHECKSUM_BYTES], record[-CHECKSUM_BYTES:]
        if len(data) != row_bytes or checksum != _checksum(data, example, view):
            raise damaged(path, f"the row of the example {example} does not match its checksum")
    rows = np.frombuffer(b"".join(records), np.uint8)
    return rows.reshape(len(records), -1)[:, :row_bytes]


def _checksum(data: bytes, example: int, view: int) -> bytes:
    # The example and the view are part of it, so that a row cannot stand in for another one.
    return struct.pack("<I", zlib.crc32(data, zlib.crc32(struct.pack("<qi", example, view))))


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns whatever array_record raises into an error that names the file."""
    try:
        yield
    except (RuntimeError, OSError, ValueError, IndexError) as error:
        if isinstance(error, DataError):
            raise
        if not path.is_file():
            raise missing(path) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise damaged(path, f"damaged ({reason})") from error


@contextlib.contextmanager
def _committed(path: Path, writer: int = 0) -> Iterator[Path]:
    for abandoned in path.parent.glob(f".{path.name}.{writer}.*.tmp"):  # by one that was killed
        abandoned.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{writer}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
