"""The same job in two processes with two devices each, killed again and again."""

import collections
import os
import signal

import killing
import pytest

from kdjax.train.results import read_result

KILLS = 20 if os.environ.get("KDJAX_FULL_TESTS") else 2
SHORT = ("--config.teacher.epochs=1", "--config.student.epochs=1")


@pytest.fixture(autouse=True, scope="module")
def two_devices_each():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", "2")
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    job = killing.job(folder / "work", *SHORT, processes=2)
    (life,) = killing.torment(job, 0, 0, folder / "log")
    assert life.ended == "finished", life.error
    return folder / "work"


def test_a_job_that_is_killed_ends_as_if_it_had_not_been(undisturbed, tmp_path):
    job, log = killing.job(tmp_path / "work", *SHORT, processes=2), tmp_path / "log"
    lives = list(killing.torment(job, KILLS, seed=2, log=log, reports=1))
    assert not [life.error for life in lives if life.ended == "failed"]
    kinds = collections.Counter(life.kind for life in lives if life.ended == "killed")
    assert sum(kinds.values()) == KILLS, kinds
    assert lives[-1].ended == "finished"
    assert killing.differences(tmp_path / "work", undisturbed) == []


def test_a_job_whose_data_lie_on_the_devices_ends_the_same(undisturbed, tmp_path):
    job = killing.job(tmp_path / "work", *SHORT, "--config.data.on_device", processes=2)
    (life,) = killing.torment(job, 0, 0, tmp_path / "log")
    assert life.ended == "finished", life.error
    for run in killing.RUNS:  # by another program, so not to the last bit
        here, there = (
            read_result(folder / "runs" / run / "seed_0" / "result.json").metrics
            for folder in (tmp_path / "work", undisturbed)
        )
        assert here == pytest.approx(there, rel=1e-4, abs=1e-4)


def test_all_stop_when_one_is_asked(tmp_path):
    """At the same step, with one checkpoint."""
    job = killing.job(tmp_path / "work", *SHORT, processes=2)
    processes = killing.start(job, tmp_path / "log")
    while job.saved < 6 and all(process.poll() is None for process in processes):
        pass
    processes[1].send_signal(signal.SIGTERM)
    codes = [process.wait(timeout=120) for process in processes]
    assert codes == [143, 143], (tmp_path / "log").read_text()[-3000:]
