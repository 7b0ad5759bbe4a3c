"""Killing a job at any moment, again and again, changes nothing in what it ends with."""

import collections
import shutil
import signal
import time

import killing
import pytest
from commands import TINY, finish, start

from kdjax.train.logging import read_metrics

KILLS = 20
FLAGS = (f"--config={TINY}", "--config.checkpoint.every_steps=6", "--config.log_every=10")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What the job ends with if nobody kills it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (life,) = killing.torment(killing.job(folder / "work"), 0, 0, folder / "log")
    assert life.ended == "finished", life.error
    return folder / "work"


def stop(job, log):
    """A signal that can be answered ends the job at a checkpoint, with the status shells know."""
    (process,) = killing.start(job, log)
    while job.saved < 6 and process.poll() is None:
        time.sleep(0.002)
    killing.end([process], signal.SIGTERM)
    assert process.returncode == 143, log.read_text()
    assert "checkpoint saved; run the same command again to go on" in log.read_text()
    assert "Traceback" not in log.read_text() and not job.saving


def test_a_job_that_is_killed_ends_as_if_it_had_not_been(undisturbed, tmp_path):
    job, log = killing.job(tmp_path / "work"), tmp_path / "log"
    stop(job, log)
    lives = list(killing.torment(job, KILLS, seed=1, log=log, reports=3))
    assert not [life.error for life in lives if life.ended == "failed"]
    kinds = collections.Counter(life.kind for life in lives if life.ended == "killed")
    assert sum(kinds.values()) == KILLS and set(kinds) == {*killing.KINDS, killing.REPORT}, kinds
    assert any(life.saving for life in lives)
    assert lives[-1].ended == "finished" and "warning" not in log.read_text()
    assert killing.differences(tmp_path / "work", undisturbed) == []
    rows = read_metrics(undisturbed / "runs" / "teacher" / "seed_0" / "metrics.jsonl")
    assert {row["split"] for row in rows} == {"train", "test", "spike"}
    for name in ("report.md", "report.html", "config.json", "environment.json"):
        assert (tmp_path / "work" / name).exists()


def test_the_comparison_sees_a_single_bit(undisturbed, tmp_path):
    """Else it would prove nothing."""
    copy = shutil.copytree(undisturbed, tmp_path / "work")
    assert killing.differences(copy, undisturbed) == []
    folder = copy / "runs" / "kd" / "seed_0"
    for name in ("metrics.jsonl", "result.json"):
        path = folder / name
        path.write_text(path.read_text().replace("1", "2", 1))
    steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir())
    shutil.rmtree(folder / "checkpoints" / str(steps[-1]))
    found = killing.differences(copy, undisturbed)
    assert {"kd: metrics.jsonl", "kd: result.json"} < set(found)
    assert any("params" in name for name in found)


def test_asked_to_stop_before_the_first_step(tmp_path):
    process = start("kdjax.train", *FLAGS, f"--workdir={tmp_path}")
    while not (tmp_path / "config.json").exists() and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    answer = finish(process)
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
