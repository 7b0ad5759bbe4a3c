"""Exit branches: from a feature somewhere in the student to logits, for training alone."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kdjax.losses import numerics
from kdjax.objectives.teachers import dense_stack

EXACT = jax.lax.Precision.HIGHEST
Params = dict[str, Any]


def exit_init(
    key: Array,
    shape: tuple[int, ...],
    classes: int,
    *,
    blocks: int = 0,
    heads: int = 4,
    grid: int = 7,
) -> Params:
    """Parameters of an exit for features of a shape; see `exit_logits`.

    Args:
      key: of the draws.
      shape: `[batch, width]`, `[batch, tokens, width]` or `[batch, height, width, channels]`.
      classes: width of the answer.
      blocks: number of blocks before the mean; 0 reads the feature as it is.
      heads: of the attention of tokens.
      grid: tokens are merged, four into one, until a side has no more than that many.

    Raises:
      ValueError: if there are blocks for a vector, the tokens are no square, or the heads do not
        divide the width.
    """
    width = shape[-1]
    keys = jax.random.split(key, blocks + 2)
    params: Params = {}
    if blocks and len(shape) == 3:
        for index in range(_merges(shape[1], grid)):
            own = jax.random.fold_in(keys[0], index)
            params[f"merge_{index}"] = dense_stack(own, (4 * width, 2 * width))
            width *= 2
        if width % heads:
            raise ValueError(f"heads is {heads} for tokens of width {width}, wanted a divisor")
        for index, own in enumerate(keys[1:-1]):
            params[f"block_{index}"] = _transformer_init(own, width)
    elif blocks and len(shape) == 4:
        for index, own in enumerate(keys[1:-1]):
            params[f"block_{index}"] = _convolution_init(own, width)
            width *= 2
    elif blocks:
        raise ValueError(f"blocks is {blocks} for features of shape {shape}, wanted 0")
    return {**params, "head": dense_stack(keys[-1], (width, classes))}


def exit_logits(params: Params, feature: Array, *, heads: int = 4) -> Float[Array, "batch classes"]:
    """What an exit answers to a feature.

    Images pass depthwise-separable convolutions that halve them and double their channels, tokens
    pass mergers of four neighbours and transformer layers; then comes the mean over space and a
    linear layer. Examples are normalised one by one, so that they do not meet.

    Args:
      params: as `exit_init` makes them.
      feature: `[batch, …, width]`.
      heads: of the attention.

    References:
      Hao et al., One-for-All, arXiv:2310.19444 (there with batch norm).
    """
    x = numerics.as_float(feature)
    for merge in _numbered(params, "merge"):
        x = _merge(merge, x)
    for block in _numbered(params, "block"):
        x = _convolve(block, x) if x.ndim == 4 else _attend(block, x, heads)
    pooled = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))
    return _dense(params["head"], pooled)


def _numbered(params: Params, kind: str) -> list[Params]:
    count = sum(name.startswith(kind) for name in params)
    return [params[f"{kind}_{index}"] for index in range(count)]


def _merges(tokens: int, grid: int) -> int:
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(f"features have {tokens} tokens, wanted a square number")
    merges = 0
    while side > grid and side % 2 == 0:
        side, merges = side // 2, merges + 1
    return merges


def _merge(params: Params, x: Array) -> Array:
    """Four neighbours become one token, of twice the width."""
    batch, tokens, width = x.shape
    side = math.isqrt(tokens)
    x = x.reshape(batch, side // 2, 2, side // 2, 2, width).transpose(0, 1, 3, 2, 4, 5)
    return _dense(params, _normal(x.reshape(batch, tokens // 4, 4 * width)))


def _transformer_init(key: Array, width: int) -> Params:
    keys = jax.random.split(key, 4)
    widths = {"qkv": (width, 3 * width), "out": (width, width)}
    widths |= {"wide": (width, 4 * width), "narrow": (4 * width, width)}
    return {name: dense_stack(k, w) for k, (name, w) in zip(keys, widths.items(), strict=True)}


def _attend(params: Params, x: Array, heads: int) -> Array:
    split = (*x.shape[:-1], heads, x.shape[-1] // heads)
    query, key, value = jnp.split(_dense(params["qkv"], _normal(x)), 3, axis=-1)
    mixed = jax.nn.dot_product_attention(*(a.reshape(split) for a in (query, key, value)))
    x = x + _dense(params["out"], mixed.reshape(x.shape))
    return x + _dense(params["narrow"], jax.nn.gelu(_dense(params["wide"], _normal(x))))


def _convolution_init(key: Array, width: int) -> Params:
    keys = jax.random.split(key, 4)
    return {
        "halve": jax.random.uniform(keys[0], (3, 3, 1, width), minval=-1 / 3, maxval=1 / 3),
        "first": dense_stack(keys[1], (width, width)),
        "keep": jax.random.uniform(keys[2], (3, 3, 1, width), minval=-1 / 3, maxval=1 / 3),
        "second": dense_stack(keys[3], (width, 2 * width)),
    }


def _convolve(params: Params, x: Array) -> Array:
    for depthwise, pointwise, stride in (("halve", "first", 2), ("keep", "second", 1)):
        x = jax.lax.conv_general_dilated(
            x,
            params[depthwise],
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )
        x = jax.nn.relu(_normal(_dense(params[pointwise], x), axis=(1, 2, 3)))
    return x


def _normal(x: Array, axis: Any = -1) -> Array:
    mean = jnp.mean(x, axis=axis, keepdims=True)
    variance = jnp.mean(jnp.square(x - mean), axis=axis, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6)


def _dense(params: dict[str, Array], x: Array) -> Array:
    return jnp.matmul(x, params["kernel_0"], precision=EXACT) + params["bias_0"]
