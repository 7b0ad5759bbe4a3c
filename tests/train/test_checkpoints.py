import concurrent.futures
import contextlib
import shutil
import time
import zlib

import hypothesis
import hypothesis.strategies
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

import kdjax
from kdjax.base import PlayerState, TrainState
from kdjax.train import loop
from kdjax.train.checkpoints import Checkpoints, read_variables
from kdjax.train.checksums import checksum
from kdjax.train.errors import CheckpointError


def state_of(seed):
    params = {
        "w": jax.random.normal(jax.random.key(seed), (64, 64)),
        "b": jnp.full((3,), seed, jnp.bfloat16),
    }
    player = PlayerState(
        {"model": params, "objective": {}},
        {"batch_stats": {"mean": jnp.full(2, seed)}},
        {},
        optax.adam(1e-3).init(params),
    )
    return TrainState({"student": player}, {}, jnp.int32(seed), jax.random.key(seed))


@pytest.fixture
def folder(tmp_path):
    """Three checkpoints."""
    with Checkpoints(tmp_path / "run" / "checkpoints", keep=3) as keeper:
        for step in (1, 2, 3):
            keeper.save(step, state_of(step), {"note": step})
    return tmp_path / "run" / "checkpoints"


def test_what_is_saved_comes_back(folder):
    with Checkpoints(folder) as keeper:
        assert keeper.latest_step == 3
        restored = keeper.restore_latest(state_of(0))
    assert restored.step == 3 and restored.loop == {"note": 3}
    assert tiny.equal(restored.state, state_of(3))
    assert restored.state.key.dtype == state_of(0).key.dtype


def test_nothing_there(tmp_path):
    with Checkpoints(tmp_path / "new") as keeper:
        assert keeper.restore_latest(state_of(0)) is None and keeper.steps == []


def test_the_newest_and_the_best_are_kept(tmp_path):
    accuracy = {1: 0.5, 2: 0.9, 3: 0.2, 4: None, 5: 0.1, 6: None}
    with Checkpoints(tmp_path, keep=2, metric="accuracy") as keeper:
        for step, value in accuracy.items():
            keeper.save(step, state_of(step), {}, None if value is None else {"accuracy": value})
        keeper.wait()
        assert keeper.steps == [2, 5, 6] and keeper.best_step == 2
    like = jax.eval_shape(lambda: state_of(0).players["student"].variables)
    assert read_variables(tmp_path, like, metric="accuracy")["params"]["b"][0] == 2
    assert read_variables(tmp_path, like)["params"]["b"][0] == 6


def test_variables_of_a_player(folder):
    like = jax.eval_shape(lambda: state_of(0).players["student"].variables)
    variables = read_variables(folder, like)
    assert jax.tree.structure(variables) == jax.tree.structure(like)
    np.testing.assert_array_equal(
        variables["params"]["w"], state_of(3).players["student"].params["model"]["w"]
    )
    wider = {**like, "params": {**like["params"], "w": jax.ShapeDtypeStruct((64, 65), jnp.float32)}}
    with pytest.raises(ValueError, match=r"params/w is \(64, 64\) there, wanted \(64, 65\)"):
        read_variables(folder, wider)
    with pytest.raises(ValueError, match="no 'peer'"):
        read_variables(folder, like, player="peer")
    with pytest.raises(FileNotFoundError, match="no checkpoints"):
        read_variables(folder / "nowhere", like)


def largest(folder):
    return max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )


def truncate(step):
    path = largest(step)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(step):
    """A bit in the middle of each large file, so that some array is another one."""
    for path in step.rglob("*"):
        if path.is_file() and path.stat().st_size > 10_000:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)


def lose(step):
    largest(step).unlink()


def lose_the_loop(step):
    shutil.rmtree(step / "loop")


def cut_the_loop(step):
    path = step / "loop" / "metadata"
    path.write_bytes(path.read_bytes()[:5])


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


DAMAGES = [truncate, flip, lose, lose_the_loop, cut_the_loop, empty]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(damage, folder, capsys):
    damage(folder / "3")
    with Checkpoints(folder) as keeper:
        restored = keeper.restore_latest(state_of(0))
        assert restored.step == 2 and tiny.equal(restored.state, state_of(2))
        assert keeper.steps == [1, 2]
        keeper.save(3, state_of(3), {"note": "again"})
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(folder / "3") in said and "going on from step 2" in said
    assert (folder.parent / "checkpoints_damaged" / "3").is_dir(), "nothing is thrown away"
    with Checkpoints(folder) as keeper:
        assert keeper.restore_latest(state_of(0)).loop == {"note": "again"}


def names_of_files():
    """Every file of a checkpoint; those that hold arrays have names of their own each time."""
    return ["arrays", "commit", "data", "loop", "manifest", "metadata", "sharding"]


def kind(path, step):
    """Which of these a file is."""
    place = path.relative_to(step).as_posix()
    if place.startswith("loop/") and path.name == "metadata":
        return "loop"
    for part, name in (
        ("commit_success", "commit"),
        ("manifest", "manifest"),
        ("_sharding", "sharding"),
        ("array_metadatas", "arrays"),
        ("METADATA", "metadata"),
        ("/d/", "data"),
    ):
        if part in place:
            return name
    return place


def test_the_files_of_a_checkpoint(folder):
    step = folder / "3"
    found = {kind(path, step) for path in step.rglob("*") if path.is_file()}
    assert found == set(names_of_files())


def halved(data, _):
    return data[: len(data) // 2]


def emptied(data, _):
    return b""


def flipped(data, draw):
    """One bit, anywhere."""
    changed = bytearray(data)
    changed[draw.integers(len(changed))] ^= 1 << draw.integers(8)
    return bytes(changed)


@pytest.mark.every(2)
@pytest.mark.parametrize("change", [halved, emptied, flipped, flipped, flipped])
@pytest.mark.parametrize("name", names_of_files())
def test_damage_to_any_file_never_changes_what_is_restored(name, change, folder, capsys, request):
    """Either it does not matter, or it is noticed; some files hold nothing that is needed."""
    draw = np.random.default_rng(zlib.crc32(request.node.name.encode()))
    step = folder / "3"
    for path in sorted(step.rglob("*")):
        if path.is_file() and kind(path, step) == name and path.stat().st_size:
            path.write_bytes(change(path.read_bytes(), draw))
    with Checkpoints(folder) as keeper:
        restored = keeper.restore_latest(state_of(0))
    assert tiny.equal(restored.state, state_of(restored.step))
    assert restored.loop == {"note": restored.step}
    assert restored.step == 3 or "going on from step 2" in capsys.readouterr().err
    if name == "loop" or (name == "data" and change is not flipped):
        assert restored.step == 2


def test_never_from_scratch_where_checkpoints_are(folder):
    for step in (1, 2, 3):
        truncate(folder / str(step))
    with Checkpoints(folder) as keeper, pytest.raises(CheckpointError) as caught:
        keeper.restore_latest(state_of(0))
    assert str(folder / "3") in str(caught.value) and "remove" in str(caught.value)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]


def test_a_run_survives_damage(tmp_path):
    """It goes on from the checkpoint before, to the same end."""
    budget = loop.Budget(20, log_every=5, save_every=4, keep=3)
    expected = tiny.fit(tmp_path / "one", budget).state
    tiny.fit(tmp_path / "two", budget)
    lose(tmp_path / "two" / "checkpoints" / "20")
    assert tiny.equal(tiny.fit(tmp_path / "two", budget).state, expected)
    assert tiny.rows(tmp_path / "two") == tiny.rows(tmp_path / "one")


def test_a_half_written_checkpoint_does_not_count(folder):
    shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp")
    shutil.rmtree(folder / "4.orbax-checkpoint-tmp" / "state")
    with Checkpoints(folder) as keeper:
        assert keeper.restore_latest(state_of(0)).step == 3


def test_a_failed_save_may_still_be_writing(tmp_path):
    """Its folder goes away although files appear in it for a while."""
    left = tmp_path / "7.orbax-checkpoint-tmp" / "state.orbax-checkpoint-tmp"
    until = time.monotonic() + 0.5

    def go_on():
        while time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError):
                (left / str(time.monotonic_ns())).write_text("late")

    with Checkpoints(tmp_path) as keeper, concurrent.futures.ThreadPoolExecutor() as pool:
        keeper.save(3, state_of(3), {"data": 3})
        keeper.wait()
        left.mkdir(parents=True)
        writing = pool.submit(go_on)
        keeper.save(7, state_of(7), {"data": 7})
        keeper.wait()
        writing.result()
        assert keeper.restore(state_of(0), 7).loop == {"data": 7}
    assert not left.parent.exists()


def test_checksums_do_not_depend_on_the_mesh():
    whole = {"a": jnp.arange(64.0).reshape(8, 8), "b": jnp.arange(16, dtype=jnp.bfloat16)}
    mesh = kdjax.parallel.make_mesh(2, 2, 2)
    for first, second in (("data", "tensor"), (("data", "fsdp"), None), (None, "fsdp")):
        specs = {"a": kdjax.parallel.P(first, second), "b": kdjax.parallel.P(first)}
        shardings = {k: jax.sharding.NamedSharding(mesh, spec) for k, spec in specs.items()}
        assert checksum(jax.device_put(whole, shardings)) == checksum(whole)


@hypothesis.given(hypothesis.strategies.integers(0, 32 * 24 - 1))
@hypothesis.settings(deadline=None, max_examples=50)
def test_checksums_tell_a_flipped_bit(bit):
    words = np.arange(24, dtype=np.uint32)
    flipped = words.copy()
    flipped[bit // 32] ^= np.uint32(1 << (bit % 32))
    assert checksum([words]) != checksum([flipped])


def test_checksums():
    assert checksum(state_of(1).players) == checksum(state_of(1).players)
    assert checksum(state_of(1).players) != checksum(state_of(2).players)
    assert checksum({"a": np.zeros((2, 3))}) != checksum({"a": np.zeros((3, 2))})
