"""What a cache belongs to: a teacher, a data set, an augmentation; and how two are told apart."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdjax.base import Variables
from kdjax.data.dataset import Dataset
from kdjax.data.errors import DataError
from kdjax.data.repeatable import Repeatable

FORMAT = 1
_PROBED = 4
_TOLERANCE = 1e-4


def variables_fingerprint(variables: Variables) -> str:
    """A hash of a model's variables: names, types, shapes and bytes (64 hexadecimal digits).

    Args:
      variables: a teacher's.

    Returns:
      The same for equal variables, in any process and on any machine.

    Example:
      >>> import numpy as np
      >>> variables_fingerprint({'params': {'bias': np.zeros(2, np.float32)}})[:8]
      'f38c4fa7'
    """
    digest = hashlib.sha256()
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    for name in sorted(leaves):
        array = np.ascontiguousarray(jax.device_get(leaves[name]))
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def describe_augmentation(
    augment: Repeatable | None, dataset: Dataset, views: int
) -> dict[str, Any] | None:
    """What tells an augmentation from others: its seed, and what it makes of a few examples.

    A function has no fingerprint, hence the probe: each of a few pictures, augmented, is reduced to
    its product with fixed random numbers.
    """
    if augment is None:
        return None
    if not isinstance(augment, Repeatable):
        raise TypeError(f"augment: got {augment!r}, wanted kdjax.data.repeatable(augmentation)")
    rows = dataset.take(np.arange(min(_PROBED, dataset.size)))
    probe = []
    for view in {0, views - 1}:
        batch = {"image": rows["image"], "id": rows["id"], "view": np.full(len(rows["id"]), view)}
        images = np.asarray(jax.jit(augment)(None, narrowed(batch))["image"], np.float64)
        images = images.reshape(len(images), -1)
        weights = np.random.RandomState(0).uniform(-1, 1, images.shape[1])
        scale = np.abs(images).sum(1) + 1e-12
        probe += ((images @ weights) / scale).tolist()
    return {"seed": augment.seed, "probe": probe}


def narrowed(batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with ids and views as int32, as they are on a device."""
    return {
        name: value.astype(np.int32) if name in ("id", "view") else value
        for name, value in batch.items()
    }


def check_teacher(folder: Path, plan: Mapping[str, Any], fingerprint: str) -> None:
    """Raises `ValueError` if a cache is of another teacher."""
    if plan["teacher"] != fingerprint:
        raise ValueError(
            f"{folder}: holds the answers of another teacher, its variables are "
            f"{plan['teacher'][:12]}…, wanted {fingerprint[:12]}…"
        )


def check_dataset(folder: Path, plan: Mapping[str, Any], dataset: Dataset) -> None:
    """Raises `ValueError` if a cache is of other data."""
    if plan["dataset"] != dataset.fingerprint:
        raise ValueError(
            f"{folder}: holds answers to other data, {plan['size']} examples with the fingerprint "
            f"{plan['dataset'][:12]}…, wanted {dataset.size} with {dataset.fingerprint[:12]}…"
        )


def check_augmentation(
    folder: Path, plan: Mapping[str, Any], wanted: Mapping[str, Any] | None
) -> None:
    """Raises `ValueError` if a cache is of another augmentation."""
    found = plan["augmentation"]
    if (found is None) != (wanted is None):
        has, wants = ("an", "none") if wanted is None else ("no", "one")
        raise ValueError(f"{folder}: was written with {has} augmentation, wanted {wants}")
    if found is None:
        return
    if found["seed"] != wanted["seed"]:
        raise ValueError(
            f"{folder}: was written with another augmentation, its seed is {found['seed']}, "
            f"wanted {wanted['seed']}"
        )
    same = len(found["probe"]) == len(wanted["probe"])
    if not (same and np.allclose(found["probe"], wanted["probe"], rtol=0, atol=_TOLERANCE)):
        raise ValueError(
            f"{folder}: was written with another augmentation, which makes other pictures of the "
            "first examples"
        )


def to_bytes(content: Mapping[str, Any]) -> bytes:
    """JSON with a checksum of itself."""
    return json.dumps({**content, "checksum": _checksum(content)}, indent=1).encode()


def from_bytes(path: Path) -> dict[str, Any]:
    """What `to_bytes` was given.

    Raises:
      DataError: the file is damaged, or of another version.
    """
    try:
        content = json.loads(path.read_bytes())
        if content.pop("checksum") != _checksum(content):
            raise ValueError("it does not match its checksum")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: damaged ({error}); delete {path.parent} and write the cache again"
        ) from error
    if content["format"] != FORMAT:
        raise DataError(f"{path}: is of format {content['format']}, wanted {FORMAT}")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"
