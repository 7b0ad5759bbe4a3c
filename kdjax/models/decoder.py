"""A decoder-only language model: pre-norm, rotary positions, grouped queries, gated perceptron.

It answers with logits, or with the distribution that its head would make of the hidden states, so
that `kdjax.distributions` can compare two models without an array `[tokens, vocabulary]`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from kdjax.distributions import Linear
from kdjax.parallel import Rules, gather_layer, keep_layers_split

Hidden = Float[Array, "batch length width"]
LAYERS = "layers"
"""The name of the scanned stack; its arrays have the layers as leading axis."""

RULES = Rules(
    (
        (r"layers/.*(query|key|value|gate|up)/kernel", P(None, "fsdp", "tensor")),
        (r"layers/.*(out|down)/kernel", P(None, "tensor", "fsdp")),
        (r"(query|key|value|gate|up)/kernel", P("fsdp", "tensor")),
        (r"(out|down)/kernel", P("tensor", "fsdp")),
        (r"head/kernel", P("fsdp", "tensor")),
        (r"embed/embedding", P("tensor", "fsdp")),
        (r"norm/scale", P()),
    ),
    stacked=r"(^|/)layers/",
)
"""Rules for a mesh with `fsdp` and `tensor`: heads, hidden units and vocabulary go over `tensor`,
the other axis of each kernel over `fsdp`; a scanned stack is gathered layer by layer."""


class Decoder(nn.Module):
    """A decoder-only transformer; position `i` predicts token `i + 1`.

        h = embed(tokens)
        h = h + attention(norm(h)); h = h + mlp(norm(h))     for each layer
        logits = norm(h) @ head

    Parameters: `embed/embedding`, `layers/…` with a leading axis of layers (`layer_<i>/…` where
    they are not scanned), `norm/scale`, `head/kernel`.

    Attributes:
      vocabulary: number of tokens.
      width: features per position; a multiple of `heads`, with an even quotient.
      depth: number of layers.
      heads: query heads.
      kv_heads: heads of keys and values; it divides `heads`.
      hidden: hidden width of the gated perceptron.
      tied: whether the head is the transposed embedding.
      logits: whether the answer holds `logits`; otherwise `distribution`.
      scanned: whether the layers are one loop, which compiles once, or one after another.
      remat: whether a layer's inside is computed again in the backward pass, not kept.
      dtype: compute type, such as `'bfloat16'`; that of the parameters if none.
      param_dtype: type of the parameters.
      rotary_base: of the rotary positions.
      epsilon: of the norms.

    Example:
      >>> tokens = jnp.array([[1, 2, 3]])
      >>> decoder = Decoder(vocabulary=16, width=8, heads=2, kv_heads=1, hidden=16, logits=False)
      >>> answer, variables = decoder.init_with_output(jax.random.key(0), tokens)
      >>> answer["distribution"].tokens, answer["distribution"].vocabulary
      ((1, 3), 16)

    References:
      Touvron et al., LLaMA, arXiv:2302.13971; Su et al., RoFormer, arXiv:2104.09864; Ainslie et
      al., GQA, arXiv:2305.13245; Shazeer, GLU Variants, arXiv:2002.05202; Zhang and Sennrich, Root
      Mean Square Layer Normalization, arXiv:1910.07467.
    """

    vocabulary: int = 256
    width: int = 64
    depth: int = 2
    heads: int = 4
    kv_heads: int = 2
    hidden: int = 128
    tied: bool = False
    logits: bool = True
    scanned: bool = True
    remat: bool = False
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = "float32"
    rotary_base: float = 10000.0
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, tokens: Int[Array, "batch length"]) -> dict[str, Any]:
        """Gives `logits` or `distribution`, and `embedding`, what the head reads.

        Raises:
          ValueError: if the heads do not fit the width or one another, or there is no token axis.
        """
        self._check(tokens)
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        start = nn.initializers.normal(0.02)
        embed = nn.Embed(self.vocabulary, self.width, embedding_init=start, name="embed", **types)
        angles = rotation(tokens.shape[1], self.width // self.heads, self.rotary_base)
        x = self._layers(embed(tokens), angles)
        x = nn.RMSNorm(self.epsilon, name="norm", **types)(x)
        kernel = embed.embedding.T if self.tied else self._head()
        distribution = Linear(x, kernel.astype(x.dtype))
        if not self.logits:
            return {"distribution": distribution, "embedding": x}
        return {"logits": distribution.materialize(), "embedding": x}

    def _head(self) -> Float[Array, "width vocabulary"]:
        return _Kernel((self.width, self.vocabulary), self.param_dtype, name="head")()

    def _check(self, tokens: Any) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width is {self.width} and heads is {self.heads}; wanted an even number of "
                "features per head"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads is {self.kv_heads}, wanted a divisor of heads={self.heads}")
        if jnp.ndim(tokens) != 2:
            raise ValueError(f"tokens have shape {jnp.shape(tokens)}, wanted [batch, length]")

    def _layers(self, x: Hidden, angles: Array) -> Hidden:
        names = ("width", "heads", "kv_heads", "hidden", "epsilon", "dtype", "param_dtype")
        sizes = _Sizes(**{name: getattr(self, name) for name in names})
        if not self.scanned:
            layer = nn.remat(_Layer) if self.remat else _Layer
            for i in range(self.depth):
                x, _ = layer(sizes, name=f"layer_{i}")(x, angles)
            return x
        starting = self.is_initializing()
        gather = (lambda params: params) if starting else functools.partial(_gather, self.dtype)
        layer = nn.map_variables(_Layer, "params", gather, init=starting, mutable=starting)
        # Inside a loop nothing can be shared between the two passes, so nothing need forbid it.
        policy = None if self.remat else keep_layers_split
        layers = nn.scan(
            nn.remat(layer, policy=policy, prevent_cse=False),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
        )
        return layers(sizes, name=LAYERS)(x, angles)[0]


class _Sizes(NamedTuple):
    """What the parts of a layer read of the model's attributes."""

    width: int
    heads: int
    kv_heads: int
    hidden: int
    epsilon: float
    dtype: Any
    param_dtype: Any

    @property
    def types(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, use_bias=False, name=name, **self.types)

    def norm(self, name: str) -> nn.RMSNorm:
        return nn.RMSNorm(self.epsilon, name=name, **self.types)


def _gather(dtype: DTypeLike | None, params: Any) -> Any:
    """A layer's parameters as it computes with them: cast first, so that fewer bytes travel."""
    if dtype is not None:
        params = jax.tree.map(lambda x: x.astype(dtype), params)
    ((collection, own),) = params.items()
    return {collection: gather_layer(own, LAYERS)}


class _Kernel(nn.Module):
    """A matrix for itself."""

    shape: tuple[int, int]
    dtype: DTypeLike

    @nn.compact
    def __call__(self) -> Float[Array, "_ _"]:
        start = nn.initializers.lecun_normal()
        return self.param("kernel", start, self.shape, jnp.dtype(self.dtype))


class _Layer(nn.Module):
    """Attention and perceptron, each after a norm and beside a shortcut."""

    sizes: _Sizes

    @nn.compact
    def __call__(self, x: Hidden, angles: Array) -> tuple[Hidden, None]:
        attention = _Attention(self.sizes, name="attention")
        x = x + attention(self.sizes.norm("attention_norm")(x), angles)
        return x + _GatedMLP(self.sizes, name="mlp")(self.sizes.norm("mlp_norm")(x)), None


class _Attention(nn.Module):
    """Causal attention with rotary positions; several query heads share keys and values."""

    sizes: _Sizes

    @nn.compact
    def __call__(self, x: Hidden, angles: Array) -> Hidden:
        sizes = self.sizes

        def heads(name: str, count: int) -> Array:
            features = sizes.dense(count * sizes.width // sizes.heads, name)(x)
            return features.reshape(*x.shape[:2], count, -1)

        query = rotate(heads("query", sizes.heads), angles)
        key = rotate(heads("key", sizes.kv_heads), angles)
        value = heads("value", sizes.kv_heads)
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        return sizes.dense(sizes.width, "out")(mixed.reshape(x.shape))


class _GatedMLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) · up(x))`."""

    sizes: _Sizes

    @nn.compact
    def __call__(self, x: Hidden) -> Hidden:
        gate, up = (self.sizes.dense(self.sizes.hidden, name)(x) for name in ("gate", "up"))
        return self.sizes.dense(self.sizes.width, "down")(nn.silu(gate) * up)


def rotation(length: int, size: int, base: float = 10000.0) -> Float[Array, "length half"]:
    """Angles of the rotary positions, `position · base^(-2i / size)`.

    Args:
      length: number of positions.
      size: features per head, even.
      base: the longest wavelength is `2π` times about this.

    Returns:
      `[length, size / 2]`.

    Example:
      >>> rotation(2, 4, base=100.0)
      Array([[0. , 0. ], [1. , 0.1]], dtype=float32)
    """
    frequencies = base ** (-jnp.arange(0, size, 2) / size)
    return jnp.arange(length)[:, None] * frequencies


def rotate(
    x: Float[Array, "batch length heads size"], angles: Float[Array, "length half"]
) -> Float[Array, "batch length heads size"]:
    """Turns the pairs `(x_i, x_{i + size/2})` by their angles.

    Args:
      x: queries or keys.
      angles: of `rotation`.

    Returns:
      An array like `x`; products of two depend on the distance of their positions only.

    Example:
      >>> rotate(jnp.array([[[[1.0, 0.0]]]]), jnp.array([[jnp.pi / 2]])).round(3) + 0.0
      Array([[[[0., 1.]]]], dtype=float32)

    References:
      Su et al., RoFormer, arXiv:2104.09864.
    """
    cosine, sine = (f(angles)[:, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1)
