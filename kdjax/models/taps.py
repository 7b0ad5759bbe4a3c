"""Taps: intermediate values of a network picked by path pattern, without editing the network.

A path is the names of submodules joined by `/`, as in the parameters: `'encoder/layer_0/mlp'`.
In a pattern `*` stands for any characters but `/`, `**` for any characters, `?` for one character
and `[…]` for one of several. A path names the output of that submodule's `__call__`, or a value
that a module has sown under that name; it appears in the signals as `taps/<path>`.

A submodule that is called once gives its output; one that is called several times in a pass
(shared weights) gives the tuple of its outputs, in order of the calls.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from kdjax.base import Model, Signals

PREFIX = "taps/"

_TOKENS = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_SPECIAL = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path fits any of the patterns.

    Args:
      path: names joined by `/`.
      patterns: patterns as described for this module.

    Returns:
      `True` if one of them fits the whole path.

    Example:
      >>> matches("encoder/layer_3/attention", ["encoder/layer_*/attention"])
      True
      >>> matches("encoder/layer_3/attention", ["encoder/*"])
      False
    """
    return any(re.fullmatch(_regex(pattern), path) for pattern in patterns)


def _regex(pattern: str) -> str:
    return "".join(_translate(token) for token in _TOKENS.findall(pattern))


def _translate(token: str) -> str:
    if token in _SPECIAL:
        return _SPECIAL[token]
    if len(token) > 1:  # a set of characters, where `!` negates
        letters = token[1:-1].replace("\\", r"\\")
        return f"[^{letters[1:]}]" if letters.startswith("!") else f"[{letters}]"
    return re.escape(token)


def as_patterns(taps: str | Iterable[str]) -> tuple[str, ...]:
    """Patterns as a tuple; a lone string is one pattern, not its letters."""
    return (taps,) if isinstance(taps, str) else tuple(taps)


def as_tap_signals(
    values: Mapping[str, Any], patterns: tuple[str, ...], available: Iterable[str]
) -> Signals:
    """Names tapped values as signals, and checks that every pattern has found something.

    Args:
      values: values by path, those that fit a pattern.
      patterns: what was asked for.
      available: all paths of the network, for the message of the error.

    Returns:
      `{'taps/<path>': value}`.

    Raises:
      ValueError: if a pattern fits no path; the message lists the nearest paths.
    """
    for pattern in patterns:
        if not any(matches(path, [pattern]) for path in values):
            raise ValueError(_no_match(pattern, sorted({*values, *available})))
    return {PREFIX + path: value for path, value in values.items()}


def _no_match(pattern: str, available: list[str]) -> str:
    nearest = difflib.get_close_matches(pattern, available, n=5, cutoff=0.0)
    return (
        f"no module that is called, and no sown value, has a path like {pattern!r}; the nearest of "
        f"{len(available)} paths: {', '.join(map(repr, nearest)) or 'none'} (list_taps shows all)"
    )


def tapped(model: Model, taps: str | Iterable[str]) -> Model:
    """The same model with other taps.

    Args:
      model: a model made by `from_linen` or `from_nnx`.
      taps: path patterns.

    Returns:
      A model whose signals hold `taps/<path>` for each path that fits.

    Raises:
      TypeError: if the model does not come from a linen or nnx module.

    Example:
      >>> from kdjax import models
      >>> model = tapped(models.from_linen(models.MLP()), "hidden_*")
      >>> model.apply.taps
      ('hidden_*',)
    """
    if not hasattr(model.apply, "taps"):
        raise TypeError(f"tapped wants a model made by from_linen or from_nnx, got {model!r}")
    return model._replace(apply=dataclasses.replace(model.apply, taps=as_patterns(taps)))
