"""The teacher's logits in a workdir: computed once and kept on disk for every later start."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from kdjax import data
from kdjax.data import Dataset, KeepSignals, TeacherCache
from kdjax.data.dataset import ArrayRows, Feature, Rows
from kdjax.data.repeatable import Repeatable
from kdjax.train import processes
from kdjax.train.errors import RecipeError, one_line
from kdjax.train.lineage import Frozen
from kdjax.train.splits import CACHE, with_column

FOLDER = "teacher_logits"
"""Of a workdir."""


def answers(
    workdir: Path,
    teacher: Frozen,
    dataset: Dataset,
    batch_size: int,
    *,
    augment: Repeatable | None = None,
    views: int = 1,
    augmented_by: str = "",
) -> TeacherCache:
    """The teacher's logits on a data set in float32, computed unless they are on disk.

    Args:
      workdir: gets `teacher_logits/`, a folder for each teacher, data set and augmentation.
      teacher: who answers.
      dataset: to what.
      batch_size: examples at a time.
      augment: makes the pictures.
      views: how many of each example.
      augmented_by: the augmentation in words, which tell it from others.

    Raises:
      RecipeError: the files are damaged, or cannot be written.
    """
    fingerprint = data.variables_fingerprint(teacher.variables)
    parts = (fingerprint, dataset.fingerprint, f"{views} {augmented_by}")
    digits = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = workdir / FOLDER / digits
    try:
        written = data.write_teacher_cache(
            folder,
            dataset,
            teacher.model,
            teacher.variables,
            keep=KeepSignals(("logits",), "float32"),
            augment=augment,
            views=views,
            batch_size=min(batch_size, dataset.size),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        processes.wait("teacher logits")
        return written or data.open_teacher_cache(
            folder, dataset, teacher=fingerprint, augment=augment
        )
    except (data.DataError, ValueError, OSError) as error:
        raise RecipeError(f"config.teacher.cache: {one_line(error)}") from error


def with_answers(dataset: Dataset, cache: TeacherCache) -> Dataset:
    """The data set with the teacher's logits as a column."""
    if isinstance(dataset.rows, ArrayRows):
        return with_column(dataset, CACHE, cache.take(dataset.arrays["id"])["logits"])
    return dataclasses.replace(dataset, rows=_AnsweredRows(dataset.rows, cache))


@dataclasses.dataclass(frozen=True)
class _AnsweredRows:
    """Rows on disk, joined with a teacher's logits when they are read."""

    rows: Rows
    cache: TeacherCache

    @property
    def features(self) -> Mapping[str, Feature]:
        logits = self.cache.take(np.zeros(0, np.int64))["logits"]
        return {**self.rows.features, CACHE: Feature(logits.shape[1:], logits.dtype)}

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        rows = self.rows.take(indices)
        return {**rows, CACHE: self.cache.take(rows["id"])["logits"]}

    def fingerprint(self) -> str:
        whose = f"{self.rows.fingerprint()} {self.cache.identity['teacher']}"
        return hashlib.sha256(whose.encode()).hexdigest()
