"""Objectives that choose: which examples, which classes, what is left of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from kdjax.base import EMPTY, Objective, ObjectiveVariables
from kdjax.losses import divergences, logits, numerics, selection, targets
from kdjax.objectives.compose import gated
from kdjax.objectives.lift import lift, reduce


def selected_kd(
    *,
    threshold: Any = 0.7,
    teacher_share: Any = 0.5,
    temperature: Any = 4.0,
    student: str = "logits",
    teacher: str = "teacher:logits",
) -> Objective:
    """Distillation on the examples that teacher and student together are sure about (KD³).

    For data that were gathered without care: what neither of the two recognises is left out. The
    loss is the mean of `losses.kd` over those that `losses.select_confident` lets pass.

    Args:
      threshold: of the mixed confidence, from 0 to 1.
      teacher_share: in the mixture, from 0 to 1.
      temperature: of the divergence.
      student: the student's logits.
      teacher: the teacher's.

    Returns:
      An objective with the term `selected_kd`, which counts the selected examples.

    References:
      Tang et al., Distribution Shift Matters for Knowledge Distillation with Webly Collected
      Images, arXiv:2307.11469. Its shared classifier is `kdjax.models.with_classifier`, its
      contrastive block `mix_distribution`.
    """
    kd = lift(
        logits.kd,
        student=student,
        teacher=teacher,
        where="selected",
        temperature=temperature,
        name="selected_kd",
    )

    def confident(context):
        return selection.select_confident(
            context.get(student),
            context.get(teacher),
            threshold=threshold,
            teacher_share=teacher_share,
        )

    return gated(kd, confident, "selected")


def dkpp(
    *,
    temperature: Any = 1.0,
    student: str = "logits",
    teacher: str = "teacher:logits",
) -> Objective:
    """Born-again networks' DKPP: dark knowledge with permuted predictions.

    A soft cross-entropy with `losses.permute_others` of the teacher. Together with `losses.cwtm` it
    tells what of distillation is weighting by confidence, and what is in the other classes.

    Args:
      temperature: of both sides.
      student: the student's logits `[batch, classes]`.
      teacher: the teacher's.

    Returns:
      An objective with the term `dkpp`.

    References:
      Furlanello et al., Born Again Neural Networks, arXiv:1805.04770.
    """

    def apply(variables, context):
        del variables
        permuted = targets.permute_others(context.get(teacher), context.key)
        values = divergences.soft_cross_entropy(
            context.get(student), permuted, temperature=temperature
        )
        return {"dkpp": reduce(values)}, {}

    return Objective(lambda key, context: EMPTY, apply)


def knowledge_concentration(
    *,
    subsets: Sequence[Sequence[int]],
    temperature: Any = 1.0,
    pace: float = 1.0,
    decay: float = 0.9,
    student: str = "logits",
    teacher: str = "teacher:logits",
    labels: str | None = "label",
) -> Objective:
    """Many specialists, each for a subset of the classes, taught into one student at their paces.

        sum_k λ_k mean_{y in V_k} T² KL(softmax_{V_k}(t_k / T) ‖ softmax_{V_k}(s / T))

    Both sides are renormalised over the subset. A specialist whom the student matches badly counts
    more: `λ_k = K m_k^pace / sum_j m_j^pace`, with `m_k` the moving average of its divergence.

    Args:
      subsets: `V`, the classes of each specialist.
      temperature: `T`.
      pace: 0 counts all specialists alike; above, those that lag behind count more.
      decay: of the moving averages, from 0 to below 1.
      student: the student's logits `[batch, classes]`.
      teacher: the committee's, `[batch, members, classes]`, a member per subset.
      labels: field of the batch with the labels: a specialist teaches the examples of its classes.
        `None` lets each teach all.

    Returns:
      A coupled objective with a term per specialist, `specialist_0` and so on. Its state is the
      moving averages.

    Raises:
      ValueError: if a subset is empty or there are not as many as members.

    References:
      Gao et al., Knowledge Concentration: Learning 100K Object Classifiers in a Single CNN,
      arXiv:1711.07607. (The rule of the weights is ours.)
    """
    if not subsets or not all(subsets):
        raise ValueError(f"subsets are {subsets!r}, wanted classes for each specialist")
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}, wanted a number from 0 to below 1")

    def init(key, context):
        del key
        members = jnp.shape(context.get(teacher))[-2]
        if members != len(subsets):
            raise ValueError(f"there are {len(subsets)} subsets for {members} members")
        return ObjectiveVariables({}, {"mean": jnp.ones(members), "seen": jnp.zeros(members)})

    def apply(variables, context):
        own, theirs = context.get(student), context.get(teacher)
        classes, state = jnp.shape(own)[-1], variables.state
        weights = _paces(state["mean"], pace)
        terms, means = {}, []
        for index, subset in enumerate(subsets):
            known = jnp.zeros(classes, bool).at[jnp.asarray(subset)].set(True)
            values = logits.kd(own, theirs[..., index, :], temperature=temperature, where=known)
            mine = None
            if labels is not None:
                truth = numerics.target_mask(context.get(labels, role="batch"), own)
                mine = jnp.any(truth & known, axis=-1)
            term = reduce(values, mine)
            terms[f"specialist_{index}"] = term._replace(weight=weights[index])
            means.append((term.mean, term.count > 0))
        return terms, jax.lax.stop_gradient(_moved(state, means, decay))

    return Objective(init, apply, coupled=True)


def _paces(mean, pace):
    """Weights of mean 1."""
    scaled = jnp.maximum(mean, 1e-8) ** pace
    return scaled / jnp.mean(scaled)


def _moved(state, means, decay):
    """Moving averages after a batch; the first one is taken as it is."""
    new, counted = (jnp.stack(column) for column in zip(*means, strict=True))
    kept = jnp.where(state["seen"] > 0, decay, 0)
    moved = kept * state["mean"] + (1 - kept) * new
    return {
        "mean": jnp.where(counted, moved, state["mean"]),
        "seen": state["seen"] + counted,
    }
