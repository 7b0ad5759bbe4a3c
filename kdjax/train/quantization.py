"""Post-training quantisation of a trained network to int8, by qwix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from kdjax import models
from kdjax.base import Batch, Model, Variables
from kdjax.losses.numerics import nearest
from kdjax.train import networks
from kdjax.train.errors import RecipeError

KINDS = ("int8", "int8_weights")
"""Weights and activations, or weights alone."""


def check_kind(kind: str) -> None:
    """Raises `RecipeError` for an unknown kind, or without qwix."""
    if kind not in KINDS:
        raise RecipeError(f"--quantize is {kind!r}{nearest(kind, KINDS)}")
    try:
        import qwix  # noqa: F401
    except ImportError as error:
        raise RecipeError(
            "--quantize wants qwix; install it with pip install 'kdjax[quantize]'"
        ) from error


def quantize(
    section: str, options: Mapping[str, Any], facts: Mapping[str, Any], variables: Variables,
    batch: Batch, kind: str = "int8",
) -> tuple[Model, Variables]:  # fmt: skip
    """A network of a recipe with its kernels in int8, one scale per channel.

    Kernels become `round(w / scale)`, where `scale` brings the largest weight of each output
    channel to the end of int8's range. With `'int8'` the inputs of products and convolutions
    are quantised likewise when the network runs, by their own maximum, so that nothing has to be
    calibrated. Biases, norms and everything between the products stay in float32.

    Args:
      section: where the config describes the network.
      options: the network, as in a recipe.
      facts: as for `networks.build_model`.
      variables: trained, in float32.
      batch: for shapes.
      kind: of `KINDS`.

    Returns:
      The network and its variables, in which a quantised array is a pytree of `qvalue` and `scale`.

    Raises:
      RecipeError: for an unknown kind, or if qwix is not installed.

    References:
      Jacob et al., Quantization and Training of Neural Networks for Efficient
      Integer-Arithmetic-Only Inference, arXiv:1712.05877.
    """
    check_kind(kind)
    import qwix

    activations = {"act_qtype": jnp.int8} if kind == "int8" else {}
    rule = qwix.QuantizationRule(module_path=".*", weight_qtype=jnp.int8, **activations)
    module = qwix.quantize_model(
        networks.build_network(section, options, facts), qwix.PtqProvider([rule])
    )
    model = models.from_linen(module)
    like = jax.eval_shape(model.init, jax.random.key(0), batch)
    params = qwix.quantize_params(variables["params"], like["params"])
    return model, {**variables, "params": params}


def as_nested(variables: Any) -> dict[str, Any]:
    """Variables as nested dicts of arrays, `kernel/array/qvalue` and `kernel/array/scale` included.

    Example:
      >>> as_nested({'params': {'bias': 1.0}})
      {'params': {'bias': 1.0}}
    """
    nested: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        *folders, name = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        place = nested
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return nested
