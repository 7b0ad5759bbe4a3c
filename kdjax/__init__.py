"""kdjax: functional knowledge distillation in JAX.

    distill = kdjax.train_step(student.apply, teacher.apply, kdjax.lift(kdjax.losses.kd), optimizer)

`kdjax.data`, `kdjax.evaluation`, `kdjax.plan` and `kdjax.train` are imported when they are first
used.
"""

import importlib as _importlib

from kdjax import algorithms, base, distributions, losses, models, objectives, parallel
from kdjax.algorithms import train_step
from kdjax.base import Algorithm, Context, Model, Objective, Term, TrainState
from kdjax.objectives import lift

__version__ = "0.1.0"
_LAZY = ("data", "evaluation", "plan", "train")

__all__ = [
    "Algorithm",
    "Context",
    "Model",
    "Objective",
    "Term",
    "TrainState",
    "algorithms",
    "base",
    "data",
    "distributions",
    "evaluation",
    "lift",
    "losses",
    "models",
    "objectives",
    "parallel",
    "plan",
    "train",
    "train_step",
]


def __getattr__(name: str):
    if name in _LAZY:
        return _importlib.import_module(f"kdjax.{name}")
    raise AttributeError(f"module 'kdjax' has no attribute {name!r}")
