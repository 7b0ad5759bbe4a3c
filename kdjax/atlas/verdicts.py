"""Paired differences over seeds, and what they say about a claim."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import NamedTuple

from scipy import stats

HIGHER = ("accuracy", "agreement", "top5_accuracy", "label_loyalty", "probability_loyalty")
LOWER = ("nll", "brier", "ece", "adaptive_ece", "mean_kl")
MEASURES = (*HIGHER, *LOWER)
"""What a claim may be about."""
REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced here"
INCONCLUSIVE, NOT_RUN = "inconclusive", "not run yet"


class Difference(NamedTuple):
    """A mean difference with its interval; the bounds are none where a single seed is paired."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


def paired_difference(
    values: Mapping[int, float], others: Mapping[int, float], level: float = 0.95
) -> Difference | None:
    """The mean difference between runs of the same seed, with Student's t interval.

        mean(d) ± t(level, n - 1) · sd(d) / sqrt(n),    d_k = values_k - others_k

    Args:
      values: a measure by seed.
      others: the same of what it is compared with.
      level: confidence, between 0 and 1.

    Returns:
      The difference over the seeds that both have; `None` if there is none.

    Raises:
      ValueError: for a level that is not between 0 and 1.

    Example:
      >>> found = paired_difference({0: 3.0, 1: 5.0}, {0: 2.0, 1: 3.0, 2: 9.0})
      >>> print(found.mean, round(found.low, 2), round(found.high, 2), found.seeds)
      1.5 -4.85 7.85 2

    References:
      Student, The Probable Error of a Mean, Biometrika 6, 1908.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, wanted a number between 0 and 1")
    differences = [values[seed] - others[seed] for seed in sorted(values.keys() & others.keys())]
    if not differences:
        return None
    mean, count = statistics.fmean(differences), len(differences)
    if count == 1:
        return Difference(mean, None, None, 1)
    quantile = float(stats.t.ppf((1 + level) / 2, count - 1))
    half = quantile * statistics.stdev(differences) / count**0.5
    return Difference(mean, mean - half, mean + half, count)


def verdict(
    difference: Difference | None, measure: str, *, worse: bool = False, margin: float = 0.0
) -> str:
    """What a difference says about the claim that a method is better in a measure.

    Args:
      difference: the method's measure less the other's.
      measure: one of `MEASURES`; for some of them higher is better, for the others lower.
      worse: the claim is the opposite, that the method is worse.
      margin: what the method may lose and the claim still hold, at least 0.

    Returns:
      `'reproduced'` if the whole interval is on the right side, `'not reproduced here'` if it is on
      the wrong side, `'inconclusive'` if it is on both, `'not run yet'` without an interval.

    Raises:
      ValueError: for an unknown measure or a negative margin.

    Example:
      >>> verdict(Difference(0.02, 0.01, 0.03, 3), 'accuracy')
      'reproduced'
      >>> verdict(Difference(0.02, 0.01, 0.03, 3), 'ece')
      'not reproduced here'
    """
    if measure not in MEASURES:
        raise ValueError(f"measure is {measure!r}, wanted one of {MEASURES}")
    if margin < 0:
        raise ValueError(f"margin is {margin}, wanted at least 0")
    if difference is None or difference.low is None or difference.high is None:
        return NOT_RUN
    sign = 1 if (measure in HIGHER) != worse else -1
    low, high = sorted((sign * difference.low, sign * difference.high))
    if low + margin > 0:
        return REPRODUCED
    return NOT_REPRODUCED if high + margin < 0 else INCONCLUSIVE
