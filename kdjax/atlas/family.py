"""A family of methods: how each is trained, and what its paper claims."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from kdjax.atlas import tables
from kdjax.atlas.verdicts import MEASURES
from kdjax.train.errors import RecipeError

TEACHER, BASELINE = "teacher", "kd"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A paper's claim in miniature: a method is better than another in a measure.

    Attributes:
      text: the claim in words.
      than: the other method, or `'teacher'`.
      measure: one of `verdicts.MEASURES`.
      worse: the method is claimed to be worse.
      margin: what may be lost and the claim still hold.
    """

    text: str
    than: str = BASELINE
    measure: str = "accuracy"
    worse: bool = False
    margin: float = 0.0


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to train the student.

    Attributes:
      name: of its runs.
      options: of the objective, as in a recipe.
      condition: of the data, as the protocol names it.
      paper: arXiv id, empty if there is none.
      claims: what it is said to do.
      student: what its student has beside the protocol's network, such as a second head.
    """

    name: str
    options: Mapping[str, Any]
    condition: str = "full"
    paper: str = ""
    claims: tuple[Claim, ...] = ()
    student: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Family:
    """All methods of a family, and those that have no run, with the reason.

    Attributes:
      name: of the family.
      methods: by name, in the order in which they are run and shown.
      elsewhere: why there is no run, by name.
    """

    name: str
    methods: Mapping[str, Method]
    elsewhere: Mapping[str, str]

    def chosen(self, names: tuple[str, ...]) -> list[Method]:
        """The methods of these names, all without names, in the family's order.

        Raises:
          RecipeError: for a name that the family does not have.
        """
        tables.check_names("--methods", names, self.methods)
        return [method for name, method in self.methods.items() if not names or name in names]


def load_family(name: str, folder: str | os.PathLike[str] = tables.FOLDER) -> Family:
    """The family of a TOML file.

    Args:
      name: of the file, without its ending.
      folder: of the file.

    Returns:
      The family.

    Raises:
      RecipeError: there is no such family, or something in it does not fit.
    """
    table = tables.read_table(folder, "methods", name)
    tables.check_names(name, table, ("methods", "elsewhere"))
    methods = {key: _method(f"{name}: {key}", key, row) for key, row in table["methods"].items()}
    if BASELINE not in methods:
        raise RecipeError(f"{name}: there is no method {BASELINE!r}, with which all are compared")
    for key, method in methods.items():
        for claim in method.claims:
            tables.check_names(f"{name}: {key}", [claim.than], [*methods, TEACHER])
    return Family(name, methods, table.get("elsewhere", {}))


def _method(place: str, name: str, row: Mapping[str, Any]) -> Method:
    _check_fields(place, row, Method, ("name",))
    claims = tuple(_claim(place, claim) for claim in row.get("claims", ()))
    if not isinstance(row.get("options"), Mapping):
        raise RecipeError(f"{place}: options are missing, wanted those of an objective")
    return Method(**{**row, "name": name, "claims": claims})


def _claim(place: str, row: Mapping[str, Any]) -> Claim:
    _check_fields(place, row, Claim, ())
    if "text" not in row:
        raise RecipeError(f"{place}: a claim has no text")
    claim = Claim(**row)
    tables.check_names(place, [claim.measure], MEASURES)
    return claim


def _check_fields(place: str, row: Mapping[str, Any], kind: type, without: tuple[str, ...]) -> None:
    fields = [field.name for field in dataclasses.fields(kind) if field.name not in without]
    tables.check_names(place, row, fields)
