"""A whole atlas on digits, in one go, in pieces, and with a method that breaks down."""

import contextlib
import json
import shutil

import numpy as np
import pytest
import small

from kdjax import data
from kdjax.atlas import command, costs, load_family, load_protocol, runs
from kdjax.data import open_teacher_cache
from kdjax.train import measuring
from kdjax.train.errors import RecipeError
from kdjax.train.experiment import Experiment, load_data
from kdjax.train.stopping import Interrupted, Stop


@pytest.fixture(scope="module", autouse=True)
def _quick(tmp_path_factory):
    """Few turns when steps are timed, and programs compiled once, as in the command."""
    command.keep_programs(tmp_path_factory.mktemp("programs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(costs, "ROUNDS", 3)
        patch.setattr(costs, "STEPS", 2)
        yield
    command.keep_programs(None)


def start(folder, configs=None, **options):
    """Runs the atlas in a folder; gives the folder of its results."""
    configs = configs or small.write_configs(folder / "configs")
    scale = options.pop("scale", 1.0)
    family, protocol = load_family("two", configs), load_protocol("small", configs, scale)
    runs.run(family, protocol, folder / "work", folder / "results", **options)
    return folder / "results"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("atlas")
    return folder, start(folder)


def same_files(results, others, method):
    """Whether a method has the same files in both, and some."""
    mine, theirs = (small.kept_files(each / "two" / "small" / method) for each in (results, others))
    return mine == theirs != {}


def read(path):
    return json.loads(path.read_text())


def test_there_is_a_file_for_each_run(finished):
    _, results = finished
    for method in ("labels", "kd", "ofa"):
        for seed in (0, 1):
            stored = read(results / "two" / "small" / method / f"seed_{seed}.json")
            assert (stored["method"], stored["seed"]) == (method, seed)
            assert stored["config"]["objective"]["name"]
            assert {"commit", "jax", "device"} <= stored["environment"].keys()
            assert 0 < stored["metrics"]["accuracy"] < 1
            tuning = stored["tuning"]
            best = tuning["tried"].index(tuning["learning_rate"])
            assert tuning["validation_accuracy"][best] == max(tuning["validation_accuracy"])
            rate = stored["config"]["student"]["optimizer"]["learning_rate"]
            assert rate == tuning["learning_rate"]
        cost = read(results / "two" / "small" / method / "cost.json")
        assert cost["time_ratio"] > 0
        assert cost["memory_bytes"] > 0


def test_conditions_change_the_data(finished):
    _, results = finished
    steps = [
        read(results / "two" / "small" / method / "seed_0.json")["steps"]
        for method in ("kd", "ofa")
    ]
    assert steps == [23, 4]


def test_the_summary_follows_from_the_files(finished):
    _, results = finished
    summary = read(results / "two" / "small.json")
    files = results / "two" / "small"
    accuracy = {
        method: [read(files / method / f"seed_{k}.json")["metrics"]["accuracy"] for k in (0, 1)]
        for method in ("labels", "kd", "ofa")
    }
    gain = summary["methods"]["kd"]
    assert gain["measures"]["accuracy"]["mean"] == pytest.approx(sum(accuracy["kd"]) / 2)
    claim = summary["claims"][0]
    wanted = sum(accuracy["kd"]) / 2 - sum(accuracy["labels"]) / 2
    assert claim["difference"]["mean"] == pytest.approx(wanted)
    teacher = read(files / "teacher" / "seed_0.json")["metrics"]["accuracy"]
    assert summary["claims"][2]["difference"]["mean"] == pytest.approx(
        sum(accuracy["ofa"]) / 2 - teacher
    )
    assert summary["methods"]["ofa"]["difference"] is None  # kd has other data


def test_a_cached_teacher_is_the_teacher(finished):
    """The logits on disk are those that its checkpoint gives."""
    folder = finished[0] / "work" / "small"
    protocol = load_protocol("small", finished[0] / "configs")
    config = protocol.teacher_config()
    experiment = Experiment(config, load_data(config), folder / "teacher")
    model, variables = experiment.trained("teacher", 0)
    for split, dataset in (("train", experiment.data.train), ("test", experiment.data.test)):
        original = data.load("digits", split)
        cache = open_teacher_cache(folder / "teacher_logits" / split, original)
        stored = cache.take(original.arrays["id"])["logits"]
        wanted = measuring.predict(model, variables, dataset, 100)
        np.testing.assert_allclose(stored, wanted, rtol=1e-5, atol=1e-5)


def test_again_nothing_is_done_even_without_the_workdir(finished, tmp_path):
    results = shutil.copytree(finished[1], tmp_path / "results")
    before = {p: p.stat().st_mtime_ns for p in results.rglob("*") if p.name.startswith("seed_")}
    start(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert not (tmp_path / "work" / "small" / "teacher").exists()


class StopAfter(Stop):
    """Asks the job to stop when it has looked a number of times."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    @property
    def asked(self):
        self.looks -= 1
        if self.looks < 0 and self.signal is None:
            self.ask()
        return self.signal is not None


def test_interrupted_again_and_again_it_gives_the_same_files(finished, tmp_path, monkeypatch):
    @contextlib.contextmanager
    def impatient():
        yield StopAfter(5)

    monkeypatch.setattr(runs, "stop_on_signals", impatient)
    pieces = 1
    while True:
        try:
            results = start(tmp_path, methods=("kd",))
            break
        except Interrupted:
            pieces += 1
    assert pieces > 3
    assert same_files(results, finished[1], "kd")


def test_methods_and_seeds_can_be_added_later(finished, tmp_path):
    results = start(tmp_path, methods=("kd",), seeds=(1,))
    assert sorted(p.name for p in (results / "two" / "small").iterdir()) == ["kd", "teacher"]
    summary = read(results / "two" / "small.json")
    assert summary["methods"]["labels"]["seeds"] == []
    assert {claim["verdict"] for claim in summary["claims"]} == {"not run yet"}
    start(tmp_path, methods=("kd",))
    assert same_files(results, finished[1], "kd")


def test_another_budget_wants_another_folder(finished):
    with pytest.raises(RecipeError, match=r"holds a run of another config \(config.student.epochs"):
        start(finished[0], scale=0.5)


def test_runs_with_other_options_are_not_kept(finished, tmp_path):
    shutil.copytree(finished[1], tmp_path / "results")
    old, new = "weight = 0.9, label_weight = 0.1", "weight = 0.5, label_weight = 0.5"
    family = small.FAMILY.replace(old, new)
    results = start(
        tmp_path, small.write_configs(tmp_path / "configs", family=family), methods=("kd",)
    )
    for seed in (0, 1):
        stored = read(results / "two" / "small" / "kd" / f"seed_{seed}.json")
        assert stored["config"]["objective"]["weight"] == 0.5


def test_other_options_want_another_folder(finished):
    folder = finished[0]
    changed = small.FAMILY.replace("temperature = 4.0", "temperature = 2.0")
    configs = small.write_configs(folder / "changed", family=changed)
    with pytest.raises(RecipeError, match=r"config.objective.temperature"):
        start(folder, configs)


def test_a_method_that_breaks_down_is_recorded_and_the_next_one_runs(tmp_path):
    broken = '\n[methods.labels]\noptions = { name = "cross_entropy", temperature = 1e-38 }\n'
    family = broken + small.FAMILY.partition('options = { name = "cross_entropy" }')[2]
    configs = small.write_configs(tmp_path / "configs", family=family)
    results = start(tmp_path, configs, methods=("labels", "kd"), seeds=(0,))
    summary = read(results / "two" / "small.json")
    assert "finite" in summary["methods"]["labels"]["failed"]
    assert summary["methods"]["labels"]["seeds"] == []
    assert summary["methods"]["kd"]["seeds"] == [0]
