"""One run: what is trained on what, and how it is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.base import Algorithm, Model, Variables
from kdjax.data import Dataset, TeacherCache


class Job(NamedTuple):
    """One run: what is trained on what, and how it is called.

    Attributes:
      name: `'teacher'` or an arm's.
      seed: of the run.
      algorithm: compiled.
      model: of the player `student`.
      train: the training set.
      steps: updates in all.
      key: of all randomness.
      description: of the objective, in words.
      shown: the model in words.
      frozen: variables of the frozen teachers.
      start: variables that players start from, by name.
      validation: a second source of batches.
      main_player: the player whose metrics count, where several play.
      answers: of the teacher to the views of the training examples, where they are kept.
    """

    name: str
    seed: int
    algorithm: Algorithm
    model: Model
    train: Dataset
    steps: int
    key: jax.Array
    description: str
    shown: str
    frozen: Mapping[str, Any] = {}
    start: Mapping[str, Variables] | None = None
    validation: Dataset | None = None
    main_player: str = ""
    answers: TeacherCache | None = None

    def batch(self, size: int) -> dict[str, Any]:
        """The first training batch in the data's order, on the device."""
        rows = self.train.take(np.arange(size) % self.train.size)
        if self.answers is not None:
            rows = self.answers.join({**rows, "view": np.zeros(size, np.int32)})
        return {name: jnp.asarray(value) for name, value in rows.items()}
