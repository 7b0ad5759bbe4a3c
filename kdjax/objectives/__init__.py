"""Objectives: losses with what they need around them, and how they compose."""

from kdjax.objectives import projectors
from kdjax.objectives.adaptive import TaidState, ps_kd, ps_kd_share, taid, taid_update
from kdjax.objectives.augmentor import affine_augmentor, augmented_kd, disagreement
from kdjax.objectives.branches import lelp, ofa_exits, sla
from kdjax.objectives.choices import dkpp, knowledge_concentration, selected_kd
from kdjax.objectives.compose import (
    convex,
    correct,
    gated,
    measured,
    stages,
    teacher_is_right,
    total_loss,
    weighted,
    weighted_sum,
    with_labels,
)
from kdjax.objectives.dual_head import dho
from kdjax.objectives.learned_weights import geometry_weighted_kd, share_network
from kdjax.objectives.lift import lift, reduce
from kdjax.objectives.masks import mask_network
from kdjax.objectives.memory import crd, crd_step, draw_others, info_nce
from kdjax.objectives.perturbation import mix_distribution, mix_statistics
from kdjax.objectives.pretraining import sim_clr
from kdjax.objectives.projected import projected
from kdjax.objectives.self_targets import uskd
from kdjax.objectives.teachers import (
    ensemble_kd,
    gate,
    gate_init,
    output_discriminator,
    routed_kd,
    told_apart,
)

__all__ = [
    "TaidState",
    "affine_augmentor",
    "augmented_kd",
    "convex",
    "correct",
    "crd",
    "crd_step",
    "dho",
    "disagreement",
    "dkpp",
    "draw_others",
    "ensemble_kd",
    "gate",
    "gate_init",
    "gated",
    "geometry_weighted_kd",
    "info_nce",
    "knowledge_concentration",
    "lelp",
    "lift",
    "mask_network",
    "measured",
    "mix_distribution",
    "mix_statistics",
    "ofa_exits",
    "output_discriminator",
    "projected",
    "projectors",
    "ps_kd",
    "ps_kd_share",
    "reduce",
    "routed_kd",
    "selected_kd",
    "share_network",
    "sim_clr",
    "sla",
    "stages",
    "taid",
    "taid_update",
    "teacher_is_right",
    "told_apart",
    "total_loss",
    "uskd",
    "weighted",
    "weighted_sum",
    "with_labels",
]
