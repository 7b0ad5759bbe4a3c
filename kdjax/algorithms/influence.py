"""Which training examples help on held-out data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from kdjax.base import Batch, PyTree
from kdjax.losses import numerics

Loss = Callable[[PyTree, Batch], Float[Array, " examples"]]


def influence(
    loss: Loss,
    params: PyTree,
    batch: Batch,
    validation: Batch,
    *,
    damping: Any = 0.1,
    iterations: int | None = None,
) -> Float[Array, " examples"]:
    """How the loss on held-out data changes with each training example's weight.

        I_i = -∇L_valᵀ (H + damping)⁻¹ ∇l_i

    with `H` the Hessian of the mean training loss at the parameters. An influence below 0 is of an
    example that helps. A last layer alone is the usual choice of parameters for larger networks,
    since `H` ought to be positive.

    Args:
      loss: `loss(params, batch) -> [examples]`, each example by itself.
      params: where everything is differentiated.
      batch: the training examples.
      validation: the held-out ones, of which the mean loss counts.
      damping: added to the diagonal of the Hessian, above 0.
      iterations: of conjugate gradients, which never form the Hessian; `None` forms and inverts it.

    Returns:
      `[examples]`.

    Raises:
      ValueError: if damping or iterations are not positive.

    Example:
      >>> def loss(params, batch):
      ...     return (params * batch["x"] - batch["y"]) ** 2
      >>> batch = {"x": jnp.array([1.0, 1.0]), "y": jnp.array([2.0, -2.0])}
      >>> held_out = {"x": jnp.array([1.0]), "y": jnp.array([1.0])}
      >>> influence(loss, jnp.array(0.0), batch, held_out, damping=2.0)
      Array([-2., 2.], dtype=float32)

    References:
      Koh and Liang, Understanding Black-box Predictions via Influence Functions, arXiv:1703.04730;
      for distillation KD-AIF, arXiv:2501.02705.
    """
    numerics.check_positive(damping=damping)
    flat, unravel = ravel_pytree(params)

    def values(flat: Array, batch: Batch) -> Array:
        return loss(unravel(flat), batch)

    def mean(batch: Batch) -> Callable[[Array], Array]:
        return lambda flat: jnp.mean(values(flat, batch))

    direction = jax.grad(mean(validation))(flat)
    if iterations is None:
        hessian = jax.hessian(mean(batch))(flat) + damping * jnp.eye(flat.size, dtype=flat.dtype)
        solved = jnp.linalg.solve(hessian, direction)
    else:
        numerics.check_positive(iterations=iterations)

        def product(vector: Array) -> Array:
            return jax.jvp(jax.grad(mean(batch)), (flat,), (vector,))[1] + damping * vector

        solved, _ = jax.scipy.sparse.linalg.cg(product, direction, maxiter=iterations)
    # The change of every example's loss along one direction: no gradient per example is needed.
    return -jax.jvp(lambda flat: values(flat, batch), (flat,), (solved,))[1]
