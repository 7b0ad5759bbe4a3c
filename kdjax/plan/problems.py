"""What a recipe trains, as shapes: the step that a plan is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from kdjax.base import COLUMNS, ROW, Algorithm, Batch, Variables
from kdjax.parallel.rules import RulesByRole


class Problem(NamedTuple):
    """A step to be planned.

    Attributes:
      algorithm: not yet compiled.
      batch: arrays or `jax.ShapeDtypeStruct`s, the global batch.
      frozen: the frozen teachers' variables, likewise; and the columns of a data set on the device,
        of which the batch then has row numbers.
      rules: how variables are split.
      items: examples or tokens per step; the rows of the batch if none.
      unit: what they are called.
    """

    algorithm: Algorithm
    batch: Batch
    frozen: Mapping[str, Variables] = {}
    rules: RulesByRole = None
    items: int | None = None
    unit: str = "examples"


def load_problem(path: str, config: Any, mesh: Mesh) -> Problem:
    """The problem of a recipe.

    A recipe that `kdjax.train` cannot run (a language model) says itself what its problem is, with
    `get_problem(config, mesh) -> Problem` beside `get_config`. Of all others it is the step that
    `kdjax.train` would compile, of the objective itself; data are loaded for their shapes.

    Args:
      path: of the recipe's file.
      config: what its `get_config` gave, with changes.
      mesh: that it will be compiled for.

    Returns:
      A problem.

    Raises:
      kdjax.train.errors.RecipeError: for whatever is wrong with the recipe.
      kdjax.data.DataError: if its data are not here.
    """
    from kdjax.train.recipe_file import load_module

    module = load_module(path)
    if hasattr(module, "get_problem"):
        return module.get_problem(config, mesh)
    return _of_experiment(config)


def _of_experiment(config: Any) -> Problem:
    from kdjax.train import recipe, schema
    from kdjax.train.design import Design
    from kdjax.train.splits import load_data

    config = schema.checked(config)
    made = Design(config, load_data(config))
    algorithm, *shapes = made.step_of(list(made.arms)[-1])
    batch, frozen = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), shapes)
    if config.data.on_device and "view" not in batch:  # answers to views come from the host
        batch, columns = _rows_of(batch, made.data.train.size)
        frozen = {**frozen, COLUMNS: columns}
    return Problem(algorithm, batch, frozen, recipe.build_rules(config.rules))


def _rows_of(batch: Batch, size: int) -> tuple[Batch, dict[str, jax.ShapeDtypeStruct]]:
    """A batch of row numbers, and the columns of so many examples."""
    own = {name: leaf for name, leaf in batch.items() if not isinstance(leaf, Mapping)}
    nested = {name: tree for name, tree in batch.items() if name not in own}
    columns = {
        name: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in own.items()
    }
    rows = jax.ShapeDtypeStruct(next(iter(own.values())).shape[:1], jnp.int32)
    return {ROW: rows, **nested}, columns
