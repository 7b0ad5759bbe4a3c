"""The layers that the zoo's networks are made of."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

Image = Shaped[Array, "batch height width channels"]
Tokens = Float[Array, "batch tokens width"]

_norm = partial(nn.BatchNorm, momentum=0.9)


TINY = 16
"""Pixels up to which an image of several channels is convolved by a matrix product on CPUs."""


def _conv(width: int, size: int, stride: int = 1, *, name: str) -> nn.Conv:
    return nn.Conv(
        width, (size, size), stride, use_bias=False, conv_general_dilated=_convolve, name=name
    )


def _convolve(x: Image, kernel: jax.Array, strides: Any, padding: str, **options: Any) -> Image:
    """What `jax.lax.conv_general_dilated` gives, in the time that it should take.

    XLA's convolutions on CPUs are slow for images that are not larger than their kernel: 2x2 pixels
    of 128 channels took twelve times as long as the product of a matrix of all windows, and the
    28x28 pixels of a single channel half as long again (benchmarks/cpu_layers.py).
    """
    by_xla = partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **options
    )
    if math.prod(x.shape[1:3]) > TINY and x.shape[-1] > 1:
        return by_xla(x, kernel)
    by_product = partial(_product_of_windows, strides=strides, padding=padding)
    return jax.lax.platform_dependent(x, kernel, cpu=by_product, default=by_xla)


def _product_of_windows(x: Image, kernel: jax.Array, strides: Any, padding: str) -> Image:
    """A convolution as one matrix product; windows are cut out as shifted images."""
    pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    ends = [1 + x.shape[1 + i] - kernel.shape[i] for i in range(2)]
    shifted = [
        x[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
        for i, j in np.ndindex(*kernel.shape[:2])
    ]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def halve(x: Image) -> Image:
    """The largest of each 2x2 pixels; an odd last row or column stands alone.

    The maximum of four shifted images. On a CPU the gradient of a pooling window took five to
    twelve times as long (benchmarks/cpu_layers.py). Equal pixels share their gradient evenly.
    """
    height, width = x.shape[1:3]
    odd = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    x = jnp.pad(x, odd, constant_values=-jnp.inf)
    rows = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(rows[:, :, ::2], rows[:, :, 1::2])


class ConvStage(nn.Module):
    """A 3x3 convolution `conv`, batch norm `norm` and ReLU."""

    width: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Image, *, train: bool) -> Image:
        """Gives an image of `width` channels."""
        x = _conv(self.width, 3, self.stride, name="conv")(x)
        return nn.relu(_norm(use_running_average=not train, name="norm")(x))


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Image, *, train: bool) -> Image:
        """Gives an image of `width` channels."""
        y = ConvStage(self.width, self.stride, name="first")(x, train=train)
        y = _conv(self.width, 3, name="conv")(y)
        y = _norm(use_running_average=not train, name="norm")(y)
        if x.shape != y.shape:
            x = _conv(self.width, 1, self.stride, name="shortcut")(x)
            x = _norm(use_running_average=not train, name="shortcut_norm")(x)
        return nn.relu(x + y)


class Perceptron(nn.Module):
    """A hidden layer with GELU, and back to the width of the input."""

    hidden: int

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Acts on the last axis."""
        return nn.Dense(x.shape[-1], name="out")(nn.gelu(nn.Dense(self.hidden, name="hidden")(x)))


class MixerLayer(nn.Module):
    """A perceptron across tokens, then one across features, each around a residual."""

    token_hidden: int
    channel_hidden: int

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        """Gives tokens of the same shape."""
        tokens = nn.LayerNorm(name="token_norm")(x).swapaxes(1, 2)
        x = x + Perceptron(self.token_hidden, name="token_mixing")(tokens).swapaxes(1, 2)
        channels = nn.LayerNorm(name="channel_norm")(x)
        return x + Perceptron(self.channel_hidden, name="channel_mixing")(channels)


class TransformerLayer(nn.Module):
    """Pre-norm self-attention, then a perceptron, each around a residual."""

    heads: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, x: Tokens, *, train: bool) -> Tokens:
        """Gives tokens of the same shape."""
        drop = partial(nn.Dropout, self.dropout, deterministic=not train)
        attention = nn.MultiHeadDotProductAttention(self.heads, name="attention")
        y = attention(nn.LayerNorm(name="attention_norm")(x), sow_weights=True)
        x = x + drop(name="attention_dropout")(y)
        y = Perceptron(self.hidden, name="mlp")(nn.LayerNorm(name="mlp_norm")(x))
        return x + drop(name="mlp_dropout")(y)
