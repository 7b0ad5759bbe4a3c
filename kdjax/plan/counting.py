"""Operations of the matrix products in a traced function, loops by their length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def matrix_flops(jaxpr: Any) -> int:
    """Operations of all matrix products and convolutions: two for each multiplication.

        sum over products [m, k] · [k, n] of 2 m k n

    A loop's body counts as often as it runs; of two branches the more costly counts; what runs on
    the arrays of one device counts for all of them. Bodies of loops whose length depends on data
    count once. Elementwise work is not counted.

    Args:
      jaxpr: of the whole program, of `jax.make_jaxpr(step)(…)` or `jax.jit(step).trace(…)`.

    Returns:
      A number, over all devices together.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def f(x):
      ...     return jax.lax.scan(lambda x, _: (x @ x, None), x, length=3)[0]
      >>> matrix_flops(jax.make_jaxpr(f)(jnp.ones((2, 2))))
      48
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [matrix_flops(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner, default=0)
    return _times(name, params) * sum(inner)


def _times(name: str, params: dict[str, Any]) -> int:
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        axes = params.get("manual_axes") or params["mesh"].axis_names
        return math.prod(params["mesh"].shape[axis] for axis in axes)
    return 1


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (core.Jaxpr, core.ClosedJaxpr)):
                yield item


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation: Any) -> int:
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    per_output = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
    return 2 * math.prod(equation.outvars[0].aval.shape) * per_output
