"""What `kdjax.train_step` costs over the same step written by hand, and `import kdjax` over jax.

    python benchmarks/step_overhead.py

Both programs do the same: forward passes of teacher and student, `T² KL`, gradient, an Adam update,
donated state. They take turns; each pair of turns gives a ratio of times, and the median over all
pairs is reported with its quartiles. Results go to benchmarks/results/step_overhead.{json,md}.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from common import environment

import kdjax

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
TEMPERATURE = 4.0
# name: (side of the image, student's hidden widths, teacher's, batch size)
SIZES = {
    "small": (8, (64, 64), (256, 256), 128),
    "medium": (28, (256, 256), (1024, 1024), 128),
    "large": (28, (1024, 1024), (2048, 2048), 256),
}
IMPORTS = """
import time
start = time.perf_counter()
import jax, flax, optax
between = time.perf_counter()
import kdjax
print(between - start, time.perf_counter() - between)
"""


def network(params: list, image: jax.Array) -> jax.Array:
    """A perceptron with ReLUs."""
    x = image.reshape(image.shape[0], -1)
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params[-1]["kernel"] + params[-1]["bias"]


def start(key: jax.Array, widths: tuple[int, ...]) -> list:
    """Parameters of a perceptron."""
    return [
        {
            "kernel": jax.random.normal(jax.random.fold_in(key, i), (a, b)) * a**-0.5,
            "bias": jnp.zeros(b),
        }
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    ]


def by_hand(optimizer: optax.GradientTransformation) -> Callable:
    """The step in plain JAX."""

    def loss_of(params, teacher, image):
        student_logits = network(params, image)
        teacher_logits = jax.lax.stop_gradient(network(teacher, image))
        log_q = jax.nn.log_softmax(student_logits / TEMPERATURE)
        log_p = jax.nn.log_softmax(teacher_logits / TEMPERATURE)
        divergence = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
        return TEMPERATURE**2 * jnp.mean(divergence)

    def step(state, batch, teacher):
        params, opt_state, number = state
        loss, gradient = jax.value_and_grad(loss_of)(params, teacher, batch["image"])
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, number + 1), {"loss": loss}

    return step


def seconds(step: Callable, state, batch, teacher, steps: int) -> tuple[float, object]:
    """Time of a number of steps in a row, and the state after them."""
    begin = time.perf_counter()
    for _ in range(steps):
        state, metrics = step(state, batch, teacher)
    jax.block_until_ready((state, metrics))
    return time.perf_counter() - begin, state


def cost(step: Callable, *arguments) -> dict[str, float]:
    """What the compiler says of a program: floating-point operations, and bytes touched."""
    compiled = jax.jit(step, donate_argnums=0).lower(*arguments).compile()
    analysis = compiled.cost_analysis()
    return {"flops": analysis["flops"], "bytes": analysis["bytes accessed"]}


def compare(side: int, student: tuple, teacher: tuple, batch_size: int, pairs: int) -> dict:
    """Both programs on one size of network."""
    key = jax.random.key(0)
    batch = {"image": jax.random.normal(key, (batch_size, side, side))}
    params = start(jax.random.fold_in(key, 1), (side * side, *student, 10))
    frozen = start(jax.random.fold_in(key, 2), (side * side, *teacher, 10))
    optimizer = optax.adam(1e-3)
    objective = kdjax.lift(kdjax.losses.kd, temperature=TEMPERATURE)

    plain = by_hand(optimizer)
    bare = kdjax.train_step(network, network, objective, optimizer, compile=None)
    ours = kdjax.train_step(network, network, objective, optimizer)

    def fresh():
        mine = jax.tree.map(jnp.copy, (params, optimizer.init(params), jnp.int32(0)))
        return mine, ours.init(params, frozen, batch)

    mine, theirs = fresh()
    costs = {
        "by_hand": cost(plain, mine, batch, frozen),
        "kdjax": cost(bare.step, theirs, batch, frozen),
    }
    compiled = jax.jit(plain, donate_argnums=0)
    _, mine = seconds(compiled, mine, batch, frozen, 20)
    _, theirs = seconds(ours.step, theirs, batch, frozen, 20)
    trained = theirs.players["student"].params["model"]
    gap = max(
        float(jnp.max(jnp.abs(a - b)))
        for a, b in zip(jax.tree.leaves(mine[0]), jax.tree.leaves(trained), strict=True)
    )
    once, mine = seconds(compiled, mine, batch, frozen, 10)
    steps = max(1, int(0.01 / (once / 10)))
    ratios, hand, lib = [], [], []
    for pair in range(pairs):
        for turn in (0, 1) if pair % 2 else (1, 0):
            if turn:
                took, theirs = seconds(ours.step, theirs, batch, frozen, steps)
                lib.append(took / steps)
            else:
                took, mine = seconds(compiled, mine, batch, frozen, steps)
                hand.append(took / steps)
        ratios.append(lib[-1] / hand[-1])
    quartiles = np.percentile(ratios, [25, 50, 75])
    return {
        "pairs": pairs,
        "steps_per_turn": steps,
        "microseconds_by_hand": 1e6 * statistics.median(hand),
        "microseconds_kdjax": 1e6 * statistics.median(lib),
        "ratio": {"median": quartiles[1], "quartiles": [quartiles[0], quartiles[2]]},
        "cost": costs,
        "flops_ratio": costs["kdjax"]["flops"] / costs["by_hand"]["flops"],
        "largest_difference_of_parameters_after_20_steps": gap,
    }


def import_times(runs: int) -> dict[str, object]:
    """Seconds that importing takes in fresh processes."""
    rows = []
    for _ in range(runs):
        answer = subprocess.run(
            [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, cwd=ROOT
        )
        rows.append([float(number) for number in answer.stdout.split()])
    base, more = zip(*rows, strict=True)
    return {
        "runs": runs,
        "jax_flax_optax_seconds": statistics.median(base),
        "kdjax_seconds": statistics.median(more),
        "kdjax_seconds_all": sorted(more),
    }


def page(results: dict) -> str:
    """The results as markdown."""
    where = results["environment"]
    lines = [
        "# Overhead of the train step",
        "",
        "Written by `python benchmarks/step_overhead.py`. "
        + ", ".join(f"{name} {value}" for name, value in where.items())
        + ".",
        "",
        "| size | by hand (µs) | kdjax (µs) | ratio, median (quartiles) | FLOPs | difference |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in results["sizes"].items():
        low, high = row["ratio"]["quartiles"]
        lines.append(
            f"| {name} | {row['microseconds_by_hand']:.0f} | {row['microseconds_kdjax']:.0f} "
            f"| {row['ratio']['median']:.3f} ({low:.3f} to {high:.3f}) | {row['flops_ratio']:.5f} "
            f"| {row['largest_difference_of_parameters_after_20_steps']:.1e} |"
        )
    times = results["imports"]
    lines += [
        "",
        "*FLOPs* is their ratio as the compiler counts them: kdjax guards its log-probabilities",
        "against masks and infinities, a few operations per logit. *Difference* is the largest one",
        "between any two parameters after 20 steps from the same start.",
        "",
        f"`import jax, flax, optax` takes {times['jax_flax_optax_seconds']:.2f} s, `import kdjax` "
        f"{times['kdjax_seconds']:.2f} s on top (medians of {times['runs']} fresh processes).",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=301, help="pairs of turns per size")
    parser.add_argument("--imports", type=int, default=5, help="fresh processes for import time")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args()
    results = {
        "environment": environment(flax, optax),
        "imports": import_times(options.imports),
        "sizes": {},
    }
    for name, size in SIZES.items():
        results["sizes"][name] = compare(*size, options.pairs)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "step_overhead.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.output / "step_overhead.md").write_text(page(results))
    print(page(results))


if __name__ == "__main__":
    main()
