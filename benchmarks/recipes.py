"""Runs recipes and gathers what came out into one table.

    python benchmarks/recipes.py --workdir=/tmp/recipes configs/digits/*.py

Each recipe gets a folder of its own in the workdir; finished runs are kept, so that the same
command goes on where it was stopped. `--gather` trains nothing. The numbers are read from the
`result.json` files of the runs and written to `benchmarks/results/recipes.json` and `recipes.md`,
where rows of recipes that were not named stay as they are.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdjax.train.files import write_atomic, write_json_atomic
from kdjax.train.results import RunResult, read_result

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
METRICS = ("accuracy", "nll", "ece", "agreement", "mean_kl")
BASELINE, TEACHER = "labels", "teacher"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="+", help="config files; those named base.py are left out")
    parser.add_argument(
        "--workdir", required=True, type=Path, help="folder of the recipes' folders"
    )
    parser.add_argument("--gather", action="store_true", help="train nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    options = parser.parse_args()
    configs = [Path(path).resolve() for path in options.configs]
    configs = [path for path in configs if path.name not in ("base.py", "__init__.py")]
    failed = [] if options.gather else train_all(configs, options.workdir)
    folders = {_name(path): options.workdir / _name(path) for path in configs}
    rows = [row for name, folder in folders.items() for row in rows_of(name, folder)]
    path = options.results / "recipes.json"
    rows = merged(json.loads(path.read_text()) if path.exists() else [], rows)
    write_json_atomic(path, rows)
    write_atomic(options.results / "recipes.md", table(rows))
    print(table(rows))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def train_all(configs: Iterable[Path], workdir: Path) -> list[str]:
    """Trains what is not trained yet; gives the names of recipes that failed."""
    failed = []
    for path in configs:
        begun = time.perf_counter()
        command = [sys.executable, "-m", "kdjax.train", f"--config={path}"]
        done = subprocess.run([*command, f"--workdir={workdir / _name(path)}"], cwd=ROOT)
        print(f"{_name(path)}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
        if done.returncode:
            failed.append(_name(path))
    return failed


def merged(
    before: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """All rows, a recipe's new ones in the place of its old ones."""
    recipes: dict[str, list[Mapping[str, Any]]] = {}
    for row in before:
        recipes.setdefault(row["config"], []).append(row)
    for name in dict.fromkeys(row["config"] for row in rows):
        recipes[name] = [row for row in rows if row["config"] == name]
    return [row for found in recipes.values() for row in found]


def rows_of(name: str, folder: Path) -> list[dict[str, Any]]:
    """A row for each way of training in a recipe's folder, in the order of its config."""
    if not (folder / "config.json").exists():
        return []
    config = json.loads((folder / "config.json").read_text())
    environment = json.loads((folder / "environment.json").read_text())
    found = {run: _results(folder / "runs" / run) for run in config["runs"]}
    facts = {key: environment[key] for key in ("commit", "dirty")}
    return [
        {"config": name, "run": run, **_row(results, found.get(BASELINE, {})), **facts}
        for run, results in found.items()
        if results
    ]


def _results(folder: Path) -> dict[int, RunResult]:
    paths = sorted(folder.glob("seed_*/result.json"))
    return {result.seed: result for result in map(read_result, paths)}


def _row(results: Mapping[int, RunResult], baseline: Mapping[int, RunResult]) -> dict[str, Any]:
    first = next(iter(results.values()))
    row: dict[str, Any] = {
        "description": first.description,
        "model": first.model,
        "parameters": first.parameters,
        "steps": first.steps,
        "seeds": sorted(results),
    }
    for metric in METRICS:
        values = [r.metrics.get(metric) for r in results.values()]
        if None not in values:
            row[metric] = _mean_and_sd(values)
    row["seconds"] = _mean_and_sd([r.seconds for r in results.values()])
    paired = [seed for seed in results if seed in baseline]
    if paired and first.run not in (BASELINE, TEACHER):
        pairs = [(results[seed], baseline[seed]) for seed in paired]
        gains = _mean_and_sd([a.metrics["accuracy"] - b.metrics["accuracy"] for a, b in pairs])
        if "sd" in gains:
            gains["standard_error"] = gains["sd"] / len(paired) ** 0.5
        row["gain"] = gains
    return row


def _mean_and_sd(values: list[float]) -> dict[str, float]:
    mean = {"mean": statistics.fmean(values)}
    return mean | ({"sd": statistics.stdev(values)} if len(values) > 1 else {})


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as a table in Markdown."""
    head = ["recipe", "run", "seeds", "parameters", "accuracy, %", "gain over labels, points"]
    head += ["NLL", "ECE, %", "seconds", "commit"]
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for row in rows:
        gain = row.get("gain")
        cells = [row["config"], row["run"], len(row["seeds"]), f"{row['parameters']:,}"]
        cells += [_text(row.get("accuracy"), 100, ".2f"), _gain(gain)]
        cells += [_text(row.get("nll"), 1, ".3f"), _text(row.get("ece"), 100, ".1f")]
        cells += [_text(row["seconds"], 1, ".1f"), (row["commit"] or "–")[:8]]
        cells[-1] += "+" if row["dirty"] else ""
        lines.append(" | ".join(map(str, cells)))
    note = (
        "Mean ± standard deviation over seeds, on the test set; gains are paired by seed, "
        "± their standard error. A + marks a commit with local changes."
    )
    return "\n".join([*(f"| {line} |" for line in lines), "", note, ""])


def _text(value: Mapping[str, float] | None, scale: float, form: str) -> str:
    if not value:
        return "–"
    spread = f" ± {value['sd'] * scale:{form}}" if "sd" in value else ""
    return f"{value['mean'] * scale:{form}}{spread}"


def _gain(gain: Mapping[str, float] | None) -> str:
    if not gain:
        return "–"
    error = gain.get("standard_error")
    return f"{gain['mean'] * 100:+.2f}" + ("" if error is None else f" ± {error * 100:.2f}")


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


if __name__ == "__main__":
    main()
