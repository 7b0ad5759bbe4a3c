"""The page says what the files say; the committed one is up to date."""

import json
import math
from pathlib import Path

import pytest
import small

from kdjax.atlas import command, load_family, load_protocol, summarize
from kdjax.atlas.page import page, read_summaries
from kdjax.train.errors import RecipeError
from kdjax.train.files import to_json, write_json_atomic

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "atlas"
RESULTS = ROOT / "benchmarks" / "results" / "atlas"
SUMMARIES = sorted(RESULTS.glob("*/*.json"))
ENVIRONMENT = dict.fromkeys(("python", "jax", "flax", "optax"), "1") | {
    "commit": "0123456789",
    "dirty": False,
    "device": "cpu",
}


def write_run(results, method, seed, accuracy, ece=0.1, **changes):
    stored = {
        "method": method,
        "seed": seed,
        "scale": 1.0,
        "parameters": 1234,
        "model": "mlp",
        "steps": 10,
        "metrics": {"accuracy": accuracy, "ece": ece, "nll": 0.5},
        "tuning": {"learning_rate": 0.003},
        "environment": ENVIRONMENT,
        **changes,
    }
    write_json_atomic(results / "two" / "small" / method / f"seed_{seed}.json", stored)


@pytest.fixture
def written(tmp_path):
    """Made-up runs of labels and kd, none of ofa."""
    configs, results = small.write_configs(tmp_path / "configs"), tmp_path / "results"
    for seed, (labels, kd) in enumerate(((0.80, 0.84), (0.81, 0.84))):
        write_run(results, "labels", seed, labels)
        write_run(results, "kd", seed, kd)
    write_run(results, "teacher", 0, 0.95)
    cost = {"time_ratio": 1.25, "memory_ratio": None}
    write_json_atomic(results / "two" / "small" / "labels" / "cost.json", cost)
    return configs, results


def rendered(written):
    configs, results = written
    summary = summarize(load_family("two", configs), load_protocol("small", configs), results)
    write_json_atomic(results / "two" / "small.json", summary)
    path = command.render("two", str(results), str(results / "pages"), str(configs))
    return path.read_text()


def line(text, start):
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_row_says_what_the_files_say(written):
    cells = line(rendered(written), "| `labels` | – | 2")
    assert cells[3:6] == ["0.003", "80.50 ± 0.71", "-3.50 [-9.85, +2.85]"]
    assert cells[6:8] == ["10.0 ± 0.0", "0.500 ± 0.000"]
    assert cells[8:] == ["–", "1.25", "–"]


def test_a_claim_has_its_numbers_and_its_verdict(written):
    configs, results = written
    paper = "| `kd` | [1503.02531](https://arxiv.org/abs/1503.02531) |"
    assert line(rendered(written), f"{paper} 2")[5] == "–"
    claim = f"{paper} a teacher helps"
    assert line(rendered(written), claim)[3:] == [
        "accuracy", "`labels`", "+3.50 [-2.85, +9.85] points", "**inconclusive**",
    ]  # fmt: skip
    write_run(results, "kd", 1, 0.8501)
    assert line(rendered((configs, results)), claim)[-1] == "**reproduced**"


def test_there_is_no_verdict_before_all_seeds_are_in(written):
    results = written[1]
    write_run(results, "ofa", 0, 0.8, ece=0.05)
    assert line(rendered(written), "| `ofa` | – | it is as good")[-1] == "**not run yet**"
    write_run(results, "ofa", 1, 0.8, ece=0.05)
    assert line(rendered(written), "| `ofa` | – | it is as good")[-1] == "**reproduced**"


def test_a_data_set_without_runs_is_on_the_page(written):
    (written[0] / "other.toml").write_text(small.PROTOCOL.replace("Digits", "Other digits"))
    _, _, text = rendered(written).partition("## Other digits")
    assert "--dataset=other" in text
    assert line(text, "| `kd` | [1503.02531](https://arxiv.org/abs/1503.02531) | not")


def test_what_is_not_run_says_so(written):
    text = rendered(written)
    assert line(text, "| `ofa` | – | not")[2] == "not run yet"
    assert line(text, "| `ofa` | – | it calibrates")[-2:] == ["–", "**not run yet**"]
    assert "- `dho`: wants a student with two heads." in text
    assert "test accuracy 95.00 %" in text


def test_what_broke_down_says_so(written):
    failed = written[1] / "two" / "small" / "ofa" / "failed.json"
    write_json_atomic(failed, {"failed": "the loss is nan at step 3"})
    assert line(rendered(written), "| `ofa` | – | the loss")[2] == "the loss is nan at step 3"


def test_runs_of_another_budget_are_refused(written):
    write_run(written[1], "kd", 2, 0.9, scale=0.1)
    with pytest.raises(ValueError, match=r"share 0\.1 of the budget"):
        rendered(written)


def test_a_family_without_results_is_an_error(tmp_path):
    with pytest.raises(RecipeError, match="holds no summary"):
        read_summaries("two", tmp_path)


def alike(first, second):
    """Whether two summaries are the same; numbers may differ in what a processor rounds."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(alike(first[k], second[k]) for k in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(alike, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12)
    return type(first) is type(second) and first == second


def test_what_is_alike():
    one = {"a": [1.0, None, "x"], "b": True}
    assert alike(one, {"a": [1.0 + 1e-12, None, "x"], "b": True})
    for other in ({"a": [1.1, None, "x"]}, {"a": [1.0, None]}, {"a": [1, None, "x"]}, {"b": 1}):
        assert not alike(one, {**one, **other})


@pytest.mark.parametrize("path", SUMMARIES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_the_summary_is_that_of_the_files(path):
    stored = json.loads(path.read_text())
    family = load_family(path.parent.name, CONFIGS)
    protocol = load_protocol(path.stem, CONFIGS, stored["scale"])
    assert alike(stored, to_json(summarize(family, protocol, RESULTS)))


@pytest.mark.parametrize("family", sorted({path.parent.name for path in SUMMARIES}))
def test_the_page_is_that_of_the_summaries(family):
    written = (ROOT / "docs" / "atlas" / f"{family}.md").read_text()
    assert written == page(family, read_summaries(family, RESULTS))
    assert len(SUMMARIES) > 0
