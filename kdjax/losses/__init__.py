"""Losses: pure functions of arrays, per example, with nothing reduced in secret.

Student first, teacher second, then labels; options are keyword-only with the paper's default;
`where=` masks elements (of logits) or examples (of features); the last axis is the class axis.
"""

from kdjax.losses.agreement import agreement_weights, consensus_kd
from kdjax.losses.binary import binary_kl, binary_kl_norm
from kdjax.losses.confidence import balanced_kl, confidence_weights, cwtm, entropy_balance, wsld
from kdjax.losses.contrastive import (
    clip_contrastive,
    contrastive_loss,
    crd_nce,
    info_nce,
    sim_clr,
    sup_con,
)
from kdjax.losses.correlation import (
    channel_correlation,
    dist_plus,
    gram_distance,
    multi_level_kd,
    spatial_correlation,
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
from kdjax.losses.embeddings import class_centers, nd
from kdjax.losses.features import (
    adaptive_average_pool,
    attention_map,
    attention_transfer,
    embedding_regression,
    hint,
)
from kdjax.losses.heads import aggregate_views, combine_heads, fit_heads, joint_labels, sla
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
from kdjax.losses.regression import (
    assistive_landmark,
    landmark_assistance,
    landmark_error,
    probability_mse,
    smooth_points,
)
from kdjax.losses.relations import rkd, rkd_angle, rkd_distance, similarity_preserving
from kdjax.losses.selection import (
    el2n,
    forgetting_events,
    grand,
    influence_weights,
    pruned_kd_share,
    query_distribution,
    select_confident,
)
from kdjax.losses.sources import parc, source_weights
from kdjax.losses.stored import calibrate_regions, fer_kd, recover_top_k
from kdjax.losses.subclasses import (
    fit_subclasses,
    merge_subclasses,
    subclass_targets,
    without_readout,
)
from kdjax.losses.targets import (
    committee,
    interpolate,
    ofa,
    permute_others,
    ps_kd,
    soften,
    taid,
)
from kdjax.losses.teacher_free import tf_kd, uskd, virtual_teacher
from kdjax.losses.teacher_training import conditional_mutual_information, focal, mcmi
from kdjax.losses.transport import sinkhorn_kd, sinkhorn_plan
from kdjax.losses.weighting import blend, class_sums, geometry, load_balance, route

__all__ = [
    "adaptive_average_pool",
    "aggregate_views",
    "agreement_weights",
    "alpha_divergence",
    "assistive_landmark",
    "attention_map",
    "attention_transfer",
    "balanced_kl",
    "batch_coupled",
    "binary_kl",
    "binary_kl_norm",
    "blend",
    "calibrate_regions",
    "channel_correlation",
    "chi_squared",
    "class_centers",
    "class_sums",
    "clip_contrastive",
    "combine_heads",
    "committee",
    "conditional_mutual_information",
    "confidence_weights",
    "consensus_kd",
    "contrastive_loss",
    "crd_nce",
    "cross_entropy",
    "cwtm",
    "dist",
    "dist_plus",
    "divergence",
    "dkd",
    "el2n",
    "embedding_regression",
    "entropy_balance",
    "fer_kd",
    "fit_heads",
    "fit_subclasses",
    "focal",
    "forgetting_events",
    "generalized_jensen_shannon",
    "geometry",
    "gram_distance",
    "grand",
    "hellinger",
    "hint",
    "influence_weights",
    "info_nce",
    "interpolate",
    "jensen_shannon",
    "joint_labels",
    "kd",
    "kd_logit_standardization",
    "kl_divergence",
    "label_first",
    "landmark_assistance",
    "landmark_error",
    "load_balance",
    "mcmi",
    "merge_subclasses",
    "multi_level_kd",
    "nd",
    "nkd",
    "ofa",
    "parc",
    "permute_others",
    "pld",
    "probability_mse",
    "pruned_kd_share",
    "ps_kd",
    "query_distribution",
    "recover_top_k",
    "reverse_kl",
    "rkd",
    "rkd_angle",
    "rkd_distance",
    "route",
    "select_confident",
    "sim_clr",
    "similarity_preserving",
    "sinkhorn_kd",
    "sinkhorn_plan",
    "skew_kl",
    "skew_reverse_kl",
    "sla",
    "smooth_points",
    "soft_cross_entropy",
    "soften",
    "source_weights",
    "spatial_correlation",
    "split_target",
    "standardize",
    "standardized",
    "subclass_targets",
    "sup_con",
    "symmetric_kl",
    "taid",
    "tf_kd",
    "total_variation",
    "uskd",
    "virtual_teacher",
    "without_readout",
    "wsld",
]
