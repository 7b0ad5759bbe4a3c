"""Rows of the table of losses on logits: rankings, transport, classes one by one."""

from __future__ import annotations

import functools

import numpy as np
from formulas import Case, kl, sigmoid, softmax

from kdjax.losses import binary, ranking, transport


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


def _with(loss, formula, zero_at_equality=False, **options) -> Case:
    """A case with options that loss and formula call alike."""
    return Case(
        functools.partial(loss, **options), functools.partial(formula, **options), zero_at_equality
    )


CASES = {
    "pld": Case(ranking.pld, pld),
    "pld_options": _with(ranking.pld, pld, temperature=4.0),
    "pld_uniform": Case(
        functools.partial(ranking.pld, weights="uniform"), functools.partial(pld, uniform=True)
    ),
    "binary_kl": Case(binary.binary_kl, binary_kl, True),
    "binary_kl_options": _with(binary.binary_kl, binary_kl, True, temperature=1.5),
    "binary_kl_norm": Case(binary.binary_kl_norm, binary_kl_norm, True),
    "binary_kl_norm_options": _with(binary.binary_kl_norm, binary_kl_norm, True, temperature=1.5),
}
BATCH_CASES = {
    "sinkhorn_kd": Case(transport.sinkhorn_kd, sinkhorn_kd),
    "sinkhorn_kd_options": Case(
        functools.partial(transport.sinkhorn_kd, eps=0.5, iterations=3, reduction="sum"),
        functools.partial(sinkhorn_kd, eps=0.5, iterations=3, mean=False),
    ),
}
