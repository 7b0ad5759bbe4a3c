"""What the benchmarks on Fashion-MNIST share: the recipe's parts, and where they ran."""

from __future__ import annotations

import datetime
import importlib.util
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from kdjax.base import Algorithm, Model, Variables
from kdjax.data import Dataset
from kdjax.train import networks, optimizers, recipe, splits

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"


class Setting(NamedTuple):
    """The recipe `configs/fashion_mnist/kd.py`, as far as one way to train needs it."""

    config: ConfigDict
    data: splits.Data
    student: Model
    teacher: Model
    teacher_variables: Variables
    facts: dict[str, Any]
    optimizer: optax.GradientTransformation

    @property
    def batch_size(self) -> int:
        """Examples per step."""
        return self.config.data.batch_size

    def algorithm(self, teacher: Model) -> Algorithm:
        """The recipe's objective with a teacher, not yet compiled."""
        objective, facts = self.config.objective, self.facts
        return recipe.build_algorithm(
            "objective", objective, self.student, teacher, self.optimizer, facts
        )

    def rows(self, dataset: Dataset) -> dict[str, jax.Array]:
        """A batch to take shapes from."""
        rows = dataset.take(np.arange(self.batch_size))
        return {name: jnp.asarray(value) for name, value in rows.items()}


def setting(path: str = "configs/fashion_mnist/kd.py") -> Setting:
    """Loads the recipe. The teacher is not trained: a step takes as long with any numbers in it."""
    spec = importlib.util.spec_from_file_location("recipe", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    data = splits.load_data(config)
    per_epoch = data.train.size // config.data.batch_size
    facts = {
        "num_examples": data.train.size,
        "num_classes": data.train.num_classes,
        "steps_per_epoch": per_epoch,
        "epochs": config.student.epochs,
        "total_steps": int(per_epoch * config.student.epochs),
    }
    student = networks.build_model("student.model", config.student.model, facts)
    teacher = networks.build_model("teacher.model", config.teacher.model, facts)
    batch = {name: jnp.asarray(value) for name, value in data.train.take(np.arange(2)).items()}
    variables = jax.jit(teacher.init)(jax.random.key(0), batch)
    optimizer = optimizers.build_optimizer(
        "student.optimizer", config.student.optimizer, facts["total_steps"]
    )
    return Setting(config, data, student, teacher, variables, facts, optimizer)


def environment(*packages: Any) -> dict[str, str]:
    """Date, machine, versions, load and commit."""
    return {
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        **{package.__name__: package.__version__ for package in packages},
        "load": f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} processors",
        "commit": commit(),
    }


def commit() -> str:
    """The commit of the source tree, marked if it has changes."""
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            capture_output=True, text=True, check=True, cwd=ROOT,
        )  # fmt: skip
        return answer.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def clocks() -> np.ndarray:
    """Seconds that passed, and seconds that this process computed, over all its threads."""
    return np.array([time.perf_counter(), time.process_time()])


def median_and_quartiles(values: list[float]) -> dict[str, Any]:
    """Of a list of numbers."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": float(middle), "quartiles": [float(low), float(high)]}


def in_words(spread: dict[str, Any], form: str = ".3f") -> str:
    """`'0.981 (0.975 to 0.984)'`."""
    low, high = spread["quartiles"]
    return f"{spread['median']:{form}} ({low:{form}} to {high:{form}})"


def heading(title: str, script: str, where: dict[str, str]) -> list[str]:
    """The first lines of a page of results."""
    facts = ", ".join(f"{name} {value}" for name, value in where.items())
    return [f"# {title}", "", f"Written by `python benchmarks/{script}`. {facts}.", ""]
