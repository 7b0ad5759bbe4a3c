"""What the fused divergence costs, against writing the logits out and against its matrix products.

    python benchmarks/fused_divergence.py
    python benchmarks/fused_divergence.py --tokens 4096 --vocabulary 131072 --width 256 --repeats 5

Measured are value and gradients (hidden states and kernel) of a Jensen-Shannon divergence between
two language-model heads: `naive` (whole logits, autodiff), `per_token` (logits recomputed in the
backward pass), `weighted_sum` (gradients in the forward pass) and `floor`, nothing but the four
matrix products of the gradient: student's logits, teacher's logits, hidden states', kernel's.
Results are written to benchmarks/results/fused_divergence-<device>.{json,md}.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp

from kdjax import distributions as D
from kdjax.distributions import blocks
from kdjax.losses import divergences

TERM = divergences.generalized_js_term
RESULTS = pathlib.Path(__file__).parent / "results"
MIB = 2**20


def naive(hidden, kernel, teacher_hidden, teacher_kernel, weights):
    logits = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
    target = jnp.matmul(teacher_hidden, teacher_kernel, preferred_element_type=jnp.float32)
    return jnp.sum(weights * divergences.evaluate(TERM, logits, target))


def per_token(hidden, kernel, teacher_hidden, teacher_kernel, weights):
    teacher = D.Linear(teacher_hidden, teacher_kernel)
    return jnp.sum(weights * D.evaluate(TERM, D.Linear(hidden, kernel), teacher))


def weighted_sum(hidden, kernel, teacher_hidden, teacher_kernel, weights):
    teacher = D.Linear(teacher_hidden, teacher_kernel)
    return D.evaluate_weighted_sum(TERM, D.Linear(hidden, kernel), teacher, weights)


def floor(hidden, kernel, teacher_hidden, teacher_kernel, weights):
    """The matrix products alone, in the chunks of the fused form."""
    chunk = blocks.automatic_chunk(len(hidden), kernel.shape[1])
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)

    def body(total, xs):
        own, teacher = xs
        mixed = product(own, kernel) + product(teacher, teacher_kernel)
        mixed = mixed.astype(hidden.dtype)
        return total + product(own.T, mixed), product(mixed, kernel.T)

    start = jnp.zeros(kernel.shape, jnp.float32)
    xs = {"own": hidden, "teacher": teacher_hidden}
    return blocks.walk(
        lambda c, x: body(c, (x["own"], x["teacher"])), start, xs, len(hidden), chunk
    )


def program(form):
    if form is floor:
        return jax.jit(floor)
    return jax.jit(jax.value_and_grad(form, argnums=(0, 1)))


FORMS = {"naive": naive, "per_token": per_token, "weighted_sum": weighted_sum, "floor": floor}


def arrays(tokens, vocabulary, width, dtype, *, abstract):
    shapes = ((tokens, width), (width, vocabulary)) * 2
    if abstract:
        weights = jax.ShapeDtypeStruct((tokens,), jnp.float32)
        return [*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes), weights]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    made = [
        (jax.random.normal(key, shape) * shape[0] ** -0.25).astype(dtype)
        for key, shape in zip(keys, shapes, strict=True)
    ]
    return [*made, jnp.full(tokens, 1 / tokens)]


def memory(form, *shape):
    """Temporary memory of the compiled program in MiB, gradients not counted."""
    compiled = program(form).lower(*arrays(*shape, abstract=True)).compile()
    return compiled.memory_analysis().temp_size_in_bytes / MIB


def times(forms, shape, repeats):
    """Median seconds of each form; the forms take turns, so that disturbances hit all alike.

    Forms that need more memory than there is are left out. Products of more than 2**28 tokens x
    classes are run once, without a run to warm up, unless on a GPU.
    """
    given = arrays(*shape, abstract=False)
    programs = {name: program(FORMS[name]).lower(*given).compile() for name in forms}
    for name in [name for name, run in programs.items() if needs(run) > 0.7 * available_mib()]:
        del programs[name]
    long = jax.default_backend() != "gpu" and shape[0] * shape[1] > 2**28
    repeats, warm_up = (1, 0) if long else (repeats, 1)
    seconds = {name: [] for name in programs}
    for repeat in range(repeats + warm_up):
        for name, run in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(run(*given))
            if repeat >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def needs(compiled):
    sizes = compiled.memory_analysis()
    return (sizes.temp_size_in_bytes + sizes.output_size_in_bytes) / MIB


def available_mib():
    """Memory of the accelerator, or what the host has free."""
    if jax.default_backend() == "gpu":
        return jax.devices()[0].memory_stats()["bytes_limit"] / MIB
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MIB


LIGER = """
import json, sys, time, torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
tokens, vocabulary, width, repeats = map(int, sys.argv[1:])
on = {'device': 'cuda', 'dtype': torch.bfloat16}
make = lambda *shape: torch.randn(*shape, **on) * shape[-1] ** -0.25
hidden = make(tokens, width).requires_grad_()
kernel = make(vocabulary, width).requires_grad_()
teacher, head = make(tokens, width), make(vocabulary, width)
labels = torch.zeros(tokens, dtype=torch.long, device='cuda')
loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0)
seconds = []
for repeat in range(repeats + 2):
    hidden.grad = kernel.grad = None
    torch.cuda.synchronize(); start = time.perf_counter()
    answer = loss(hidden, kernel, teacher, head, labels)
    (answer[0] if isinstance(answer, tuple) else answer).backward()
    torch.cuda.synchronize(); seconds.append(time.perf_counter() - start)
peak = torch.cuda.max_memory_allocated() / 2**20
print(json.dumps({'seconds': sorted(seconds[2:])[repeats // 2], 'peak_mib': peak}))
"""


def liger(tokens, vocabulary, width, repeats):
    """Liger's chunked loss on the same shapes in its own process, or why there is no number."""
    command = [sys.executable, "-c", LIGER, *map(str, (tokens, vocabulary, width, repeats))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:200]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def environment():
    git = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "commit": commit or "unknown",
        "date": time.strftime("%Y-%m-%d"),
    }


def table(headings, lines):
    text = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    text += ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    return "\n".join(text)


def milliseconds(seconds):
    return "too large" if seconds is None else f"{seconds * 1e3:.0f}"


def report(result):
    about = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    timed = [
        [
            *row["shape"],
            *(milliseconds(row["seconds"].get(name)) for name in FORMS),
            f"{row['seconds']['weighted_sum'] / row['seconds']['floor']:.2f}",
        ]
        for row in result["timed"]
    ]
    sized = [[*row["shape"], *(f"{x:.0f}" for x in row["mib"].values())] for row in result["sized"]]
    shape = ["tokens", "vocabulary", "width", "dtype"]
    forms = ["naive", "per_token", "weighted_sum"]
    return "\n\n".join(
        [
            "# Fused divergence: value and gradients",
            about + ".",
            "Milliseconds, median of paired repeats (more than 2^28 tokens x classes on a CPU: one "
            "run):",
            table([*shape, *FORMS, "weighted_sum / floor"], timed),
            "Temporary memory of the compiled program in MiB (inputs and gradients not counted):",
            table([*shape, *forms], sized),
            *(f"Liger {row['shape']}: {row['liger']}" for row in result["timed"] if "liger" in row),
        ]
    )


def arguments(gpu):
    numbers = functools.partial(dict, type=int, nargs="+")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--tokens", **numbers(default=[1024, 8192, 32768]))
    add("--vocabulary", **numbers(default=[128256] if gpu else [32768, 131072, 262144]))
    add("--width", **numbers(default=[4096] if gpu else [128]))
    add(
        "--largest", type=int, default=2**40 if gpu else 2**30, help="most tokens x classes to time"
    )
    add("--dtype", default="bfloat16" if gpu else "float32")
    add("--repeats", type=int, default=10 if gpu else 3)
    add("--sized_tokens", **numbers(default=[1024, 8192, 32768]))
    add("--sized_vocabulary", **numbers(default=[32768, 131072, 262144]))
    add("--out", type=pathlib.Path, default=RESULTS)
    return parser.parse_args()


def main():
    gpu = jax.default_backend() == "gpu"
    options = arguments(gpu)
    result = {"environment": environment(), "timed": [], "sized": []}
    width, dtype = options.width[0], options.dtype
    for tokens in options.sized_tokens:
        for vocabulary in options.sized_vocabulary:
            shape = (tokens, vocabulary, width, dtype)
            names = ("naive", "per_token", "weighted_sum")
            mib = {name: memory(FORMS[name], *shape) for name in names}
            result["sized"].append({"shape": shape, "mib": mib})
            print(*shape, *(f"{name} {x:.0f} MiB" for name, x in mib.items()), flush=True)
    for width in options.width:
        for vocabulary in options.vocabulary:
            for tokens in options.tokens:
                shape = (tokens, vocabulary, width, dtype)
                if tokens * vocabulary > options.largest:
                    continue
                row = {"shape": shape, "seconds": times(FORMS, shape, options.repeats)}
                if gpu:
                    row["liger"] = liger(tokens, vocabulary, width, options.repeats)
                result["timed"].append(row)
                print(*shape, row["seconds"], row.get("liger", ""), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"fused_divergence-{jax.default_backend()}"
    path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(report(result) + "\n")
    print(report(result))


if __name__ == "__main__":
    main()
