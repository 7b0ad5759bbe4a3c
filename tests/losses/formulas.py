"""What the tables of losses share: a case, and distributions in float64 numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """A loss `(student, teacher, labels, *, where)` and its formula on one row `(s, t, y)`.

    A case of a loss that couples a batch has the formula of the whole batch `(s, t, y)`. Where a
    loss weighs by constants that depend on the student, its formula takes them at `at`.
    """

    loss: Callable
    formula: Callable
    zero_at_equality: bool = False
    constants: bool = False

    def value(self, s, t, y, at):
        """The formula, with its constants taken at another student."""
        return self.formula(s, t, y, at=at) if self.constants else self.formula(s, t, y)


def softmax(x):
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def kl(p, q):
    return np.sum(p * np.log(p / q))


def cross_entropy(s, t, y, temperature=1.0, smoothing=0.0):
    target = (1 - smoothing) * (np.arange(len(s)) == y) + smoothing / len(s)
    return -np.sum(target * np.log(softmax(s / temperature)))


def without(x, y):
    return np.delete(x, y)


def labels_only(loss: Callable) -> Callable:
    """A loss of student and labels, with the signature of the others."""
    return lambda student, teacher, labels, **options: loss(student, labels, **options)
