"""Students with more than one answer: exits, views, subclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.base import EMPTY, Objective, ObjectiveVariables
from kdjax.losses import divergences, subclasses, targets
from kdjax.losses import heads as head_losses
from kdjax.objectives import exits
from kdjax.objectives.lift import reduce


def ofa_exits(
    *,
    features: Sequence[str],
    gamma: Any = 1.5,
    temperature: Any = 1.0,
    exit_weight: float = 1.0,
    blocks: int | Sequence[int] = 0,
    heads: int = 4,
    grid: int = 7,
    student: str = "logits",
    teacher: str = "teacher:logits",
    labels: str = "label",
) -> Objective:
    """One-for-all distillation with exit branches: `losses.ofa` of each, and of the last logits.

        ofa(s, t, y)  +  exit_weight · sum_k ofa(exit_k(f_k), t, y)

    An exit has some blocks, averages over space and reads the mean with a linear layer. The blocks
    suit the feature: depthwise-separable convolutions of stride 2 for images, transformer layers
    for tokens. Exits are trained along, their gradient reaches the features, and they are dropped
    afterwards; the teacher's features are not needed, so that the networks may be quite different.
    Add `cross_entropy` with weight 1.

    Args:
      features: the student's signals with an exit each, `[batch, …, width]`.
      gamma: as for `losses.ofa`.
      temperature: of both sides.
      exit_weight: of each exit's loss.
      blocks: how many each exit has, one number or one per feature; in the paper `4 - k` after the
        `k`-th of four stages.
      heads: of the attention of tokens.
      grid: tokens are merged, four into one, until a side has no more than that many.
      student: the student's logits `[batch, classes]`.
      teacher: the teacher's.
      labels: field of the batch with the labels.

    Returns:
      An objective with the terms `ofa` and `exits`; its parameters are the exits'.

    Raises:
      ValueError: if no feature is named, there are not as many numbers of blocks as features, or
        a feature does not suit its blocks.

    References:
      Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge
      Distillation, arXiv:2310.19444. (There exits have batch norm; here examples are normalised
      one by one.)
    """
    names = (features,) if isinstance(features, str) else tuple(features)
    if not names:
        raise ValueError("features is empty, wanted at least one signal of the student")
    depths = (blocks,) * len(names) if isinstance(blocks, int) else tuple(blocks)
    if len(depths) != len(names):
        raise ValueError(f"blocks are {blocks!r} for {len(names)} features, wanted one for each")

    def init(key, context):
        classes = jnp.shape(context.get(student))[-1]
        keys = jax.random.split(key, len(names))
        params = {
            name: exits.exit_init(
                own, jnp.shape(context.get(name)), classes, blocks=depth, heads=heads, grid=grid
            )
            for name, own, depth in zip(names, keys, depths, strict=True)
        }
        return ObjectiveVariables(params, {})

    def apply(variables, context):
        theirs, truth = context.get(teacher), context.get(labels, role="batch")
        options = {"gamma": gamma, "temperature": temperature}
        answers = [
            exits.exit_logits(variables.params[name], context.get(name), heads=heads)
            for name in names
        ]
        last = targets.ofa(context.get(student), theirs, truth, **options)
        early = sum(targets.ofa(answer, theirs, truth, **options) for answer in answers)
        return {"ofa": reduce(last), "exits": reduce(early)._replace(weight=exit_weight)}, {}

    return Objective(init, apply)


def sla(
    *,
    views: int = 4,
    joint: str = "joint_logits",
    temperature: Any = 1.0,
    joint_weight: Any = 1.0,
    player: str = "student",
    student: str = "logits",
    image: str = "image",
    labels: str = "label",
) -> Objective:
    """Self-supervised label augmentation by rotations: `losses.sla` on views that it makes itself.

    The network sees each image turned by 0, 90, 180 and 270 degrees, its second head tells class
    and rotation together, and the mean of what it says about all views teaches the first head.

    Args:
      views: how many rotations, 1 to 4.
      joint: signal of the second head, `[batch, classes · views]`; see `models.with_heads`.
      temperature: as for `losses.sla`.
      joint_weight: as for `losses.sla`.
      player: whose network is run on the views.
      student: signal of the first head, of the image as it is.
      image: field of the batch with square images.
      labels: field of the batch with classes `[batch]`.

    Returns:
      An objective with the term `sla`.

    Raises:
      ValueError: if the views are not 1 to 4.

    References:
      Lee et al., Self-supervised Label Augmentation via Input Transformations, arXiv:1910.05872.
    """
    if views not in (1, 2, 3, 4):
        raise ValueError(f"views is {views!r}, wanted 1 to 4 rotations")

    def apply(variables, context):
        del variables
        images = context.batch[image]
        turned = [jnp.rot90(images, k, axes=(1, 2)) for k in range(views)]
        network = context.networks[player]
        each = [network({**context.batch, image: view})[joint] for view in turned]
        values = head_losses.sla(
            (jnp.stack(each, axis=1), context.get(student)),
            context.get(labels, role="batch"),
            temperature=temperature,
            joint_weight=joint_weight,
        )
        return {"sla": reduce(values)}, {}

    return Objective(lambda key, context: EMPTY, apply)


def lelp(
    *,
    fitted: Mapping[str, Array],
    subclass_temperature: Any = 1.0,
    temperature: Any = 1.0,
    student: str = "subclass_logits",
    teacher: str = "teacher:logits",
    teacher_embedding: str = "teacher:embedding",
) -> Objective:
    """LELP: a student with a logit for each subclass learns `losses.subclass_targets`.

        -sum_ck p_c softmax_k(<h - m_c, v_ck> / beta) log q_ck

    Labels are not read; the classes of the student are `losses.merge_subclasses` of its logits.

    Args:
      fitted: `kernel`, `means` and `directions`, as `losses.fit_subclasses` gives them.
      subclass_temperature: `beta`, above 0.
      temperature: of the teacher's logits, above 0.
      student: the student's logits `[batch, classes · subclasses]`.
      teacher: the teacher's logits.
      teacher_embedding: what its last layer reads.

    Returns:
      An objective with the term `lelp`.

    References:
      Loo et al., Linear Projections of Teacher Embeddings for Few-Class Distillation,
      arXiv:2409.20449.
    """

    def apply(variables, context):
        del variables
        target = subclasses.subclass_targets(
            context.get(teacher),
            context.get(teacher_embedding),
            **fitted,
            subclass_temperature=subclass_temperature,
            temperature=temperature,
        )
        return {"lelp": reduce(divergences.soft_cross_entropy(context.get(student), target))}, {}

    return Objective(lambda key, context: EMPTY, apply)
