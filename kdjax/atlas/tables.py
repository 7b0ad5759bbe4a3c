"""Reading the atlas's TOML files; what is wrong with one is one line."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdjax.losses.numerics import nearest
from kdjax.train.errors import RecipeError, one_line

FOLDER = Path("configs/atlas")
"""Where protocols and families are, as seen from the folder that a command is run in."""


def read_table(folder: str | os.PathLike[str], kind: str, name: str) -> dict[str, Any]:
    """The file of a protocol or a family; lists become tuples, which can be hashed.

    Args:
      folder: of the files.
      kind: a section that only files of this kind have.
      name: of the file, without its ending.

    Returns:
      What it holds.

    Raises:
      RecipeError: no file of that kind has this name, or it cannot be read.
    """
    known = names_of(folder, kind)
    if name not in known:
        raise RecipeError(f"{folder} has no {name!r} with {kind}{nearest(name, known)}")
    return _with_tuples(_parsed(Path(folder) / f"{name}.toml"))


def names_of(folder: str | os.PathLike[str], kind: str) -> list[str]:
    """The names of the files of a kind."""
    return [path.stem for path in sorted(Path(folder).glob("*.toml")) if kind in _parsed(path)]


def check_names(place: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises `RecipeError` for a name that is not known, with the nearest one."""
    known = list(known)
    for name in given:
        if name not in known:
            raise RecipeError(f"{place}: there is no {name!r}{nearest(name, known)}")


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: {one_line(error)}") from error


def _with_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value
