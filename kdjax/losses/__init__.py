"""Losses: pure functions of arrays, per example, with nothing reduced in secret.

Student first, teacher second, then labels; options are keyword-only with the paper's default;
`where=` masks elements (of logits) or examples (of features); the last axis is the class axis.
"""

from kdjax.losses.binary import binary_kl, binary_kl_norm
from kdjax.losses.contrastive import (
    clip_contrastive,
    contrastive_loss,
    crd_nce,
    info_nce,
    sim_clr,
    sup_con,
)
from kdjax.losses.divergences import (
    alpha_divergence,
    chi_squared,
    divergence,
    generalized_jensen_shannon,
    hellinger,
    jensen_shannon,
    kl_divergence,
    reverse_kl,
    skew_kl,
    skew_reverse_kl,
    soft_cross_entropy,
    symmetric_kl,
    total_variation,
)
from kdjax.losses.features import (
    adaptive_average_pool,
    attention_map,
    attention_transfer,
    embedding_regression,
    hint,
)
from kdjax.losses.logits import (
    cross_entropy,
    dist,
    dkd,
    kd,
    kd_logit_standardization,
    nkd,
    split_target,
    standardize,
    standardized,
)
from kdjax.losses.numerics import batch_coupled
from kdjax.losses.ranking import label_first, pld
from kdjax.losses.relations import rkd, rkd_angle, rkd_distance, similarity_preserving
from kdjax.losses.targets import committee, interpolate, ofa, ps_kd, soften, taid
from kdjax.losses.transport import sinkhorn_kd, sinkhorn_plan
from kdjax.losses.weighting import blend, class_sums, geometry, load_balance, route

__all__ = [
    "adaptive_average_pool",
    "alpha_divergence",
    "attention_map",
    "attention_transfer",
    "batch_coupled",
    "binary_kl",
    "binary_kl_norm",
    "blend",
    "chi_squared",
    "class_sums",
    "clip_contrastive",
    "committee",
    "contrastive_loss",
    "crd_nce",
    "cross_entropy",
    "dist",
    "divergence",
    "dkd",
    "embedding_regression",
    "generalized_jensen_shannon",
    "geometry",
    "hellinger",
    "hint",
    "info_nce",
    "interpolate",
    "jensen_shannon",
    "kd",
    "kd_logit_standardization",
    "kl_divergence",
    "label_first",
    "load_balance",
    "nkd",
    "ofa",
    "pld",
    "ps_kd",
    "reverse_kl",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "route",
    "sim_clr",
    "similarity_preserving",
    "sinkhorn_kd",
    "sinkhorn_plan",
    "skew_kl",
    "skew_reverse_kl",
    "soft_cross_entropy",
    "soften",
    "split_target",
    "standardize",
    "standardized",
    "sup_con",
    "symmetric_kl",
    "taid",
    "total_variation",
]
