"""Kills a training job again and again; is what it ends with what an undisturbed one ends with?

    python benchmarks/kill_resume.py --kills=200

A job that trains a teacher and a student on digits is killed with SIGKILL at drawn instants: while
it starts, while it trains, while a checkpoint is saved, while the report is written. It is started
again each time. In the end every array of the last checkpoints, `metrics.jsonl` and `result.json`
(without times) are compared with those of a job that nobody killed. Results go to
benchmarks/results/kill_resume.{json,md}.
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import optax
import orbax.checkpoint
from common import environment

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faults")]

import killing  # noqa: E402

WORDS = {
    "start": "while it starts",
    "step": "while it trains",
    "save": "while a checkpoint is saved",
    "report": "while the report is written",
}
EPOCHS_PER_KILL = 0.1
"""Long enough that the job is still training when the last kill but those of the report comes."""


def measure(kills: int, seed: int, folder: Path) -> dict:
    """Kills one job, leaves another one alone, and compares them."""
    epochs = max(5.0, kills * EPOCHS_PER_KILL)
    flags = [f"--config.{role}.epochs={epochs}" for role in ("teacher", "student")]
    quiet, killed = (killing.job(folder / name, *flags) for name in ("quiet", "killed"))
    (alone,) = killing.torment(quiet, 0, seed, folder / "quiet.log")
    if alone.ended != "finished":
        raise RuntimeError(f"the undisturbed job {alone.ended}: {alone.error}")
    begun, lives = time.monotonic(), []
    for life in killing.torment(killed, kills, seed, folder / "killed.log"):
        lives.append(life)
        print(len(lives), life.kind, life.ended, f"{life.seconds:.1f} s", flush=True)
    finished = lives[-1].kind == "none" and lives[-1].ended == "finished"
    hit = [life for life in lives if life.ended == "killed"]
    return {
        "kills": len(hit),
        "kills_by_instant": dict(collections.Counter(life.kind for life in hit)),
        "kills_with_a_save_under_way": sum(life.saving for life in hit),
        "starts": len(lives),
        "failed_starts": [life.error for life in lives if life.ended == "failed"],
        "seconds": time.monotonic() - begun,
        "seconds_undisturbed": alone.seconds,
        "median_seconds_of_a_life": statistics.median(life.seconds for life in lives),
        "epochs": epochs,
        "finished": finished,
        "differences": killing.differences(killed.workdir, quiet.workdir) if finished else None,
    }


def page(results: dict) -> str:
    """The results as markdown."""
    where = ", ".join(f"{name} {value}" for name, value in results["environment"].items())
    rows = [f"| {WORDS[kind]} | {results['kills_by_instant'].get(kind, 0)} |" for kind in WORDS]
    if not results["finished"]:
        outcome = "The job did not end as planned."
    elif results["differences"]:
        outcome = f"Not the same: {', '.join(results['differences'])}."
    else:
        outcome = (
            "All arrays of the last checkpoints, `metrics.jsonl` and `result.json` are the same, "
            "bit by bit."
        )
    return "\n".join(
        [
            "# Killed and started again",
            "",
            f"Written by `python benchmarks/kill_resume.py --kills={results['asked']} "
            f"--seed={results['seed']}`. {where}.",
            "",
            "| killed | times |",
            "| --- | --- |",
            *rows,
            f"| in all | {results['kills']} |",
            "",
            f"A save was under way at {results['kills_with_a_save_under_way']} of them. "
            f"The job was started {results['starts']} times in {results['seconds']:.0f} s, and "
            f"failed to start {len(results['failed_starts'])} times; alone it takes "
            f"{results['seconds_undisturbed']:.0f} s. {outcome}",
            "",
        ]
    )


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how often the job is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    where = environment(optax, orbax.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(options.kills, options.seed, Path(folder))
    results = {
        "environment": where,
        "asked": options.kills,
        "seed": options.seed,
        **measured,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "kill_resume.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.output / "kill_resume.md").write_text(page(results))
    print(page(results))


if __name__ == "__main__":
    main()
