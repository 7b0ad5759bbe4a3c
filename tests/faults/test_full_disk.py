"""A disk that is full when a checkpoint, a row of metrics or a result is written."""

import os
import resource
import subprocess
import time

import pytest
import tiny
from commands import TINY, finish, kdjax, start

from kdjax.train import loop
from kdjax.train.errors import CheckpointError

BUDGET = loop.Budget(24, log_every=5, evaluate_every=6, save_every=4)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return tiny.fit(folder, BUDGET, evaluate=lambda state: {}).state, tiny.rows(folder)


@pytest.fixture
def disk(tmp_path):
    """A real file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here: {error}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk):
    """Takes all the space there is."""
    with open(disk / "filler", "wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    assert os.statvfs(disk).f_bavail == 0


def settle(folder, step):
    """Waits for the saves before a step, and for the removal of older ones, which gives space."""
    wanted = [str(s) for s in range(BUDGET.save_every, step, BUDGET.save_every)][-BUDGET.keep :]
    deadline = time.monotonic() + 60
    while sorted(path.name for path in (folder / "checkpoints").iterdir()) != sorted(wanted):
        assert time.monotonic() < deadline, f"the checkpoints before step {step} are not {wanted}"
        time.sleep(0.01)


def unfinished(folder):
    """What a save that failed leaves, until the next start."""
    return [path.name for path in (folder / "checkpoints").iterdir() if "tmp" in path.name]


def check_going_on(folder, undisturbed):
    outcome = tiny.fit(folder, BUDGET, evaluate=lambda state: {})
    assert tiny.equal(outcome.state, undisturbed[0])
    assert tiny.rows(folder) == undisturbed[1]
    assert not unfinished(folder)


@pytest.mark.parametrize("step", [6, 12, 24])
def test_a_full_disk_while_saving(step, disk, undisturbed):
    def evaluate(state):
        if int(state.step) == step:
            settle(disk / "run", step)
            fill(disk)
        return {}

    with pytest.raises((CheckpointError, OSError)) as caught:
        tiny.fit(disk / "run", BUDGET, evaluate=evaluate)
    assert "No space left on device" in str(caught.value)
    with pytest.raises((CheckpointError, OSError), match="No space left on device"):
        tiny.fit(disk / "run", BUDGET, evaluate=evaluate)  # still full
    (disk / "filler").unlink()
    check_going_on(disk / "run", undisturbed)


def test_a_limit_on_the_size_of_files(tmp_path, undisturbed):
    """What a quota does; needs no rights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def evaluate(state):
        if int(state.step) == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
        return {}

    try:
        with pytest.raises((CheckpointError, OSError), match="File too large"):
            tiny.fit(tmp_path, BUDGET, evaluate=evaluate)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check_going_on(tmp_path, undisturbed)


def test_the_command_says_it_in_one_line(disk):
    """And goes on once there is space."""
    recipe = (f"--config={TINY}", "--config.baselines={}", "--config.student.epochs=1")
    arguments = (*recipe, f"--workdir={disk / 'work'}")
    (disk / "work").mkdir()
    fill(disk)
    os.truncate(disk / "filler", (disk / "filler").stat().st_size - 100_000)
    answer = finish(start("kdjax.train", *arguments))
    assert answer.status == 2 and "Traceback" not in answer.err, answer.err
    (line,) = [line for line in answer.err.splitlines() if line.startswith("error:")]
    assert "No space left on device" in line and "run the same command again" in line
    (disk / "filler").unlink()
    answer = kdjax("train", *arguments)
    assert answer.status == 0 and (disk / "work" / "report.md").exists(), answer.err
