"""What one step over each kind of mesh keeps, sends, and changes in the numbers.

    python benchmarks/mesh_forms.py

A student and a teacher with two layers and a head of 4,096 classes learn by KD with labels for five
steps, on one device and over meshes of eight simulated ones. Shown are the bytes of the state per
device, the collectives of the compiled step with the bytes of their answers, and the largest
relative difference of loss and parameters to one device. Results are written to
benchmarks/results/mesh_forms.{json,md}.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import optax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "parallel"))
from common import environment
from test_compiled import HEADS, LENGTH, ROWS, VOCABULARY, collectives, network

import kdjax
from kdjax import algorithms, losses, objectives, parallel

RESULTS = pathlib.Path(__file__).parent / "results"
STEPS = 5
BOTH = parallel.Rules(
    (
        ("head", parallel.P("fsdp", "tensor")),
        ("up", parallel.P("fsdp", "tensor")),
        ("down", parallel.P("tensor", "fsdp")),
    )
)
FORMS = {
    "data 8": ((8, 1, 1), None, False),
    "fsdp 8": ((1, 8, 1), None, False),
    "data 2, tensor 4": ((2, 1, 4), HEADS, False),
    "data 2, fsdp 2, tensor 2": ((2, 2, 2), BOTH, False),
    "data 2, fsdp 2, tensor 2, explicit": ((2, 2, 2), BOTH, True),
}


def problem():
    objective = objectives.with_labels(
        kdjax.lift(losses.kd), kdjax.lift(losses.cross_entropy), weight=0.9, label_weight=0.1
    )
    return algorithms.distill(network(32), network(64), objective, optax.adam(1e-3))


def batch(step):
    key = jax.random.fold_in(jax.random.key(7), step)
    return {
        "image": np.asarray(jax.random.normal(key, (ROWS, LENGTH, 64))),
        "label": np.asarray(jax.random.randint(key, (ROWS, LENGTH), 0, VOCABULARY)),
    }


def train(compiled, frozen):
    state, history = compiled.init(jax.random.key(0), batch(0), frozen), []
    for step in range(STEPS):
        state, metrics = compiled.step(state, batch(step), frozen)
        history.append(float(metrics["loss"]))
    return state, history


def difference(a, b):
    """The largest difference, relative to the largest entry of each array."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(
        float(np.max(np.abs(np.asarray(x) - np.asarray(y))) / np.max(np.abs(np.asarray(y))))
        for x, y in pairs
    )


def sent(layout, state, frozen):
    """Collectives of the compiled step: number and bytes (float32) by kind."""
    given = state, layout.place_batch(batch(0)), parallel.place(frozen, layout.frozen(frozen))
    text = parallel.mesh_step(problem(), layout).lower(*given).compile().as_text()
    found = {}
    for kind, shapes in collectives(text):
        number, size = found.get(kind, (0, 0))
        found[kind] = number + 1, size + 4 * sum(int(np.prod(shape)) for shape in shapes)
    return found


def main():
    frozen = {"teacher": network(64).init(jax.random.key(1), batch(0))}
    expected_state, expected = train(parallel.compile(problem()), frozen)
    rows = []
    for name, (sizes, rules, explicit) in FORMS.items():
        mesh = parallel.make_mesh(*sizes, explicit=explicit)
        state, history = train(parallel.compile(problem(), mesh=mesh, rules=rules), frozen)
        held = sum(
            leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.players)
        )
        rows.append(
            {
                "form": name,
                "state_bytes_per_device": held,
                "collectives": sent(parallel.Layout(mesh, rules), state, frozen),
                "loss_difference": difference(history, expected),
                "parameter_difference": difference(
                    state.players["student"].params, expected_state.players["student"].params
                ),
            }
        )
        print(rows[-1], flush=True)
    result = {"environment": environment(), "steps": STEPS, "rows": rows}
    path = RESULTS / "mesh_forms"
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(report(result))


def report(result):
    about = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    lines = [
        [
            row["form"],
            f"{row['state_bytes_per_device'] / 1024:.0f} KiB",
            ", ".join(
                f"{number} {kind} ({size / 1024:.0f} KiB)"
                for kind, (number, size) in sorted(row["collectives"].items())
            ),
            f"{row['loss_difference']:.0e}",
            f"{row['parameter_difference']:.0e}",
        ]
        for row in result["rows"]
    ]
    headings = ["mesh", "state per device", "collectives of a step", "loss", "parameters"]
    table = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    table += ["| " + " | ".join(line) + " |" for line in lines]
    return (
        f"Five steps over eight simulated devices ({about}; `benchmarks/mesh_forms.py`). The last "
        "two columns are the largest relative differences to one device.\n\n"
        + "\n".join(table)
        + "\n"
    )


if __name__ == "__main__":
    main()
