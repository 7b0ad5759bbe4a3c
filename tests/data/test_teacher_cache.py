"""A cache gives back what the teacher said, survives kills, and refuses to be mixed up."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kdjax
from kdjax import data, distributions
from kdjax.base import Model
from kdjax.data.teacher_cache import shards

SIZE, CLASSES = 23, 7
IDS = np.random.default_rng(3).permutation(1000)[:SIZE]


def dataset(seed=0, ids=IDS):
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 256, (SIZE, 6, 6, 1)).astype(np.uint8)
    return data.from_arrays({"image": image, "label": np.arange(SIZE) % CLASSES, "id": ids})


def variables(seed=0):
    kernel = np.random.default_rng(seed).normal(0, 0.05, (36, CLASSES))
    return {"params": {"kernel": kernel.astype(np.float32)}}


def apply(variables, batch, *, key=None, train=False):
    image = batch["image"].reshape(batch["image"].shape[0], -1) / 255
    # Sums, since the rounding of a matrix product may depend on the number of rows.
    logits = jnp.sum(image[:, :, None] * variables["params"]["kernel"], axis=1)
    return {"logits": logits, "embedding": image[:, :5]}, {}


TEACHER = Model(None, apply)
SHIFT = data.repeatable(data.random_shift(2), seed=4)


def write(folder, **options):
    given = {"batch_size": 5, "rows_per_shard": 8, **options}
    source = given.pop("dataset", None) or dataset()
    return data.write_teacher_cache(
        folder, source, TEACHER, given.pop("variables", variables()), **given
    )


def answers(ids, augment=None, view=0):
    """What the teacher says, straight."""
    rows = dataset().take(np.array([np.flatnonzero(i == IDS)[0] for i in ids]))
    batch = {**rows, "view": np.full(len(ids), view)}
    return apply(variables(), batch if augment is None else augment(None, batch))[0]


def shard_files(folder):
    return sorted(Path(folder).glob("*.array_record"))


ASKED = IDS[[4, 0, 19, 19, 11]]


@pytest.mark.parametrize("memory_limit", [2**30, 0], ids=["in memory", "from disk"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float16", 2e-3)])
def test_arrays_come_back(tmp_path, dtype, tolerance, memory_limit):
    write(tmp_path, keep=data.KeepSignals(("logits", "embedding"), dtype))
    cache = data.open_teacher_cache(tmp_path, dataset(), memory_limit=memory_limit)
    kept, wanted = cache.take(ASKED), answers(ASKED)
    for name in ("logits", "embedding"):
        assert kept[name].dtype == dtype
        np.testing.assert_allclose(kept[name], wanted[name], tolerance, tolerance)


def test_top_k_comes_back_with_its_tail(tmp_path):
    cache = write(tmp_path, keep=data.KeepTopK(3, temperature=2.0, dtype="float32"))
    kept = cache.take(ASKED)["logits"]
    wanted = distributions.top_k(answers(ASKED)["logits"], 3, temperature=2.0)
    np.testing.assert_array_equal(kept.ids, wanted.ids)
    np.testing.assert_allclose(kept.log_probs, wanted.log_probs, 1e-5, 1e-5)
    np.testing.assert_allclose(kept.log_tail, wanted.log_tail, 1e-5, 1e-5)


def test_samples_come_back_and_are_of_the_example(tmp_path):
    keep = data.KeepSamples(400, dtype="float32")
    kept = write(tmp_path, keep=keep).take(IDS)["logits"]
    p = np.asarray(jax.nn.softmax(answers(IDS)["logits"]))
    estimate = np.stack(
        [np.bincount(i, w, CLASSES) for i, w in zip(kept.ids, kept.weights, strict=True)]
    )
    np.testing.assert_allclose(estimate, p, atol=0.12)
    taken = np.take_along_axis(np.log(p), kept.ids, axis=1)
    np.testing.assert_allclose(kept.log_probs, taken, 1e-4, 1e-4)


def test_impossible_classes_stay_impossible_in_half_precision():
    kept = data.KeepTopK(2)({"logits": jnp.array([[0.0, -jnp.inf, -jnp.inf]])}, {})["logits"]
    assert np.isfinite(kept.log_probs).all() and np.isfinite(kept.log_tail).all()
    assert np.exp(np.float32(kept.log_probs[0, 1])) == 0 == np.exp(np.float32(kept.log_tail[0]))


def test_rows_do_not_depend_on_batches_or_shards(tmp_path):
    keep = data.KeepSamples(6, dtype="float32")
    options = ({"batch_size": 5}, {"batch_size": 23}, {"batch_size": 64, "rows_per_shard": 3})
    caches = [
        write(tmp_path / str(i), keep=keep, augment=SHIFT, views=2, **given)
        for i, given in enumerate(options)
    ]
    whole = [jax.tree.leaves(cache.take(IDS, 1)) for cache in caches]
    for other in whole[1:]:
        for one, same in zip(whole[0], other, strict=True):
            np.testing.assert_allclose(one, same, 1e-5, 1e-5)


@pytest.mark.parametrize("batch_size", [4, 23, 50])
def test_training_batches_carry_the_teacher_of_the_very_picture(tmp_path, batch_size):
    cache = write(tmp_path, keep=data.KeepSignals(dtype="float32"), augment=SHIFT, views=3)
    batches = data.batches(
        dataset(), batch_size=batch_size, seed=1, preprocess=cache.join, views=cache.views
    )
    seen = set()
    for _ in range(80 // batch_size + 1):
        batch = next(batches)
        seen |= set(batch["view"].tolist())
        picture = jax.jit(SHIFT)(jax.random.key(9), batch)
        live = apply(variables(), picture)[0]["logits"]
        np.testing.assert_allclose(batch["teacher_logits"], live, 1e-5, 1e-5)
    assert seen == {0, 1, 2}


def test_views_are_different_pictures():
    batch = {**dataset().take(np.arange(8)), "view": np.zeros(8, int)}
    first = SHIFT(None, batch)["image"]
    second = SHIFT(None, {**batch, "view": np.ones(8, int)})["image"]
    assert (first != second).any((1, 2, 3)).sum() >= 6


def test_an_epoch_is_a_view():
    batches = data.batches(dataset(), batch_size=10, seed=0, views=2)
    views = np.concatenate([next(batches)["view"] for _ in range(7)])
    np.testing.assert_array_equal(views, np.arange(70) // SIZE % 2)


@pytest.mark.parametrize("mixer", [data.mixup(1.0, CLASSES), data.cutmix(1.0, CLASSES)])
def test_what_mixes_examples_cannot_be_repeated(mixer):
    with pytest.raises(ValueError, match=r"label|by itself"):
        data.repeatable(mixer)(None, dataset().take(np.arange(4)))


def test_a_student_trains_on_a_sparse_teacher(tmp_path):
    cache = write(tmp_path, keep=data.KeepTopK(3))
    loss = distributions.divergence(kdjax.losses.divergences.kl_term)
    objective = kdjax.lift(
        lambda student_logits, teacher_logits: loss(student_logits, teacher_logits)
    )
    student = kdjax.models.from_callable(lambda p, x: x.reshape(len(x), -1) / 255 @ p["kernel"])
    cached = kdjax.models.from_batch({"logits": "teacher_logits"})
    import optax

    step = kdjax.train_step(student, cached, objective, optax.sgd(0.5))
    batches = data.prefetch_to_device(
        data.batches(dataset(), batch_size=23, seed=0, preprocess=cache.join)
    )
    state = step.init({"kernel": jnp.zeros((36, CLASSES))}, {}, next(batches))
    losses = []
    for _ in range(20):
        state, metrics = step.step(state, next(batches), {})
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]


class Interrupting:
    """Rows that stop a writer at the n-th gather."""

    def __init__(self, rows, calls):
        self.rows, self.calls = rows, calls
        self.features, self.fingerprint = rows.features, rows.fingerprint

    def __len__(self):
        return len(self.rows)

    def take(self, indices):
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt
        return self.rows.take(indices)


def test_a_stopped_writer_goes_on(tmp_path):
    source = dataset()
    stopping = dataclasses.replace(source, rows=Interrupting(source.rows, 12))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, dataset=stopping, keep=data.KeepSignals(dtype="float32"))
    done = shard_files(tmp_path)
    assert 0 < len(done) < 3
    with pytest.raises(data.DataError, match="not finished"):
        data.open_teacher_cache(tmp_path, source)
    stamps = [os.stat(path).st_mtime_ns for path in done]
    cache = write(tmp_path, keep=data.KeepSignals(dtype="float32"))
    assert [os.stat(path).st_mtime_ns for path in done] == stamps
    np.testing.assert_allclose(cache.take(IDS)["logits"], answers(IDS)["logits"], 1e-6, 1e-6)


KILLED = """
    import os, signal, sys
    sys.path[:0] = {paths}
    import test_teacher_cache as tests
    from kdjax.data.teacher_cache import shards

    count, rename = 0, os.replace

    def replace(source, target):
        global count
        count += 1
        if count == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    shards.os.replace = replace
    tests.write(sys.argv[1], keep=tests.data.KeepSignals(dtype="float32"))
"""


@pytest.mark.parametrize("at", [1, 4, 6])
def test_a_killed_writer_leaves_whole_files_only(tmp_path, at):
    # Renamed in turn: the plan, the ids, three shards, the index.
    paths = [str(Path(__file__).parent), str(Path(kdjax.__file__).parents[1])]
    code = textwrap.dedent(KILLED).format(paths=paths, at=at)
    died = subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert died.returncode == -signal.SIGKILL
    with pytest.raises(data.DataError, match="no cache" if at == 1 else "not finished"):
        data.open_teacher_cache(tmp_path, dataset())
    assert len(shard_files(tmp_path)) == max(0, at - 3)
    cache = write(tmp_path, keep=data.KeepSignals(dtype="float32"))
    np.testing.assert_allclose(cache.take(IDS)["logits"], answers(IDS)["logits"], 1e-6, 1e-6)
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("memory_limit", [2**30, 0], ids=["in memory", "from disk"])
def test_every_damaged_byte_of_a_shard_is_noticed(tmp_path, memory_limit):
    write(tmp_path)
    path = shard_files(tmp_path)[1]
    good = path.read_bytes()
    wanted = data.open_teacher_cache(tmp_path, dataset()).take(IDS)["logits"]
    noticed = 0
    for place in range(0, len(good), 211):
        path.write_bytes(good[:place] + bytes([good[place] ^ 16]) + good[place + 1 :])
        try:
            cache = data.open_teacher_cache(tmp_path, dataset(), memory_limit=memory_limit)
            found = cache.take(IDS)["logits"]
        except data.DataError as error:
            assert path.name in str(error) and "write the cache again" in str(error)
            noticed += 1
        else:  # a byte that nobody reads, of the padding
            np.testing.assert_array_equal(found, wanted)
    assert noticed
    write(tmp_path)
    np.testing.assert_array_equal(
        data.open_teacher_cache(tmp_path, dataset()).take(IDS)["logits"], wanted
    )


def test_a_changed_row_is_named(tmp_path):
    write(tmp_path, rows_per_shard=SIZE)
    path = shard_files(tmp_path)[0]
    rows = shards.read_shard(path, IDS, 0, 2 * CLASSES).copy()
    wrong = IDS.copy()
    wrong[3] += 1
    shards.write_shard(path, rows, wrong, 0)
    with pytest.raises(data.DataError, match=f"example {IDS[3]} does not match"):
        data.open_teacher_cache(tmp_path, dataset()).take(IDS)


@pytest.mark.parametrize("name", ["index.json", "plan.json", "ids.npy"])
def test_a_damaged_side_file_is_named(tmp_path, name):
    write(tmp_path)
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(data.DataError, match=name):
        data.open_teacher_cache(tmp_path, dataset())
        write(tmp_path)


def test_a_missing_shard_is_named_and_written_again(tmp_path):
    write(tmp_path)
    gone = shard_files(tmp_path)[1]
    gone.unlink()
    with pytest.raises(data.DataError, match=f"{gone.name}: missing"):
        data.open_teacher_cache(tmp_path, dataset())
    write(tmp_path)
    data.open_teacher_cache(tmp_path, dataset())


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"teacher": variables(1)}, "another teacher"),
        ({"teacher": "0" * 64}, "another teacher"),
        ({"dataset": dataset(1)}, "other data"),
        ({"dataset": dataset(ids=IDS + 1)}, "other data"),
        ({"augment": None}, "with an augmentation, wanted none"),
        ({"augment": data.repeatable(data.random_shift(2), seed=5)}, "seed is 4, wanted 5"),
        ({"augment": data.repeatable(data.random_crop(2), seed=4)}, "other pictures"),
        ({"augment": data.repeatable(data.random_shift(3), seed=4)}, "other pictures"),
    ],
)
def test_what_it_does_not_belong_to_is_refused(tmp_path, wanted, message):
    write(tmp_path, augment=SHIFT, views=2)
    own = {"dataset": dataset(), "teacher": variables(), "augment": SHIFT}
    data.open_teacher_cache(tmp_path, **own)
    with pytest.raises(ValueError, match=message):
        data.open_teacher_cache(tmp_path, **{**own, **wanted})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"variables": variables(1)}, "another teacher"),
        ({"dataset": dataset(1)}, "other data"),
        ({"augment": data.repeatable(data.random_shift(2))}, "seed is 4, wanted 0"),
        ({"views": 3}, "views: got 3"),
        ({"keep": data.KeepTopK(2)}, "keep: got KeepTopK"),
        ({"rows_per_shard": 9}, "rows_per_shard: got 9"),
    ],
)
def test_a_writer_does_not_mix_caches(tmp_path, changed, message):
    write(tmp_path, augment=SHIFT, views=2)
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **{"augment": SHIFT, "views": 2, **changed})


def test_strange_examples_and_views_are_refused(tmp_path):
    cache = write(tmp_path)
    with pytest.raises(ValueError, match="1001 is not among the 23 examples"):
        cache.take(np.array([IDS[0], 1001]))
    with pytest.raises(ValueError, match=r"views: got 1\.\.1"):
        cache.take(IDS, 1)


def test_nan_is_not_stored(tmp_path):
    broken = variables()
    broken["params"]["kernel"][0, 0] = np.nan
    with pytest.raises(ValueError, match=f"'logits' of the example {IDS[0]} is NaN"):
        write(tmp_path, variables=broken)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "views: got 0"),
        ({"views": 2}, "views: got 2, wanted 1 without"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"rows_per_shard": 2.5}, "rows_per_shard: got 2.5"),
        ({"process_index": 1}, "process_index: got 1"),
        ({"keep": data.KeepSignals(("hint",))}, "no signal 'hint'; it gives"),
        ({"keep": lambda signals, batch: {}}, "gave no signals"),
    ],
)
def test_bad_arguments_are_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **options)


def test_processes_share_the_shards(tmp_path):
    options = {"process_count": 2, "keep": data.KeepSignals(dtype="float32")}
    assert write(tmp_path, process_index=1, **options) is None
    assert len(shard_files(tmp_path)) == 1
    cache = write(tmp_path, process_index=0, **options)
    np.testing.assert_allclose(cache.take(IDS)["logits"], answers(IDS)["logits"], 1e-6, 1e-6)


def test_bytes_per_example_are_those_on_disk(tmp_path):
    cache = write(tmp_path, augment=SHIFT, views=2)
    files = sum(path.stat().st_size for path in shard_files(tmp_path))
    assert cache.bytes_per_example == files / (2 * SIZE)
