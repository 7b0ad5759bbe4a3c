"""The data of a recipe: its splits, and the batches made of them."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from kdjax import data
from kdjax.data import DataError, Dataset, TeacherCache
from kdjax.data.dataset import ArrayRows, Feature, Rows
from kdjax.data.resident import RowNumbers
from kdjax.train.errors import RecipeError, one_line

CACHE = "teacher_logits"
"""Field of a batch with logits of the teacher that were computed once."""
LABELLED = "labelled"
"""Field of a batch that says whose label is known."""


class Data(NamedTuple):
    """The splits of a recipe. `watch` is what is measured on during training.

    `teacher` is what the teacher learns from, `None` for the training set.
    """

    train: Dataset
    test: Dataset
    validation: Dataset | None
    teacher: Dataset | None = None

    @property
    def watch(self) -> tuple[str, Dataset]:
        """Name and data of the split that is measured on during training."""
        return ("validation", self.validation) if self.validation else ("test", self.test)


def load_data(config: ConfigDict) -> Data:
    """The splits that the recipe names.

    Raises:
      RecipeError: with the file or name that is wrong.
    """
    options = config.data
    where = {"data_dir": options.data_dir or None, "source_dir": options.source_dir or None}

    def load(split: str) -> Dataset:
        dataset = data.load(options.name, split, **where)
        if "image" not in dataset.features or dataset.num_classes is None:
            fields = ", ".join(sorted(dataset.features))
            raise ValueError(f"{options.name!r} has {fields}; wanted images with labels of classes")
        return data.with_timeout(with_classes(dataset, options.classes), options.timeout)

    try:
        with _quietly():
            train = with_label_noise(_numbered(load(options.train)), options.label_noise)
            teacher = load(config.teacher.train) if config.teacher.train else None
            for dataset in (train, teacher or train) if options.on_device else ():
                _columns(dataset, "data.on_device")
            return Data(
                with_known_labels(train, options.labelled),
                with_shift(load(options.test), options.test_shift),
                load(options.validation) if options.validation else None,
                teacher,
            )
    except RecipeError:
        raise
    except (DataError, ValueError, OSError) as error:
        raise RecipeError(f"config.data: {one_line(error)}") from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps tensorflow-datasets from drawing bars, and from writing to standard output."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(sys.stderr):
        yield


def with_classes(dataset: Dataset, groups: Sequence[Sequence[int]]) -> Dataset:
    """The same with each group of classes as one class; as it is, if there is no group.

    Raises:
      RecipeError: for groups that are not of every class once, or data that are not in memory.
    """
    if not groups:
        return dataset
    members = [label for group in groups for label in group]
    if sorted(members) != list(range(dataset.num_classes)):
        raise RecipeError(
            f"config.data.classes is {groups!r}, wanted each of 0 to {dataset.num_classes - 1} once"
        )
    columns = _columns(dataset, "data.classes")
    group_of = np.zeros(len(members), columns["label"].dtype)
    for index, group in enumerate(groups):
        group_of[list(group)] = index
    columns["label"] = group_of[columns["label"]]
    return _rebuilt(dataset, columns, len(groups))


def with_shift(dataset: Dataset, most: int, seed: int = 0) -> Dataset:
    """The same with images shifted by up to `most` pixels each way, drawn evenly; black comes in.

    Raises:
      RecipeError: for a data set that is not held in memory.
    """
    if not most:
        return dataset
    columns = _columns(dataset, "data.test_shift")
    images = columns["image"]
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, images.shape[1:3], axis=(1, 2))
    down, right = np.random.default_rng(seed).integers(0, 2 * most + 1, (2, len(images)))
    columns["image"] = np.moveaxis(windows[np.arange(len(images)), down, right], 1, -1)
    return _rebuilt(dataset, columns)


def _columns(dataset: Dataset, wanted_by: str) -> dict[str, np.ndarray]:
    try:
        return dict(dataset.arrays)
    except TypeError as error:
        raise RecipeError(f"config.{wanted_by}: {one_line(error)}") from error


def _rebuilt(
    dataset: Dataset, columns: dict[str, np.ndarray], num_classes: int | None = None
) -> Dataset:
    """A data set of that name with other columns, and with other classes if that is said."""
    num_classes = num_classes or dataset.num_classes
    return data.from_arrays(columns, name=dataset.name, num_classes=num_classes)


def with_label_noise(dataset: Dataset, share: float, seed: int = 0) -> Dataset:
    """A share of the labels, drawn evenly, replaced by another class (drawn evenly as well).

    Raises:
      RecipeError: for a data set that is not held in memory.
    """
    if not share:
        return dataset
    columns = _columns(dataset, "data.label_noise")
    draw = np.random.default_rng(seed)
    rows = draw.permutation(dataset.size)[: round(share * dataset.size)]
    label = columns["label"].copy()
    label[rows] = (label[rows] + draw.integers(1, dataset.num_classes, len(rows))) % (
        dataset.num_classes
    )
    columns["label"] = label
    return _rebuilt(dataset, columns)


def with_known_labels(dataset: Dataset, share: float, seed: int = 0) -> Dataset:
    """The same with a field that says whose label is known: a share, drawn evenly.

    Raises:
      RecipeError: for a data set that is not held in memory.
    """
    if share == 1:
        return dataset
    known = np.zeros(dataset.size, bool)
    draw = np.random.default_rng(seed)
    known[draw.permutation(dataset.size)[: max(1, round(share * dataset.size))]] = True
    return with_column(dataset, LABELLED, known, "data.labelled")


def _numbered(dataset: Dataset) -> Dataset:
    """The same with `id` as the row number, which memories of training examples are indexed by."""
    try:
        columns = {**dataset.arrays, "id": np.arange(dataset.size)}
    except TypeError:
        return dataclasses.replace(dataset, rows=_NumberedRows(dataset.rows))
    return _rebuilt(dataset, columns)


@dataclasses.dataclass(frozen=True)
class _NumberedRows:
    """Rows on disk with `id` as the row number."""

    rows: Rows

    @property
    def features(self) -> Mapping[str, Feature]:
        return {**self.rows.features, "id": Feature((), np.dtype(np.int64))}

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {**self.rows.take(indices), "id": np.asarray(indices, np.int64)}

    def fingerprint(self) -> str:
        return self.rows.fingerprint()


def training_batches(
    train: Dataset,
    validation: Dataset | None,
    batch_size: int,
    seed: int,
    answers: TeacherCache | None = None,
) -> Iterator[dict[str, Any]]:
    """Batches without end that know where they stand.

    With a validation split each has a batch of it in the field `validation`; with a teacher's
    answers to several views, the view in turn and what the teacher says of it.
    """
    shared = {
        "batch_size": batch_size,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }

    def batches(dataset: Dataset, seed: int, **options: Any) -> data.BatchIterator:
        # From memory they come at once; those of accelerators have a thread that moves them there.
        ahead = 0 if isinstance(dataset.rows, ArrayRows | RowNumbers) else 2
        return data.batches(dataset, seed=seed, prefetch=ahead, **shared, **options)

    joined = {} if answers is None else {"preprocess": answers.join, "views": answers.views}
    first = batches(train, seed, **joined)
    return first if validation is None else _Paired(first, batches(validation, seed + 1))


def with_column(
    dataset: Dataset, name: str, values: np.ndarray, wanted_by: str = "teacher.cache"
) -> Dataset:
    """The same with one more column.

    Raises:
      RecipeError: for a data set that is not held in memory.
    """
    columns = {**_columns(dataset, wanted_by), name: values}
    return _rebuilt(dataset, columns)


class _Paired:
    """Training batches, each with a validation batch inside."""

    def __init__(self, first: Any, second: Any) -> None:
        self._first, self._second = first, second

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        return {**next(self._first), "validation": next(self._second)}

    def get_state(self) -> dict[str, Any]:
        return {"training": self._first.get_state(), "validation": self._second.get_state()}

    def set_state(self, state: dict[str, Any]) -> None:
        self._first.set_state(state["training"])
        self._second.set_state(state["validation"])
