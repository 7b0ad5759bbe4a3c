"""A small zoo of linen networks, enough for the recipes.

`Decoder` is a language model and lives in `kdjax.models.decoder`. All others are for images: they
take `image` as `[batch, height, width, channels]` and a flag `train`, and give `logits`
`[batch, classes]` and `embedding` `[batch, features]`, the vector that the head `head` reads.
Integer images are divided by 255; floating-point images are taken as they are.
"""

from __future__ import annotations

import difflib
import inspect
import math
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn
from jaxtyping import Array, Float, Shaped

from kdjax.base import Variables
from kdjax.models import _layers as layers
from kdjax.models.decoder import Decoder

__all__ = ["MLP", "ConvNet", "Decoder", "Mixer", "ResNet", "ViT", "build", "count_parameters"]

Answer = dict[str, Float[Array, "batch _"]]


class MLP(nn.Module):
    """A perceptron on flattened images; taps `hidden_<i>` are taken before the ReLU.

    Attributes:
      features: width of each hidden layer.
      num_classes: number of classes.
      dropout: rate of dropout after each hidden layer.
    """

    features: Sequence[int] = (256, 256)
    num_classes: int = 10
    dropout: float = 0.0

    @nn.compact
    def __call__(self, image: Shaped[Array, "batch ..."], *, train: bool = False) -> Answer:
        """Gives `logits` and `embedding`, the last hidden layer."""
        x = _unit(image).reshape(image.shape[0], -1)
        for i, width in enumerate(self.features):
            x = nn.relu(nn.Dense(width, name=f"hidden_{i}")(x))
            x = nn.Dropout(self.dropout, name=f"dropout_{i}")(x, deterministic=not train)
        return _answer(x, self.num_classes)


class ConvNet(nn.Module):
    """Stages of convolution, batch norm and ReLU, each but the last halving the image.

    Attributes:
      widths: channels of each stage `stage_<i>`.
      num_classes: number of classes.
    """

    widths: Sequence[int] = (32, 64, 128)
    num_classes: int = 10

    @nn.compact
    def __call__(self, image: layers.Image, *, train: bool = False) -> Answer:
        """Gives `logits` and `embedding`, the spatial mean of the last stage."""
        x = _unit(image)
        for i, width in enumerate(self.widths):
            x = layers.ConvStage(width, name=f"stage_{i}")(x, train=train)
            if i < len(self.widths) - 1:
                x = layers.halve(x)
        return _answer(x.mean((1, 2)), self.num_classes)


class ResNet(nn.Module):
    """The residual network for small images, three stages of basic blocks.

    Taps: `stem`, `stage_<i>_block_<j>`.

    Attributes:
      depth: number of layers, `6n + 2` with `n` blocks per stage.
      width: channels of the first stage; doubled by each of the next two.
      num_classes: number of classes.

    References:
      He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385, section 4.2.
    """

    depth: int = 20
    width: int = 16
    num_classes: int = 10

    @nn.compact
    def __call__(self, image: layers.Image, *, train: bool = False) -> Answer:
        """Gives `logits` and `embedding`, the spatial mean of the last block."""
        blocks, rest = divmod(self.depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth must be 6n + 2 with n >= 1, got {self.depth}")
        x = layers.ConvStage(self.width, name="stem")(_unit(image), train=train)
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage_{stage}_block_{block}"
                x = layers.ResidualBlock(self.width * 2**stage, stride, name=name)(x, train=train)
        return _answer(x.mean((1, 2)), self.num_classes)


class Mixer(nn.Module):
    """An MLP-Mixer: matrix products only, which suits processors that convolve slowly.

    Taps: `patches`, `layer_<i>`, `layer_<i>/token_mixing`, `layer_<i>/channel_mixing`.

    Attributes:
      patch_size: side of a patch; it must divide height and width.
      width: features per patch.
      depth: number of layers.
      token_hidden: hidden width of the perceptron across patches.
      channel_hidden: hidden width of the perceptron across features.
      num_classes: number of classes.

    References:
      Tolstikhin et al., MLP-Mixer: An all-MLP Architecture for Vision, arXiv:2105.01601.
    """

    patch_size: int = 4
    width: int = 128
    depth: int = 4
    token_hidden: int = 64
    channel_hidden: int = 256
    num_classes: int = 10

    @nn.compact
    def __call__(self, image: layers.Image, *, train: bool = False) -> Answer:
        """Gives `logits` and `embedding`, the mean over patches."""
        x = nn.Dense(self.width, name="patches")(_patches(_unit(image), self.patch_size))
        for i in range(self.depth):
            x = layers.MixerLayer(self.token_hidden, self.channel_hidden, name=f"layer_{i}")(x)
        return _answer(nn.LayerNorm(name="norm")(x).mean(1), self.num_classes)


class ViT(nn.Module):
    """A small vision transformer with learned positions and mean pooling.

    Taps: `patches`, `layer_<i>`, `layer_<i>/attention`, `layer_<i>/mlp` and the attention maps
    `layer_<i>/attention/attention_weights` of shape `[batch, heads, tokens, tokens]`.

    Attributes:
      patch_size: side of a patch; it must divide height and width.
      width: features per patch; a multiple of `heads`.
      depth: number of layers.
      heads: attention heads.
      hidden: hidden width of the perceptrons.
      dropout: rate of dropout after attention and perceptron.
      num_classes: number of classes.

    References:
      Dosovitskiy et al., An Image is Worth 16x16 Words, arXiv:2010.11929.
    """

    patch_size: int = 4
    width: int = 64
    depth: int = 4
    heads: int = 4
    hidden: int = 128
    dropout: float = 0.0
    num_classes: int = 10

    @nn.compact
    def __call__(self, image: layers.Image, *, train: bool = False) -> Answer:
        """Gives `logits` and `embedding`, the mean over patches."""
        x = nn.Dense(self.width, name="patches")(_patches(_unit(image), self.patch_size))
        start = nn.initializers.normal(0.02)
        x = x + self.param("position", start, (1, *x.shape[1:])).astype(x.dtype)
        for i in range(self.depth):
            name = f"layer_{i}"
            layer = layers.TransformerLayer(self.heads, self.hidden, self.dropout, name=name)
            x = layer(x, train=train)
        return _answer(nn.LayerNorm(name="norm")(x).mean(1), self.num_classes)


def build(name: str, **options: Any) -> nn.Module:
    """Builds a network of this zoo by name.

    Args:
      name: name of the class, in any case: `'mlp'`, `'convnet'`, `'resnet'`, `'mixer'`, `'vit'`,
        `'decoder'`.
      **options: its attributes.

    Returns:
      The linen module.

    Raises:
      ValueError: if there is no such network.
      TypeError: if the network has no such option.

    Example:
      >>> build("convnet", widths=(8, 16)).widths
      (8, 16)
    """
    networks = {n.lower(): c for n, c in vars(sys.modules[__name__]).items() if _is_network(n, c)}
    if name.lower() not in networks:
        raise ValueError(f"unknown model {name!r}, {_nearest(name.lower(), networks)}")
    network = networks[name.lower()]
    known = [n for n in inspect.signature(network).parameters if n not in ("parent", "name")]
    for option in options:
        if option not in known:
            raise TypeError(f"{name!r} has no option {option!r}, {_nearest(option, known)}")
    return network(**options)


def count_parameters(variables: Variables) -> int:
    """Counts the numbers in a model's parameters.

    Args:
      variables: a model's variables, arrays or shapes; only `params` is counted.

    Returns:
      The number of scalars.

    Example:
      >>> import jax.numpy as jnp
      >>> count_parameters({"params": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}})
      15
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))


def _is_network(name: str, value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module) and not name.startswith("_")


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {sorted(known)}"


def _unit(image: Shaped[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    # Dividing by a Python number gives a weakly typed float, so that the layers compute in the
    # type of their parameters.
    return image if jnp.issubdtype(image.dtype, jnp.floating) else image / 255.0


def _answer(embedding: Float[Array, "batch width"], num_classes: int) -> Answer:
    logits = nn.Dense(num_classes, name="head")(embedding)
    return {"logits": logits, "embedding": embedding}


def _patches(image: layers.Image, size: int) -> layers.Tokens:
    height, width = image.shape[1:3]
    if height % size or width % size:
        raise ValueError(f"patch_size {size} does not divide the image, {height} by {width}")
    return rearrange(image, "b (h p) (w q) c -> b (h w) (p q c)", p=size, q=size)
