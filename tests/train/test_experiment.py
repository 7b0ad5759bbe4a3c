import dataclasses
import json
import os
import shutil
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tiny
import tiny_recipe
from commands import TINY, kdjax

from kdjax import data, models
from kdjax.train import answers, augmentation, deploy, experiment, lineage, workdir
from kdjax.train.errors import RecipeError
from kdjax.train.results import read_result
from kdjax.train.splits import load_data, training_batches

CONFIG = f"--config={TINY}"
RUNS = ("teacher", "labels", "kd")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment") / "work"
    answer = kdjax("train", CONFIG, f"--workdir={folder}")
    assert answer.status == 0, answer.err
    return folder, answer


def snapshot(folder):
    """All files but the lock and the report, which is written again."""
    skipped = {".lock", "report.md", "report.html"}
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.name not in skipped and path.parent.name != "figures"
    }


def test_the_folder(finished):
    folder, answer = finished
    assert answer.out == f"report: {folder / 'report.html'}\n"
    for name in ("config.json", "environment.json", "report.md", "report.html"):
        assert (folder / name).stat().st_size
    assert json.loads((folder / "config.json").read_text())["runs"] == list(RUNS)
    for run in RUNS:
        place = folder / "runs" / run / "seed_0"
        steps = {"teacher": 46}.get(run, 23)
        assert read_result(place / "result.json").steps == steps
        assert tiny.final_arrays(place)[0] == steps
        assert [row["step"] for row in tiny.rows(place)][-1] == steps
        assert list((place / "tensorboard").glob("events*"))
    left_over = [path for path in folder.rglob("*") if "tmp" in path.name]
    assert not left_over


def test_the_report_tells_the_results(finished):
    folder, _ = finished
    report = (folder / "report.md").read_text()
    assert "not complete" not in report
    for run in RUNS:
        metrics = read_result(folder / "runs" / run / "seed_0" / "result.json").metrics
        (line,) = [line for line in report.splitlines() if line.startswith(f"| {run} ")][:1]
        assert f"{100 * metrics['accuracy']:.2f}" in line


def test_the_progress_tells_loss_and_accuracy(finished):
    for run in RUNS:
        assert any(
            line.startswith(f"{run} seed 0") and "loss" in line and "accuracy" in line
            for line in finished[1].err.splitlines()
        )


@pytest.mark.parametrize("run", RUNS)
def test_evaluate_measures_what_the_result_says(run, finished):
    folder, _ = finished
    flags = [] if run == "kd" else [f"--run={run}"]
    answer = kdjax("evaluate", f"--workdir={folder}", *flags)
    assert answer.status == 0, answer.err
    result = read_result(folder / "runs" / run / "seed_0" / "result.json")
    assert json.loads(answer.out) == result.metrics


@pytest.mark.parametrize("run", ["teacher", "kd"])
def test_export(run, finished, tmp_path):
    folder, output = finished[0], tmp_path / "out"
    answer = kdjax("export", f"--workdir={folder}", f"--run={run}", f"--output={output}")
    assert answer.status == 0, answer.err
    assert all(os.path.exists(path) for path in answer.out.split())
    assert os.listdir(tmp_path) == ["out"]

    found = deploy.load(folder, run)
    images = found.experiment.data.test.arrays["image"]
    program = jax.export.deserialize(bytearray((output / "model.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    for size in (1, 3, 64):
        logits, _ = found.model.apply(found.variables, {"image": images[:size]})
        np.testing.assert_allclose(
            program.call(images[:size]), logits["logits"] if isinstance(logits, dict) else logits,
            rtol=1e-5, atol=1e-5,
        )  # fmt: skip
    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore(output / "checkpoint")
    jax.tree.map(np.testing.assert_array_equal, variables, dict(found.variables))
    told = json.loads((output / "model.json").read_text())
    assert told["run"] == run and told["input"] == {"shape": ["batch", 8, 8, 1], "dtype": "uint8"}
    assert told["output"] == {"shape": ["batch", 10], "dtype": "float32"}

    again = kdjax("export", f"--workdir={folder}", f"--output={output}")
    assert again.status == 2 and "exists" in again.line


@pytest.mark.parametrize("kind", ["int8", "int8_weights"])
@pytest.mark.parametrize("run", ["teacher", "kd"])
def test_export_of_a_quantised_model(run, kind, finished, tmp_path):
    folder, output = finished[0], tmp_path / "out"
    answer = kdjax(
        "export", f"--workdir={folder}", f"--run={run}", f"--output={output}", f"--quantize={kind}"
    )
    assert answer.status == 0, answer.err
    told = json.loads((output / "model.json").read_text())
    assert told["numbers"] == kind
    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore(output / "checkpoint")
    kept = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }
    assert all(("qvalue" in name) == (leaf.dtype == np.int8) for name, leaf in kept.items())
    assert told["measured"]["variables_bytes"] == sum(leaf.nbytes for leaf in kept.values())

    found = deploy.load(folder, run)
    for name, leaf in kept.items():
        if "qvalue" not in name:
            continue
        path, scale = name.split("/array/")[0].split("/"), kept[name.replace("qvalue", "scale")]
        kernel = found.variables
        for part in path:
            kernel = kernel[part]
        # Rounding moves a weight by at most half a step; each channel uses the whole range.
        assert np.all(np.abs(leaf * scale - kernel) <= scale * 0.5001)
        assert np.all(np.max(np.abs(leaf.astype(np.int32)), axis=0) >= 127)
    images = found.experiment.data.test.arrays["image"]
    program = jax.export.deserialize(bytearray((output / "model.stablehlo").read_bytes()))
    exact = found.model.apply(found.variables, {"image": images})[0]["logits"]
    error = np.max(np.abs(program.call(images) - exact)) / np.max(np.abs(exact))
    assert 0 < error < 0.05
    lines = (output / "report.md").read_text().splitlines()
    assert f"| measure | {kind} | float32 |" in lines
    sizes = next(line for line in lines if line.startswith("| variables_bytes"))
    small, large = (float(cell) for cell in sizes.split("|")[2:4])
    assert small < 0.5 * large


def test_there_is_no_such_quantisation(finished, tmp_path):
    flags = [f"--workdir={finished[0]}", f"--output={tmp_path / 'o'}", "--quantize=int4"]
    answer = kdjax("export", *flags)
    assert answer.status == 2 and "--quantize is 'int4'" in answer.line


def test_quantisation_without_its_library(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    flags = [f"--workdir={finished[0]}", f"--output={tmp_path / 'o'}", "--quantize=int8"]
    answer = kdjax("export", *flags)
    assert answer.status == 2 and "pip install 'kdjax[quantize]'" in answer.line
    assert not os.listdir(tmp_path)


WRONG = {
    "a run": (["--run=dk"], 'did you mean "kd"'),
    "a seed": (["--seed=7"], "there are seeds 0"),
}


@pytest.mark.parametrize("flags, said", WRONG.values(), ids=WRONG.keys())
def test_there_is_no_such_run(flags, said, finished):
    answer = kdjax("evaluate", f"--workdir={finished[0]}", *flags)
    assert answer.status == 2 and said in answer.line


def test_there_is_no_such_platform(finished, tmp_path):
    flags = [f"--workdir={finished[0]}", f"--output={tmp_path / 'o'}", "--platforms=cpu,tpi"]
    answer = kdjax("export", *flags)
    assert answer.status == 2 and 'did you mean "tpu"' in answer.line
    assert not os.listdir(tmp_path)


def test_a_finished_job_is_left_alone(finished):
    folder, _ = finished
    before = snapshot(folder)
    answer = kdjax("train", CONFIG, f"--workdir={folder}")
    assert answer.status == 0 and snapshot(folder) == before


def test_another_config_is_refused(finished):
    folder, _ = finished
    before = snapshot(folder)
    answer = kdjax("train", CONFIG, f"--workdir={folder}", "--config.objective.temperature=2")
    assert answer.status == 2 and snapshot(folder) == before
    assert "another config" in answer.line and "config.objective.temperature" in answer.line


def test_data_may_have_moved(finished, tmp_path):
    answer = kdjax("train", CONFIG, f"--workdir={finished[0]}", f"--data_dir={tmp_path}")
    assert answer.status == 0, answer.err
    assert "Generating" not in answer.err, "no bars of tensorflow-datasets"
    assert answer.out.startswith("report: ")


def test_a_folder_at_work_is_refused(finished):
    with workdir.claimed(finished[0]):
        answer = kdjax("train", CONFIG, f"--workdir={finished[0]}")
    assert answer.status == 2 and "another process is at work" in answer.line


def test_a_broken_config_json(finished, tmp_path):
    (tmp_path / "config.json").write_text("{")
    for command in (["train", CONFIG], ["evaluate"]):
        answer = kdjax(*command, f"--workdir={tmp_path}")
        assert answer.status == 2 and str(tmp_path / "config.json") in answer.line


def test_an_error_does_not_take_the_folder(tmp_path):
    flags = [CONFIG, f"--workdir={tmp_path}", "--config.teacher.epochs=0.05"]
    assert kdjax("train", *flags, "--config.objective.name=kdd").status == 2
    answer = kdjax("train", *flags, "--config.student.epochs=0.05")
    assert answer.status == 0, answer.err


def test_a_result_that_was_lost_is_measured_again(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy")
    place = tmp_path / "copy" / "runs" / "kd" / "seed_0"
    expected, rows = tiny.result(place), tiny.rows(place)
    (place / "result.json").write_text("{")
    assert kdjax("train", CONFIG, f"--workdir={tmp_path / 'copy'}").status == 0
    assert tiny.result(place) == expected and tiny.rows(place) == rows


def test_a_teacher_from_elsewhere(finished, tmp_path):
    """The student is the same as with the teacher trained in place."""
    teacher = finished[0] / "runs" / "teacher" / "seed_0"
    flags = [CONFIG, f"--workdir={tmp_path}", f"--config.teacher.checkpoint={teacher}"]
    assert kdjax("train", *flags).status == 0
    here, there = (folder / "runs" / "kd" / "seed_0" for folder in (tmp_path, finished[0]))
    assert tiny.result(here) == tiny.result(there)
    state = tiny.final_arrays(here)[1]
    jax.tree.map(np.testing.assert_array_equal, state, tiny.final_arrays(there)[1])
    loaded = read_result(tmp_path / "runs" / "teacher" / "seed_0" / "result.json")
    assert loaded.metrics == read_result(teacher / "result.json").metrics and loaded.steps == 0
    assert "not complete" not in (tmp_path / "report.md").read_text()
    assert kdjax("evaluate", f"--workdir={tmp_path}", "--run=teacher").status == 0


def test_a_teacher_of_another_model(finished, tmp_path):
    teacher = finished[0] / "runs" / "teacher" / "seed_0"
    flags = [CONFIG, f"--workdir={tmp_path}", f"--config.teacher.checkpoint={teacher}"]
    answer = kdjax("train", *flags, "--config.teacher.model.features=(17,)")
    assert answer.status == 2 and "config.teacher.checkpoint" in answer.line
    assert "(16, 10) there, wanted (17, 10)" in answer.line


def test_a_damaged_teacher(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "runs" / "kd")
    teacher = tmp_path / "copy" / "runs" / "teacher" / "seed_0"
    for path in (teacher / "checkpoints" / "46" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    answer = kdjax("train", CONFIG, f"--workdir={tmp_path / 'copy'}")
    assert answer.status == 2 and f"remove {teacher}" in answer.line


def test_the_best_is_selected(tmp_path):
    """The parameters with the best validation accuracy count, here and when read again."""
    flags = [
        CONFIG,
        f"--workdir={tmp_path}",
        "--config.select=best",
        "--config.data.train=train[:90%]",
        "--config.data.validation=train[90%:]",
        "--config.data.batch_size=64",  # over all devices
        "--config.student.optimizer.learning_rate=1.0",
        "--config.student.epochs=2",
        "--config.checkpoint.every_steps=7",
    ]
    assert kdjax("train", *flags).status == 0
    for run in RUNS:
        place = tmp_path / "runs" / run / "seed_0"
        measured = {
            r["step"]: r["accuracy"] for r in tiny.rows(place) if r["split"] == "validation"
        }
        kept = sorted(int(path.name) for path in (place / "checkpoints").iterdir())
        best = [step for step, accuracy in measured.items() if accuracy == max(measured.values())]
        assert set(kept) & set(best), (kept, best)
        answer = kdjax("evaluate", f"--workdir={tmp_path}", f"--run={run}")
        assert json.loads(answer.out) == read_result(place / "result.json").metrics
    before = snapshot(tmp_path)
    assert kdjax("train", *flags).status == 0 and snapshot(tmp_path) == before


def test_a_teacher_whose_logits_are_cached(finished, tmp_path):
    """Caching the teacher's logits changes nothing but the speed; they are computed once."""
    flags = (CONFIG, f"--workdir={tmp_path}", "--config.teacher.cache")
    answer = kdjax("train", *flags)
    assert answer.status == 0, answer.err
    here, there = (
        tiny.result(folder / "runs" / "kd" / "seed_0")["metrics"]
        for folder in (tmp_path, finished[0])
    )
    assert here == pytest.approx(there, rel=1e-4, abs=1e-4)
    kept = snapshot(tmp_path / "teacher_logits")
    assert any(path.suffix == ".array_record" for path in kept)
    shutil.rmtree(tmp_path / "runs" / "kd")
    assert kdjax("train", *flags).status == 0
    assert snapshot(tmp_path / "teacher_logits") == kept
    assert tiny.result(tmp_path / "runs" / "kd" / "seed_0")["metrics"] == here


def test_a_teacher_whose_logits_on_views_are_cached(tmp_path):
    """The student sees a few pictures of each example, with the teacher's answer to that one."""
    config = tiny_recipe.get_config()
    config.student.augment = {"random_shift": {"max_shift": 1}}
    config.teacher.cache, config.teacher.cache_views = True, 3
    made = experiment.Experiment(config, load_data(config), tmp_path)
    made.check()
    teacher = made.teacher()
    job = made.job("kd", 0, teacher)
    assert not job.frozen and job.answers.views == 3
    batches = training_batches(job.train, None, 60, 0, job.answers)
    augment = data.repeatable(augmentation.build("", config.student.augment, {}))
    seen = set()
    for _, batch in zip(range(60), batches, strict=False):
        seen |= {*batch["view"].tolist()}
    pictures = augment(None, batch)
    wanted = teacher.model.apply(teacher.variables, pictures)[0]["logits"]
    np.testing.assert_allclose(batch["teacher_logits"], wanted, 1e-4, 1e-4)
    assert seen == {0, 1, 2}
    made.student("kd", 0, teacher)
    assert read_result(tmp_path / "runs" / "kd" / "seed_0" / "result.json").steps == 23


def test_a_cache_beside_data_on_disk(tmp_path):
    """Answers are joined with rows as these are read."""
    rows = tiny.dataset()
    on_disk = dataclasses.replace(rows, rows=tiny.Hidden(rows.rows))
    model = models.from_callable(
        lambda params, image: image @ params, lambda key: np.eye(3, dtype=np.float32)
    )
    variables = {"params": np.full((3, 2), 0.5, np.float32)}
    teacher = lineage.Frozen(model, variables, 1)
    joined = [
        answers.with_answers(each, answers.answers(tmp_path, teacher, each, 8))
        for each in (rows, on_disk)
    ]
    chosen = np.array([3, 0, 19])
    first, second = (each.take(chosen)["teacher_logits"] for each in joined)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, rows.take(chosen)["image"] @ variables["params"], 1e-6)
    assert joined[1].features["teacher_logits"].shape == (2,)
    assert joined[1].fingerprint != on_disk.fingerprint


def test_a_folder_of_an_older_version(finished, tmp_path):
    """Keys that have come since its config was written are as by default."""
    folder = shutil.copytree(finished[0], tmp_path / "older")
    path = folder / "config.json"
    stored = json.loads(path.read_text())
    for section, key in (("data", "classes"), ("data", "timeout"), ("teacher", "cache_views")):
        del stored[section][key]
    del stored["student"]["steps_per_call"], stored["guards"]
    path.write_text(json.dumps(stored))
    for command, *flags in (("evaluate",), ("train", CONFIG)):
        answer = kdjax(command, *flags, f"--workdir={folder}")
        assert answer.status == 0, answer.err
    answer = kdjax("train", CONFIG, f"--workdir={folder}", "--config.teacher.cache_views=2",
                   "--config.teacher.cache")  # fmt: skip
    assert answer.status == 2 and "config.teacher.cache" in answer.err


def test_views_without_a_cache(tmp_path):
    answer = kdjax("train", CONFIG, f"--workdir={tmp_path}", "--config.teacher.cache_views=2")
    assert answer.status == 2 and "0 without teacher.cache" in answer.err


def test_training_sets_on_the_device(finished, tmp_path):
    """Where the examples lie changes nothing."""
    flags = (CONFIG, f"--workdir={tmp_path}", "--config.data.on_device")
    answer = kdjax("train", *flags)
    assert answer.status == 0, answer.err
    for run in ("teacher/seed_0", "labels/seed_0", "kd/seed_0"):
        here, there = (
            tiny.result(folder / "runs" / run)["metrics"] for folder in (tmp_path, finished[0])
        )
        assert here == pytest.approx(there, rel=1e-4, abs=1e-4)


def test_training_sets_that_cannot_lie_on_the_device(monkeypatch):
    rows = data.from_arrays({"image": np.zeros((9, 2, 2, 1), np.uint8), "label": np.arange(9) % 3})
    on_disk = dataclasses.replace(rows, rows=tiny.Hidden(rows.rows))
    monkeypatch.setattr(data, "load", lambda *names, **where: on_disk)
    config = tiny_recipe.get_config()
    assert load_data(config).train.size == 9
    config.data.on_device = True
    with pytest.raises(RecipeError, match=r"config\.data\.on_device: .* read from disk"):
        load_data(config)
