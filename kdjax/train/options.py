"""Options of a config's sections: checked, made plain, put in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kdjax.losses.numerics import nearest
from kdjax.train.errors import RecipeError

Options = Mapping[str, Any]
Facts = Mapping[str, Any]
"""What a recipe knows once its data are loaded: `num_examples`, `num_classes`, `total_steps`, …"""


def check_keys(section: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises `RecipeError` for a key that the section does not have, with the nearest one."""
    for key in given:
        if key not in known:
            place = f"config.{section}" if section else "config"
            raise RecipeError(f"{place} has no {key!r}{nearest(key, known)}")


def describe(options: Options) -> str:
    """`'kd (temperature=4.0, weight=0.9)'`."""
    options = dict(options)
    name = options.pop("name", "") or options.pop("algorithm", "")
    details = ", ".join(f"{key}={value}" for key, value in sorted(plain(options).items()))
    return f"{name} ({details})" if details else name


def plain(options: Options) -> dict[str, Any]:
    """A ConfigDict, nested ones included, as plain dicts."""
    return {
        key: plain(value) if isinstance(value, Mapping) or hasattr(value, "to_dict") else value
        for key, value in options.items()
    }


def names(value: Any) -> tuple[str, ...]:
    """One name, several, or none, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
