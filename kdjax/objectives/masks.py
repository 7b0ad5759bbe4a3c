"""Networks that mask features of a frozen teacher, and so make a specialist of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from kdjax.base import Model
from kdjax.losses import numerics
from kdjax.objectives.teachers import dense_stack

EXACT = jax.lax.Precision.HIGHEST


def mask_network(width: int, *, hidden: int = 64, heads: int = 4) -> Model:
    """MST-Distill's mask of a feature: a weight between 0 and 1 for each of its elements.

    A linear layer makes a token of each element, attention lets the tokens see one another, and a
    linear layer with a sigmoid reads each one's weight.

    Args:
      width: of the feature.
      hidden: width of a token, a multiple of the heads.
      heads: of the attention.

    Returns:
      A model that reads `features` `[batch, width]` from its batch and gives `mask`, of the same
      shape.

    Raises:
      ValueError: if the heads do not divide the width of a token.

    Example:
      >>> network = mask_network(6, hidden=4, heads=2)
      >>> batch = {"features": jnp.ones((2, 6))}
      >>> signals, _ = network.apply(network.init(jax.random.key(0), batch), batch)
      >>> signals["mask"].shape
      (2, 6)

    References:
      MST-Distill, arXiv:2507.07015.
    """
    if heads < 1 or hidden % heads:
        raise ValueError(f"hidden is {hidden} for {heads} heads, wanted a multiple")
    layers = {
        "tokens": (width, width * hidden),
        "attention_in": (hidden, 3 * hidden),
        "attention_out": (hidden, hidden),
        "readout": (hidden, 1),
    }

    def init(key, batch):
        del batch
        keys = jax.random.split(key, len(layers))
        return {
            "params": {
                name: dense_stack(key, widths)
                for key, (name, widths) in zip(keys, layers.items(), strict=True)
            }
        }

    def apply(variables, batch, *, key=None, train=False):
        del key, train
        params, x = variables["params"], numerics.as_float(batch["features"])
        tokens = _dense(params["tokens"], x).reshape(*x.shape, hidden)
        query, key_, value = jnp.split(_dense(params["attention_in"], tokens), 3, axis=-1)
        split = (*x.shape, heads, hidden // heads)
        mixed = jax.nn.dot_product_attention(*(a.reshape(split) for a in (query, key_, value)))
        mixed = _dense(params["attention_out"], mixed.reshape(tokens.shape))
        return {"mask": jax.nn.sigmoid(_dense(params["readout"], mixed)[..., 0])}, {}

    return Model(init, apply)


def _dense(params: dict[str, Array], x: Array) -> Array:
    return jnp.matmul(x, params["kernel_0"], precision=EXACT) + params["bias_0"]
