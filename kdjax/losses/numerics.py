"""Log-probabilities, norms and argument checks that every loss stands on.

All functions here are finite, in value and gradient, for logits of ±1e4, for `-inf` entries and
for rows without any element left. They compute in float32 (float64 if given float64).
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Bool, Float

LOG_ZERO = -1e9
"""The logarithm given to an event of probability zero: finite, and `exp` of it is exactly 0."""

F = TypeVar("F", bound=Callable[..., Any])


def batch_coupled(loss: F) -> F:
    """Marks a loss in which the examples of a batch meet, so that it needs the global batch.

    Where shardings are part of the arrays' types, such a loss leaves them to the compiler: what
    pairs of examples are split over has no answer that suits all. Its own answer is whole on each
    device.
    """

    @functools.wraps(loss)
    def global_loss(*arguments: Any, **options: Any) -> Any:
        if AxisType.Explicit not in jax.sharding.get_abstract_mesh().axis_types:
            return loss(*arguments, **options)
        leaves, structure = jax.tree.flatten((arguments, options))
        which = [index for index, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)]

        def of_arrays(*arrays: Array) -> Any:
            given = dict(zip(which, arrays, strict=True))
            filled = [given.get(index, leaf) for index, leaf in enumerate(leaves)]
            arguments, options = jax.tree.unflatten(structure, filled)
            return loss(*arguments, **options)

        arrays = [leaves[index] for index in which]
        shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays]
        whole = jax.tree.map(lambda _: PartitionSpec(), jax.eval_shape(of_arrays, *shapes))
        return jax.sharding.auto_axes(of_arrays, out_sharding=whole)(*arrays)

    global_loss.batch_coupled = True  # type: ignore[attr-defined]
    return global_loss  # type: ignore[return-value]


def nearest(name: str, names: Iterable[str]) -> str:
    """`', did you mean "kd"?'`, or the list of names if none is near."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f', did you mean "{near[0]}"?' if near else f"; there are {', '.join(names)}"


def as_float(x: Any) -> Array:
    """Casts to float32, or keeps float64."""
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"expected real values, got {x.dtype}")
    if x.dtype == jnp.float16:
        return _from_float16(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_vjp
def _from_float16(x: Array) -> Array:
    """A cast to float32 whose gradient saturates at float16's largest number, instead of inf."""
    return x.astype(jnp.float32)


def _saturate(_: None, gradient: Array) -> tuple[Array]:
    bound = float(jnp.finfo(jnp.float16).max)
    return (jnp.clip(gradient, -bound, bound).astype(jnp.float16),)


_from_float16.defvjp(lambda x: (_from_float16(x), None), _saturate)


def check_pair(student: Any, teacher: Any, names: tuple[str, str]) -> None:
    """Raises `ValueError` unless both have the same shape and at least one axis."""
    shapes = jnp.shape(student), jnp.shape(teacher)
    if not shapes[0]:
        raise ValueError(f"{names[0]} is a scalar, wanted at least one axis (the classes)")
    if shapes[0] == shapes[1]:
        return
    if shapes[0][:-1] == shapes[1][:-1]:
        raise ValueError(
            f"{names[0]} has {shapes[0][-1]} classes and {names[1]} has {shapes[1][-1]}; "
            "both must be over the same classes"
        )
    raise ValueError(
        f"{names[0]} has shape {shapes[0]} and {names[1]} {shapes[1]}; they must agree"
    )


def check_positive(**values: Any) -> None:
    """Raises `ValueError` for a static value that is not above zero; traced values pass."""
    for name, value in values.items():
        if isinstance(value, (int, float)) and not value > 0:
            raise ValueError(f"{name} is {value}, wanted a number above 0")


def check_fraction(**values: Any) -> None:
    """Raises `ValueError` for a static value outside [0, 1]; traced values pass."""
    for name, value in values.items():
        if isinstance(value, (int, float)) and not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}, wanted a number from 0 to 1")


def label_distribution(labels: Any, logits: Any) -> Float[Array, "*batch classes"]:
    """Labels as probabilities over the classes of `logits`.

    Integer labels have the batch shape and become one-hot rows; labels that already are
    probabilities have the shape of the logits and are given back in floating point.

    Raises:
      ValueError: if the shape is neither, or if a concrete label is out of range.
    """
    *batch, classes = jnp.shape(logits)
    shape = jnp.shape(labels)
    if jnp.issubdtype(jnp.result_type(labels), jnp.integer) and shape == tuple(batch):
        if not isinstance(labels, jax.core.Tracer):
            host = np.asarray(labels)
            if host.size and (host.min() < 0 or host.max() >= classes):
                raise ValueError(
                    f"labels lie in [{host.min()}, {host.max()}], wanted 0 to {classes - 1}"
                )
        return as_float(jnp.asarray(labels)[..., None] == jnp.arange(classes))
    if shape == (*batch, classes):
        return as_float(labels)
    raise ValueError(
        f"labels have shape {shape} and type {jnp.result_type(labels)}; wanted integers of shape "
        f"{tuple(batch)} or probabilities of shape {(*batch, classes)}"
    )


def target_mask(labels: Any, logits: Any) -> Bool[Array, "*batch classes"]:
    """True at the labelled class (the most likely one, where labels are probabilities)."""
    probabilities = label_distribution(labels, logits)
    return jnp.argmax(probabilities, axis=-1, keepdims=True) == jnp.arange(jnp.shape(logits)[-1])


def log_probabilities(
    logits: Float[Array, "*batch classes"], *, temperature: Any = 1.0, where: Any = None
) -> Float[Array, "*batch classes"]:
    """`log softmax(logits / temperature)` over the elements selected by `where`.

    Unselected and `-inf` elements get `LOG_ZERO`; a row without any element left is `LOG_ZERO`
    throughout, with gradient 0.
    """
    check_positive(temperature=temperature)
    x = as_float(logits)
    if not (isinstance(temperature, (int, float)) and temperature == 1):
        x = x / temperature
    if where is not None:
        x = jnp.where(where, x, -jnp.inf)
    peak = jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    shifted = x - jnp.maximum(peak, jnp.finfo(x.dtype).min)
    total = jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True)
    log_total = jnp.log(jnp.maximum(total, jnp.finfo(x.dtype).tiny))
    return jnp.maximum(shifted - log_total, LOG_ZERO)


def log_sum_exp(x: Float[Array, "*batch classes"], *, where: Any = None) -> Float[Array, "*batch"]:
    """`log sum exp` over the last axis; `LOG_ZERO` with gradient 0 where no element is selected."""
    x = as_float(x)
    if where is not None:
        x = jnp.where(where, x, -jnp.inf)
    peak = jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    peak = jnp.maximum(peak, jnp.finfo(x.dtype).min)
    total = jnp.sum(jnp.exp(x - peak), axis=-1)
    positive = total > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, total, 1)) + peak[..., 0], LOG_ZERO)


def safe_sqrt(x: Array) -> Array:
    """Square root with gradient 0 at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_norm(x: Array, *, axis: Any = -1, keepdims: bool = False) -> Array:
    """Euclidean norm with gradient 0 at the origin."""
    return safe_sqrt(jnp.sum(jnp.square(x), axis=axis, keepdims=keepdims))


def normalize(x: Array, *, axis: Any = -1, eps: float = 1e-12) -> Array:
    """`x / max(‖x‖₂, eps)`; the origin stays where it is, with gradient 0."""
    norm = safe_norm(x, axis=axis, keepdims=True)
    # The factor makes the gradient 0 at the origin; as a product it lets a NaN through.
    return x / jnp.where(norm > eps, norm, eps if eps > 0 else 1) * (norm > 0)


def masked_mean(x: Array, where: Any = None, *, axis: Any = None) -> Array:
    """Mean of the selected elements; 0 where none is selected."""
    if where is None:
        return jnp.mean(x, axis=axis)
    where = jnp.broadcast_to(where, x.shape)
    count = jnp.sum(where, axis=axis)
    return jnp.sum(jnp.where(where, x, 0), axis=axis) / jnp.maximum(count, 1)


def pearson(
    x: Array,
    y: Array,
    *,
    axis: int = -1,
    where: Any = None,
    eps: float = 1e-8,
    clamp_norms: bool = False,
) -> Array:
    """Pearson correlation along an axis, with `eps` added to the product of the norms.

    With `clamp_norms` each norm is at least `eps` instead. 0 where one side is constant or nothing
    is selected.
    """
    x, y = as_float(x), as_float(y)
    x = x - jnp.expand_dims(masked_mean(x, where, axis=axis), axis)
    y = y - jnp.expand_dims(masked_mean(y, where, axis=axis), axis)
    if where is not None:
        x, y = jnp.where(where, x, 0), jnp.where(where, y, 0)
    if clamp_norms:
        return jnp.sum(normalize(x, axis=axis, eps=eps) * normalize(y, axis=axis, eps=eps), axis)
    return jnp.sum(x * y, axis=axis) / (safe_norm(x, axis=axis) * safe_norm(y, axis=axis) + eps)
