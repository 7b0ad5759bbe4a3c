"""What a recipe trains, as shapes: the step that a plan is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from kdjax.base import Algorithm, Batch, Variables
from kdjax.parallel.rules import RulesByRole


class Problem(NamedTuple):
    """A step to be planned.

    Attributes:
      algorithm: not yet compiled.
      batch: arrays or `jax.ShapeDtypeStruct`s, the global batch.
      frozen: the frozen teachers' variables, likewise.
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
    algorithm, batch, frozen = made.step_of(list(made.arms)[-1])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (batch, frozen))
    return Problem(algorithm, *shapes, recipe.build_rules(config.rules))
