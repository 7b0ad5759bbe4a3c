"""Config files: finding one, running it, and naming what is wrong with it or with its overrides."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from kdjax.losses.numerics import nearest
from kdjax.train.errors import RecipeError, one_line


def load_recipe(path: str) -> ConfigDict:
    """The config that a file's `get_config` gives.

    Args:
      path: of the file; what follows a colon is passed to `get_config`.

    Raises:
      RecipeError: there is no such file, or it cannot be run; names the line.
    """
    path, *argument = path.split(":", 1)
    with _running(path) as file:
        config = _module(file).get_config(*argument)
    if not isinstance(config, ConfigDict):
        raise RecipeError(f"--config {path}: get_config() gave {config!r}, wanted a ConfigDict")
    return config


def load_module(path: str) -> ModuleType:
    """A config file as a module, for what it holds besides `get_config`.

    Args:
      path: of the file; what follows a colon is of no concern.

    Raises:
      RecipeError: as `load_recipe` does.
    """
    with _running(path.split(":", 1)[0]) as file:
        return _module(file)


def _module(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe_config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _running(path: str) -> Iterator[Path]:
    """While a config file runs: its errors are of the recipe, and it finds what it builds on.

    Config files build on each other, `from configs.digits import base`. For this to work from any
    folder, the one above `configs` and the file's own can be imported from meanwhile.
    """
    file = Path(path).expanduser().absolute()
    if not file.is_file():
        near = [str(other) for other in _siblings(path)]
        raise RecipeError(f"--config {path}: no such file{nearest(path, near) if near else ''}")
    with _importable(file):
        try:
            yield file
        except Exception as error:  # whatever a file may do
            raise RecipeError(f"--config {_place(error, file)}") from error


def check_overrides(config: ConfigDict, arguments: Sequence[str], flag: str = "config") -> None:
    """Makes sure that each `--config.section.key=value` names something there is.

    Raises:
      RecipeError: with the nearest name.
    """
    for argument in arguments:
        if argument == "--":
            return
        if match := re.match(rf"--?(?:no)?{flag}\.([^=]+)", argument):
            _check_path(config, match[1].split("."))


def _check_path(config: Any, keys: list[str]) -> None:
    for index, key in enumerate(keys):
        key = key.partition("[")[0]
        section = ".".join(["config", *keys[:index]])
        if not isinstance(config, Mapping | ConfigDict):
            raise RecipeError(f"{section} is {config!r} and has no {key!r}")
        if key not in config:
            raise RecipeError(f"{section} has no {key!r}{nearest(key, list(config))}")
        if key != keys[index]:
            return  # an item of a list
        config = config[key]


def _siblings(path: str) -> list[Path]:
    folder = Path(path).parent
    return sorted(folder.glob("*.py")) if folder.is_dir() else []


@contextlib.contextmanager
def _importable(file: Path) -> Iterator[None]:
    above = [folder.parent for folder in file.parents if folder.name == "configs"][:1]
    before = list(sys.path)
    sys.path[:0] = [str(folder) for folder in (*above, file.parent)]
    try:
        yield
    finally:
        sys.path[:] = before


def _place(error: Exception, file: Path) -> str:
    """File, line and error."""
    if isinstance(error, RecipeError):
        return f"{file}: {error}"
    name, line = str(file), 0
    if isinstance(error, SyntaxError):
        name, line = error.filename or name, error.lineno
        what = error.msg
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            if Path(frame.filename).suffix == ".py" and Path(frame.filename).parent == file.parent:
                name, line = frame.filename, frame.lineno
        what = one_line(error)
    where = f"{name}, line {line}" if line else name
    return f"{where}: {type(error).__name__}: {what}"
