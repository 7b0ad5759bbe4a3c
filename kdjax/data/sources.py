"""`load`: a dataset by its name."""

from __future__ import annotations

import difflib
import functools
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.data.dataset import Dataset, from_arrays
from kdjax.data.records import data_root, open_split, prepare

OWN = ("digits", "emoji", "fashion_mnist")
FROM_FILES = ("emoji", "fashion_mnist")


def load(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    source_dir: str | os.PathLike[str] | None = None,
    memory_limit: int = 2**30,
) -> Dataset:
    """Loads one split of a dataset, preparing it on disk first if that was not done yet.

    `'digits'`, `'emoji'` and `'fashion_mnist'` are kdjax's own builders; any other name is
    tensorflow-datasets'. Nothing here imports TensorFlow, though to prepare some of
    tensorflow-datasets' own may need it.

    Args:
      name: name of the dataset; for one of tensorflow-datasets with its config and version if
        wanted (`'mnist'`, `'cifar10:3.0.2'`).
      split: in tensorflow-datasets' syntax: `'train'`, `'test'`, `'train[:90%]'`.
      data_dir: folder of prepared datasets; by default that of the environment variable
        `KDJAX_DATA_DIR`, then `~/tensorflow_datasets`.
      source_dir: folder of the original files, for `'emoji'` and `'fashion_mnist'` (see `Emoji` and
        `FashionMnist`). Not looked at once the dataset is prepared in `data_dir`.
      memory_limit: bytes up to which the columns are held in memory; a larger dataset is read from
        disk batch by batch.

    Returns:
      The dataset. Without an integer `id` among its features, `id` is the row number in the split.

    Raises:
      ValueError: no dataset or split of that name, or features that cannot be stacked.
      DataError: files are missing or damaged; the message says which and what to do.
    """
    if source_dir is not None and name not in FROM_FILES:
        raise ValueError(
            f"source_dir: got {os.fspath(source_dir)!r} for {name!r}, but only "
            f"{' and '.join(map(repr, FROM_FILES))} read one"
        )
    root = data_root(data_dir)
    folder = root / (f"kdjax_{name}" if name in OWN else _base_name(name))
    builder = prepare(functools.partial(_builder, name, root, source_dir), folder)
    rows = open_split(builder, split)
    features = builder.info.features
    num_classes = getattr(features["label"], "num_classes", None) if "label" in features else None
    if not len(rows):
        raise ValueError(f"split: {split!r} of {name!r} is empty, wanted at least one example")
    if rows.nbytes > memory_limit:
        return Dataset(name, rows, num_classes, f"split {split!r} in {builder.data_path}")
    return from_arrays(rows.take(np.arange(len(rows))), name=name, num_classes=num_classes)


def _builder(name: str, root: Path, source_dir: str | os.PathLike[str] | None) -> Any:
    import tensorflow_datasets as tfds

    options: dict[str, Any] = {"data_dir": os.fspath(root), "file_format": "array_record"}
    if name == "digits":
        from kdjax.data.digits import Digits

        return Digits(**options)
    if name == "emoji":
        from kdjax.data.emoji import Emoji

        return Emoji(source_dir=source_dir, **options)
    if name == "fashion_mnist":
        from kdjax.data.fashion_mnist import FashionMnist

        return FashionMnist(source_dir=source_dir, **options)
    if not _base_name(
        name
    ).isidentifier():  # tensorflow-datasets would answer with a page of syntax
        raise ValueError(_unknown(name))
    try:
        return tfds.builder(name, **options)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(_unknown(name)) from error


def _unknown(name: str) -> str:
    import tensorflow_datasets as tfds

    known = [*OWN, *tfds.list_builders(with_community_datasets=False)]
    nearest = difflib.get_close_matches(_base_name(name), known, n=1, cutoff=0)
    return f"name: no dataset {name!r}; the nearest name is {nearest[0]!r}"


def _base_name(name: str) -> str:
    """A tensorflow-datasets name without config and version."""
    return re.split("[/:]", name)[0]
