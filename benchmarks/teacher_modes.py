"""Three ways to ask a frozen teacher: at each step, once per epoch, or once for all from disk.

    python benchmarks/teacher_modes.py

All train the student of `configs/fashion_mnist/kd.py` from the same start on the same batches:

- `online`: the teacher runs inside each step;
- `per epoch`: its logits of all images are computed at the start of each epoch and read from
  memory;
- `cached`: they are computed once, written with `write_teacher_cache` and read with the batch.

Without augmentation the three minimise the same function; the largest difference between their
parameters says how far rounding takes them apart. Results go to
benchmarks/results/teacher_modes.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np

from kdjax import data, models, parallel
from kdjax.base import Algorithm, TrainState
from kdjax.train import measuring, splits

MODES = ("online", "per epoch", "cached float32", "cached float16")


class Race:
    """The recipe's student, trained for a few epochs in any of the modes."""

    def __init__(self, setting: common.Setting, epochs: int):
        self.setting, self.epochs = setting, epochs
        self.steps = setting.facts["steps_per_epoch"] * epochs
        self.frozen = {"teacher": setting.teacher_variables}
        self.online = parallel.compile(setting.algorithm(setting.teacher))
        stored = models.from_batch({"logits": splits.CACHE})
        self.stored = parallel.compile(setting.algorithm(stored))
        batch = setting.rows(setting.data.train)
        self.first = self.online.init(jax.random.key(0), batch, self.frozen)

    def run(self, mode: str, folder: Path) -> dict[str, Any]:
        """One run: seconds for the teacher's answers outside of the steps, and for the steps."""
        train, made = self.setting.data.train, 0.0
        state = jax.tree.map(lambda leaf: leaf.copy(), self.first)
        begun = time.perf_counter()
        if mode == "online":
            state = self.go(self.online, state, self.batches(train), self.steps, self.frozen)
        elif mode == "per epoch":
            state, made = self.per_epoch(state)
        else:
            cache = data.write_teacher_cache(
                folder,
                train,
                self.setting.teacher,
                self.setting.teacher_variables,
                keep=data.KeepSignals(dtype=mode.removeprefix("cached ")),
                batch_size=self.setting.config.data.eval_batch_size,
            )
            made = time.perf_counter() - begun
            state = self.go(self.stored, state, self.batches(train, cache.join), self.steps, {})
        whole = time.perf_counter() - begun
        answer = {"seconds_teacher": made, "seconds_steps": whole - made, "state": state}
        if mode.startswith("cached"):
            answer["bytes_per_example"] = cache.bytes_per_example
        return answer

    def batches(self, train: data.Dataset, preprocess: Callable | None = None) -> Iterator:
        """The same batches in all modes."""
        size = self.setting.batch_size
        return data.prefetch_to_device(
            data.batches(train, batch_size=size, seed=0, prefetch=0, preprocess=preprocess)
        )

    def per_epoch(self, state: TrainState) -> tuple[TrainState, float]:
        """Asks the teacher anew at the start of each epoch."""
        train, made = self.setting.data.train, 0.0
        logits = np.zeros((train.size, train.num_classes), np.float32)

        def join(batch: dict) -> dict:
            return {**batch, splits.CACHE: logits[batch["id"]]}

        batches = self.batches(train, join)
        for _ in range(self.epochs):
            begun = time.perf_counter()
            logits[:] = measuring.predict(
                self.setting.teacher,
                self.setting.teacher_variables,
                train,
                self.setting.config.data.eval_batch_size,
            )
            batches.set_state(batches.get_state())  # what was read ahead has the old answers
            made += time.perf_counter() - begun
            state = self.go(self.stored, state, batches, self.steps // self.epochs, {})
        return state, made

    @staticmethod
    def go(
        algorithm: Algorithm, state: TrainState, batches: Iterator, steps: int, frozen: dict
    ) -> TrainState:
        """Some steps."""
        for _ in range(steps):
            state, _ = algorithm.step(state, next(batches), frozen)
        return jax.block_until_ready(state)


def compare(race: Race, rounds: int) -> dict[str, Any]:
    """All modes in turns, in another order each time."""
    runs: dict[str, list] = {mode: [] for mode in MODES}
    for number in range(-1, rounds):
        for place in range(len(MODES)):
            mode = MODES[(place + number) % len(MODES)]
            with tempfile.TemporaryDirectory() as folder:
                answer = race.run(mode, Path(folder))
            if number >= 0:  # the first round compiles
                runs[mode].append(answer)
    online = runs["online"]
    return {mode: summary(race, mode, runs[mode], online) for mode in MODES}


def summary(race: Race, mode: str, runs: list[dict], online: list[dict]) -> dict[str, Any]:
    """What the runs of a mode come to."""
    parts = ("seconds_teacher", "seconds_steps")
    teacher, steps = (float(np.median([run[part] for run in runs])) for part in parts)
    whole = [[sum(run[part] for part in parts) for run in side] for side in (online, runs)]
    start = race.first.players["student"].params
    wanted, found = (side[-1]["state"].players["student"].params for side in (online, runs))
    return {
        "steps_per_second": race.steps / steps,
        "seconds_teacher": teacher,
        "steps_per_second_with_teacher": race.steps / (teacher + steps),
        "speed_over_online": common.median_and_quartiles(
            [a / b for a, b in zip(*whole, strict=True)]
        ),
        "bytes_per_example": runs[-1].get("bytes_per_example"),
        "bitwise_like_online": all(
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True)
        ),
        "relative_difference": distance(wanted, found) / distance(wanted, start),
    }


def distance(one: Any, other: Any) -> float:
    """The Euclidean distance between two trees of parameters."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return float(np.sqrt(sum(np.sum((np.asarray(a) - np.asarray(b)) ** 2) for a, b in pairs)))


def page(results: dict) -> str:
    """The results as markdown."""
    lines = common.heading("Ways to ask the teacher", "teacher_modes.py", results["environment"])
    lines += [
        "| teacher | steps/s | teacher's answers (s) | steps/s with these | speed over online "
        "(quartiles) | bytes per example | difference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for mode, row in results["modes"].items():
        stored = row["bytes_per_example"]
        same = "none, bit for bit" if row["bitwise_like_online"] else ""
        lines.append(
            f"| {mode} | {row['steps_per_second']:.1f} | {row['seconds_teacher']:.2f} "
            f"| {row['steps_per_second_with_teacher']:.1f} "
            f"| {common.in_words(row['speed_over_online'], '.2f')} "
            f"| {'' if stored is None else f'{stored:.1f}'} "
            f"| {same or format(row['relative_difference'], '.1e')} |"
        )
    lines += [
        "",
        f"{results['rounds']} runs each, in turns, of {results['epochs']} epochs "
        f"({results['steps']} steps of {results['batch_size']} images, {results['examples']} "
        "examples).",
        "*Teacher's answers* is the time for them outside the steps, over the whole run. A cache",
        "is written once: more epochs or more students do not add to it; compiling the teacher is",
        "in its time. *Bytes per example* are those on disk, with checksums and what the file",
        "format adds. *Difference* is the distance between the student's parameters and those of",
        "the online run, as a share of the distance that these moved from their start.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="runs of each mode")
    parser.add_argument("--epochs", type=int, default=4, help="of each run")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="folder of the results")
    options = parser.parse_args()
    setting = common.setting()
    race = Race(setting, options.epochs)
    results = {
        "environment": common.environment(),
        "rounds": options.rounds,
        "epochs": options.epochs,
        "steps": race.steps,
        "batch_size": setting.batch_size,
        "examples": setting.data.train.size,
        "modes": compare(race, options.rounds),
        "load_at_the_end": os.getloadavg()[0],
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "teacher_modes.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.output / "teacher_modes.md").write_text(page(results))
    print(page(results))


if __name__ == "__main__":
    main()
