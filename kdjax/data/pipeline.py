"""Batches of a dataset, in an order that depends on the seed alone and can be resumed exactly."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kdjax.data.dataset import Dataset
from kdjax.data.errors import SourceTimeout

HostBatch = dict[str, np.ndarray]
Preprocess = Callable[[HostBatch], HostBatch]


class BatchIterator(Iterator[HostBatch]):
    """Gives batches and knows where it stands; made by `batches`."""

    def __init__(self, batches: Any, order: dict[str, Any]):
        self._batches = batches
        self._order = order

    def __next__(self) -> HostBatch:
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch given, and what fixes the order; fit for JSON."""
        return {**self._order, "next_batch": self._batches.get_state()["next_index"]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position that `get_state` gave, in this process or any other.

        Prefetch depth, process count and preprocessing may differ.

        Raises:
          ValueError: the state is of another dataset, batch size, seed or order.
        """
        if not isinstance(state, dict) or set(state) != {*self._order, "next_batch"}:
            raise ValueError(f"state: got {state!r}, wanted what get_state gave")
        for name, value in self._order.items():
            if state[name] != value:
                raise ValueError(f"state: {name} is {state[name]!r}, wanted {value!r}")
        self._batches.set_state({"next_index": int(state["next_batch"])})


def batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    shuffle: bool = True,
    epochs: int | None = None,
    drop_remainder: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    prefetch: int = 2,
    views: int | None = None,
    preprocess: Preprocess | None = None,
) -> BatchIterator:
    """Training batches.

    The epochs are laid end to end, each in an order of its own drawn from `(seed, epoch)`, and cut
    into batches: batch `k` holds rows `k * batch_size` onwards of that stream, so every example
    is seen once per epoch and a batch may span two epochs. Each process takes a contiguous part of
    each batch: the parts of all processes together are the same batch for any process count.

    Args:
      dataset: what to read.
      batch_size: size of the global batch, over all processes.
      seed: of the order, in `0 .. 2**32 - 1`.
      shuffle: whether epochs are shuffled, or in the dataset's order.
      epochs: how often to go through the data, None for without end.
      drop_remainder: whether to leave out a last batch that is not full. A short batch cannot be
        shared evenly, so False needs `process_count=1`.
      process_index: which process this is (`jax.process_index()`).
      process_count: how many there are (`jax.process_count()`).
      prefetch: batches made ahead in a thread, 0 for none.
      views: adds the field `view` `[batch]`, the epoch modulo this, for `repeatable` augmentation.
      preprocess: function of a host batch that gives one, run in that thread.

    Returns:
      An iterator of dicts of arrays `[batch_size / process_count, …]`, with `get_state` and
      `set_state`.

    Raises:
      ValueError: an argument out of range, or a batch size that the processes cannot share.

    Example:
      >>> import numpy as np
      >>> from kdjax.data import batches, from_arrays
      >>> dataset = from_arrays({'label': np.arange(6) % 3})
      >>> iterator = batches(dataset, batch_size=4, seed=0, shuffle=False)
      >>> next(iterator)['id'], next(iterator)['id']
      (array([0, 1, 2, 3]), array([4, 5, 0, 1]))
      >>> state = iterator.get_state()
      >>> state['next_batch']
      2
    """
    _check_sharing(batch_size, process_index, process_count)
    _check_at_least("prefetch", prefetch, 0)
    for name, value in (("epochs", epochs), ("views", views)):
        if value is not None:
            _check_at_least(name, value, 1)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: got {seed}, wanted 0 <= seed < 2**32")
    if not drop_remainder and process_count > 1:
        raise ValueError("drop_remainder: got False, wanted True when process_count > 1")
    size, local_size = dataset.size, batch_size // process_count
    end = None if epochs is None else epochs * size

    def load_batch(number: int) -> HostBatch:
        start = number * batch_size + process_index * local_size
        stop = start + local_size if end is None else min(start + local_size, end)
        rows = _stream_rows(start, stop, size, seed if shuffle else None)
        batch = _take(dataset, rows, number)
        if views is not None:
            batch["view"] = (np.arange(start, stop) // size % views).astype(np.int32)
        return batch if preprocess is None else preprocess(batch)

    order = {
        "dataset": dataset.fingerprint,
        "batch_size": batch_size,
        "seed": seed,
        "shuffle": shuffle,
        "epochs": epochs,
        "drop_remainder": drop_remainder,
    }
    count = None if end is None else end // batch_size if drop_remainder else -(-end // batch_size)
    return BatchIterator(_iterator(load_batch, count, prefetch), order)


def eval_batches(
    dataset: Dataset,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    preprocess: Preprocess | None = None,
) -> Iterator[HostBatch]:
    """Every example once, in order, in batches of one size.

    The last batch is filled up with copies of the last example. The boolean field `mask` is False
    for these, so that they can be left out of sums and counts.

    Args:
      dataset: what to read.
      batch_size: size of the global batch, over all processes.
      process_index: which process this is.
      process_count: how many there are. Each takes a contiguous part of each batch.
      preprocess: function of a host batch that gives one.

    Returns:
      An iterator of dicts of arrays `[batch_size / process_count, …]`, `mask` among them.

    Raises:
      ValueError: a batch size that is not positive or that the processes cannot share.

    Example:
      >>> import numpy as np
      >>> from kdjax.data import eval_batches, from_arrays
      >>> dataset = from_arrays({'label': np.arange(3)})
      >>> [batch['mask'].tolist() for batch in eval_batches(dataset, 2)]
      [[True, True], [True, False]]
    """
    _check_sharing(batch_size, process_index, process_count)
    size, local_size = dataset.size, batch_size // process_count
    first = process_index * local_size

    def generate() -> Iterator[HostBatch]:
        for start in range(first, first - (-size // batch_size) * batch_size, batch_size):
            rows = np.arange(start, start + local_size)
            batch = _take(dataset, np.minimum(rows, size - 1), start // batch_size)
            batch = batch if preprocess is None else preprocess(batch)
            yield {**batch, "mask": rows < size}

    return generate()


def _take(dataset: Dataset, rows: np.ndarray, number: int) -> HostBatch:
    """The rows of a batch; an error for rows that do not come says which batch waited."""
    try:
        return dataset.take(rows)
    except SourceTimeout as error:
        raise SourceTimeout(f"batch {number} did not arrive: {error}") from error


def _iterator(load_batch: Callable[[int], HostBatch], count: int | None, prefetch: int) -> Any:
    if not prefetch:
        return _Numbered(load_batch, count)
    import grain

    # Grain walks over batch numbers, not examples: a call in Python per example costs more than
    # the gather. 2**48 batches are endless enough.
    numbers = grain.MapDataset.range(2**48 if count is None else count)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    return iter(numbers.map(load_batch).to_iter_dataset(options))


class _Numbered(Iterator[HostBatch]):
    """Batches by their number, without a thread."""

    def __init__(self, load_batch: Callable[[int], HostBatch], count: int | None):
        self._load_batch, self._count, self._next = load_batch, count, 0

    def __next__(self) -> HostBatch:
        if self._count is not None and self._next >= self._count:
            raise StopIteration
        self._next += 1
        return self._load_batch(self._next - 1)

    def get_state(self) -> dict[str, int]:
        return {"next_index": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        self._next = state["next_index"]


def _stream_rows(start: int, stop: int, size: int, seed: int | None) -> np.ndarray:
    """Rows at positions `start .. stop - 1` of the epochs laid end to end."""
    pieces = []
    while start < stop:
        epoch, offset = divmod(start, size)
        length = min(stop - start, size - offset)
        piece = slice(offset, offset + length)
        if seed is None:
            pieces.append(np.arange(size)[piece])
        else:
            pieces.append(_permutation(size, seed, epoch)[piece])
        start += length
    return np.concatenate(pieces)


@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    # RandomState, since numpy promises never to change its streams, and a run may be resumed under
    # a newer numpy.
    permutation = np.random.RandomState([seed, epoch]).permutation(size)
    permutation.flags.writeable = False
    return permutation


def _check_sharing(batch_size: int, process_index: int, process_count: int) -> None:
    _check_at_least("batch_size", batch_size, 1)
    _check_at_least("process_count", process_count, 1)
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index: got {process_index}, wanted 0 .. {process_count - 1}")
    if batch_size % process_count:
        raise ValueError(
            f"batch_size: got {batch_size}, wanted a multiple of process_count={process_count}"
        )


def _check_at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}: got {value!r}, wanted an integer >= {least}")
