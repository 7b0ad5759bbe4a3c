"""Writing a teacher's answers: shard by shard, so that a writer that was killed goes on."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdjax.base import Batch, Model, Signals, Variables
from kdjax.data.dataset import Dataset
from kdjax.data.errors import DataError
from kdjax.data.repeatable import Repeatable
from kdjax.data.teacher_cache import identity, shards
from kdjax.data.teacher_cache.keep import KeepSignals
from kdjax.data.teacher_cache.layout import Layout, check_numbers, layout_of
from kdjax.data.teacher_cache.reader import (
    IDS,
    INDEX,
    PLAN,
    TeacherCache,
    ids_checksum,
    shard_name,
)

Keep = Callable[[Signals, Batch], Mapping[str, Any]]
_SHARD_BYTES = 2**24


def write_teacher_cache(
    folder: str | os.PathLike[str],
    dataset: Dataset,
    teacher: Model,
    variables: Variables,
    *,
    keep: Keep | None = None,
    augment: Repeatable | None = None,
    views: int = 1,
    batch_size: int = 256,
    rows_per_shard: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> TeacherCache | None:
    """Runs the teacher over each view of each example, once, and stores its answers.

    Shards are written under other names and renamed when they are on disk, the index last. A writer
    that was stopped goes on where it was when it is called again with the same arguments; shards
    that are there are kept.

    Args:
      folder: of the cache; made if missing.
      dataset: whose examples are answered, with an `id` each.
      teacher: the model.
      variables: its variables.
      keep: `keep(signals, batch) -> kept`, what is stored of the teacher's signals: `KeepSignals`
        (the default, its logits in float16), `KeepTopK`, `KeepSamples` or a function of your own.
        Each signal that it gives is an array `[batch, …]`, a `Sparse` or a `Samples`.
      augment: makes the pictures that the teacher sees, as the student will; from `repeatable`.
      views: number of pictures that it makes of each example.
      batch_size: examples that the teacher answers at a time; of no consequence for readers.
      rows_per_shard: examples per file; by default as many as 16 MiB hold, or fewer.
      process_index: which process this is. The shards are shared out between all.
      process_count: how many there are.

    Returns:
      The cache; with several processes `None` while shards of others are missing.

    Raises:
      ValueError: the folder holds a cache of another teacher, other data or another augmentation,
        an argument is out of range, or the teacher answers with NaN.
      TypeError: an augmentation that is not repeatable.
      DataError: the folder's plan is damaged.

    Example:
      >>> import tempfile, jax.numpy as jnp, numpy as np
      >>> from kdjax.base import Model
      >>> from kdjax.data import KeepTopK, from_arrays, write_teacher_cache
      >>> teacher = Model(None, lambda variables, batch, **_: ({'logits': batch['image']}, {}))
      >>> dataset = from_arrays({'image': np.eye(4, dtype=np.float32)})
      >>> cache = write_teacher_cache(tempfile.mkdtemp(), dataset, teacher, {}, keep=KeepTopK(1))
      >>> cache.take(np.array([2, 0]))['logits'].ids.tolist()
      [[2], [0]]
    """
    _check(views, batch_size, rows_per_shard, process_index, process_count)
    if augment is None and views > 1:
        raise ValueError(f"views: got {views}, wanted 1 without an augmentation")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    keep = KeepSignals() if keep is None else keep
    answer = _answers(teacher, keep, augment)
    batch = _batch(dataset, np.arange(min(batch_size, dataset.size)), batch_size, 0)
    layout = layout_of(jax.eval_shape(answer, variables, batch))
    ids = _ids_of(dataset, batch_size)
    plan = {
        "format": identity.FORMAT,
        "teacher": identity.variables_fingerprint(variables),
        "dataset": dataset.fingerprint,
        "size": dataset.size,
        "views": views,
        "augmentation": identity.describe_augmentation(augment, dataset, views),
        "keep": repr(keep) if dataclasses.is_dataclass(keep) else getattr(keep, "__name__", ""),
        "signals": layout.to_json(),
        "rows_per_shard": rows_per_shard or min(dataset.size, _SHARD_BYTES // layout.row_bytes + 1),
        "ids": None,
    }
    stored_ids = _ids_file(ids)
    if stored_ids is not None:
        plan["ids"] = ids_checksum(stored_ids)
    plan = _settle(folder, plan, dataset, process_index)
    if stored_ids is not None:
        shards.write_file(folder / IDS, stored_ids, process_index)
    work = _Work(folder, dataset, ids, layout, batch_size, lambda b: answer(variables, b))
    names = list(_shards(plan))
    for number, (view, part) in enumerate(names):
        if number % process_count == process_index:
            work.write(view, part, plan["rows_per_shard"])
    return _finish(folder, plan, [shard_name(*name) for name in names], process_index)


@dataclasses.dataclass(frozen=True)
class _Work:
    """What is needed to write any shard."""

    folder: Path
    dataset: Dataset
    ids: np.ndarray
    layout: Layout
    batch_size: int
    answer: Callable[[Batch], Mapping[str, Any]]

    def write(self, view: int, part: int, per_shard: int) -> None:
        """Writes a shard, unless it is there and whole."""
        path = self.folder / shard_name(view, part)
        rows = np.arange(part * per_shard, min((part + 1) * per_shard, self.dataset.size))
        ids = self.ids[rows]
        if path.is_file():
            try:
                shards.read_shard(path, ids, view, self.layout.row_bytes)
                return
            except DataError:
                pass  # it is written again, over the damaged one
        shards.write_shard(path, np.concatenate(list(self._packed(rows, view))), ids, view)

    def _packed(self, rows: np.ndarray, view: int) -> Iterator[np.ndarray]:
        for start in range(0, len(rows), self.batch_size):
            some = rows[start : start + self.batch_size]
            kept = self.answer(_batch(self.dataset, some, self.batch_size, view))
            kept = jax.tree.map(np.asarray, kept)
            check_numbers(kept, self.ids[some])
            yield self.layout.pack(kept)[: len(some)]


def _answers(teacher: Model, keep: Keep, augment: Repeatable | None) -> Callable[..., Any]:
    @jax.jit
    def answer(variables: Variables, batch: Batch) -> dict[str, Any]:
        batch = batch if augment is None else augment(None, batch)
        return dict(keep(teacher.apply(variables, batch)[0], batch))

    return answer


def _batch(dataset: Dataset, rows: np.ndarray, batch_size: int, view: int) -> dict[str, np.ndarray]:
    """A batch of one size, filled up with copies of its last example."""
    rows = np.concatenate([rows, np.full(batch_size - len(rows), rows[-1])])
    batch = {**dataset.take(rows), "view": np.full(batch_size, view)}
    return identity.narrowed(batch)


def _ids_of(dataset: Dataset, batch_size: int) -> np.ndarray:
    starts = range(0, dataset.size, batch_size)
    rows = (np.arange(start, min(start + batch_size, dataset.size)) for start in starts)
    return np.concatenate([dataset.take(some)["id"] for some in rows]).astype(np.int64)


def _ids_file(ids: np.ndarray) -> bytes | None:
    """Ids as a file of numpy, where they are not just row numbers."""
    if (ids == np.arange(len(ids))).all():
        return None
    file = io.BytesIO()
    np.save(file, ids)
    return file.getvalue()


def _settle(
    folder: Path, plan: dict[str, Any], dataset: Dataset, process_index: int
) -> dict[str, Any]:
    """Writes the plan, or checks that the folder's is the same, and gives the folder's."""
    path = folder / PLAN
    if not path.is_file():
        shards.write_file(path, identity.to_bytes(plan), process_index)
        return plan
    found = identity.from_bytes(path)
    identity.check_teacher(folder, found, plan["teacher"])
    identity.check_dataset(folder, found, dataset)
    for name in ("views", "keep", "signals", "rows_per_shard"):
        if found[name] != plan[name]:
            raise ValueError(
                f"{name}: got {plan[name]}, the cache in {folder} was begun with {found[name]}"
            )
    identity.check_augmentation(folder, found, plan["augmentation"])
    return found


def _shards(plan: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    for view in range(plan["views"]):
        for part in range(-(-plan["size"] // plan["rows_per_shard"])):
            yield view, part


def _finish(
    folder: Path, plan: Mapping[str, Any], names: list[str], process_index: int
) -> TeacherCache | None:
    """Writes the index, once every shard is there."""
    if not all((folder / name).is_file() for name in names):
        return None
    sizes = {name: os.path.getsize(folder / name) for name in names}
    index = identity.to_bytes({**plan, "shards": sizes})
    path = folder / INDEX
    if not path.is_file() or path.read_bytes() != index:
        shards.write_file(path, index, process_index)
    return TeacherCache(folder)


def _check(
    views: int, batch_size: int, rows_per_shard: int | None, process_index: int, process_count: int
) -> None:
    positive = {"views": views, "batch_size": batch_size, "process_count": process_count}
    if rows_per_shard is not None:
        positive["rows_per_shard"] = rows_per_shard
    for name, value in positive.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: got {value!r}, wanted an integer >= 1")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index: got {process_index}, wanted 0 .. {process_count - 1}")
