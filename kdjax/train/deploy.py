"""After training: measuring a finished run again, and taking its model out."""

from __future__ import annotations

import os
import re
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.base import Model, Variables
from kdjax.losses.numerics import nearest
from kdjax.train import networks, quantization
from kdjax.train import workdir as workdirs
from kdjax.train.arms import TEACHER, arms_of
from kdjax.train.errors import RecipeError, one_line
from kdjax.train.experiment import Experiment, load_data
from kdjax.train.files import write_atomic, write_json_atomic

PLATFORMS = ("cpu", "cuda", "tpu")


class Trained(NamedTuple):
    """A run that was trained before."""

    experiment: Experiment
    name: str
    seed: int
    model: Model
    variables: Variables


def evaluate(
    workdir: str | os.PathLike[str],
    run: str | None = None,
    seed: int | None = None,
    *,
    data_dir: str | None = None,
) -> dict[str, float]:
    """Metrics of a trained model on the test set, from its checkpoint.

    Args:
      workdir: of a run of `kdjax.train`.
      run: `'teacher'` or a way of training; the objective's own by default.
      seed: the first one by default.
      data_dir: folder of prepared data, if it has moved.

    Returns:
      The metrics of the run's `result.json`, measured anew.

    Raises:
      RecipeError: if there is no such run.
    """
    found = load(workdir, run, seed, data_dir=data_dir)
    teacher = None
    if found.name != TEACHER:
        teacher = found.experiment.teacher_if_trained()
    return found.experiment.measure(found.model, found.variables, teacher)["metrics"]


def export(
    workdir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    run: str | None = None,
    seed: int | None = None,
    platforms: tuple[str, ...] = PLATFORMS,
    *,
    quantize: str | None = None,
    data_dir: str | None = None,
) -> list[Path]:
    """Writes a trained model's variables and its forward pass, in float32 or int8.

    `checkpoint/` holds the variables for orbax; `model.stablehlo` the function `image → logits`
    with the variables inside, for any batch size (`jax.export.deserialize` reads it); `model.json`
    says what it is, with its size, its latency on this machine and its test metrics; `report.md`
    has these in a table, beside those of the float32 model if this one is quantised. The folder
    appears when all of it is written.

    Args:
      workdir: of a run of `kdjax.train`.
      output: the folder to write; must not exist yet.
      run: as for `evaluate`.
      seed: as for `evaluate`.
      platforms: what the function is lowered for.
      quantize: `'int8'` (weights and activations) or `'int8_weights'`; wants `kdjax[quantize]`.
      data_dir: as for `evaluate`.

    Returns:
      The paths written.

    Raises:
      RecipeError: if there is no such run, platform or kind of quantisation, or `output` exists.
    """
    if quantize:
        quantization.check_kind(quantize)
    output = Path(output).absolute()
    if output.exists():
        raise RecipeError(f"--output {output} exists; choose another folder")
    for platform in platforms:
        if platform not in (*PLATFORMS, "rocm"):
            raise RecipeError(f"--platforms has {platform!r}{nearest(platform, PLATFORMS)}")
    found = load(workdir, run, seed, data_dir=data_dir)
    exported = [_exported("float32", found, platforms)]
    if quantize:
        exported.insert(0, _exported(quantize, _quantized(found, quantize), platforms))
    parts = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        _write(exported, parts)
        os.rename(parts, output)
    except OSError as error:
        raise RecipeError(f"--output {output} cannot be written ({one_line(error)})") from error
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    names = ("checkpoint", "model.stablehlo", "model.json", "report.md")
    return [output / name for name in names]


def load(
    workdir: str | os.PathLike[str],
    run: str | None = None,
    seed: int | None = None,
    *,
    data_dir: str | None = None,
) -> Trained:
    """A trained model with all that is around it; arguments and errors are those of `evaluate`."""
    workdir = Path(workdir).absolute()
    config = workdirs.stored_config(workdir)
    try:
        arms = arms_of(config)
    except AttributeError as error:
        raise RecipeError(f"{workdir / 'config.json'}: {one_line(error)}") from error
    name = run or list(arms)[-1]
    if name not in (TEACHER, *arms):
        raise RecipeError(f"--run is {name!r}{nearest(name, (TEACHER, *arms))}")
    if seed is None:
        seed = 0 if name == TEACHER else config.seeds[0]
    if data_dir:
        config.data.data_dir = data_dir
    experiment = Experiment(config, load_data(config), workdir)
    try:
        model, variables = experiment.trained(name, seed)
    except FileNotFoundError as error:
        raise RecipeError(
            f"--run {name} --seed {seed}: {one_line(error)}; there are {_seeds(workdir, name)}"
        ) from error
    return Trained(experiment, name, seed, model, variables)


def _seeds(workdir: Path, name: str) -> str:
    folders = (workdir / "runs" / name).glob("seed_*/checkpoints")
    seeds = sorted(int(match[1]) for f in folders if (match := re.search(r"seed_(\d+)/", str(f))))
    return f"seeds {', '.join(map(str, seeds))}" if seeds else "no runs of it"


class Exported(NamedTuple):
    """A model as it is written.

    Attributes:
      numbers: `'float32'` or the kind of quantisation.
      found: the run it is of.
      program: its function.
      binary: the same as bytes.
      facts: size, latency and test metrics.
    """

    numbers: str
    found: Trained
    program: jax.export.Exported
    binary: bytes
    facts: dict[str, float]


def _exported(numbers: str, found: Trained, platforms: tuple[str, ...]) -> Exported:
    image = found.experiment.data.test.features["image"]

    def forward(images):
        return found.model.apply(found.variables, {"image": images})[0]["logits"]

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image.shape), jnp.dtype(image.dtype))
    program = jax.export.export(jax.jit(forward), platforms=platforms)(images)
    binary = bytes(program.serialize())
    rows = found.experiment.data.test.take(np.arange(min(256, found.experiment.data.test.size)))
    metrics = found.experiment.measure(found.model, found.variables, None)["metrics"]
    leaves = jax.tree.leaves(found.variables)
    facts = {
        "variables_bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        "program_bytes": len(binary),
        "latency_ms_batch_1": _latency(forward, rows["image"][:1]),
        f"latency_ms_batch_{len(rows['image'])}": _latency(forward, rows["image"]),
        **metrics,
    }
    return Exported(numbers, found, program, binary, facts)


def _quantized(found: Trained, kind: str) -> Trained:
    experiment = found.experiment
    network = experiment.network_of(found.name)
    if around := sorted(set(network) & set(networks.WRAPPERS) - {"precision"}):
        raise RecipeError(f"{found.name} has {', '.join(around)}; only plain networks become int8")
    role = "teacher" if found.name == TEACHER else "student"
    batch = {"image": jnp.asarray(experiment.data.test.take(np.arange(1))["image"])}
    classes = experiment.config.teacher.num_classes if role == "teacher" else 0
    facts = {"num_classes": classes or experiment.data.train.num_classes}
    model, variables = quantization.quantize(
        f"{role}.model", network, facts, found.variables, batch, kind
    )
    return found._replace(model=model, variables=variables)


def _latency(forward: Callable[..., Any], images: np.ndarray, repeats: int = 30) -> float:
    """The median time of a forward pass in milliseconds, on this machine's default device."""
    run, images = jax.jit(forward), jnp.asarray(images)
    jax.block_until_ready(run(images))
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(run(images))
        seconds.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(seconds)


def _write(exported: list[Exported], folder: Path) -> None:
    import orbax.checkpoint as ocp

    numbers, found, program, binary, facts = exported[0]
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "checkpoint", quantization.as_nested(dict(found.variables)))
    write_atomic(folder / "model.stablehlo", binary)
    write_json_atomic(
        folder / "model.json",
        {
            "run": found.name,
            "seed": found.seed,
            "model": found.experiment.network_of(found.name),
            "numbers": numbers,
            "measured": facts,
            "input": _described(program.in_avals[0]),
            "output": _described(program.out_avals[0]),
            "platforms": list(program.platforms),
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
        },
    )
    write_atomic(folder / "report.md", _report(exported))


def _report(exported: list[Exported]) -> str:
    """Size, latency and metrics of the written model, and of the float32 one if it is another."""
    found = exported[0].found
    columns = [one.numbers for one in exported]
    lines = [
        f"# {found.name}, seed {found.seed}, in {exported[0].numbers}",
        "",
        f"Latencies are medians on {jax.devices()[0].device_kind}; metrics are of the test set.",
        "",
        f"| measure | {' | '.join(columns)} |",
        "|" + " --- |" * (len(columns) + 1),
    ]
    for name in exported[0].facts:
        values = " | ".join(f"{one.facts[name]:.6g}" for one in exported)
        lines.append(f"| {name} | {values} |")
    return "\n".join(lines) + "\n"


def _described(array: Any) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else str(size) for size in array.shape]
    return {"shape": shape, "dtype": str(array.dtype)}
