"""Rematerialisation that a model asks for itself, inside of a checkpoint around the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

NAMES = ("checkpoint", "remat", "remat2")
"""What the primitive of `jax.checkpoint` has been called."""


def keep_remat(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose own rematerialised parts stay so under a checkpoint around it.

    The policy of an outer `jax.checkpoint` decides for those inside of it too, and with
    `keep_layers_split` keeps what they would have computed again. Each inner one is therefore
    replaced by a function with a backward pass of its own, which keeps its arguments alone. An
    inner policy that would keep more is not followed: its part is computed again as a whole.

    Args:
      function: of arrays, in any trees; it is traced.

    Returns:
      A function with the same values and gradients. It has no forward-mode derivative where the
      original had inner checkpoints.

    Example:
      >>> import jax.numpy as jnp
      >>> block = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x)))
      >>> bool(jax.grad(keep_remat(block))(1.0) == jax.grad(block)(1.0))
      True
    """

    def kept(*args: Any) -> Any:
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        if not _has_remat(traced.jaxpr):
            return function(*args)
        leaves = core.jaxpr_as_fun(_replaced(traced))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    return kept


def _replaced(closed: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """The program with each checkpoint, at any depth, as a function that keeps its arguments."""
    equations = [_replaced_equation(equation) for equation in closed.jaxpr.eqns]
    return core.ClosedJaxpr(closed.jaxpr.replace(eqns=equations), closed.consts)


def _replaced_equation(equation: core.JaxprEqn) -> core.JaxprEqn:
    if equation.primitive.name not in NAMES:
        params = {name: _inside(value) for name, value in equation.params.items()}
        return equation.replace(params=params)
    avals = [atom.aval for atom in equation.invars]
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals]
    traced = jax.make_jaxpr(_arguments_only(equation.params["jaxpr"]))(*shapes).jaxpr
    (call,) = traced.eqns
    assert call.invars == traced.invars and call.outvars == traced.outvars
    return equation.replace(primitive=call.primitive, params=call.params)


def _arguments_only(body: core.Jaxpr) -> Callable[..., list[Any]]:
    """The body as a function that keeps its arguments for the backward pass, and nothing else."""
    run = core.jaxpr_as_fun(_replaced(core.ClosedJaxpr(body, ())))
    kept = jax.custom_vjp(run)

    def backward(args: tuple[Any, ...], cotangents: list[Any]) -> tuple[Any, ...]:
        # Without the barrier the compiler would find the values of the forward pass again.
        return jax.vjp(run, *jax.lax.optimization_barrier(args))[1](cotangents)

    kept.defvjp(lambda *args: (run(*args), args), backward)
    return kept


def _inside(value: Any) -> Any:
    """A parameter of an equation; the programs in it are replaced as well."""
    if isinstance(value, core.ClosedJaxpr):
        return _replaced(value) if _has_remat(value.jaxpr) else value
    if isinstance(value, tuple) and any(isinstance(v, core.ClosedJaxpr) for v in value):
        return tuple(map(_inside, value))
    return value


def _has_remat(program: core.Jaxpr) -> bool:
    return any(
        equation.primitive.name in NAMES or any(map(_has_remat, _programs(equation.params)))
        for equation in program.eqns
    )


def _programs(params: dict[str, Any]) -> list[core.Jaxpr]:
    """Those that `_inside` replaces."""
    found = []
    for value in params.values():
        several = value if isinstance(value, tuple) else (value,)
        found += [each.jaxpr for each in several if isinstance(each, core.ClosedJaxpr)]
    return found
