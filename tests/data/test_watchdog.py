"""A source that hangs ends with a message, and does not keep the process alive."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kdjax import data
from kdjax.data.dataset import Dataset

ROOT = Path(__file__).parents[2]


class Sleepy:
    """Rows on a disk that stops answering when one of them is asked for."""

    def __init__(self, bad=None, seconds=30.0):
        self.inner = data.from_arrays({"image": np.arange(20.0), "label": np.arange(20) % 2}).rows
        self.bad, self.seconds, self.reads = bad, seconds, 0

    @property
    def features(self):
        return self.inner.features

    def __len__(self):
        return len(self.inner)

    def fingerprint(self):
        return self.inner.fingerprint()

    def take(self, indices):
        self.reads += 1
        if self.bad in indices:
            time.sleep(self.seconds)
        return self.inner.take(indices)


def dataset(rows, seconds=0.2):
    whole = Dataset("pictures", rows, 2, "split 'train' in /mnt/pictures")
    return data.with_timeout(whole, seconds)


def test_a_source_that_answers_gives_the_same_batches():
    plain = data.from_arrays({"image": np.arange(20.0), "label": np.arange(20) % 2})
    watched = dataset(Sleepy(), 5.0)
    assert watched.fingerprint == plain.fingerprint and watched.size == 20
    assert watched.features == plain.features
    options = {"batch_size": 6, "seed": 1}
    both = zip(data.batches(watched, **options), data.batches(plain, **options), strict=False)
    for _, (got, expected) in zip(range(8), both, strict=False):
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name])


@pytest.mark.parametrize("prefetch", [0, 2])
def test_the_error_names_the_source_and_the_batch(prefetch):
    options = {"batch_size": 4, "seed": 0, "shuffle": False, "prefetch": prefetch}
    batches = data.batches(dataset(Sleepy(bad=9)), **options)
    assert next(batches)["id"].tolist() == [0, 1, 2, 3]
    next(batches)
    begun = time.monotonic()
    with pytest.raises(data.SourceTimeout) as caught:
        next(batches)
    assert time.monotonic() - begun < 10
    assert str(caught.value).startswith(
        "batch 2 did not arrive: 'pictures', split 'train' in /mnt/pictures gave nothing for 0.2 s"
    )


def test_evaluation_is_watched_as_well():
    batches = data.eval_batches(dataset(Sleepy(bad=9)), 4)
    with pytest.raises(data.SourceTimeout, match="batch 2 did not arrive: 'pictures'"):
        list(batches)


def test_later_reads_fail_at_once():
    rows = Sleepy(bad=0)
    watched = dataset(rows)
    for _ in range(3):
        with pytest.raises(data.SourceTimeout):
            watched.take(np.arange(2))
    assert rows.reads == 1


def test_other_errors_are_what_they_were():
    rows = Sleepy()
    rows.inner = None
    with pytest.raises(AttributeError):
        dataset(rows).take(np.arange(2))


def test_what_needs_no_watch():
    plain = data.from_arrays({"label": np.arange(3)})
    assert data.with_timeout(plain, 5.0) is plain
    slow = Dataset("pictures", Sleepy(), 2)
    assert data.with_timeout(slow, 0) is slow and slow.origin == "'pictures'"
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="wanted a finite number"):
            data.with_timeout(plain, seconds)


SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from test_watchdog import Sleepy, data, dataset
batches = data.batches(dataset(Sleepy(bad=9, seconds=3600)), batch_size=4, seed=0, shuffle=False)
try:
    list(batches)
except data.DataError as error:
    print(error)
"""


def test_the_process_can_end():
    script = SCRIPT.format(folder=str(Path(__file__).parent))
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert answer.returncode == 0 and "batch 2 did not arrive" in answer.stdout, answer.stderr
