"""What the zoo's own ways to convolve and to halve images gain on a CPU.

    python benchmarks/cpu_layers.py

Each layer is run forward, and forward and backward, in the way of `kdjax.models` and in flax's, in
turns; results go to benchmarks/results/cpu_layers.{json,md}. Read them off a machine without an
accelerator: elsewhere convolutions are XLA's in both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
from flax import linen as nn

from kdjax.models import _layers

BATCH = 256


class Layer(NamedTuple):
    """A layer in both ways, on images of some shape."""

    name: str
    shape: tuple[int, int, int]
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    variables: Any


def convolution(size: int, channels: int, width: int) -> Layer:
    """3x3 pixels."""
    ours, theirs = (
        nn.Conv(width, (3, 3), use_bias=False, conv_general_dilated=by)
        for by in (_layers._convolve, None)
    )
    shape = (size, size, channels)
    variables = theirs.init(jax.random.key(0), jnp.zeros((1, *shape)))
    return Layer(f"convolution to {width} channels", shape, ours.apply, theirs.apply, variables)


def halving(size: int, channels: int) -> Layer:
    """The largest of 2x2 pixels."""
    pool = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2), padding="SAME")
    return Layer(
        "largest of 2x2 pixels",
        (size, size, channels),
        lambda _, x: _layers.halve(x),
        lambda _, x: pool(x),
        {},
    )


LAYERS = (
    convolution(2, 128, 256),
    convolution(4, 64, 128),
    convolution(7, 32, 64),
    convolution(28, 1, 16),
    halving(28, 16),
    halving(14, 32),
)


def compare(layer: Layer, pairs: int) -> dict[str, Any]:
    """Milliseconds of both ways, and how many times as long flax's takes."""
    x = jax.random.normal(jax.random.key(1), (BATCH, *layer.shape))
    found = {"layer": layer.name, "shape": layer.shape}
    for what, whole in (("forward", False), ("forward and backward", True)):
        ways = [_compiled(way, whole) for way in (layer.ours, layer.theirs)]
        times = [[_seconds(way, layer.variables, x) for way in ways] for _ in range(pairs + 1)][1:]
        ours, theirs = zip(*times, strict=True)
        found[what] = {
            "ours_ms": 1e3 * common.median_and_quartiles(list(ours))["median"],
            "theirs_ms": 1e3 * common.median_and_quartiles(list(theirs))["median"],
            "ratio": common.median_and_quartiles([b / a for a, b in times]),
        }
    return found


def _compiled(way: Callable[..., Any], whole: bool) -> Callable[..., Any]:
    if not whole:
        return jax.jit(way)
    return jax.jit(jax.grad(lambda variables, x: jnp.sum(way(variables, x) ** 2), (0, 1)))


def _seconds(way: Callable[..., Any], *args: Any) -> float:
    begun = time.perf_counter()
    jax.block_until_ready(way(*args))
    return time.perf_counter() - begun


def page(results: dict) -> str:
    """The results as markdown."""
    lines = common.heading("Layers on a CPU", "cpu_layers.py", results["environment"])
    lines += [
        "| layer | image | pass | kdjax (ms) | flax (ms) | flax over kdjax (quartiles) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["layers"]:
        image = "x".join(map(str, row["shape"]))
        for what in ("forward", "forward and backward"):
            found = row[what]
            lines.append(
                f"| {row['layer']} | {image} | {what} | {found['ours_ms']:.2f} | "
                f"{found['theirs_ms']:.2f} | {common.in_words(found['ratio'], '.1f')} |"
            )
    return "\n".join([*lines, "", f"Batches of {BATCH} images, {results['pairs']} turns.", ""])


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15, help="turns of both ways")
    parser.add_argument("--output", type=Path, default=common.RESULTS, help="folder of the results")
    options = parser.parse_args()
    results = {"environment": common.environment(), "pairs": options.pairs, "layers": []}
    results["layers"] = [compare(layer, options.pairs) for layer in LAYERS]
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "cpu_layers.json").write_text(json.dumps(results, indent=2) + "\n")
    (options.output / "cpu_layers.md").write_text(page(results))
    print(page(results))


if __name__ == "__main__":
    main()
