import base64
import json
import math
import re
import statistics
from html.parser import HTMLParser

import numpy as np
import pytest

from kdjax import evaluation
from kdjax.train import report
from kdjax.train.files import write_json_atomic
from kdjax.train.logging import MetricWriter
from kdjax.train.results import RunResult, read_result

CLASSES = 10
QUALITY = {"teacher": 3.2, "labels": 1.8, "kd": 2.3, "dist": 2.25, "fitnet": 1.82}
TEXTS = {
    "teacher": "cross-entropy",
    "labels": "cross-entropy on the labels",
    "kd": "0.1 cross-entropy + 0.9 T² KL, T = 4",
    "dist": "cross-entropy + DIST (inter + intra)",
    "fitnet": "cross-entropy + hint on block_2",
}
VOID = {"meta", "img", "br", "hr", "link", "input"}


def make_workdir(path, names=tuple(QUALITY), seeds=3, rename=None):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 800)
    noise = rng.normal(size=(800, CLASSES))
    teacher = QUALITY["teacher"] * np.eye(CLASSES)[labels] + noise
    for name in names:
        for seed in range(1 if name == "teacher" else seeds):
            own = teacher if name == "teacher" else (
                QUALITY[name] * np.eye(CLASSES)[labels] + 0.6 * noise
                + rng.normal(size=noise.shape) * 0.8
            )  # fmt: skip
            run = (rename or {}).get(name, name)
            make_run(path / "runs" / run / f"seed_{seed}", run, seed, own * 1.4, labels,
                     None if name == "teacher" else teacher, TEXTS[name], rng)  # fmt: skip
    write_json_atomic(path / "config.json", {
        "title": "Distillation on digits", "dataset": {"name": "digits", "batch_size": 64},
        "runs": [(rename or {}).get(name, name) for name in names], "seeds": seeds,
        "temperature": 4.0, "optimizer": {"name": "adamw", "learning_rate": 0.003},
    })  # fmt: skip
    write_json_atomic(path / "environment.json", {
        "commit": "0123abc", "dirty": False, "started": "2024-05-01T12:00:00Z", "python": "3.11.9",
        "jax": "0.10.2", "flax": "0.12.8", "optax": "0.2.6", "kdjax": "0.1.0", "device": "cpu",
        "device_count": 1,
    })  # fmt: skip
    return path


def make_run(folder, run, seed, logits, labels, teacher, description, rng):
    metrics = evaluation.summarize(logits, labels, teacher)
    with MetricWriter(folder, tensorboard=False) as writer:
        for step in range(50, 1001, 50):
            share = 1 - math.exp(-step / 200)
            loss = 2.3 - share * (1.2 + metrics["accuracy"]) + rng.normal() * 0.03
            writer.write(step, "train", {"loss": loss})
            accuracy = 0.1 + share * (metrics["accuracy"] - 0.1) + rng.normal() * 0.004
            writer.write(step, "test", {"accuracy": accuracy})
    RunResult(
        run=run, seed=seed, description=description, steps=1000, seconds=12.5 + seed,
        parameters=121_000 if teacher is None else 9_310,
        examples_per_second=5000.0 + 10 * seed, metrics=metrics,
        reliability=evaluation.reliability_curve(logits, labels),
        confusion=evaluation.confusion_matrix(logits, labels), model="a small ConvNet",
    ).write(folder / "result.json")  # fmt: skip


class Page(HTMLParser):
    """Checks that tags are balanced and collects what is of interest."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.images, self.tables, self.tags, self.links, self.words = (
            [],
            [],
            [],
            [],
            [],
            "",
        )
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [attrs[key] for key in ("src", "href", "srcset") if key in attrs]
        if tag == "img":
            assert attrs["alt"]
            self.images.append(attrs["src"])
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.stack):
            self.tables[-1][-1][-1] += data
        if "style" not in self.stack:
            self.words += data


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = make_workdir(tmp_path_factory.mktemp("work"))
    return path, *report.write_report(path)


def test_the_page_is_whole_and_needs_nothing_else(workdir):
    path, _, html_path = workdir
    page = Page(html_path.read_text())
    assert len(page.images) == 4 and page.links == page.images
    for source in page.images:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in html_path.read_text() and "@import" not in html_path.read_text()
    assert not list(path.glob(".*.tmp"))


def test_markdown_refers_to_pictures_that_are_there(workdir):
    path, md_path, _ = workdir
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", md_path.read_text())
    assert len(pictures) == 4
    assert all((path / name).read_bytes().startswith(b"\x89PNG") for name in pictures)


def test_numbers_of_the_table_are_those_of_the_results(workdir):
    path, md_path, html_path = workdir
    head, *rows = Page(html_path.read_text()).tables[0]
    assert [row[0] for row in rows] == list(QUALITY)
    lines = [
        line.strip("| ").split(" | ")
        for line in md_path.read_text().splitlines()
        if "| kd |" in line
    ]
    assert lines[0][4] == rows[2][4]
    for row in rows:
        cells = dict(zip(head, row, strict=True))
        results = [read_result(p) for p in sorted(path.glob(f"runs/{row[0]}/*/result.json"))]
        assert cells["seeds"] == str(len(results))
        assert cells["parameters"] == f"{results[0].parameters:,}"
        assert cells["compression"] == f"{121_000 / results[0].parameters:.1f}×"
        forms = {
            "accuracy, %": ("accuracy", 100, ".2f"), "NLL": ("nll", 1, ".4f"),
            "ECE, %": ("ece", 100, ".2f"), "agreement, %": ("agreement", 100, ".2f"),
            "KL to teacher": ("mean_kl", 1, ".4f"),
        }  # fmt: skip
        for column, (name, scale, form) in forms.items():
            values = [scale * r.metrics[name] for r in results if name in r.metrics]
            assert cells[column] == expected(values, form), (row[0], column)
        assert cells["seconds"] == expected([r.seconds for r in results], ".1f")
        assert cells["examples/s"] == expected([r.examples_per_second for r in results], ",.0f")


def expected(values, form):
    if not values:
        return "–"
    sd = f" ± {statistics.stdev(values):{form}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{sd}"


def accuracy_workdir(path, values):
    for name, found in values.items():
        for seed, accuracy in enumerate(found):
            RunResult(
                run=name, seed=seed, steps=1, seconds=1.0, parameters=10, examples_per_second=1.0,
                metrics={"accuracy": accuracy},
            ).write(path / "runs" / name / f"seed_{seed}" / "result.json")  # fmt: skip
    return path


def test_gains_are_paired_by_seed(tmp_path):
    values = {
        "teacher": [0.9],
        "labels": [0.70, 0.72, 0.74],
        "better": [0.71, 0.732, 0.75],  # the spread between seeds cancels
        "same": [0.72, 0.71, 0.74],
        "worse": [0.60, 0.62, 0.64],
        "once": [0.8],
    }
    md_path, html_path = report.write_report(accuracy_workdir(tmp_path, values))
    rows = {row[0]: row[1:] for row in Page(html_path.read_text()).tables[1][1:]}
    error = statistics.stdev([1.0, 1.2, 1.0]) / math.sqrt(3)
    assert rows == {
        "better": ["better than labels", "3", "+1.07", f"{error:.2f}"],
        "same": ["not distinguishable from labels", "3", "+0.33", "0.88"],
        "worse": ["worse than labels", "3", "-10.00", "0.00"],
        "once": ["one seed: no estimate of error", "1", "+10.00", "–"],
    }
    text = md_path.read_text()
    assert "same reaches 72.33 ± 1.53 %, which is not distinguishable from labels" in text
    assert "better reaches 73.07 ± 2.00 %, a difference of +1.07 points" in text


def test_equal_runs_are_not_distinguishable(tmp_path):
    work = accuracy_workdir(tmp_path, {"labels": [0.5, 0.6], "kd": [0.5, 0.6]})
    assert "which is not distinguishable from labels" in report.write_report(work)[0].read_text()


def test_unfinished_work_is_reported(tmp_path):
    make_workdir(tmp_path, names=("labels", "kd"), seeds=2)
    (tmp_path / "runs/kd/seed_1/result.json").unlink()
    (tmp_path / "runs/labels/seed_0/result.json").write_text('{"run": "labels"}')
    (tmp_path / "environment.json").write_text("{")
    config = json.loads((tmp_path / "config.json").read_text())
    write_json_atomic(tmp_path / "config.json", {**config, "seeds": [0, 1, 5]})
    text = Page(report.write_report(tmp_path)[1].read_text()).words
    for problem in (
        "This report is not complete.",
        "kd, seed 1 has not finished; it was last seen at step 1,000.",
        "labels, seed 0: its result cannot be read", "kd, seed 5 has not started",
        "There is no run of a teacher", "environment.json cannot be read",
    ):  # fmt: skip
        assert problem in text


def test_nothing_there(tmp_path):
    text = Page(report.write_report(tmp_path)[1].read_text()).words
    assert "config.json is missing" in text and "No student has finished." in text
    with pytest.raises(FileNotFoundError, match="workdir must be a folder"):
        report.write_report(tmp_path / "nowhere")


def test_odd_names_are_escaped(tmp_path):
    odd = '<script>alert(1)<&"|*_$x^2$ 蒸留'
    make_workdir(tmp_path, names=("teacher", "labels", "kd"), seeds=2, rename={"kd": odd})
    md_path, html_path = report.write_report(tmp_path)
    page = Page(html_path.read_text())
    assert "script" not in page.tags
    assert page.tables[0][-1][0] == odd
    assert "<script>" not in md_path.read_text().split("```json")[0]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in md_path.read_text().splitlines()
              if line.startswith("| ")}  # fmt: skip
    assert widths == {3, 5, 6, 12}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"seed": 1.5}, TypeError, "seed must be a finite int"),
        ({"steps": -1}, ValueError, "steps must be at least 0"),
        ({"seconds": math.nan}, TypeError, "seconds must be a finite float"),
        ({"run": ""}, ValueError, "run must have a name"),
        ({"metrics": {"accuracy": "high"}}, TypeError, r"metrics\['accuracy'\] must be a number"),
        ({"metrics": 3}, TypeError, "metrics must be a mapping"),
        ({"reliability": {"count": []}}, ValueError, "reliability must have"),
        (
            {"reliability": {"confidence": [1.0], "accuracy": [], "count": []}},
            ValueError,
            "one length",
        ),
        ({"confusion": [[1, 2]]}, ValueError, "confusion must be square"),
        ({"confusion": [[-1]]}, ValueError, "confusion must hold counts"),
    ],
)
def test_result_is_checked(changes, error, message):
    fields = {"run": "kd", "seed": 0, "steps": 1, "seconds": 1.0, "parameters": 1,
              "examples_per_second": 1.0, "metrics": {}}  # fmt: skip
    assert RunResult.from_json({**fields, "later": 1}) == RunResult(**fields)
    with pytest.raises(error, match=message):
        RunResult(**{**fields, **changes})
    with pytest.raises(ValueError, match=r"\['metrics'\] missing"):
        RunResult.from_json({key: fields[key] for key in fields if key != "metrics"})


def test_result_round_trip_with_arrays(tmp_path):
    result = RunResult(
        run="kd", seed=0, steps=np.int64(1), seconds=np.float32(1), parameters=7,
        examples_per_second=2.0, metrics={"nll": np.inf, "accuracy": np.float32(0.5)},
        confusion=np.eye(2, dtype=np.int32),
        reliability=evaluation.reliability_curve(np.eye(2), np.arange(2), num_bins=3),
    )  # fmt: skip
    assert result.metrics == {"nll": None, "accuracy": 0.5}
    assert result.confusion == [[1, 0], [0, 1]]
    assert read_result(result.write(tmp_path / "result.json")) == result


@pytest.mark.parametrize(
    ("guards", "said"),
    [
        ({}, ""),
        ({"non_finite": "raise", "spike": 0.0}, ""),
        ({"non_finite": "raise", "spike": 3.0}, "Spikes of the gradient's norm: 2 (kd 2)."),
        ({"non_finite": "skip", "spike": 0.0}, "Skipped updates: 7 (kd 7)."),
        (
            {"non_finite": "zero", "spike": 3.0},
            "Spikes of the gradient's norm: 2 (kd 2). Zeroed entries of gradients: 0.",
        ),
    ],
)
def test_what_was_seen_of_the_gradients(guards, said, tmp_path):
    """Counters are those of the last row, of all players together."""
    write_json_atomic(tmp_path / "config.json", {"guards": guards, "runs": ["kd"], "seeds": 1})
    with MetricWriter(tmp_path / "runs" / "kd" / "seed_0", tensorboard=False) as writer:
        for step in (1, 2):
            writer.write(step, "spike", {"norm": 9.0, "median": 1.0, "batch": "0123abcd"})
            counts = {"skipped_updates": 2 * step, "peer_0/skipped_updates": step + 1}
            writer.write(step, "train", {"loss": 1.0, **counts})
    page = report.write_report(tmp_path)[0].read_text()
    assert said in page
    if not said:
        assert "Spikes" not in page and "Skipped" not in page
