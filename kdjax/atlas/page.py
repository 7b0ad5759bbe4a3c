"""The page of a family, from its summaries and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdjax.atlas.verdicts import NOT_RUN
from kdjax.train.errors import RecipeError
from kdjax.train.files import write_atomic

INTRODUCTION = """\
# Atlas: methods on {family}

All methods of the family under one protocol: the same teacher, the same student, the same budget,
the same seeds. The methods' own options are those of their papers; each method, labels alone and
kd included, chooses its learning rate on held-out training images with the same small budget. This
page is made from the files under `benchmarks/results/atlas/{family}` by
`python -m kdjax.atlas --family={family} --render`; no number on it is written by hand.

A difference is the mean over pairs of runs with the same seed, with Student's 95 % interval. With
three seeds such intervals are wide. A claim has a verdict once all seeds are in: it is called
*reproduced* if its whole interval is on the claimed side of 0, *not reproduced here* if it is on
the other side, and *inconclusive* if it is on both. These are claims in miniature: small networks,
small images, minutes and not days. Of many claims at 95 %, some come out by chance.
"""
TABLE = """\
Mean ± standard deviation over seeds, on the test set. The difference is in accuracy, to kd with the
same seed. ECE is the expected calibration error, NLL the negative log-likelihood of the labels,
agreement how often the student predicts what the teacher does. Time and memory are those of a
training step as multiples of kd's; the two were timed in turns on one machine.
"""
COMMAND = """\
To do the runs that are missing, or all of them anew (finished ones are kept, an interrupted job
goes on):

```bash
python -m kdjax.atlas --family={family} --dataset={dataset} --workdir=/tmp/atlas
python -m kdjax.atlas --family={family} --render
```
"""
PERCENT = ("accuracy", "ece", "agreement", "adaptive_ece", "label_loyalty", "probability_loyalty")


def write_page(family: str, results: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Writes the page of a family.

    Args:
      family: its name.
      results: folder of the results.
      path: of the page.

    Returns:
      The path.

    Raises:
      RecipeError: there is no summary of this family.
    """
    return write_atomic(path, page(family, read_summaries(family, results)))


def read_summaries(family: str, results: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The summaries of a family, one for each data set.

    Raises:
      RecipeError: there is none.
    """
    paths = sorted((Path(results) / family).glob("*.json"))
    if not paths:
        raise RecipeError(f"{Path(results) / family} holds no summary; run the atlas first")
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def page(family: str, summaries: Sequence[Mapping[str, Any]]) -> str:
    """The page as Markdown."""
    parts = [INTRODUCTION.format(family=family)]
    for summary in sorted(summaries, key=lambda summary: not summary["teacher"]):
        parts += _data_set(summary)
    elsewhere = summaries[-1]["elsewhere"]
    if elsewhere:
        parts.append("## Methods without a run\n")
        parts.append("".join(f"- `{name}`: {why}.\n" for name, why in elsewhere.items()))
    return "\n".join(parts)


def _data_set(summary: Mapping[str, Any]) -> list[str]:
    """Protocol, methods and claims on one data set."""
    parts = [f"## {summary['title']}\n", _protocol(summary)]
    for condition, title in summary["protocol"]["conditions"].items():
        rows = {k: v for k, v in summary["methods"].items() if v["condition"] == condition}
        if rows:
            parts += [f"### Methods: {title}\n", _methods(rows)]
    parts += [TABLE, "### Claims\n", _verdicts(summary["claims"]), _claims(summary)]
    parts.append(COMMAND.format(**summary))
    return parts


def _protocol(summary: Mapping[str, Any]) -> str:
    protocol, tuning = summary["protocol"], summary["protocol"]["tuning"]
    rates = ", ".join(f"{rate:g}" for rate in tuning["learning_rates"])
    lines = [
        f"- Teacher: {_network(protocol['teacher'])}, {protocol['teacher_epochs']:g} epochs; "
        f"{_teacher(summary['teacher'])}.",
        f"- Student: {_network(protocol['student'])}, {protocol['student_epochs']:g} epochs, batch "
        f"size {protocol['batch_size']}, {protocol['optimizer']}.",
        f"- Learning rate: one of {rates}, by accuracy on `{tuning['validation']}` after "
        f"{100 * tuning['share']:g} % of the budget, which favours rates that learn fast; "
        f"{_at_the_edge(summary)}.",
        f"- Seeds: {', '.join(map(str, summary['seeds']))}.",
        f"- Run with: {_environment(summary['environments'])}.",
    ]
    return "\n".join(lines) + "\n"


def _at_the_edge(summary: Mapping[str, Any]) -> str:
    """How many methods might have wanted a rate that was not tried."""
    rates = summary["protocol"]["tuning"]["learning_rates"]
    chosen = [row["learning_rate"] for row in summary["methods"].values() if row["seeds"]]
    return f"{chosen.count(max(rates))} of {len(chosen)} methods so far chose the highest"


def _network(options: Mapping[str, Any]) -> str:
    details = (f"{key} {_plain(value)}" for key, value in options.items() if key != "name")
    return ", ".join([str(options["name"]), *details])


def _plain(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _teacher(teacher: Mapping[str, Any] | None) -> str:
    if not teacher:
        return NOT_RUN
    accuracy = _percent(teacher["metrics"]["accuracy"])
    return f"{teacher['parameters']:,} parameters, test accuracy {accuracy} %"


def _environment(found: Mapping[str, Sequence[str]]) -> str:
    if not found["commit"]:
        return NOT_RUN
    versions = (f"{name} {', '.join(found[name])}" for name in ("python", "jax", "flax", "optax"))
    commits = ", ".join(commit[:8] for commit in found["commit"])
    changed = " (with local changes)" if "True" in found["dirty"] else ""
    return f"{', '.join(versions)}, {', '.join(found['device'])}; commit {commits}{changed}"


def _methods(rows: Mapping[str, Mapping[str, Any]]) -> str:
    head = ["method", "paper", "seeds", "learning rate", "accuracy, %", "difference to kd, points"]
    head += ["ECE, %", "NLL", "agreement, %", "time", "memory"]
    return _table(head, [_method(name, row) for name, row in rows.items()])


def _method(name: str, row: Mapping[str, Any]) -> list[str]:
    cells = [f"`{name}`", _paper(row["paper"])]
    if row["failed"] or not row["seeds"]:
        return [*cells, row["failed"] or NOT_RUN, *["–"] * 8]
    measures, cost = row["measures"], row["cost"] or {}
    cells += [str(len(row["seeds"])), f"{row['learning_rate']:g}"]
    cells += [_spread(measures["accuracy"], 100, ".2f")]
    cells += ["–" if name == "kd" else _interval(row["difference"], 100, ".2f")]
    cells += [_spread(measures["ece"], 100, ".1f"), _spread(measures["nll"], 1, ".3f")]
    cells += [_spread(measures["agreement"], 100, ".1f")]
    return cells + [_ratio(cost.get(key)) for key in ("time_ratio", "memory_ratio")]


def _claims(summary: Mapping[str, Any]) -> str:
    head = ["method", "paper", "claim", "measure", "compared with", "difference", "verdict"]
    rows = []
    for claim in summary["claims"]:
        scale, form = (100, ".2f") if claim["measure"] in PERCENT else (1, ".4f")
        unit = "points" if scale == 100 else "nats"
        found = _interval(claim["difference"], scale, form)
        margin = f", with a margin of {claim['margin'] * scale:g}" if claim["margin"] else ""
        rows.append(
            [
                f"`{claim['method']}`",
                _paper(claim["paper"]),
                claim["text"],
                claim["measure"],
                f"`{claim['than']}`{margin}",
                found if found == "–" else f"{found} {unit}",
                f"**{claim['verdict']}**",
            ]
        )
    return _table(head, rows)


def _verdicts(claims: Sequence[Mapping[str, Any]]) -> str:
    counts: dict[str, int] = {}
    for claim in claims:
        counts[claim["verdict"]] = counts.get(claim["verdict"], 0) + 1
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return f"{len(claims)} claims: {told}.\n"


def _paper(arxiv: str) -> str:
    return f"[{arxiv}](https://arxiv.org/abs/{arxiv})" if arxiv else "–"


def _spread(found: Mapping[str, Any] | None, scale: float, form: str) -> str:
    if not found:
        return "–"
    deviation = found["deviation"]
    spread = "" if deviation is None else f" ± {deviation * scale:{form}}"
    return f"{found['mean'] * scale:{form}}{spread}"


def _interval(found: Mapping[str, Any] | None, scale: float, form: str) -> str:
    if not found:
        return "–"
    mean = f"{found['mean'] * scale:+{form}}"
    if found["low"] is None:
        return mean
    return f"{mean} [{found['low'] * scale:+{form}}, {found['high'] * scale:+{form}}]"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
