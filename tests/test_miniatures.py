"""The miniatures run, and their table says what their numbers say."""

from __future__ import annotations

import importlib
import json
import math
import sys
import types

import numpy as np
import pytest

import kdjax
from benchmarks.miniatures import common, run, scenes
from kdjax import losses, models

CLAIM = common.Claim("Method", "1234.56789", "one is better than two")


@pytest.fixture
def small_fashion(monkeypatch):
    """Noise in the place of Fashion-MNIST, which need not be on this machine."""
    real = common.columns

    def columns(name, split):
        if name != "fashion_mnist":
            return real(name, split)
        count = 1000 if split.startswith("train") else 50
        image = np.random.default_rng(0).uniform(size=(count, 28, 28, 1))
        return {"image": np.float32(image), "label": np.int32(np.arange(count) % 10)}

    monkeypatch.setattr(common, "columns", columns)
    scenes.scenes.cache_clear()
    yield
    scenes.scenes.cache_clear()


@pytest.mark.every(2)
@pytest.mark.parametrize("name", run.NAMES)
def test_each_miniature_runs(name, small_fashion):
    miniature = importlib.import_module(f"benchmarks.miniatures.{name}")
    arms = miniature.run(0, steps=2)
    assert all(isinstance(v, float) and math.isfinite(v) for v in arms.values()), arms
    assert {arm for pair in miniature.COMPARED for arm in (pair.method, pair.other)} <= set(arms)


@pytest.mark.parametrize("name", run.NAMES)
def test_each_miniature_names_its_paper_and_its_outcome(name):
    miniature = importlib.import_module(f"benchmarks.miniatures.{name}")
    assert f"arXiv:{miniature.CLAIM.arxiv}" in miniature.__doc__ or not miniature.CLAIM.arxiv
    assert "Outcome" in miniature.__doc__ and "seeds" in miniature.__doc__


@pytest.mark.parametrize(
    ("differences", "compared", "verdict"),
    [
        ((1.0, 1.2, 1.1), common.Compared("one", "two"), "reproduced"),
        ((-1.0, -1.2, -1.1), common.Compared("one", "two"), "not reproduced here"),
        ((-1.0, -1.2, -1.1), common.Compared("one", "two", worse=True), "reproduced"),
        ((1.0, -1.2, 0.3), common.Compared("one", "two"), "inconclusive"),
        ((-0.5, -0.6, -0.4), common.Compared("one", "two", margin=1.0), "reproduced"),
        ((-1.5, -1.6, -1.4), common.Compared("one", "two", margin=1.0), "not reproduced here"),
        ((1.0,), common.Compared("one", "two"), "not run yet"),
    ],
)
def test_a_verdict_follows_from_the_differences(differences, compared, verdict):
    results = {str(k): {"one": 90.0 + k + d, "two": 90.0 + k} for k, d in enumerate(differences)}
    found = common.judge(results, compared)
    assert found["verdict"] == verdict
    assert found["difference"] == pytest.approx(np.mean(differences))
    if len(differences) > 1:
        error = np.std(differences, ddof=1) / len(differences) ** 0.5
        assert found["standard_error"] == pytest.approx(error)


def test_a_claim_is_put_in_words():
    assert str(common.Compared("kd", "labels")) == "kd above labels"
    assert str(common.Compared("kd", "labels", worse=True)) == "kd below labels"
    assert str(common.Compared("kd", "teacher", margin=1.0)) == "kd within 1 of teacher"


def test_training_starts_where_it_is_told_and_learns():
    examples = common.columns("digits", "train[:20%]")
    model = importlib.import_module("benchmarks.miniatures.kd_oct").STUDENT
    objective = kdjax.lift(losses.cross_entropy)
    made = common.learner(model, objective, common.optimizer(1e-2, 50))
    state = common.train(made, examples, seed=0, steps=50)
    learnt = common.score(model, common.student(state), examples)
    assert learnt > 60
    kept = {"student": common.student(state)}
    same = common.train(made, examples, seed=1, steps=0, variables=kept)
    assert common.score(model, common.student(same), examples) == learnt
    single = common.train(made, examples, seed=0, steps=50, compiled_loop=False)
    assert common.score(model, common.student(single), examples) == pytest.approx(learnt, abs=1)


def test_scenes_have_masks_that_can_be_shifted(small_fashion):
    examples = scenes.scenes("train", 20)
    assert examples["image"].shape == (20, 16, 16, 1) and examples["label"].shape == (20, 16, 16)
    moved = scenes.shifted(examples)["label"]
    for mask, other in zip(examples["label"], moved, strict=True):
        shifts = [(i, j) for i in (1, 2) for j in (1, 2)]
        assert any(np.array_equal(mask[:-i, :-j], other[i:, j:]) for i, j in shifts)
        assert not other[0].any() and not other[:, 0].any()


def test_intersection_over_union():
    labels = np.array([[[1, 1], [0, 0]]])
    logits = np.eye(2)[np.array([[[1, 0], [1, 0]]])]
    model = models.from_batch({"logits": "answer"})
    found = scenes.iou(model, {}, {"answer": np.float32(logits), "label": labels})
    assert found == pytest.approx(100 / 3)


def test_results_of_claims_that_are_not_named_are_kept(tmp_path, monkeypatch, capsys):
    def made_up(name, gain):
        module = types.ModuleType(f"benchmarks.miniatures.{name}")
        module.CLAIM, module.COMPARED = CLAIM, (common.Compared("one", "two"),)
        module.run = lambda seed: {"one": 90.0 + gain + 0.1 * seed, "two": 90.0}
        monkeypatch.setitem(sys.modules, module.__name__, module)

    monkeypatch.setattr(run, "NAMES", ("first", "second"))
    made_up("first", 1.0)
    made_up("second", -1.0)
    for names in (["second"], ["first"]):
        monkeypatch.setattr(sys, "argv", ["run.py", *names, "--seeds=2", f"--results={tmp_path}"])
        run.main()
    assert list(json.loads((tmp_path / "miniatures.json").read_text())) == ["first", "second"]
    page = (tmp_path / "miniatures.md").read_text()
    assert "| one | 91.0 ± 0.1 |" in page and "| one | 89.0 ± 0.1 |" in page
    assert "| one above two | +1.0 ± 0.0 | reproduced |" in page
    assert "| one above two | -1.0 ± 0.0 | not reproduced here |" in page
    assert page in capsys.readouterr().out
    made_up("first", 5.0)
    sys.modules["benchmarks.miniatures.first"].COMPARED = (common.Compared("two", "one"),)
    monkeypatch.setattr(sys, "argv", ["run.py", "--gather", f"--results={tmp_path}"])
    run.main()
    page = (tmp_path / "miniatures.md").read_text()
    assert "| one | 91.0 ± 0.1 |" in page and "| two above one | -1.0 ± 0.0 |" in page
    monkeypatch.setattr(sys, "argv", ["run.py", "third"])
    with pytest.raises(SystemExit):
        run.main()
