"""A protocol: the data, teacher, student and budget that all methods of a family share."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kdjax.atlas import tables
from kdjax.atlas.family import Method
from kdjax.train import schema
from kdjax.train.errors import RecipeError, one_line

RATE = "student.optimizer.learning_rate"


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How each method chooses its learning rate.

    Attributes:
      train: split that is trained on.
      validation: split that decides, by accuracy.
      share: of the budget that each trial has.
      seed: of the trials.
      learning_rates: those that are tried.
    """

    train: str
    validation: str
    share: float
    seed: int
    learning_rates: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Condition:
    """A state of the data: all of it, few labels, wrong labels.

    Attributes:
      title: in words.
      recipe: what differs in the recipe, by dotted key.
      tuning: what differs in the tuning.
    """

    title: str
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tuning: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What all methods share on one data set.

    Attributes:
      name: of the protocol.
      title: of the data set.
      seeds: of the runs.
      recipe: what differs from the default recipe, by dotted key.
      tuning: of the learning rate.
      conditions: by name.
      scale: share of the budget that is spent.
    """

    name: str
    title: str
    seeds: tuple[int, ...]
    recipe: Mapping[str, Any]
    tuning: Tuning
    conditions: Mapping[str, Condition]
    scale: float = 1.0

    def teacher_config(self) -> ConfigDict:
        """The recipe that the teacher is trained by."""
        return self._config({}, {"main": "kd"})

    def config(self, method: Method, learning_rate: float) -> ConfigDict:
        """The recipe of a method."""
        return self._config(
            self._condition(method).recipe, _of(method, learning_rate), student=method.student
        )

    def trial_config(self, method: Method, learning_rate: float) -> ConfigDict:
        """The recipe of a trial: less data, less time, held-out images instead of the test set."""
        condition = self._condition(method)
        tuning = self.tuning_of(method)
        splits = {"data.train": tuning.train, "data.test": tuning.validation}
        config = self._config(
            {**condition.recipe, **splits}, _of(method, learning_rate), student=method.student
        )
        config.student.epochs *= tuning.share
        return config

    def tuning_of(self, method: Method) -> Tuning:
        """The tuning under a method's condition."""
        return dataclasses.replace(self.tuning, **self._condition(method).tuning)

    def _condition(self, method: Method) -> Condition:
        tables.check_names(f"{self.name}: {method.name}", [method.condition], self.conditions)
        return self.conditions[method.condition]

    def _config(
        self, *changes: Mapping[str, Any], student: Mapping[str, Any] | None = None
    ) -> ConfigDict:
        config = schema.default()
        config.baselines = ConfigDict()
        config.teacher.cache, config.student.steps_per_call = True, 8
        # The runs are many and short: they look up at the end only.
        config.evaluate_every_epochs = 1e6
        config.log_every, config.checkpoint.every_steps, config.checkpoint.keep = 500, 2000, 1
        for table in (self.recipe, *changes):
            for key, value in table.items():
                _set(config, key, value, self.name)
        config.student.model.update(ConfigDict(student or {}))
        config.teacher.epochs *= self.scale
        config.student.epochs *= self.scale
        return schema.checked(config)


def load_protocol(
    name: str, folder: str | os.PathLike[str] = tables.FOLDER, scale: float = 1.0
) -> Protocol:
    """The protocol of a TOML file.

    Args:
      name: of the file, without its ending.
      folder: of the file.
      scale: share of the budget that is spent, above 0.

    Returns:
      The protocol.

    Raises:
      RecipeError: there is no such protocol, or something in it does not fit.
    """
    if not scale > 0:
        raise RecipeError(f"--scale is {scale}, wanted a number above 0")
    table = tables.read_table(folder, "recipe", name)
    tables.check_names(name, table, ("title", "seeds", "tuning", "recipe", "conditions"))
    try:
        tuning = Tuning(**table["tuning"])
        conditions = {key: Condition(**row) for key, row in table["conditions"].items()}
        made = Protocol(
            name, table["title"], table["seeds"], table["recipe"], tuning, conditions, scale
        )
    except (KeyError, TypeError) as error:
        raise RecipeError(f"{name}: {one_line(error)} is missing or not known") from error
    made.teacher_config()
    return made


def _of(method: Method, learning_rate: float) -> dict[str, Any]:
    return {"main": method.name, "objective": ConfigDict(method.options), RATE: learning_rate}


def _set(config: ConfigDict, key: str, value: Any, place: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tables.check_names(f"{place}: {key}", [section], config)
        config = config[section]
    tables.check_names(f"{place}: {key}", [last], config)
    config[last] = ConfigDict(value) if isinstance(value, Mapping) else value
