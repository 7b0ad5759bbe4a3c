"""Compiling an algorithm: `jit`, `jit` over a mesh, or `pmap`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kdjax.base import Algorithm, PyTree, TrainState
from kdjax.parallel import layout as layouts
from kdjax.parallel.columns import with_columns
from kdjax.parallel.layout import Layout, check_divisible, constrain, place
from kdjax.parallel.rules import RulesByRole

PMAP_AXIS = "data"
"""The axis name of algorithms that run under `pmap`."""


def compile(
    algorithm: Algorithm,
    *,
    how: str = "jit",
    mesh: Mesh | None = None,
    rules: RulesByRole = None,
    donate: bool = True,
) -> Algorithm:
    """Compiles an algorithm's step. The same algorithm gives the same numbers in all forms.

    What is minimised, batch statistics of relational and contrastive losses, queues and batch norm
    are over the global batch in all forms but one: networks under `pmap` see their device's
    examples only, as is usual there.

    Args:
      algorithm: not yet compiled. For `how='pmap'` it must have been made with
        `axis_name=kdjax.parallel.PMAP_AXIS`.
      how: `'jit'` or `'pmap'`.
      mesh: with `'jit'`, the devices, see `make_mesh`. Without a mesh everything stays on the
        default device. Axes may be Auto or Explicit; the inside of the step is the compiler's
        business in both, state and metrics of an Explicit mesh have explicit types.
      rules: with a mesh, how variables are split: for all roles, or by the name of a player or
        teacher. The automatic rule splits large arrays over the mesh axis `fsdp`, if it has one.
      donate: whether a step consumes the state it is given, so that its memory is used again.

    Returns:
      An algorithm. Batches are given whole in all forms, with several processes by the rows of
      each; under `pmap` the state has a leading device axis, which `unreplicate` takes off. Where
      a step takes less time than its call, `several` makes some in one, but not under `pmap`.
      Batches may be row numbers of a data set on the device, see `kdjax.data.on_device`.

    Raises:
      ValueError: for an unknown form, a batch that the number of devices does not divide, or a rule
        that does not fit an array.
    """
    if how == "pmap":
        return _pmap(algorithm, donate)
    if how != "jit":
        raise ValueError(f"how is {how!r}, wanted 'jit' or 'pmap'")
    if mesh is None:
        step = jax.jit(_taking_rows(algorithm.step), donate_argnums=(0,) if donate else ())
        return algorithm._replace(step=step, several=_several(step, donate))
    return _over_mesh(algorithm, Layout(mesh, rules), donate)


def _taking_rows(step: Callable[..., Any]) -> Callable[..., Any]:
    """The step, for batches of row numbers too, where `frozen` has the columns of a data set."""

    def taking(state, batch, frozen=None, **options):
        return step(state, *with_columns(batch, frozen or {}), **options)

    return taking


def mesh_step(algorithm: Algorithm, layout: Layout, *, donate: bool = True) -> Callable[..., Any]:
    """The jitted `step(state, batch, frozen)` over a mesh, for arrays that live there already.

    Compile it ahead of time with `mesh_step(…).lower(state, batch, frozen)`, of arrays or of
    `jax.ShapeDtypeStruct`s with shardings.
    """
    inner, take = layouts.auto(layout), _taking_rows(algorithm.step)
    takes_layout = "layout" in inspect.signature(algorithm.step).parameters
    informed = {"layout": inner} if takes_layout else {}

    def step(state: TrainState, batch: Any, frozen: Any) -> tuple[TrainState, dict]:
        state = constrain(state, inner.state(state))
        frozen = constrain(frozen, inner.frozen(frozen))
        state, metrics = take(state, batch, frozen, **informed)
        everywhere = jax.tree.map(lambda _: inner.everywhere, metrics)
        return constrain(state, inner.state(state)), constrain(metrics, everywhere)

    def typed_step(state: TrainState, batch: Any, frozen: Any) -> tuple[TrainState, dict]:
        answer = jax.eval_shape(take, *map(_untyped, (state, batch, frozen)))
        metrics = jax.tree.map(lambda _: layout.everywhere, answer[1])
        return jax.sharding.auto_axes(
            step, axes=layout.mesh.axis_names, out_sharding=(layout.state(answer[0]), metrics)
        )(state, batch, frozen)

    return jax.jit(
        typed_step if layouts.is_explicit(layout.mesh) else step,
        donate_argnums=(0,) if donate else (),
    )


def _untyped(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _over_mesh(algorithm: Algorithm, layout: Layout, donate: bool) -> Algorithm:
    step, inner = mesh_step(algorithm, layout, donate=donate), layouts.auto(layout)
    placed = _Once(lambda frozen: place(frozen, layout.frozen(frozen)))

    def init(key, batch, frozen=None, variables=None):
        layout.check(batch)
        implementation = jax.random.key_impl(key)

        def made(data, *given):
            return algorithm.init(jax.random.wrap_key_data(data, impl=implementation), *given)

        frozen = dict(frozen or {})
        given = (
            np.asarray(jax.random.key_data(key)),
            layout.whole(batch),
            place(frozen, inner.frozen(frozen)),
            place(dict(variables or {}), jax.tree.map(lambda _: inner.everywhere, variables or {})),
        )
        shardings = inner.state(jax.eval_shape(made, *given))
        state = jax.jit(made, out_shardings=shardings)(*given)
        return place(state, layout.state(state))

    def placing_step(state, batch, frozen=None):
        return step(state, layout.place_batch(batch), placed(frozen or {}))

    many = _several(step, donate)

    def placing_several(state, batches, frozen=None):
        return many(state, tuple(map(layout.place_batch, batches)), placed(frozen or {}))

    return Algorithm(init, placing_step, placing_several)


def _several(step: Callable[..., Any], donate: bool) -> Callable[..., Any]:
    """The jitted loop over some batches; it is compiled for each number of them."""

    def several(state: TrainState, batches: tuple[Any, ...], frozen: Any = None) -> Any:
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        return jax.lax.scan(lambda state, batch: step(state, batch, frozen or {}), state, stacked)

    return jax.jit(several, donate_argnums=(0,) if donate else ())


class _Once:
    """Remembers the answer for the last tree it was given, by the identity of its leaves."""

    def __init__(self, function: Callable[[PyTree], PyTree]):
        self._function = function
        self._given: list[Any] | None = None
        self._answer: PyTree = None

    def __call__(self, tree: PyTree) -> PyTree:
        leaves = jax.tree.leaves(tree)
        known = self._given is not None and len(leaves) == len(self._given)
        if not (known and all(a is b for a, b in zip(leaves, self._given, strict=True))):
            self._answer, self._given = self._function(tree), leaves
        return self._answer


def _pmap(algorithm: Algorithm, donate: bool) -> Algorithm:
    step = jax.pmap(
        _taking_rows(algorithm.step),
        axis_name=PMAP_AXIS,
        in_axes=(0, 0, None),
        donate_argnums=(0,) if donate else (),
    )

    def init(key, batch, frozen=None, variables=None):
        check_divisible(batch, jax.local_device_count())
        return replicate(algorithm.init(key, batch, frozen, variables))

    def pmap_step(state, batch, frozen=None):
        state, metrics = step(state, spread(batch), frozen or {})
        return state, unreplicate(metrics)

    return Algorithm(init, pmap_step)


def spread(batch: Any) -> Any:
    """Splits the leading axis over local devices: `[n, …]` becomes `[devices, n / devices, …]`."""
    devices = jax.local_device_count()
    check_divisible(batch, devices)
    return jax.tree.map(lambda x: jnp.reshape(x, (devices, -1, *np.shape(x)[1:])), batch)


def replicate(tree: Any) -> Any:
    """A copy of each array per local device, along a new leading axis."""
    devices = jax.local_devices()
    mesh = Mesh(np.asarray(devices), (PMAP_AXIS,))
    sharding = NamedSharding(mesh, PartitionSpec(PMAP_AXIS))

    def copies(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return jax.device_put(jnp.broadcast_to(leaf[None], (len(devices), *leaf.shape)), sharding)

    return jax.tree.map(copies, tree)


def unreplicate(tree: Any) -> Any:
    """The first device's copy of each array."""
    return jax.tree.map(lambda leaf: leaf[0], tree)
