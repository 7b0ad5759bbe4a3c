"""Datasets, resumable batches, and augmentation on the device.

Importing this module imports neither tensorflow-datasets nor grain nor scikit-learn; nothing in it
imports TensorFlow.
"""

from typing import Any

from kdjax.data.augment import (
    Augmentation,
    compose,
    random_crop,
    random_flip,
    random_noise,
    random_shift,
    separate_views,
)
from kdjax.data.dataset import Dataset, Feature, from_arrays
from kdjax.data.device import normalize, prefetch_to_device, to_float
from kdjax.data.errors import DataError, SourceTimeout
from kdjax.data.mixing import cutmix, function_matching, mixup
from kdjax.data.pipeline import BatchIterator, batches, eval_batches
from kdjax.data.repeatable import repeatable
from kdjax.data.resident import COLUMNS, Resident, on_device
from kdjax.data.resized_crop import random_resized_crop
from kdjax.data.sources import load
from kdjax.data.teacher_cache import (
    KeepSamples,
    KeepSignals,
    KeepTopK,
    TeacherCache,
    open_teacher_cache,
    variables_fingerprint,
    write_teacher_cache,
)
from kdjax.data.watchdog import with_timeout

__all__ = [
    "COLUMNS",
    "Augmentation",
    "BatchIterator",
    "DataError",
    "Dataset",
    "Digits",
    "Emoji",
    "FashionMnist",
    "Feature",
    "KeepSamples",
    "KeepSignals",
    "KeepTopK",
    "Resident",
    "SourceTimeout",
    "TeacherCache",
    "batches",
    "compose",
    "cutmix",
    "eval_batches",
    "from_arrays",
    "function_matching",
    "load",
    "mixup",
    "normalize",
    "on_device",
    "open_teacher_cache",
    "prefetch_to_device",
    "random_crop",
    "random_flip",
    "random_noise",
    "random_resized_crop",
    "random_shift",
    "repeatable",
    "separate_views",
    "to_float",
    "variables_fingerprint",
    "with_timeout",
    "write_teacher_cache",
]


def __getattr__(name: str) -> Any:
    # The builders' classes need tensorflow-datasets at import.
    if name == "Digits":
        from kdjax.data.digits import Digits

        return Digits
    if name == "Emoji":
        from kdjax.data.emoji import Emoji

        return Emoji
    if name == "FashionMnist":
        from kdjax.data.fashion_mnist import FashionMnist

        return FashionMnist
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
