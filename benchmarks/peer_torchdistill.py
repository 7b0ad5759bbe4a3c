"""The same distillation by kdjax and by torchdistill, in turns.

    python -m venv /path/of/peer
    /path/of/peer/bin/pip install torch==2.13.0
    /path/of/peer/bin/pip install --no-deps torchdistill
    /path/of/peer/bin/pip install numpy pillow pyyaml scipy
    python benchmarks/peer_torchdistill.py --peer=/path/of/peer/bin/python

A build of torch for the CPU is enough.

Both sides distil the same teacher into the same student, from the same first parameters, on the
same images with the same batch size, optimiser, schedule, temperature and weights of the loss. The
teacher answers at each step. kdjax runs its training loop, torchdistill its distillation box; each
shuffles the data itself. Results go to benchmarks/results/peer_torchdistill.{json,md}.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
import optax

import kdjax
from kdjax import losses, parallel
from kdjax.base import Algorithm, Variables
from kdjax.train import loop, measuring, networks, optimizers, splits

SCRIPT = Path(__file__).resolve().parent / "peers" / "torchdistill_fashion_mnist.py"
TEACHER_SPLIT, TEACHER_EPOCHS = "train[:20%]", 2
STUDENTS = {
    "perceptron, as in the recipe": {"name": "mlp", "features": (48,)},
    "convolutional": {"name": "convnet", "widths": (8, 16, 32)},
}
NEVER = 10**9


class Job:
    """One student of the comparison: the recipe with fewer epochs."""

    def __init__(self, setting: common.Setting, student: dict, teacher: Variables, epochs: int):
        self.options, self.teacher = student, teacher
        steps = setting.facts["steps_per_epoch"] * epochs
        config = setting.config
        self.epochs, self.steps, self.batch_size = epochs, steps, setting.batch_size
        optimizer = optimizers.build_optimizer("student.optimizer", config.student.optimizer, steps)
        model = networks.build_model("student.model", student, setting.facts)
        self.setting = setting._replace(
            student=model, optimizer=optimizer, facts={**setting.facts, "total_steps": steps}
        )
        self.algorithm = parallel.compile(self.setting.algorithm(setting.teacher))

    def start(self, seed: int) -> Any:
        """The first state of a run."""
        batch = self.setting.rows(self.setting.data.train)
        return self.algorithm.init(jax.random.key(seed), batch, {"teacher": self.teacher})

    def by_kdjax(self, seed: int) -> dict[str, float]:
        """One run of kdjax's loop."""
        begun, first = common.clocks(), None
        budget = loop.Budget(self.steps, self.setting.config.log_every, NEVER, NEVER)

        def step(state, batch, frozen):
            nonlocal first
            answer = self.algorithm.step(state, batch, frozen)
            if first is None:
                jax.block_until_ready(answer)
                first = common.clocks()
            return answer

        with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
            done = loop.fit(
                self.algorithm._replace(step=step),
                self.start(seed),
                splits.training_batches(self.setting.data.train, None, self.batch_size, seed),
                budget,
                Path(folder),
                frozen={"teacher": self.teacher},
                batch_size=self.batch_size,
            )
        jax.block_until_ready(done.state)
        seconds, computed = (common.clocks() - first) / ((self.steps - 1) * self.batch_size)
        return {
            "images_per_second": 1 / seconds,
            "processor_seconds_per_image": computed,
            "seconds_to_first_step": float((first - begun)[0]),
            "accuracy": self.accuracy(done.state.players["student"].variables),
        }

    def accuracy(self, variables: Variables) -> float:
        """On the test set."""
        logits = measuring.predict(self.setting.student, variables, self.setting.data.test, 1000)
        labels = measuring.labels_of(self.setting.data.test, 1000)
        return float((logits.argmax(-1) == labels).mean())

    def by_torchdistill(self, seed: int, peer: str) -> dict[str, float]:
        """One run of torchdistill, in a process of its own."""
        data, objective = self.setting.data, self.setting.config.objective
        optimizer = self.setting.config.student.optimizer
        job = {
            "seed": seed,
            "teacher": self.setting.config.teacher.model.to_dict(),
            "student": self.options,
            "epochs": self.epochs,
            "steps": self.steps,
            "batch_size": self.batch_size,
            "optimizer": optimizer.to_dict(),
            "temperature": objective.temperature,
            "weight": objective.weight,
            "label_weight": objective.label_weight,
        }
        test = data.test.arrays
        batch = {"image": jnp.asarray(test["image"][:100])}
        logits = self.setting.teacher.apply(self.teacher, batch)[0]["logits"]
        arrays = {
            "job": json.dumps(job),
            "train_image": data.train.arrays["image"],
            "train_label": data.train.arrays["label"],
            "test_image": test["image"],
            "test_label": test["label"],
            "test_logits": np.asarray(logits),
            **flat("teacher/", self.teacher),
            **flat("student/", self.start(seed).players["student"].variables),
        }
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / "job.npz", Path(folder) / "answer.json"]
            np.savez(files[0], **arrays)
            done = subprocess.run([peer, SCRIPT, *files], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{SCRIPT.name} failed: {done.stderr[-2000:]}")
            return json.loads(files[1].read_text())


def flat(prefix: str, variables: Variables) -> dict[str, np.ndarray]:
    """Variables as arrays by path."""
    return {
        prefix + jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    }


def trained_teacher(setting: common.Setting) -> Variables:
    """The recipe's teacher, trained for less long."""
    train = kdjax.data.load(setting.config.data.name, TEACHER_SPLIT)
    steps = train.size // setting.batch_size * TEACHER_EPOCHS
    optimizer = optimizers.build_optimizer(
        "teacher.optimizer", setting.config.teacher.optimizer, steps
    )
    algorithm: Algorithm = parallel.compile(
        kdjax.algorithms.distill(setting.teacher, None, kdjax.lift(losses.cross_entropy), optimizer)
    )
    batches = kdjax.data.prefetch_to_device(
        splits.training_batches(train, None, setting.batch_size, 0)
    )
    state = algorithm.init(jax.random.key(0), setting.rows(train))
    for _ in range(steps):
        state, _ = algorithm.step(state, next(batches), {})
    return state.players["student"].variables


def compare(job: Job, peer: str, seeds: int) -> dict[str, Any]:
    """Both sides in turns, a run per seed."""
    ours, theirs = [], []
    for seed in range(seeds):
        for turn in (0, 1) if seed % 2 else (1, 0):
            if turn:
                ours.append(job.by_kdjax(seed))
            else:
                theirs.append(job.by_torchdistill(seed, peer))
    rates = [[run["images_per_second"] for run in runs] for runs in (ours, theirs)]
    computed = [[run["processor_seconds_per_image"] for run in runs] for runs in (ours, theirs)]
    return {
        "student": job.options,
        "seeds": seeds,
        "epochs": job.epochs,
        "steps": job.steps,
        "kdjax": ours,
        "torchdistill": theirs,
        "images_per_second": [float(np.median(rate)) for rate in rates],
        "ratio": common.median_and_quartiles([a / b for a, b in zip(*rates, strict=True)]),
        "processor_microseconds_per_image": [1e6 * float(np.median(c)) for c in computed],
        "accuracy": [
            [float(np.mean(values)), float(np.std(values, ddof=1))]
            for values in ([run["accuracy"] for run in runs] for runs in (ours, theirs))
        ],
        "load": os.getloadavg()[0],
    }


def page(results: dict) -> str:
    """The results as markdown."""
    lines = common.heading("kdjax and torchdistill", "peer_torchdistill.py", results["environment"])
    lines += [
        "| student | kdjax (images/s) | torchdistill (images/s) | ratio, median (quartiles) "
        "| processor time per image (µs), kdjax and torchdistill "
        "| accuracy, kdjax | accuracy, torchdistill | load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in results["students"].items():
        ours, theirs = row["images_per_second"]
        marks = [f"{100 * mean:.2f} ± {100 * sd:.2f}" for mean, sd in row["accuracy"]]
        lines.append(
            f"| {name} | {ours:.0f} | {theirs:.0f} | {common.in_words(row['ratio'], '.2f')} "
            f"| {' and '.join(f'{us:.0f}' for us in row['processor_microseconds_per_image'])} "
            f"| {' | '.join(marks)} | {row['load']:.1f} |"
        )
    rows = list(results["students"].values())
    gap = max(run["teacher_gap"] for row in rows for run in row["torchdistill"])
    compiling = ", ".join(
        f"{max(r['seconds_to_first_step'] for r in row['kdjax']):.1f}" for row in rows
    )
    lines += [
        "",
        f"Runs of {rows[0]['steps']} steps of {results['batch_size']} images, {rows[0]['seeds']} "
        "seeds, in turns. The teacher (convolutional,",
        f"accuracy {100 * results['teacher_accuracy']:.1f} %) is the same in both: its logits "
        f"differ by at most {gap:.0e}. The first step is left out",
        f"of the rates; in kdjax's first run it compiles, which takes up to {compiling} s.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", required=True, help="a Python with torch and torchdistill")
    parser.add_argument("--seeds", type=int, default=3, help="pairs of runs per student")
    parser.add_argument("--epochs", type=int, default=4, help="of each run")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="folder of the results")
    options = parser.parse_args()
    setting = common.setting()
    teacher = trained_teacher(setting)
    jobs = {n: Job(setting, s, teacher, options.epochs) for n, s in STUDENTS.items()}
    logits = measuring.predict(setting.teacher, teacher, setting.data.test, 1000)
    labels = measuring.labels_of(setting.data.test, 1000)
    results: dict[str, Any] = {
        "environment": common.environment(optax),
        "batch_size": setting.batch_size,
        "teacher_accuracy": float((logits.argmax(-1) == labels).mean()),
        "students": {},
    }
    for name, job in jobs.items():
        results["students"][name] = compare(job, options.peer, options.seeds)
        print(name, results["students"][name]["images_per_second"], file=sys.stderr, flush=True)
    first = next(iter(results["students"].values()))["torchdistill"][0]
    results["environment"] |= {name: first[name] for name in ("torch", "torchdistill")}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "peer_torchdistill.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.output / "peer_torchdistill.md").write_text(page(results))
    print(page(results))


if __name__ == "__main__":
    main()
