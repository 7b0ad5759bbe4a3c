"""Students with two heads: what each learns, and what both answer together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from kdjax.losses import divergences, numerics
from kdjax.losses import logits as logit_losses
from kdjax.losses.divergences import Logits, PerExample

JointLogits = Float[Array, "*batch views joint_classes"]


def combine_heads(
    label_logits: Logits, kd_logits: Logits, *, share: Any = 0.5, temperature: Any = 0.5
) -> Logits:
    """What two heads answer together, `log(a softmax(l) + (1 - a) softmax(k / T))`.

    Args:
      label_logits: `l`, of the head that learns labels, `[*batch, classes]`.
      kd_logits: `k`, of the head that learns from the teacher, the same shape.
      share: `a`, from 0 to 1. `fit_heads` chooses share and temperature on held-out data.
      temperature: of the second head alone, above 0.

    Returns:
      Log-probabilities `[*batch, classes]`.

    Raises:
      ValueError: if the shapes differ, the share is not from 0 to 1, or the temperature is not
        positive.

    Example:
      >>> heads = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.9, 0.1]]))
      >>> jnp.exp(combine_heads(*heads, temperature=1.0))[0, 0]
      Array(0.7, dtype=float32)

    References:
      Kang et al., Simple Semi-supervised Knowledge Distillation from Vision-Language Models via
      Dual-Head Optimization, arXiv:2505.07675.
    """
    numerics.check_pair(label_logits, kd_logits, ("label_logits", "kd_logits"))
    numerics.check_fraction(share=share)
    by_labels = numerics.log_probabilities(label_logits)
    by_teacher = numerics.log_probabilities(kd_logits, temperature=temperature)
    return divergences.mix(share, by_labels, by_teacher)


def fit_heads(
    label_logits: Float[Array, "examples classes"],
    kd_logits: Float[Array, "examples classes"],
    labels: Int[Array, " examples"],
    *,
    shares: Sequence[float] = tuple(round(0.05 * step, 2) for step in range(21)),
    temperatures: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 4.0),
) -> dict[str, float]:
    """DHO's search: the share and temperature with which two heads are right most often.

    Of several that are right as often, those of the lowest negative log-likelihood are taken.

    Args:
      label_logits: of held-out examples, `[examples, classes]`.
      kd_logits: the same shape.
      labels: classes `[examples]`.
      shares: to try, from 0 to 1.
      temperatures: to try, above 0.

    Returns:
      `share` and `temperature`, options of `combine_heads`.

    Raises:
      ValueError: if the shapes differ, a share or a temperature is out of range, or there is none.

    Example:
      >>> sure, unsure = jnp.array([[9.0, 0.0], [0.0, 9.0]]), jnp.zeros((2, 2))
      >>> fit_heads(sure, unsure, jnp.array([0, 1]))
      {'share': 1.0, 'temperature': 0.5}

    References:
      Kang et al., Simple Semi-supervised Knowledge Distillation from Vision-Language Models via
      Dual-Head Optimization, arXiv:2505.07675.
    """
    if not shares or not temperatures:
        raise ValueError(f"shares are {shares!r} and temperatures {temperatures!r}, wanted some")

    def merit(options):
        answer = combine_heads(label_logits, kd_logits, **options)
        right = jnp.mean(jnp.argmax(answer, axis=-1) == labels)
        return float(right), -float(jnp.mean(logit_losses.cross_entropy(answer, labels)))

    pairs = itertools.product(shares, temperatures)
    return max(({"share": a, "temperature": t} for a, t in pairs), key=merit)


def sla(
    student_logits: Sequence[Array],
    labels: Int[Array, "*batch"],
    *,
    temperature: Any = 1.0,
    joint_weight: Any = 1.0,
    where: Bool[Array, "*#batch #views #joint_classes"] | None = None,
) -> PerExample:
    """Self-supervised label augmentation, and its aggregate distilled into a head of one pass.

        joint_weight · mean_i CE(j_i, y M + i)  +  CE(s, y)  +  T² KL(softmax(A/T) ‖ softmax(s/T))

    with `j_i` the joint logits of the `i`-th of `M` views (rotations, say), `s` the other head's
    logits of the first, untransformed view, and `A` the aggregate, a constant.

    Args:
      student_logits: joint logits `[*batch, views, classes · views]`, a row per view, and logits
        `[*batch, classes]`. A model that sees the views as examples, view after view of each
        example, is reshaped to that.
      labels: classes `[*batch]`.
      temperature: `T`, above 0.
      joint_weight: of the first term; the released `with_large_loss` is the number of views.
      where: views or examples that exist, broadcast against the joint logits.

    Returns:
      `[*batch]`, in nats.

    Raises:
      ValueError: if the shapes do not go together, the temperature is not positive or labels are
        out of range.

    Example:
      >>> sla((jnp.zeros((1, 4, 8)), jnp.zeros((1, 2))), jnp.array([1]))
      Array([2.7726], dtype=float32)

    References:
      Lee et al., Self-supervised Label Augmentation via Input Transformations, arXiv:1910.05872.
    """
    joint, single = student_logits
    total = aggregate_views(joint)
    numerics.check_pair(single, total, ("student_logits[1]", "the aggregate of student_logits[0]"))
    views = jnp.any(jnp.broadcast_to(True if where is None else where, joint.shape), axis=-1)
    numerics.label_distribution(labels, single)
    by_view = logit_losses.cross_entropy(
        joint, joint_labels(labels, joint.shape[-2]), where=views[..., None]
    )
    examples = jnp.any(views, axis=-1, keepdims=True)
    hard = logit_losses.cross_entropy(single, labels, where=examples)
    soft = logit_losses.kd(single, total, temperature=temperature, where=examples)
    return joint_weight * numerics.masked_mean(by_view, views, axis=-1) + hard + soft


def aggregate_views(joint_logits: JointLogits) -> Logits:
    """The mean, over the views, of the joint logit of each class with that view.

    Args:
      joint_logits: `[*batch, views, classes · views]`; class `c` with view `i` is `c · views + i`.

    Returns:
      Logits `[*batch, classes]`: what the model answers to all views of an example together.

    Raises:
      ValueError: if the joint classes are not a multiple of the views.

    Example:
      >>> aggregate_views(jnp.array([[[1.0, 0.0, 3.0, 0.0], [0.0, 5.0, 0.0, 1.0]]]))
      Array([[3., 2.]], dtype=float32)

    References:
      Lee et al., arXiv:1910.05872.
    """
    shape = jnp.shape(joint_logits)
    if len(shape) < 2 or shape[-1] % shape[-2]:
        raise ValueError(
            f"joint_logits have shape {shape}, wanted [*batch, views, classes · views]"
        )
    views = shape[-2]
    by_class = jnp.reshape(numerics.as_float(joint_logits), (*shape[:-1], -1, views))
    return jnp.mean(jnp.diagonal(by_class, axis1=-3, axis2=-1), axis=-1)


def joint_labels(labels: Int[Array, "*batch"], views: int) -> Int[Array, "*batch views"]:
    """The joint label of each view, `y · views + i`.

    Example:
      >>> joint_labels(jnp.array([0, 2]), 4)
      Array([[ 0,  1,  2,  3],
             [ 8,  9, 10, 11]], dtype=int32)

    References:
      Lee et al., arXiv:1910.05872.
    """
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise TypeError(f"labels have type {jnp.result_type(labels)}, wanted integers")
    return jnp.asarray(labels)[..., None] * views + jnp.arange(views, dtype=jnp.int32)
