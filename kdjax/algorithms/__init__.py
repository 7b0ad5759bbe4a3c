"""Algorithms: who plays, on what, in which order. One engine, and the named schemes on it."""

from kdjax.algorithms.alignment import gradient_align
from kdjax.algorithms.averaging import stochastic_weight_averaging
from kdjax.algorithms.bilevel import bilevel
from kdjax.algorithms.engine import algorithm
from kdjax.algorithms.guards import Guards
from kdjax.algorithms.influence import influence
from kdjax.algorithms.kernel_ridge import (
    kernel_self_distillation,
    kernel_self_distillation_limit,
    optimal_label_share,
    rbf_kernel,
)
from kdjax.algorithms.players import Player, Teacher
from kdjax.algorithms.schemes import (
    average_self_distillation,
    distill,
    dual_head_kd,
    hard,
    meal_v2,
    mutual_learning,
    tgeo_kd,
)
from kdjax.algorithms.train_step import train_step

__all__ = [
    "Guards",
    "Player",
    "Teacher",
    "algorithm",
    "average_self_distillation",
    "bilevel",
    "distill",
    "dual_head_kd",
    "gradient_align",
    "hard",
    "influence",
    "kernel_self_distillation",
    "kernel_self_distillation_limit",
    "meal_v2",
    "mutual_learning",
    "optimal_label_share",
    "rbf_kernel",
    "stochastic_weight_averaging",
    "tgeo_kd",
    "train_step",
]
