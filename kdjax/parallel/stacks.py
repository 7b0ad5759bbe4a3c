"""Layers of a scanned stack, gathered one at a time inside the loop over them."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

from kdjax.base import PyTree

GATHERED = "gathered variables"
"""What gathered variables are called for `jax.checkpoint_policies`."""
_ALL_BUT_GATHERED = jax.checkpoint_policies.save_anything_except_these_names(GATHERED)
Gather = Callable[[PyTree, str], PyTree]
_GATHER: contextvars.ContextVar[Gather | None] = contextvars.ContextVar("gather", default=None)


def keep_layers_split(primitive: Any, *avals: Any, **parameters: Any) -> bool:
    """A policy of `jax.checkpoint`: keeps all but gathered variables, which are gathered again."""
    return _ALL_BUT_GATHERED(primitive, *avals, **parameters)


def gather_layer(params: PyTree, stack: str) -> PyTree:
    """The parameters of one layer of a scanned stack, whole on each device that uses them.

    A model calls this in the body of its loop, on what the loop hands it, so that no more than one
    layer is whole at a time, under `jax.checkpoint` so that none is kept for the backward pass. Its
    gradient goes back split. Nothing happens outside of a step over a
    mesh whose rules name the stack in `Rules.stacked`.

    Args:
      params: one layer's parameters: the stack's without the leading axis.
      stack: path of the stack in the model's parameters, `'layers'`.

    Returns:
      The same values.

    Raises:
      ValueError: if the model's parameters have no such stack.

    Example:
      >>> gather_layer({'kernel': 1.0}, 'layers')
      {'kernel': 1.0}
    """
    gather = _GATHER.get()
    return params if gather is None else gather(params, stack)


@contextlib.contextmanager
def gathering(gather: Gather | None) -> Iterator[None]:
    """While a model is traced: what `gather_layer` does, nothing if none."""
    token = _GATHER.set(gather)
    try:
        yield
    finally:
        _GATHER.reset(token)
