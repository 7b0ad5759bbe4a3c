"""Killing a job at any moment, again and again, changes nothing in what it ends with."""

import random
import signal
import time

import jax
import numpy as np
import pytest
import tiny
from commands import TINY, finish, start

FLAGS = (
    f"--config={TINY}",
    "--config.teacher.epochs=5",
    "--config.student.epochs=5",
    "--config.evaluate_every_epochs=1",
    "--config.checkpoint.every_steps=6",
    "--config.log_every=10",
)
RUNS = ("teacher", "labels", "kd")


def checkpoints(workdir, run):
    """Steps saved, and whether another is being written."""
    folder = workdir / "runs" / run / "seed_0" / "checkpoints"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return [int(name) for name in names if name.isdigit()], any("tmp" in name for name in names)


def past(workdir, run, step):
    """Some time after the checkpoint of a step."""
    return lambda: max(checkpoints(workdir, run)[0], default=0) >= step


def saving(workdir, run, step):
    """While a later checkpoint than that of a step is being written."""
    return lambda: past(workdir, run, step)() and checkpoints(workdir, run)[1]


def end(workdir, when, number, pause=0.0):
    """Starts the job, or goes on with it, and ends it with a signal."""
    process = start("kdjax.train", *FLAGS, f"--workdir={workdir}")
    deadline = time.monotonic() + 120
    while not when() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(pause)
    assert process.poll() is None, finish(process)
    process.send_signal(number)
    return finish(process)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    answer = finish(start("kdjax.train", *FLAGS, f"--workdir={folder}"))
    assert answer.status == 0, answer.err
    return folder


def test_a_job_that_is_killed_ends_as_if_it_had_not_been(undisturbed, tmp_path):
    draw = random.Random(0)
    pause = lambda: draw.uniform(0, 0.05)  # noqa: E731
    killed = end(tmp_path, past(tmp_path, "teacher", 12), signal.SIGKILL, pause())
    assert killed.status == -signal.SIGKILL
    end(tmp_path, saving(tmp_path, "teacher", draw.randrange(30, 60)), signal.SIGKILL)

    stopped = end(tmp_path, past(tmp_path, "labels", draw.randrange(6, 60)), signal.SIGTERM)
    assert stopped.status == 143
    assert "stopped" in stopped.err and "run the same command again" in stopped.err
    assert "Traceback" not in stopped.err

    end(tmp_path, past(tmp_path, "kd", draw.randrange(6, 60)), signal.SIGKILL, pause())
    end(tmp_path, saving(tmp_path, "kd", 66), signal.SIGKILL)

    answer = finish(start("kdjax.train", *FLAGS, f"--workdir={tmp_path}"))
    assert answer.status == 0, answer.err
    assert "warning" not in answer.err
    for run in RUNS:
        here, there = (folder / "runs" / run / "seed_0" for folder in (tmp_path, undisturbed))
        (step, state), (other_step, other_state) = map(tiny.final_arrays, (here, there))
        assert step == other_step
        jax.tree.map(np.testing.assert_array_equal, state, other_state)
        assert tiny.rows(here) == tiny.rows(there)
        assert tiny.result(here) == tiny.result(there)
    for name in ("report.md", "report.html", "config.json", "environment.json"):
        assert (tmp_path / name).exists()


def test_asked_to_stop_before_the_first_step(tmp_path):
    answer = end(tmp_path, (tmp_path / "config.json").exists, signal.SIGTERM)
    assert answer.status == 143 and "Traceback" not in answer.err


def test_two_processes_in_one_folder(tmp_path):
    first = start("kdjax.train", *FLAGS, f"--workdir={tmp_path}")
    while not (tmp_path / ".lock").exists() and first.poll() is None:
        time.sleep(0.01)
    time.sleep(0.1)
    second = finish(start("kdjax.train", *FLAGS, f"--workdir={tmp_path}"))
    first.kill()
    first.communicate()
    assert second.status == 2 and "another process is at work" in second.line
