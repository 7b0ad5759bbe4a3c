import gc
import itertools
import threading

import jax
import numpy as np
import pytest

from kdjax.data import (
    batches,
    device,
    eval_batches,
    from_arrays,
    normalize,
    prefetch_to_device,
    to_float,
)


def images(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (4, 5, 6, 3), np.uint8)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.25), ([0.1, 0.2, 0.3], [1, 2, 3])])
def test_standardised_images(mean, std):
    batch = {"image": images(), "teacher_image": images(1), "label": np.arange(4)}
    for result in (
        jax.jit(lambda b: to_float(b, mean, std))(batch),
        normalize(mean, std)(batch),
    ):
        for name in ("image", "teacher_image"):
            wanted = (batch[name] / 255.0 - np.asarray(mean)) / np.asarray(std)
            assert result[name].dtype == np.float32
            np.testing.assert_allclose(result[name], wanted, atol=2e-6)
        np.testing.assert_array_equal(result["label"], batch["label"])


def test_normalize_stays_on_the_host():
    assert isinstance(normalize()({"image": images()})["image"], np.ndarray)


def test_standardising_checks():
    with pytest.raises(ValueError, match=r"batch\['image'\]: got float32, wanted uint8"):
        to_float({"image": images().astype(np.float32)})
    with pytest.raises(ValueError, match="std: got 0"):
        to_float({"image": images()}, std=0.0)
    with pytest.raises(ValueError, match="wanted a field 'image'"):
        to_float({"label": np.arange(3)})


def dataset():
    return from_arrays({"x": np.arange(10.0)})


@pytest.mark.parametrize("size", [1, 3])
def test_prefetch_gives_the_same_batches_as_device_arrays(size):
    plain = list(eval_batches(dataset(), 4))
    fetched = list(prefetch_to_device(eval_batches(dataset(), 4), size))
    assert len(fetched) == len(plain)
    for one, other in zip(fetched, plain, strict=True):
        assert set(one) == set(other)
        for name in one:
            assert isinstance(one[name], jax.Array)
            np.testing.assert_array_equal(one[name], other[name])


def test_prefetch_resumes_where_the_reader_stood():
    def start():
        return prefetch_to_device(batches(dataset(), batch_size=4, seed=0), size=3)

    iterator = start()
    assert iterator.get_state()["next_batch"] == 0
    for _ in range(2):
        next(iterator)
    state = iterator.get_state()
    assert state["next_batch"] == 2
    wanted = [next(iterator)["id"].tolist() for _ in range(3)]
    other = start()
    next(other)
    other.set_state(state)
    assert other.get_state() == state
    assert [next(other)["id"].tolist() for _ in range(3)] == wanted


def test_a_cpu_is_fed_without_a_thread():
    names = {thread.name for thread in threading.enumerate()}
    wanted = next(batches(dataset(), batch_size=4, seed=0, prefetch=0))
    fed = device.feed(batches(dataset(), batch_size=4, seed=0, prefetch=0))
    batch = next(fed)
    assert {thread.name for thread in threading.enumerate()} <= names
    assert fed.get_state()["next_batch"] == 1
    for name, array in jax.jit(lambda batch: batch)(batch).items():
        assert isinstance(batch[name], np.ndarray) and batch[name].dtype == array.dtype
        np.testing.assert_array_equal(array, wanted[name])
    fed.set_state({**fed.get_state(), "next_batch": 0})
    np.testing.assert_array_equal(next(fed)["id"], batch["id"])
    wide = from_arrays({"id": np.array([2**31])})
    with pytest.raises(ValueError, match="fit into int32"):
        next(device.feed(batches(wide, batch_size=1, seed=0, prefetch=0)))


def test_other_devices_are_fed_from_a_thread(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    fed = device.feed(batches(dataset(), batch_size=4, seed=0))
    assert isinstance(fed, device.DevicePrefetcher)


def test_prefetch_shards():
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    size = 2 * len(jax.devices())
    data = from_arrays({"x": np.arange(2.0 * size)})
    batch = next(prefetch_to_device(eval_batches(data, size), sharding=sharding))
    assert batch["x"].sharding == sharding and batch["id"].sharding == sharding
    np.testing.assert_array_equal(batch["id"], np.arange(size))


def test_wide_integers():
    batch = next(prefetch_to_device([{"id": np.array([2**31 - 1])}]))
    assert batch["id"].dtype == np.int32 and batch["id"][0] == 2**31 - 1
    with pytest.raises(ValueError, match="fit into int32"):
        next(prefetch_to_device([{"id": np.array([2**31])}]))
    with pytest.raises(ValueError, match="size: got 0"):
        prefetch_to_device([], size=0)


def prefetch_threads():
    return {thread for thread in threading.enumerate() if thread.name == "kdjax-prefetch"}


def test_the_thread_ends_with_its_prefetcher():
    before = prefetch_threads()
    prefetcher = prefetch_to_device(itertools.repeat({"x": np.zeros(2)}))
    next(prefetcher)
    (own,) = prefetch_threads() - before
    del prefetcher
    gc.collect()
    own.join(timeout=30)
    assert not own.is_alive()


def test_an_error_of_the_source_comes_in_its_place():
    def source():
        yield {"x": np.zeros(2)}
        yield {"x": np.ones(2)}
        raise OSError("the disk is gone")

    prefetcher = prefetch_to_device(source(), size=4)
    assert [float(next(prefetcher)["x"][0]) for _ in range(2)] == [0.0, 1.0]
    with pytest.raises(OSError, match="the disk is gone"):
        next(prefetcher)


def test_settings_of_a_with_block_hold_in_the_thread():
    with jax.enable_x64(True):
        prefetcher = prefetch_to_device([{"x": np.arange(2)}])
    assert next(prefetcher)["x"].dtype == np.int64
    second = jax.devices()[-1]
    with jax.default_device(second):
        prefetcher = prefetch_to_device([{"x": np.arange(2)}])
    assert next(prefetcher)["x"].devices() == {second}
