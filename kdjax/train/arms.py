"""The ways to train the student that a recipe names: its baselines and its objective."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kdjax.losses.numerics import nearest
from kdjax.train import lookup
from kdjax.train.errors import RecipeError
from kdjax.train.options import names
from kdjax.train.schemes import SCHEMES, Scheme

TEACHER = "teacher"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Attributes:
      name: of its runs.
      section: where the config describes it.
      options: what the config says there.
    """

    name: str
    section: str
    options: Mapping[str, Any]

    @property
    def scheme(self) -> str:
        """The training scheme."""
        return self.options.get("algorithm", "distill")

    @property
    def needs_teacher(self) -> bool:
        """Whether anything of a teacher goes into it."""
        if self.scheme == "distill":
            return any(
                lookup.reads_teacher(part.get("name", "")) for part in lookup.parts_of(self.options)
            )
        return self._wants.needs_teacher

    @property
    def taught_by(self) -> tuple[str, ...]:
        """The runs whose students teach it; none if it has the recipe's teacher."""
        return names(self.options.get("taught_by"))

    @property
    def starts_from(self) -> str:
        """The run whose variables it starts from; empty if it starts anew."""
        return self.options.get("starts_from", "")

    @property
    def after(self) -> tuple[str, ...]:
        """The runs of other arms that must have ended before."""
        return tuple(name for name in self._builds_on if name != TEACHER)

    @property
    def uses_the_teacher(self) -> bool:
        """Whether the recipe's own teacher goes into it."""
        return TEACHER in self._builds_on or (self.needs_teacher and not self.taught_by)

    @property
    def _builds_on(self) -> tuple[str, ...]:
        """All runs that are named, for teaching, for starting from, or for a fit."""
        options = [value for value in self.options.values() if isinstance(value, Mapping)]
        fitted_to = [value["of"] for value in options if "fit" in value and value.get("of")]
        found = dict.fromkeys([*self.taught_by, self.starts_from, *fitted_to])
        return tuple(name for name in found if name)

    @property
    def reads_logits_only(self) -> bool:
        """Whether the teacher's logits are all it wants of the teacher."""
        return lookup.reads_only_logits([self.options]) and not self._wants.runs_teacher

    @property
    def wants_validation(self) -> bool:
        """Whether each batch comes with one of the validation split."""
        return self._wants.needs_validation

    @property
    def main_player(self) -> str:
        """The player whose metrics count, where several play."""
        return "student" if self._wants.several else ""

    @property
    def _wants(self) -> Scheme:
        # An unknown one is refused where it is built.
        return SCHEMES.get(self.scheme, SCHEMES["distill"])


def arms_of(config: ConfigDict) -> dict[str, Arm]:
    """The arms by name, baselines first.

    Raises:
      RecipeError: for a name that two share, that is the teacher's, or that is no folder's name.
    """
    found: dict[str, Arm] = {}
    given = [(name, f"baselines.{name}", arm) for name, arm in config.baselines.items()]
    main = config.main or _own_name(config.objective)
    for name, section, options in [*given, (main, "objective", config.objective)]:
        if not isinstance(options, ConfigDict):
            raise RecipeError(f"config.{section} is {options!r}, wanted a name with its options")
        key = "config.main" if section == "objective" and config.main else f"config.{section}"
        if name in found or name == TEACHER:
            raise RecipeError(
                f"{key} is called {name!r} like another run; choose another name (config.main)"
            )
        if not re.fullmatch(r"[\w.+-]*\w[\w.+-]*", name):
            raise RecipeError(f"{key} is called {name!r}; wanted letters, digits, '_', '-' and '.'")
        found[name] = Arm(name, section, options.to_dict())
    for arm in found.values():
        _check_order(arm, found, ())
    return found


def _check_order(arm: Arm, arms: Mapping[str, Arm], path: tuple[str, ...]) -> None:
    """Makes sure that the runs that an arm builds on exist, and do not build on it."""
    path = (*path, arm.name)
    for other in arm.after:
        if other in path:
            raise RecipeError(f"config.{arm.section} comes after itself: {' after '.join(path)}")
        if other not in arms:
            raise RecipeError(
                f"config.{arm.section} comes after {other!r}{nearest(other, [*arms, TEACHER])}"
            )
        _check_order(arms[other], arms, path)


def _own_name(options: Mapping[str, Any]) -> str:
    scheme = options.get("algorithm", "distill")
    name = options.get("name") if scheme == "distill" else scheme
    if not isinstance(name, str) or not name:
        raise RecipeError("config.objective has no name; name a loss or an objective of kdjax")
    return name
