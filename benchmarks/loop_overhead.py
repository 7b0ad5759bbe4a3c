"""What the training loop costs over its compiled step.

    python benchmarks/loop_overhead.py

Both sides run the compiled step of `configs/fashion_mnist/kd.py`. One calls it in a Python loop on
batches that lie on the device already. The other is `kdjax.train.loop.fit` as in a run: data on the
device as the recipe has them, or batches read and moved ahead; metrics, progress, checkpoints. They
take turns; each pair of turns gives a ratio of steps per second. Results go to
benchmarks/results/loop_overhead.{json,md}.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import numpy as np

from kdjax import data, models, parallel
from kdjax.base import Algorithm
from kdjax.data import Dataset
from kdjax.train import loop, measuring, splits

WARM = 10
"""Steps of a turn that are not counted: they fill queues and caches."""


class Case(NamedTuple):
    """A compiled step with its data, and how a turn of the loop looks."""

    algorithm: Algorithm
    frozen: dict[str, Any]
    train: Dataset
    budget: loop.Budget
    on_device: bool = False


def cases(setting: common.Setting) -> dict[str, Case]:
    """The recipe as it is, with batches from the host, by single steps; and with its teacher."""
    config = setting.config
    logits = measuring.predict(
        setting.teacher, setting.teacher_variables, setting.data.train, config.data.eval_batch_size
    )
    cached = splits.with_column(setting.data.train, splits.CACHE, logits)
    stored = models.from_batch({"logits": splits.CACHE})
    single = loop.Budget(2300, config.log_every, 200, config.checkpoint.every_steps)
    several = single._replace(steps_per_call=config.student.steps_per_call)
    often = loop.Budget(60, 20, 20, 50)
    cheap = Case(parallel.compile(setting.algorithm(stored)), {}, cached, several)
    calls = f"{several.steps_per_call} steps per call"
    return {
        f"cached logits, {calls}, data on the device": cheap._replace(on_device=True),
        f"cached logits, {calls}": cheap,
        "cached logits, 1 step per call, data on the device": cheap._replace(
            budget=single, on_device=True
        ),
        "cached logits, 1 step per call": cheap._replace(budget=single),
        "online teacher": Case(
            parallel.compile(setting.algorithm(setting.teacher)),
            {"teacher": setting.teacher_variables},
            setting.data.train,
            often,
        ),
    }


def bare(case: Case, state: Any, batches: list) -> np.ndarray:
    """Seconds and processor seconds per step of the compiled step alone."""
    steps = case.budget.steps
    for batch in itertools.islice(itertools.cycle(batches), WARM):
        state, _ = case.algorithm.step(state, batch, case.frozen)
    jax.block_until_ready(state)
    begun = common.clocks()
    for batch in itertools.islice(itertools.cycle(batches), steps - WARM):
        state, metrics = case.algorithm.step(state, batch, case.frozen)
    jax.block_until_ready((state, metrics))
    return (common.clocks() - begun) / (steps - WARM)


def looped(case: Case, state: Any, batch_size: int) -> tuple[np.ndarray, float]:
    """The same of the loop, and seconds that a run takes besides: opening and closing."""
    begun, looks = common.clocks(), []
    train, frozen = case.train, dict(case.frozen)
    if case.on_device:
        frozen[data.COLUMNS], train = data.on_device(case.train)

    def evaluate(state):  # after the warm steps, and after the last row of metrics
        jax.block_until_ready(state)
        looks.append((int(state.step), common.clocks()))
        return {}

    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        loop.fit(
            case.algorithm,
            state,
            splits.training_batches(train, None, batch_size, 0),
            case.budget,
            Path(folder),
            frozen=frozen,
            evaluate=evaluate,
            description="loop",
            batch_size=batch_size,
        )
    (first, begin), *_, (last, end) = looks
    whole, step = common.clocks() - begun, (end - begin) / (last - first)
    return step, float(whole[0] - step[0] * case.budget.steps)


def compare(case: Case, batch_size: int, pairs: int) -> dict[str, Any]:
    """Both sides in turns."""
    source = data.prefetch_to_device(splits.training_batches(case.train, None, batch_size, 0))
    batches = [next(source) for _ in range(case.train.size // batch_size)]

    def state():
        return jax.block_until_ready(
            case.algorithm.init(jax.random.key(0), batches[0], case.frozen)
        )

    alone, inside, besides = [], [], []
    for pair in range(-1, pairs):
        for turn in (0, 1) if pair % 2 else (1, 0):
            if turn:
                alone.append(bare(case, state(), batches))
            else:
                seconds, rest = looped(case, state(), batch_size)
                inside.append(seconds)
                besides.append(rest)
    # The first pair compiles.
    alone, inside = np.array(alone[1:]), np.array(inside[1:])
    ratios = (alone / inside).T
    return {
        "pairs": pairs,
        "steps_per_turn": case.budget.steps,
        "log_every": case.budget.log_every,
        "save_every": case.budget.save_every,
        "steps_per_second_bare": 1 / float(np.median(alone[:, 0])),
        "steps_per_second_loop": 1 / float(np.median(inside[:, 0])),
        "ratio": common.median_and_quartiles(ratios[0].tolist()),
        "processor_microseconds_bare": 1e6 * float(np.median(alone[:, 1])),
        "processor_microseconds_loop": 1e6 * float(np.median(inside[:, 1])),
        "processor_ratio": common.median_and_quartiles(ratios[1].tolist()),
        "seconds_of_a_run_besides": float(np.median(besides[1:])),
        "load": os.getloadavg()[0],
    }


def page(results: dict) -> str:
    """The results as markdown."""
    lines = common.heading(
        "Overhead of the training loop", "loop_overhead.py", results["environment"]
    )
    lines += [
        "| step | bare (steps/s) | loop (steps/s) | ratio, median (quartiles) "
        "| processor time (µs), bare and loop | ratio | pairs | load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in results["cases"].items():
        lines.append(
            f"| {name} | {row['steps_per_second_bare']:.1f} | {row['steps_per_second_loop']:.1f} "
            f"| {common.in_words(row['ratio'])} | {row['processor_microseconds_bare']:.0f} and "
            f"{row['processor_microseconds_loop']:.0f} | {common.in_words(row['processor_ratio'])} "
            f"| {row['pairs']} of {row['steps_per_turn']} steps | {row['load']:.1f} |"
        )
    rows = results["cases"].values()
    besides = " and ".join(f"{row['seconds_of_a_run_besides']:.2f}" for row in rows)
    lines += [
        "",
        "The loop reads and moves batches, writes metrics, shows progress and saves checkpoints in",
        "the time that is counted. Not counted is what a run needs besides, to open and close its",
        f"files, to start and to save its last checkpoint: {besides} s. Processor time is that of",
        "all threads per step; other programs on the machine touch it less than they do the rates.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cached-pairs", type=int, default=15, help="pairs with cached logits")
    parser.add_argument("--online-pairs", type=int, default=9, help="pairs with the teacher")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="folder of the results")
    options = parser.parse_args()
    setting = common.setting()
    results = {"environment": common.environment(), "cases": {}}
    for name, case in cases(setting).items():
        pairs = options.online_pairs if case.frozen else options.cached_pairs
        results["cases"][name] = compare(case, setting.batch_size, pairs)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "loop_overhead.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.output / "loop_overhead.md").write_text(page(results))
    print(page(results))


if __name__ == "__main__":
    main()
