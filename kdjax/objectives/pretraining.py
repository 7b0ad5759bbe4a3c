"""What a network can learn without labels and without a teacher."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from kdjax.base import Objective, ObjectiveVariables
from kdjax.losses import contrastive, numerics
from kdjax.objectives.lift import reduce
from kdjax.objectives.teachers import dense_stack


def sim_clr(
    *,
    temperature: Any = 0.5,
    hidden: int = 128,
    width: int = 64,
    second: str = "teacher_image",
    image: str = "image",
    embedding: str = "embedding",
    player: str = "student",
) -> Objective:
    """SimCLR's pre-training, the first of SimCLRv2's three stages: `losses.sim_clr` of two views.

    The stages after it are cross-entropy on few labels, and distillation on all examples.

    Args:
      temperature: of the similarities.
      hidden: width of the projection's hidden layer; the projection is dropped afterwards.
      width: of what is compared.
      second: field of the batch with the second view of each image, as `data.separate_views`
        makes it.
      image: field that the network reads.
      embedding: the network's signal that is projected, `[batch, features]`.
      player: whose network is run on the second view.

    Returns:
      A coupled objective with the term `sim_clr`; its parameters are the projection's.

    References:
      Chen et al., Big Self-Supervised Models are Strong Semi-Supervised Learners, arXiv:2006.10029;
      SimCLR, arXiv:2002.05709.
    """

    def init(key, context):
        features = jnp.shape(context.get(embedding))[-1]
        return ObjectiveVariables(dense_stack(key, (features, hidden, width)), {})

    def apply(variables, context):
        other = {**context.batch, image: context.get(second, role="batch")}
        views = [context.get(embedding), context.networks[player](other)[embedding]]
        projected = [_project(variables.params, numerics.as_float(view)) for view in views]
        values = contrastive.sim_clr(jnp.stack(projected, axis=1), temperature=temperature)
        return {"sim_clr": reduce(values)}, {}

    return Objective(init, apply, coupled=True)


def _project(params, x):
    exact = jax.lax.Precision.HIGHEST
    x = jax.nn.relu(jnp.matmul(x, params["kernel_0"], precision=exact) + params["bias_0"])
    return jnp.matmul(x, params["kernel_1"], precision=exact) + params["bias_1"]
