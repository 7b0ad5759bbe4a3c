"""A table of the losses on logits, each with its formula in float64 numpy on a single row."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import response_cases
from formulas import Case, cross_entropy, kl, labels_only, softmax, without

from kdjax.losses import divergences, logits, targets


def js(p, q, beta=0.5):
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def alpha_divergence(p, q, alpha=0.5):
    return (np.sum(p**alpha * q ** (1 - alpha)) - 1) / (alpha * (alpha - 1))


def squared_error_term(log_p, log_q):
    """A divergence of the user's own."""
    return (jnp.exp(log_p) - jnp.exp(log_q)) ** 2


# name: (loss, its term, formula of two distributions, zero where they agree)
DIVERGENCES = {
    "kl_divergence": (divergences.kl_divergence, divergences.kl_term, kl, True),
    "reverse_kl": (
        divergences.reverse_kl,
        divergences.reverse_kl_term,
        lambda p, q: kl(q, p),
        True,
    ),
    "soft_cross_entropy": (
        divergences.soft_cross_entropy,
        divergences.cross_entropy_term,
        lambda p, q: -np.sum(p * np.log(q)),
        False,
    ),
    "symmetric_kl": (
        divergences.symmetric_kl,
        divergences.symmetric_kl_term,
        lambda p, q: (kl(p, q) + kl(q, p)) / 2,
        True,
    ),
    "jensen_shannon": (divergences.jensen_shannon, divergences.generalized_js_term, js, True),
    "generalized_jensen_shannon": (
        functools.partial(divergences.generalized_jensen_shannon, beta=0.2),
        functools.partial(divergences.generalized_js_term, beta=0.2),
        functools.partial(js, beta=0.2),
        True,
    ),
    "generalized_jensen_shannon_0": (
        functools.partial(divergences.generalized_jensen_shannon, beta=0.0),
        divergences.kl_term,
        kl,
        True,
    ),
    "generalized_jensen_shannon_1": (
        functools.partial(divergences.generalized_jensen_shannon, beta=1),
        divergences.reverse_kl_term,
        lambda p, q: kl(q, p),
        True,
    ),
    "skew_kl": (
        divergences.skew_kl,
        divergences.skew_kl_term,
        lambda p, q: kl(p, 0.1 * p + 0.9 * q),
        True,
    ),
    "skew_kl_0": (functools.partial(divergences.skew_kl, skew=0.0), divergences.kl_term, kl, True),
    "skew_reverse_kl": (
        functools.partial(divergences.skew_reverse_kl, skew=0.3),
        functools.partial(divergences.skew_reverse_kl_term, skew=0.3),
        lambda p, q: kl(q, 0.3 * q + 0.7 * p),
        True,
    ),
    "total_variation": (
        divergences.total_variation,
        divergences.total_variation_term,
        lambda p, q: 1 - np.sum(np.minimum(p, q)),
        True,
    ),
    "hellinger": (
        divergences.hellinger,
        divergences.hellinger_term,
        lambda p, q: 1 - np.sum(np.sqrt(p * q)),
        True,
    ),
    "alpha_divergence": (
        divergences.alpha_divergence,
        divergences.alpha_term,
        alpha_divergence,
        True,
    ),
    "alpha_divergence_3": (
        functools.partial(divergences.alpha_divergence, alpha=3.0),
        functools.partial(divergences.alpha_term, alpha=3.0),
        functools.partial(alpha_divergence, alpha=3.0),
        True,
    ),
    "alpha_divergence_1": (
        functools.partial(divergences.alpha_divergence, alpha=1.0),
        divergences.kl_term,
        kl,
        True,
    ),
    "chi_squared": (
        divergences.chi_squared,
        divergences.chi_squared_term,
        lambda p, q: np.sum(p**2 / q) - 1,
        True,
    ),
    "own_divergence": (
        divergences.divergence(squared_error_term),
        squared_error_term,
        lambda p, q: np.sum((p - q) ** 2),
        True,
    ),
}


def of_distributions(formula: Callable, temperature=1.0, smoothing=0.0, factor=1.0) -> Callable:
    def of_row(s, t, y):
        p = (1 - smoothing) * softmax(t / temperature) + smoothing / len(t)
        return factor * formula(p, softmax(s / temperature))

    return of_row


def dkd(s, t, y, alpha=1.0, beta=8.0, temperature=4.0):
    p, q = softmax(t / temperature), softmax(s / temperature)
    target = kl(np.array([p[y], 1 - p[y]]), np.array([q[y], 1 - q[y]]))
    other = kl(without(p, y) / (1 - p[y]), without(q, y) / (1 - q[y]))
    return temperature**2 * (alpha * target + beta * other)


def nkd(s, t, y, gamma=1.5, temperature=1.0):
    target = -softmax(t)[y] * np.log(softmax(s)[y])
    p, q = softmax(without(t, y) / temperature), softmax(without(s, y) / temperature)
    return target - gamma * temperature**2 * np.sum(p * np.log(q))


def ofa(s, t, y, gamma=1.5, temperature=1.0):
    label = np.arange(len(s)) == y
    target = (softmax(t / temperature) + label) ** gamma - label
    return -np.sum(target * np.log(softmax(s / temperature)))


def standardize(x):
    return (x - x.mean()) / (x.std(ddof=1) + 1e-7)


def _cases() -> dict[str, Case]:
    cases = {}
    options = {"temperature": 2.5, "label_smoothing": 0.2, "scale_by_t2": True}
    for name, (loss, _, formula, zero) in DIVERGENCES.items():
        cases[name] = Case(loss, of_distributions(formula), zero)
        changed = of_distributions(formula, 2.5, 0.2, 2.5**2)
        cases[f"{name}_options"] = Case(functools.partial(loss, **options), changed)
    ce = labels_only(logits.cross_entropy)
    cases["cross_entropy"] = Case(ce, cross_entropy)
    cases["cross_entropy_options"] = Case(
        functools.partial(ce, temperature=2.0, label_smoothing=0.1),
        functools.partial(cross_entropy, temperature=2.0, smoothing=0.1),
    )
    cases["kd"] = Case(logits.kd, of_distributions(kl, 4.0, 0.0, 16.0), True)
    cases["kd_without_t2"] = Case(
        functools.partial(logits.kd, temperature=3.0, scale_by_t2=False),
        of_distributions(kl, 3.0),
        True,
    )
    cases["dkd"] = Case(logits.dkd, dkd, True)
    cases["dkd_options"] = Case(
        functools.partial(logits.dkd, alpha=0.5, beta=2.0, temperature=1.5),
        functools.partial(dkd, alpha=0.5, beta=2.0, temperature=1.5),
        True,
    )
    cases["nkd"] = Case(logits.nkd, nkd)
    cases["nkd_options"] = Case(
        functools.partial(logits.nkd, gamma=0.5, temperature=2.0),
        functools.partial(nkd, gamma=0.5, temperature=2.0),
    )
    cases["ofa"] = Case(targets.ofa, ofa)
    cases["ofa_options"] = Case(
        functools.partial(targets.ofa, gamma=2.0, temperature=3.0),
        functools.partial(ofa, gamma=2.0, temperature=3.0),
    )
    cases["kd_logit_standardization"] = Case(
        logits.kd_logit_standardization,
        lambda s, t, y: 4 * kl(softmax(standardize(t) / 2), softmax(standardize(s) / 2)),
        True,
    )
    cases["dkd_standardized"] = Case(
        logits.standardized(logits.dkd),
        lambda s, t, y: dkd(standardize(s), standardize(t), y),
        True,
    )
    return cases


CASES = {**_cases(), **response_cases.CASES}


def dist(s, t, y=None, beta=1.0, gamma=1.0, temperature=1.0):
    """The formula of `dist`, of a whole batch."""
    q, p = softmax(s / temperature), softmax(t / temperature)
    rows = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)]
    columns = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)]
    return temperature**2 * (beta * np.mean(rows) + gamma * np.mean(columns))


BATCH_CASES = {
    "dist": Case(logits.dist, dist, True),
    "dist_options": Case(
        functools.partial(logits.dist, beta=2.0, gamma=0.5, temperature=4.0),
        functools.partial(dist, beta=2.0, gamma=0.5, temperature=4.0),
        True,
    ),
    **response_cases.BATCH_CASES,
}
