"""From the files of single runs to one summary per family and data set."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdjax.atlas.family import BASELINE, TEACHER, Claim, Family, Method
from kdjax.atlas.protocol import Protocol
from kdjax.atlas.verdicts import Difference, paired_difference, verdict

SHOWN = ("accuracy", "nll", "ece", "agreement", "mean_kl")
"""Measures of the table."""
Runs = Mapping[int, Mapping[str, Any]]


def summarize(
    family: Family, protocol: Protocol, results: str | os.PathLike[str]
) -> dict[str, Any]:
    """What the files of a family's runs on a data set say together.

    Args:
      family: the methods.
      protocol: what they share.
      results: folder of the files.

    Returns:
      Everything that the page shows, as JSON has it: the protocol, the teacher, a row for each
      method, and a row for each claim with its verdict.

    Raises:
      ValueError: a file is of another budget or not JSON.
    """
    folder = Path(results) / family.name / protocol.name
    runs = {name: _runs(folder / name, protocol) for name in family.methods}
    teacher = _read(folder / TEACHER / "seed_0.json")
    return {
        "family": family.name,
        "dataset": protocol.name,
        "title": protocol.title,
        "scale": protocol.scale,
        "seeds": list(protocol.seeds),
        "protocol": _protocol(protocol),
        "teacher": teacher and {key: teacher[key] for key in ("metrics", "parameters", "model")},
        "methods": {
            name: _row(method, runs, folder / name) for name, method in family.methods.items()
        },
        "claims": [
            _claim(method, claim, runs, teacher, protocol)
            for method in family.methods.values()
            for claim in method.claims
        ],
        "elsewhere": dict(family.elsewhere),
        "environments": _environments(runs),
    }


def _runs(folder: Path, protocol: Protocol) -> Runs:
    found = [_read(path) for path in sorted(folder.glob("seed_*.json"))]
    for run in found:
        if run["scale"] != protocol.scale:
            raise ValueError(
                f"{folder}: has a run with the share {run['scale']} of the budget, wanted "
                f"{protocol.scale}"
            )
    return {run["seed"]: run for run in sorted(found, key=lambda run: run["seed"])}


def _row(method: Method, runs: Mapping[str, Runs], folder: Path) -> dict[str, Any]:
    mine = runs[method.name]
    first = next(iter(mine.values()), {})
    same = BASELINE if method.condition == "full" else ""
    return {
        "condition": method.condition,
        "options": dict(method.options),
        "paper": method.paper,
        "seeds": list(mine),
        "parameters": first.get("parameters"),
        "steps": first.get("steps"),
        "learning_rate": first.get("tuning", {}).get("learning_rate"),
        "measures": {name: _spread(_values(mine, name)) for name in SHOWN},
        "difference": _difference(mine, runs.get(same, {}), "accuracy"),
        "cost": _read(folder / "cost.json"),
        "failed": (_read(folder / "failed.json") or {}).get("failed"),
    }


def _claim(
    method: Method,
    claim: Claim,
    runs: Mapping[str, Runs],
    teacher: Mapping[str, Any] | None,
    protocol: Protocol,
) -> dict[str, Any]:
    mine = runs[method.name]
    # The teacher is one network: it is the same beside every seed.
    others = runs.get(claim.than, {})
    if claim.than == TEACHER:
        others = dict.fromkeys(mine, teacher) if teacher else {}
    ours, theirs = _values(mine, claim.measure), _values(others, claim.measure)
    found = paired_difference(ours, theirs)
    # Who looks before the last seed is in could stop where it suits.
    settled = found if found and found.seeds >= len(protocol.seeds) else None
    return {
        "method": method.name,
        "paper": method.paper,
        "text": claim.text,
        "measure": claim.measure,
        "than": claim.than,
        "worse": claim.worse,
        "margin": claim.margin,
        "difference": _json(found),
        "verdict": verdict(settled, claim.measure, worse=claim.worse, margin=claim.margin),
    }


def _difference(mine: Runs, others: Runs, measure: str) -> dict[str, Any] | None:
    return _json(paired_difference(_values(mine, measure), _values(others, measure)))


def _json(difference: Difference | None) -> dict[str, Any] | None:
    return None if difference is None else difference._asdict()


def _values(runs: Runs, measure: str) -> dict[int, float]:
    found = {seed: run["metrics"].get(measure) for seed, run in runs.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _spread(values: Mapping[int, float]) -> dict[str, Any] | None:
    if not values:
        return None
    numbers = list(values.values())
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return {"mean": statistics.fmean(numbers), "deviation": deviation}


def _protocol(protocol: Protocol) -> dict[str, Any]:
    config, tuning = protocol.teacher_config(), protocol.tuning
    return {
        "teacher": config.teacher.model.to_dict(),
        "teacher_epochs": config.teacher.epochs,
        "student": config.student.model.to_dict(),
        "student_epochs": config.student.epochs,
        "batch_size": config.data.batch_size,
        "optimizer": config.student.optimizer.name,
        "tuning": {
            "learning_rates": list(tuning.learning_rates),
            "share": tuning.share,
            "validation": tuning.validation,
        },
        "conditions": {name: c.title for name, c in protocol.conditions.items()},
    }


def _environments(runs: Mapping[str, Runs]) -> dict[str, list[Any]]:
    """The different commits, versions and devices of all runs."""
    names = ("commit", "dirty", "python", "jax", "flax", "optax", "device")
    found = [run["environment"] for each in runs.values() for run in each.values()]
    return {name: sorted({str(one[name]) for one in found}) for name in names}


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
