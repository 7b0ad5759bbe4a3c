"""Finding steps at which a gradient is much larger than those before it."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping

WINDOW = 100
"""Norms that the running median is taken of."""
FEWEST = 10
"""Norms without which nothing is called a spike."""


class SpikeFinder:
    """Compares norms with the running median of those before them, for each name on its own.

        norm_t > factor · median(norm_{t-100}, …, norm_{t-1})

    Norms that are not finite are not spikes and do not count. The first ten are never spikes.

    Args:
      factor: how many times the median is a spike; 0 for none.
      norms: where to go on from, as `state` gave it.

    Raises:
      ValueError: if the factor is negative.

    Example:
      >>> finder = SpikeFinder(factor=5.0)
      >>> for _ in range(20):
      ...     assert finder.median_under('grad_norm', 1.0) is None
      >>> finder.median_under('grad_norm', 8.0)
      1.0
    """

    def __init__(self, factor: float, norms: Mapping[str, Iterable[float]] | None = None):
        if not factor >= 0:
            raise ValueError(f"factor is {factor!r}, wanted a number of at least 0")
        self.factor = factor
        self._norms = {name: deque(window, WINDOW) for name, window in (norms or {}).items()}

    @property
    def state(self) -> dict[str, list[float]]:
        """The windows, fit for JSON."""
        return {name: list(window) for name, window in self._norms.items()}

    def median_under(self, name: str, norm: float) -> float | None:
        """Takes the next norm; the median that it exceeds by the factor, `None` if it does not."""
        if not self.factor or not math.isfinite(norm):
            return None
        window = self._norms.setdefault(name, deque(maxlen=WINDOW))
        median = statistics.median(window) if len(window) >= FEWEST else math.inf
        window.append(norm)
        return median if norm > self.factor * median else None
