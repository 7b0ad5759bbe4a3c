"""Writes the report of a work directory, from the files in it and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kdjax.train import _figures, _report_data, _report_page, _report_text
from kdjax.train.files import write_atomic

Pictures = dict[str, bytes]


def write_report(workdir: str | os.PathLike) -> tuple[Path, Path]:
    """Writes `report.md`, with its pictures in `figures/`, and `report.html`, which is all in one.

    It reads `config.json`, `environment.json` and, in each `runs/<run>/seed_<k>`, `metrics.jsonl`
    and `result.json` (see `kdjax.train.results`). What is missing or broken is named in the
    report; the rest is shown. Of the config, `title`, `dataset`, `runs`, `seeds`, `main` (the
    student to look at closely) and `class_names` are used if they are there.

    Args:
      workdir: the work directory.

    Returns:
      The paths of `report.md` and `report.html`.

    Raises:
      FileNotFoundError: if there is no such folder.
    """
    folder = Path(workdir)
    if not folder.is_dir():
        raise FileNotFoundError(f"workdir must be a folder, there is none at {folder}")
    work = _report_data.load(folder)
    pictures = _pictures(work)
    for name, png in pictures.items():
        write_atomic(folder / "figures" / f"{name}.png", png)
    markdown, page = (
        _compose(work, pictures, form) for form in (_report_page.Markdown(), _report_page.Html())
    )
    return write_atomic(folder / "report.md", markdown), write_atomic(folder / "report.html", page)


def _pictures(work: _report_data.Workdir) -> Pictures:
    """The figures that there is something to show in, by file name."""
    drawn = {
        "accuracy": _figures.accuracies(work),
        "curves": _figures.learning_curves(work),
        "reliability": _figures.reliability(work),
        "confusion": _figures.confusion(work),
    }
    return {name: png for name, png in drawn.items() if png}


def _compose(work: _report_data.Workdir, pictures: Pictures, form) -> str:
    """The report from top to bottom; `form` gives the markup."""

    def figure(name: str, caption: str) -> list[str]:
        return [form.figure(name, pictures[name], caption)] if name in pictures else []

    title = _report_text.title(work)
    parts = [form.heading(title, 1), form.paragraph(_report_text.summary(work))]
    if work.problems:
        parts.append(form.note("This report is not complete.", work.problems))
    parts.append(form.tiles(_report_text.tiles(work)))
    parts += _results(work, figure, form)
    parts += _section("Runs", _runs(work, form), form)
    parts += _section("Learning curves", figure("curves", CURVES), form)
    parts += _section("Calibration", figure("reliability", RELIABILITY), form)
    caption = CONFUSION.format(run=work.main)
    parts += _section("Confusion", figure("confusion", caption), form)
    config = json.dumps(work.config, indent=2, ensure_ascii=False)
    parts += _section("Config", [form.code(config)] if work.config else [], form)
    environment = [form.table(_report_text.environment_table(work))] if work.environment else []
    parts += _section("Environment", environment, form)
    parts.append(form.footer("Written by kdjax from the files of this work directory."))
    return form.document(title, parts)


def _results(work: _report_data.Workdir, figure, form) -> list[str]:
    """Tables and the accuracies as dots."""
    table, gains = _report_text.results_table(work), _report_text.gains_table(work)
    parts = [form.table(table), form.paragraph(RESULTS)] if table.rows else []
    parts = _section("Results", parts + figure("accuracy", ACCURACY), form)
    compared = [form.table(gains), form.paragraph(GAINS)] if gains.rows else []
    return parts + _section("Gain over labels", compared, form)


def _runs(work: _report_data.Workdir, form) -> list[str]:
    """How each was trained, and what was seen of the gradients."""
    runs, gradients = _report_text.runs_table(work), _report_text.gradients(work)
    parts = [form.table(runs)] if runs.rows else []
    return parts + ([form.paragraph(gradients)] if gradients else [])


def _section(title: str, parts: list[str], form) -> list[str]:
    """A heading over the parts, nothing if there are none."""
    return [form.heading(title), *parts] if parts else []


RESULTS = (
    "Mean ± standard deviation over seeds, on the test set. Compression is the teacher's number of "
    "parameters over the run's. NLL is the negative log-likelihood of the labels and KL the "
    "divergence of the student from the teacher, in nats. ECE is the expected calibration error. "
    "Agreement is the share of examples on which the student predicts what the teacher does."
)
GAINS = (
    "Differences in test accuracy between runs of the same seed. A difference of less than two "
    "standard errors is called not distinguishable; with few seeds the errors are rough."
)
ACCURACY = "Test accuracy: a dot for each seed, a bar at the mean. The dashed line is the teacher."
CURVES = (
    "Mean over seeds; bands are one standard deviation wide to each side. Losses of different "
    "objectives are not comparable in height."
)
RELIABILITY = (
    "Accuracy against confidence in bins, all seeds pooled. On the dashed line a model is as often "
    "right as it says. Grey bars and the size of dots give the share of examples in a bin."
)
CONFUSION = "{run}: predictions in % of each label, all seeds added up. A dot is less than 0.5 %."
