"""Which examples to learn from, and how much each counts: scores, masks and weights.

Nothing here has a gradient: what is chosen is a constant of the training that follows.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from kdjax.losses import numerics
from kdjax.losses.divergences import Labels, Logits, Mask


def select_confident(
    student_logits: Logits,
    teacher_logits: Logits,
    *,
    threshold: Any = 0.7,
    teacher_share: Any = 0.5,
    where: Mask | None = None,
) -> Bool[Array, "*batch"]:
    """KD³'s dynamic selection: the examples that teacher and student together are sure about.

        max_c (a p_c + (1 - a) q_c) >= threshold

    As the student learns, more examples pass. It is a gate for `kdjax.objectives.gated`.

    Args:
      student_logits: `[*batch, classes]`.
      teacher_logits: the same shape.
      threshold: from 0 to 1.
      teacher_share: `a`, from 0 to 1.
      where: classes or rows that exist; a row without classes is not selected.

    Returns:
      `[*batch]`.

    Raises:
      ValueError: if the shapes differ or a number is not from 0 to 1.

    Example:
      >>> teacher = jnp.array([[4.0, 0.0], [4.0, 0.0]])
      >>> select_confident(jnp.array([[1.0, 0.0], [0.0, 4.0]]), teacher)
      Array([ True, False], dtype=bool)

    References:
      Tang et al., Distribution Shift Matters for Knowledge Distillation with Webly Collected
      Images, arXiv:2307.11469. (Its code is not public; the rule of combination is ours.)
    """
    numerics.check_pair(student_logits, teacher_logits, ("student_logits", "teacher_logits"))
    numerics.check_fraction(threshold=threshold, teacher_share=teacher_share)
    q, p = (
        jnp.exp(numerics.log_probabilities(jax.lax.stop_gradient(x), where=where))
        for x in (student_logits, teacher_logits)
    )
    sure = jnp.max(teacher_share * p + (1 - teacher_share) * q, axis=-1)
    return (sure >= threshold) & (sure > 0)


def el2n(student_logits: Logits, labels: Labels) -> Float[Array, "*batch"]:
    """EL2N, the length of the error, `‖q - y‖₂`: how hard an example is early in training.

    Args:
      student_logits: `[*batch, classes]`, usually the mean score of several short trainings.
      labels: as for `cross_entropy`.

    Returns:
      `[*batch]`, from 0 to √2.

    Raises:
      ValueError: if labels are out of range.

    Example:
      >>> el2n(jnp.zeros((2, 2)), jnp.array([0, 1]))
      Array([0.7071, 0.7071], dtype=float32)

    References:
      Paul et al., Deep Learning on a Data Diet, arXiv:2107.07075; for distillation on pruned data
      Ben-Baruch et al., arXiv:2403.07854.
    """
    q = jnp.exp(numerics.log_probabilities(jax.lax.stop_gradient(student_logits)))
    return numerics.safe_norm(q - numerics.label_distribution(labels, student_logits))


def grand(
    student_logits: Logits, embedding: Float[Array, "*batch width"], labels: Labels
) -> Float[Array, "*batch"]:
    """GraNd of the last layer: the norm of an example's gradient, `‖q - y‖₂ · √(‖h‖² + 1)`.

    It is the gradient of the cross-entropy by kernel and bias of a linear layer, in closed form.

    Args:
      student_logits: `[*batch, classes]`.
      embedding: `h`, what the last layer reads, `[*batch, width]`.
      labels: as for `cross_entropy`.

    Returns:
      `[*batch]`.

    Raises:
      ValueError: if the shapes do not go together or labels are out of range.

    Example:
      >>> grand(jnp.zeros((1, 2)), jnp.array([[1.0, 1.0, 1.0]]), jnp.array([0])).round(3)
      Array([1.414], dtype=float32)

    References:
      Paul et al., arXiv:2107.07075.
    """
    if jnp.shape(embedding)[:-1] != jnp.shape(student_logits)[:-1]:
        raise ValueError(
            f"embedding has shape {jnp.shape(embedding)}, wanted "
            f"{(*jnp.shape(student_logits)[:-1], 'width')}"
        )
    length = numerics.as_float(jax.lax.stop_gradient(embedding))
    return el2n(student_logits, labels) * jnp.sqrt(jnp.sum(jnp.square(length), axis=-1) + 1)


def forgetting_events(correct: Bool[Array, "epochs examples"]) -> Float[Array, " examples"]:
    """How many times an example was predicted right in one epoch and wrong in the next.

    Args:
      correct: whether each example was right, by epoch, `[epochs, examples]`.

    Returns:
      Counts `[examples]`; infinite for an example that was never right.

    Raises:
      ValueError: if there is no epoch.

    Example:
      >>> history = jnp.array([[True, True, False], [False, True, False], [True, True, False]])
      >>> forgetting_events(history)
      Array([ 1.,  0., inf], dtype=float32)

    References:
      Toneva et al., An Empirical Study of Example Forgetting during Deep Neural Network Learning,
      arXiv:1812.05159.
    """
    correct = jnp.asarray(correct, bool)
    if correct.ndim != 2 or not correct.shape[0]:
        raise ValueError(f"correct has shape {correct.shape}, wanted [epochs, examples]")
    events = jnp.sum(correct[:-1] & ~correct[1:], axis=0).astype(jnp.float32)
    return jnp.where(jnp.any(correct, axis=0), events, jnp.inf)


def pruned_kd_share(kept: Any, *, whole: Any = 0.5) -> Array:
    """The teacher's share of the loss where only a part of the data is kept, `1 - (1 - a) f`.

    The fewer examples are kept, the more is to be learnt from a teacher who has seen them all.

    Args:
      kept: `f`, the fraction of the examples that is kept, from 0 to 1.
      whole: `a`, the teacher's share on the whole data.

    Returns:
      A scalar, 1 where nothing is kept and `whole` where all is.

    Raises:
      ValueError: if a number is not from 0 to 1.

    Example:
      >>> pruned_kd_share(0.2), pruned_kd_share(1.0)
      (Array(0.9, dtype=float32), Array(0.5, dtype=float32))

    References:
      Ben-Baruch et al., Distilling the Knowledge in Data Pruning, arXiv:2403.07854. (That the share
      ought to fall with the fraction is theirs, the line is ours.)
    """
    numerics.check_fraction(kept=kept, whole=whole)
    return 1 - (1 - numerics.as_float(whole)) * numerics.as_float(kept)


def influence_weights(
    influence: Float[Array, " examples"], *, temperature: Any = 1.0
) -> Float[Array, " examples"]:
    """KD-AIF's weights: more for examples that lower the loss on held-out data.

        w_i = n softmax(-I / (T σ))_i,    σ the standard deviation of the influences

    Args:
      influence: `I`, as `kdjax.algorithms.influence` gives it, `[examples]`.
      temperature: `T`, above 0; the larger, the more even the weights.

    Returns:
      `[examples]`, above 0, with a mean of 1; even where all influences are the same.

    Raises:
      ValueError: if the temperature is not positive or there is no example.

    Example:
      >>> influence_weights(jnp.array([-1.0, 0.0, 1.0])).tolist()
      [2.174, 0.639, 0.188]

    References:
      KD-AIF, arXiv:2501.02705. (Its code is not public; the map from influence to weight is ours.)
    """
    numerics.check_positive(temperature=temperature)
    influence = jax.lax.stop_gradient(numerics.as_float(influence))
    if influence.ndim != 1 or not influence.size:
        raise ValueError(f"influence has shape {influence.shape}, wanted [examples]")
    spread = jnp.std(influence)
    scaled = influence / jnp.where(spread > 0, spread, 1)
    return influence.size * jax.nn.softmax(-scaled / temperature)


def query_distribution(
    gains: Float[Array, " examples"], mistakes: Any
) -> Float[Array, " examples"]:
    """Which examples to ask a teacher about who is wrong on some of them, nobody knows which.

    The distribution whose expected gain is largest in the worst case, in which the teacher errs on
    the `m` examples that matter most:

        max_p min_{|A| <= m} sum_{i not in A} p_i g_i

    It is `p_i ∝ 1 / g_i` on the `k` largest gains, with the `k` for which `(k - m) / sum 1/g_i` is
    largest. Without mistakes all mass is on the largest gain.

    Args:
      gains: what a right answer would be worth, above 0, `[examples]`; such as one minus the
        student's margin between its two likeliest classes.
      mistakes: `m`, how many answers may be wrong, from 0 to fewer than the examples.

    Returns:
      Probabilities `[examples]`.

    Raises:
      ValueError: if the shape is another one or there are as many mistakes as examples.

    Example:
      >>> query_distribution(jnp.array([1.0, 0.5, 0.1]), 1).tolist()
      [0.333, 0.667, 0.000]

    References:
      Baykal et al., Robust Active Distillation, arXiv:2210.01213.
    """
    gains = jax.lax.stop_gradient(numerics.as_float(gains))
    size = gains.size
    if gains.ndim != 1 or not size:
        raise ValueError(f"gains have shape {gains.shape}, wanted [examples]")
    if isinstance(mistakes, (int, float)) and not 0 <= mistakes < size:
        raise ValueError(f"mistakes is {mistakes}, wanted 0 to fewer than the {size} examples")
    inverse = 1 / jnp.maximum(gains, jnp.finfo(gains.dtype).tiny ** 0.5)
    order = jnp.argsort(inverse)
    counts = jnp.arange(1, size + 1)
    worth = (counts - mistakes) / jnp.cumsum(inverse[order])
    support = jnp.argsort(order) <= jnp.argmax(worth)
    weights = jnp.where(support, inverse, 0)
    return weights / jnp.sum(weights)
