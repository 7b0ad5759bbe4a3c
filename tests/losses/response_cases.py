"""Rows of the table of losses on logits: rankings, transport, made-up targets, weights."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
from formulas import Case, cross_entropy, kl, labels_only, sigmoid, softmax, without

from kdjax.losses import (
    agreement,
    binary,
    confidence,
    correlation,
    ranking,
    regression,
    stored,
    teacher_free,
    teacher_training,
    transport,
)


def pld(s, t, y, temperature=1.0, uniform=False):
    order = [y, *(c for c in np.argsort(-t) if c != y)]
    weights = np.ones(len(t)) if uniform else softmax(t / temperature)
    chosen = [np.log(np.sum(np.exp(s[order[k:]]))) - s[c] for k, c in enumerate(order)]
    return np.dot(weights[order], chosen)


def binary_kl(s, t, y, temperature=2.0):
    pairs = zip(sigmoid(t / temperature), sigmoid(s / temperature), strict=True)
    return temperature**2 * sum(kl(np.array([p, 1 - p]), np.array([q, 1 - q])) for p, q in pairs)


def binary_kl_norm(s, t, y, temperature=2.0):
    even = [kl(np.full(2, 0.5), np.array([d, 1 - d])) for d in sigmoid((s - t) / temperature)]
    return temperature**2 * sum(even)


def sinkhorn_kd(s, t, y=None, temperature=2.0, eps=0.1, iterations=20, mean=True):
    q, p = softmax(s / temperature), softmax(t / temperature)
    cost = np.abs(q[:, None] - p).sum(-1)
    plan = np.exp(-cost / eps)
    for _ in range(iterations):
        plan = plan / plan.sum(1, keepdims=True)
        plan = plan / plan.sum(0, keepdims=True)
    return np.sum(plan * cost) / (len(s) if mean else 1)


def entropy(p):
    return -np.sum(p * np.log(p))


def wsld(s, t, y, temperature=4.0, at=None):
    student, teacher = (cross_entropy(x, None, y) for x in (s if at is None else at, t))
    p, q = softmax(t / temperature), softmax(s / temperature)
    return (1 - np.exp(-student / teacher)) * temperature**2 * -np.sum(p * np.log(q))


def balanced_kl(s, t, y, high=1.0, low=0.5, temperature=1.0):
    p, q = softmax(t / temperature), softmax(s / temperature)
    a, b = (high, low) if entropy(q) < entropy(p) else (low, high)
    return temperature**2 * (a * kl(p, q) + b * kl(q, p))


def cwtm(s, t, y):
    confidence_ = softmax(t).max(-1)
    each = [cross_entropy(row, None, label) for row, label in zip(s, y, strict=True)]
    return np.sum(confidence_ / confidence_.mean() * each)


def tf_kd(s, t, y, correct=0.99, temperature=20.0, of_probabilities=False):
    p = np.where(np.arange(len(s)) == y, correct, (1 - correct) / (len(s) - 1))
    return kl(softmax((p if of_probabilities else np.log(p)) / temperature), softmax(s))


def uskd(s, t, y, alpha=1.0, beta=0.1, mu=0.0, logarithm=False, at=None):
    """The second argument is the weak head's."""
    at = s if at is None else at
    squares = softmax(at)[np.arange(len(y)), y] ** 2
    total = 0.0
    for b, label in enumerate(y):
        own, weak = softmax(at[b]), softmax(t[b])
        own = np.log(own) if logarithm else own
        score = sum(x / (1 - x[label] + 1e-6) for x in (own, weak))
        law = np.empty(len(score))
        law[np.argsort(-score)] = 1 / np.arange(1, len(score) + 1)
        law = without(law, label) / without(law, label).sum()
        target = squares[b] + 1 - squares.mean()
        total += alpha * target * cross_entropy(s[b], None, label)
        total -= beta * np.dot(law, np.log(softmax(without(s[b], label))))
        total += mu * cross_entropy(t[b], None, label, smoothing=0.1)
    return total


def focal(s, t, y, gamma=2.0):
    loss = cross_entropy(s, None, y)
    return (1 - np.exp(-loss)) ** gamma * loss


def mcmi(s, t, y, weight=-0.15):
    """Where class 1 is masked, labels are counted without it."""
    mean = CENTROIDS[y] if len(s) == 5 else np.delete(CENTROIDS[y + (y > 0)], 1)
    return cross_entropy(s, None, y) + weight * kl(softmax(s), mean / mean.sum())


def multi_level_kd(s, t, y=None, temperature=(2.0, 3.0, 4.0, 5.0, 6.0), weights=(1.0, 1.0)):
    values = []
    for T in np.atleast_1d(temperature):
        q, p = softmax(s / T), softmax(t / T)
        by_class = np.sum((p.T @ p - q.T @ q) ** 2) / s.shape[1]
        by_example = np.sum((p @ p.T - q @ q.T) ** 2) / s.shape[0]
        each = T**2 * np.sum(p * np.log(p / q)) / s.shape[0]
        values.append(each + weights[0] * by_class + weights[1] * by_example)
    return np.mean(values)


def probability_mse(s, t, y, label_share=0.5):
    q, p, truth = softmax(s), softmax(t), np.arange(len(s)) == y
    return np.mean(label_share * (q - truth) ** 2 + (1 - label_share) * (q - p) ** 2)


def fer_kd(s, t, y, discard=0.15, soften=0.3, smoothing=0.1):
    best = softmax(t).max()
    soft = cross_entropy(s, None, y, smoothing=smoothing)
    own = -np.sum(softmax(t) * np.log(softmax(s)))
    return 0.0 if best < discard else soft if best < soften else own


def consensus_kd(s, t, y, sharpness=1.0, temperature=1.0):
    """Of two teachers, the second twice as sure."""
    members = [softmax(t / temperature), softmax(2 * t / temperature)]
    mean = np.mean(members, axis=0)
    weight = np.exp(-sharpness * np.mean([kl(p, mean) for p in members]))
    return weight * temperature**2 * kl(mean, softmax(s / temperature))


def of_two(student, teacher, labels, **options):
    teachers = jnp.stack([teacher, 2 * teacher], axis=-2)
    return agreement.consensus_kd(student, teachers, labels, **options)


CENTROIDS = softmax(np.random.default_rng(0).normal(size=(5, 5)))


def mcmi_loss(student, labels, **options):
    """With as many of the table's classes as there are logits."""
    classes = jnp.shape(student)[-1]
    return teacher_training.mcmi(
        student, labels, centroids=jnp.asarray(CENTROIDS[:classes, :classes]), **options
    )


def summed(loss, **fixed):
    """A loss that couples a batch, but answers for each example."""
    return lambda student, teacher, labels, **options: jnp.sum(
        loss(student, teacher, labels, **fixed, **options)
    )


def _with(loss, formula, zero_at_equality=False, **options) -> Case:
    """A case with options that loss and formula call alike."""
    return Case(
        functools.partial(loss, **options), functools.partial(formula, **options), zero_at_equality
    )


CASES = {
    "pld": Case(ranking.pld, pld),
    "pld_options": _with(ranking.pld, pld, temperature=4.0),
    "pld_uniform": Case(
        functools.partial(ranking.pld, rank_weights="uniform"), functools.partial(pld, uniform=True)
    ),
    "binary_kl": Case(binary.binary_kl, binary_kl, True),
    "binary_kl_options": _with(binary.binary_kl, binary_kl, True, temperature=1.5),
    "binary_kl_norm": Case(binary.binary_kl_norm, binary_kl_norm, True),
    "binary_kl_norm_options": _with(binary.binary_kl_norm, binary_kl_norm, True, temperature=1.5),
    "wsld": Case(confidence.wsld, wsld, constants=True),
    "balanced_kl": Case(confidence.balanced_kl, balanced_kl, True),
    "balanced_kl_options": _with(
        confidence.balanced_kl, balanced_kl, True, temperature=2.0, high=0.2, low=0.7
    ),
    "tf_kd": Case(labels_only(teacher_free.tf_kd), tf_kd),
    "tf_kd_released": Case(
        functools.partial(labels_only(teacher_free.tf_kd), soften="probabilities", correct=0.8),
        functools.partial(tf_kd, of_probabilities=True, correct=0.8),
    ),
    "fer_kd": Case(stored.fer_kd, fer_kd),
    "fer_kd_options": _with(stored.fer_kd, fer_kd, discard=0.6, soften=0.8, smoothing=0.3),
    "consensus_kd": Case(of_two, consensus_kd),
    "consensus_kd_options": _with(of_two, consensus_kd, sharpness=5.0, temperature=3.0),
    "focal": Case(labels_only(teacher_training.focal), focal),
    "focal_options": _with(labels_only(teacher_training.focal), focal, gamma=0.5),
    "mcmi": Case(labels_only(mcmi_loss), mcmi),
    "probability_mse": Case(regression.probability_mse, probability_mse),
    "probability_mse_options": _with(
        regression.probability_mse, probability_mse, True, label_share=0.0
    ),
}
BATCH_CASES = {
    "sinkhorn_kd": Case(transport.sinkhorn_kd, sinkhorn_kd),
    "sinkhorn_kd_options": Case(
        functools.partial(transport.sinkhorn_kd, eps=0.5, iterations=3, reduction="sum"),
        functools.partial(sinkhorn_kd, eps=0.5, iterations=3, mean=False),
    ),
    "cwtm": Case(summed(confidence.cwtm), cwtm),
    "uskd": Case(summed(teacher_free.uskd, mu=0.0), uskd, constants=True),
    "uskd_options": Case(
        summed(teacher_free.uskd, alpha=0.5, beta=2.0, mu=0.0, rank="log_probability"),
        functools.partial(uskd, alpha=0.5, beta=2.0, logarithm=True),
        constants=True,
    ),
    "multi_level_kd": Case(correlation.multi_level_kd, multi_level_kd, True),
    "multi_level_kd_options": Case(
        functools.partial(
            correlation.multi_level_kd, temperature=4.0, class_weight=2.0, batch_weight=0.5
        ),
        functools.partial(multi_level_kd, temperature=4.0, weights=(2.0, 0.5)),
        True,
    ),
}
