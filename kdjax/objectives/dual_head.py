"""Two heads on one student: one learns labels, the other the teacher."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from kdjax.base import EMPTY, Objective
from kdjax.losses import logits as logit_losses
from kdjax.objectives.lift import reduce


def dho(
    *,
    temperature: Any = 2.0,
    label_weight: Any = 0.5,
    kd_weight: Any = 0.5,
    label_head: str = "logits",
    kd_head: str = "kd_logits",
    teacher: str = "teacher:logits",
    labels: str = "label",
    labelled: str | None = "labelled",
) -> Objective:
    """Dual-head optimisation, for data of which a part has labels.

        label_weight · CE(a, y)  +  kd_weight · (T² KL(t ‖ b) labelled + T² KL(t ‖ b) unlabelled)

    Each of the three is a mean over its own examples. At inference `losses.combine_heads` joins the
    two heads, with the share and temperature that `losses.fit_heads` finds on held-out data.

    Args:
      temperature: `T`.
      label_weight: of the first head's loss.
      kd_weight: of the second head's; 1 and 1 are the released weights for ImageNet.
      label_head: the student's signal `a`, `[batch, classes]`.
      kd_head: the student's signal `b`.
      teacher: the teacher's logits.
      labels: field of the batch with the labels; any class where there is none.
      labelled: field of the batch that says which examples have a label, `[batch]`; `None` if all
        have.

    Returns:
      An objective with the terms `labels`, `kd_labelled` and `kd_unlabelled`.

    References:
      Kang et al., Simple Semi-supervised Knowledge Distillation from Vision-Language Models via
      Dual-Head Optimization, arXiv:2505.07675.
    """

    def apply(variables, context):
        del variables
        target, truth = context.get(teacher), context.get(labels, role="batch")
        known = jnp.ones(jnp.shape(target)[:-1], bool)
        if labelled is not None:
            known = jnp.asarray(context.get(labelled, role="batch"), bool)
        hard = logit_losses.cross_entropy(context.get(label_head), truth, where=known[..., None])
        soft = logit_losses.kd(context.get(kd_head), target, temperature=temperature)
        return {
            "labels": reduce(hard, known)._replace(weight=label_weight),
            "kd_labelled": reduce(soft, known)._replace(weight=kd_weight),
            "kd_unlabelled": reduce(soft, ~known)._replace(weight=kd_weight),
        }, {}

    return Objective(lambda key, context: EMPTY, apply)
