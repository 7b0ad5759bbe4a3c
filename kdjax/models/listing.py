"""Listing what can be tapped in a model; `kdjax.models.taps` says how paths are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from kdjax.base import Batch, Variables
from kdjax.models.callables import as_model
from kdjax.models.taps import PREFIX


def list_taps(model: Any, variables: Variables, batch: Batch) -> dict[str, Any]:
    """Lists every path of a network that can be tapped, with its shape; computes nothing.

    Args:
      model: a model made by `from_linen` or `from_nnx`, or such a module (read from `image`).
      variables: the model's variables, or their shapes.
      batch: an example batch, or its shapes.

    Returns:
      `{path: jax.ShapeDtypeStruct}` in the order in which the calls end, then what was sown;
      nested where a module returns several arrays.

    Raises:
      TypeError: if the model does not come from a linen or nnx module.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from kdjax import models
      >>> model = models.from_linen(models.MLP(features=(8,), num_classes=3))
      >>> batch = {"image": jnp.ones((2, 4, 4, 1))}
      >>> variables = model.init(jax.random.key(0), batch)
      >>> {path: value.shape for path, value in list_taps(model, variables, batch).items()}
      {'hidden_0': (2, 8), 'dropout_0': (2, 8), 'head': (2, 3)}
    """
    apply = as_model(model).apply
    if not hasattr(apply, "taps"):
        raise TypeError(
            f"list_taps wants a module, or a model made by from_linen or from_nnx; {model!r} hides "
            "its network"
        )
    everything = dataclasses.replace(apply, taps=("**",))
    signals = jax.eval_shape(lambda *args: _Ordered(everything(*args)[0]), variables, batch).items
    return {k.removeprefix(PREFIX): v for k, v in signals if k.startswith(PREFIX)}


@jax.tree_util.register_pytree_node_class
class _Ordered:
    """A mapping whose order survives `jax.eval_shape`, which sorts dicts."""

    def __init__(self, mapping: Mapping[str, Any]):
        self.items = tuple(mapping.items())

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        return tuple(value for _, value in self.items), tuple(name for name, _ in self.items)

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], values: Iterable[Any]) -> _Ordered:
        return cls(dict(zip(names, values, strict=True)))
