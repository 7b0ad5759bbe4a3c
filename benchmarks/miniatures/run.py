"""Runs miniatures of papers' claims and says which of them came out.

    python benchmarks/miniatures/run.py                    # all of them
    python benchmarks/miniatures/run.py sla dhkd --seeds=5

Each is a file beside this one with a claim, the arms that the claim compares, and a function
`run(seed)` that trains them with the library itself and gives a number for each. What came out goes
to benchmarks/results/miniatures.{json,md}, where claims that are not named stay as they are.
`--gather` trains nothing: it judges the numbers that are there again.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.common import RESULTS, environment, heading  # noqa: E402
from benchmarks.miniatures.common import judge  # noqa: E402
from kdjax.train.files import write_atomic, write_json_atomic  # noqa: E402

NAMES = ("sla", "kd_oct", "dhkd", "off_nadir", "lad", "c_gac", "mst_distill")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--gather", action="store_true", help="train nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the tables")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(NAMES)):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(NAMES)}")
    path = options.results / "miniatures.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if options.gather and not found:
        parser.error(f"there is nothing to gather in {path}")
    for name in options.names or NAMES:
        miniature = importlib.import_module(f"benchmarks.miniatures.{name}")
        if not options.gather:
            found[name] = measured(name, miniature, range(options.seeds))
        elif name not in found:
            continue
        found[name] |= judged(miniature, found[name]["results"])
        write_json_atomic(path, {known: found[known] for known in NAMES if known in found})
        write_atomic(options.results / "miniatures.md", page(found))
    print(page(found))


def measured(name: str, miniature: Any, seeds: range) -> dict[str, Any]:
    """What a miniature gives for some seeds."""
    results, begun = {}, time.perf_counter()
    for seed in seeds:
        results[str(seed)] = miniature.run(seed)
        print(name, seed, results[str(seed)], file=sys.stderr, flush=True)
    seconds = round(time.perf_counter() - begun, 1)
    return {"results": results, "seconds": seconds, "environment": environment()}


def judged(miniature: Any, results: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The claim, and what the results say about it."""
    compared = [{"claim": str(pair), **judge(results, pair)} for pair in miniature.COMPARED]
    return {**miniature.CLAIM._asdict(), "compared": compared}


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """All that was measured, as a page."""
    known = [name for name in NAMES if name in found]
    latest = max((found[name]["environment"] for name in known), key=lambda where: where["date"])
    lines = heading("Miniatures of claims", "miniatures/run.py", latest)
    for name in known:
        lines += section(name, found[name])
    return "\n".join([*lines, NOTE, ""])


NOTE = """\
Mean ± standard deviation over seeds; differences are paired by seed, ± their standard error. A
claim is reproduced, or not, if Student's 95 percent interval of the difference lies on one side."""


def section(name: str, found: Mapping[str, Any]) -> list[str]:
    """One claim with its arms and comparisons."""
    results, where = found["results"], found["environment"]
    arms = next(iter(results.values()))
    paper = found["arxiv"]
    link = f" ([{paper}](https://arxiv.org/abs/{paper}))" if paper else ""
    return [
        f"**{found['title']}**{link}: {found['text']}. `{name}.py`, {len(results)} seeds, "
        f"{found['seconds']:.0f} s, commit {where['commit'][:8]}.",
        "",
        f"| arm | {found['measure']} |",
        "| --- | --- |",
        *(f"| {arm} | {spread([own[arm] for own in results.values()])} |" for arm in arms),
        "",
        "| claim | difference | came out |",
        "| --- | --- | --- |",
        *(
            f"| {pair['claim']} | {difference(pair)} | {pair['verdict']} |"
            for pair in found["compared"]
        ),
        "",
    ]


def spread(values: list[float]) -> str:
    """`'93.1 ± 0.4'`."""
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def difference(pair: Mapping[str, Any]) -> str:
    """`'+0.8 ± 0.2'`."""
    error = "" if pair["standard_error"] is None else f" ± {pair['standard_error']:.1f}"
    return f"{pair['difference']:+.1f}{error}"


if __name__ == "__main__":
    main()
