"""From host batches to device arrays: conversion of images, and transfer ahead of use."""

from __future__ import annotations

import collections
import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.base import Batch


def to_float(
    batch: Batch, mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0
) -> dict[str, Any]:
    """Turns the uint8 images of a batch into standardised float32, on the device.

    `image = (image / 255 - mean) / std`. Call it inside the compiled step: a quarter of the bytes
    crosses the bus, and the conversion fuses with what follows. Also applies to `teacher_image`.

    Args:
      batch: with `image` of shape `[batch, height, width, channels]`, uint8.
      mean: in units of full scale, a number or one per channel.
      std: positive, likewise.

    Returns:
      The batch with float32 images.

    Raises:
      ValueError: an image is not uint8 (float images are standardised already), or std is not
        positive.

    Example:
      >>> import jax.numpy as jnp
      >>> from kdjax.data import to_float
      >>> batch = {'image': jnp.full((1, 2, 2, 1), 255, jnp.uint8)}
      >>> print(to_float(batch, mean=0.5, std=0.5)['image'].ravel())
      [1. 1. 1. 1.]
    """
    return _standardise(batch, mean, std, jnp)


def normalize(
    mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0
) -> Callable[[Batch], dict[str, Any]]:
    """`to_float` on the host, with numpy, as a `preprocess` for `batches`.

    For users without a compiled step; otherwise `to_float` is cheaper.

    Example:
      >>> import numpy as np
      >>> from kdjax.data import normalize
      >>> normalize(mean=0.5)({'image': np.zeros((1, 1, 1, 1), np.uint8)})['image'].ravel()
      array([-0.5], dtype=float32)
    """
    return lambda batch: _standardise(batch, mean, std, np)


def _standardise(batch: Batch, mean: Any, std: Any, numpy: Any) -> dict[str, Any]:
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if not (std > 0).all():
        raise ValueError(f"std: got {std}, wanted positive numbers")
    if "image" not in batch:
        raise ValueError(f"batch: has {sorted(batch)}, wanted a field 'image'")
    fields = [name for name in ("image", "teacher_image") if name in batch]
    for name in fields:
        if batch[name].dtype != np.uint8:
            raise ValueError(f"batch[{name!r}]: got {batch[name].dtype}, wanted uint8")
    # One multiplication and one addition per pixel, in float32 whatever the platform.
    scale, shift = np.float32(1) / (np.float32(255) * std), mean / std
    floats = {name: batch[name].astype(numpy.float32) * scale - shift for name in fields}
    return {**batch, **floats}


class FeedIterator(Protocol):
    """Gives batches and knows where it stands."""

    def __iter__(self) -> FeedIterator: ...

    def __next__(self) -> dict[str, Any]: ...

    def get_state(self) -> Any:
        """The state after the last batch given."""
        ...

    def set_state(self, state: Any) -> None:
        """Goes to a state that `get_state` gave."""
        ...


class DevicePrefetcher(Iterator[dict[str, Any]]):
    """Gives device batches, with the next ones under way; made by `prefetch_to_device`.

    Reading and transfer run in a thread of their own: where a step blocks its caller, as donation
    makes it do on CPUs, they would otherwise add to it.
    """

    def __init__(self, iterator: Iterator[Batch], size: int, put: Callable[[Any], Any]):
        self._iterator = iterator
        self._put = put
        self._size = size
        self._thread = _Background()
        self._queue: collections.deque[Future] = collections.deque()
        self._state = self._source_state()

    def _source_state(self) -> Any:
        return self._iterator.get_state() if hasattr(self._iterator, "get_state") else None

    def _fetch(self) -> tuple[dict[str, Any], Any] | None:
        """The next batch and the state after it; `None` at the end."""
        batch = next(self._iterator, None)
        return None if batch is None else (self._put(dict(batch)), self._source_state())

    def __next__(self) -> dict[str, Any]:
        while len(self._queue) <= self._size:
            self._queue.append(self._thread.submit(self._fetch))
        fetched = self._queue.popleft().result()
        if fetched is None:
            raise StopIteration
        batch, self._state = fetched
        return batch

    def get_state(self) -> Any:
        """The state of the wrapped iterator after the last batch given, not the last fetched."""
        return self._state

    def set_state(self, state: Any) -> None:
        """Drops what was fetched ahead and moves the wrapped iterator."""
        wait(self._queue)
        self._queue.clear()
        self._iterator.set_state(state)
        self._state = state


def prefetch_to_device(
    iterator: Iterable[Batch], size: int = 2, sharding: jax.sharding.Sharding | None = None
) -> DevicePrefetcher:
    """Starts the transfer of the next batches while a step runs.

    Integers and floats of 64 bits become their 32-bit forms, as everywhere in JAX unless it is told
    otherwise; integers that do not fit raise.

    Args:
      iterator: of host batches; resumable if it has `get_state` and `set_state`.
      size: batches that stay ahead, at least 1. On an accelerator 2 hides the transfer.
      sharding: how the example axis is laid over devices. Over several processes, each gives its
        own rows and gets the global array. Without it: the default device.

    Returns:
      An iterator of batches of `jax.Array`, with `get_state` and `set_state` if `iterator` has
      them. Its state counts batches given, not batches fetched.

    Raises:
      ValueError: `size` is less than 1, or a 64-bit integer does not fit into 32 bits.

    Example:
      >>> import numpy as np
      >>> from kdjax.data import eval_batches, from_arrays, prefetch_to_device
      >>> dataset = from_arrays({'image': np.zeros((3, 2, 2, 1), np.uint8)})
      >>> [batch['image'].shape for batch in prefetch_to_device(eval_batches(dataset, 2))]
      [(2, 2, 2, 1), (2, 2, 2, 1)]
    """
    if size < 1:
        raise ValueError(f"size: got {size}, wanted an integer >= 1")

    # What a `with` block sets holds for its thread, and is handed on to the other one.
    settings = _settings()

    def put(batch: Batch) -> dict[str, Any]:
        if _settings() == settings:
            return move(batch)
        with jax.default_device(settings[0]), jax.enable_x64(settings[1]):
            return move(batch)

    def move(batch: Batch) -> dict[str, Any]:
        batch = jax.tree.map(narrow, batch)
        if sharding is None:
            return _to_default_device(batch)
        return jax.tree.map(
            lambda array: jax.make_array_from_process_local_data(sharding, array), batch
        )

    return DevicePrefetcher(iter(iterator), size, put)


def feed(iterator: FeedIterator, sharding: jax.sharding.Sharding | None = None) -> FeedIterator:
    """Batches for compiled steps, as soon as they can be had.

    Accelerators get them from `prefetch_to_device`. Where the default device is a CPU, a batch is
    in its memory already: it goes on as it is, because a thread and a copy would take their time
    from the step.

    Args:
      iterator: of host batches, with `get_state` and `set_state`.
      sharding: how the example axis is laid over devices.

    Returns:
      An iterator of batches of `jax.Array`, or of numpy arrays of the types that JAX gives them.

    Raises:
      ValueError: a 64-bit integer does not fit into 32 bits.
    """
    device = jax.config.jax_default_device
    platform = getattr(device, "platform", device) or jax.default_backend()
    if sharding is None and platform == "cpu":
        return _HostFeed(iterator)
    return prefetch_to_device(iterator, sharding=sharding)


class _HostFeed(Iterator[dict[str, Any]]):
    """Batches in the types that JAX gives them."""

    def __init__(self, iterator: FeedIterator):
        self._iterator = iterator
        self.get_state, self.set_state = iterator.get_state, iterator.set_state

    def __next__(self) -> dict[str, Any]:
        return jax.tree.map(narrow, dict(next(self._iterator)))


class _Background:
    """Makes calls in a thread, one after the other.

    The thread is a daemon: a source that hangs must not keep the process from ending.
    """

    def __init__(self):
        self._calls: queue.SimpleQueue[tuple[Future, Callable] | None] = queue.SimpleQueue()
        threading.Thread(
            target=_serve, args=(self._calls,), name="kdjax-prefetch", daemon=True
        ).start()
        weakref.finalize(self, self._calls.put, None)

    def submit(self, call: Callable[[], Any]) -> Future:
        future: Future = Future()
        self._calls.put((future, call))
        return future


def _serve(calls: queue.SimpleQueue[tuple[Future, Callable] | None]) -> None:
    while (asked := calls.get()) is not None:
        future, call = asked
        try:
            future.set_result(call())
        except BaseException as error:  # raised again where the batch is waited for
            future.set_exception(error)
        del asked, future, call  # or the thread would keep its owner alive, and never end


def _settings() -> tuple[Any, bool]:
    return jax.config.jax_default_device, jax.config.jax_enable_x64


@jax.jit
def _to_default_device(batch: Batch) -> Batch:
    # A compiled function takes host arrays along in a fraction of the time of jax.device_put.
    return batch


def narrow(array: Any) -> np.ndarray:
    """An array in the type that JAX gives it; `ValueError` for integers that do not fit."""
    array = np.asarray(array)
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(array.dtype))
    if dtype == array.dtype:
        return array
    if dtype.kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(
                f"batch: {array.dtype} values in {array.min()}..{array.max()}, wanted values that "
                f"fit into {dtype}; enable jax_enable_x64 or use smaller ids"
            )
    return array.astype(dtype)
