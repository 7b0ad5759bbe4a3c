"""A mesh with its rules: which sharding each array of a step has, and moving arrays there."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kdjax.base import COLUMNS, Batch, ModelApply, PyTree, TrainState
from kdjax.parallel import meshes, stacks
from kdjax.parallel.meshes import FSDP
from kdjax.parallel.remat import keep_remat
from kdjax.parallel.rules import RulesByRole, frozen_specs, rules_of, state_specs, without_fsdp
from kdjax.parallel.stacks import GATHERED, keep_layers_split


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the arrays of a step live.

    Attributes:
      mesh: the devices.
      rules: of all roles together, or by the name of a player or teacher. Roles without rules
        follow the automatic one (see `Rules`).
    """

    mesh: Mesh
    rules: RulesByRole = None

    @property
    def everywhere(self) -> NamedSharding:
        """Whole on each device."""
        return NamedSharding(self.mesh, P())

    @property
    def rows(self) -> NamedSharding:
        """Split along the example axis."""
        return NamedSharding(self.mesh, meshes.batch_spec(self.mesh))

    def state(self, state: TrainState) -> TrainState:
        """Shardings of a train state."""
        return self._on_mesh(state_specs(state, self.mesh, self.rules))

    def frozen(self, frozen: Mapping[str, PyTree]) -> Mapping[str, PyTree]:
        """Shardings of the frozen teachers' variables; columns of data are whole everywhere."""
        variables = {name: tree for name, tree in frozen.items() if name != COLUMNS}
        shardings = self._on_mesh(frozen_specs(variables, self.mesh, self.rules))
        columns = {name: tree for name, tree in frozen.items() if name == COLUMNS}
        return {**shardings, **jax.tree.map(lambda _: self.everywhere, columns)}

    def _on_mesh(self, specs: PyTree) -> PyTree:
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs, is_leaf=_is_spec)

    def forward(self, role: str, apply: ModelApply) -> ModelApply:
        """A role's `apply` for use inside a step over this layout, on Auto axes.

        Variables that are split over `fsdp` are gathered right where they are used, and again in
        the backward pass instead of being kept; signals stay split along the examples. Without
        this the compiler is free to gather activations instead. Layers that the model itself
        rematerialises are so here too (see `keep_remat`). Of stacks that the rules name, one
        layer at a time is gathered, by the model inside its loop; what the backward pass keeps is
        then the model's to say, with `keep_layers_split` or a stricter policy.
        """
        rules = rules_of(self.rules, role)

        def placed(variables, batch, *, key=None, train=False):
            specs = rules.specs(variables, self.mesh, strict=False)
            now = jax.tree_util.tree_map_with_path(
                lambda path, spec: spec if rules.in_loop(path) else without_fsdp(spec),
                specs,
                is_leaf=_is_spec,
            )
            layer = functools.partial(self._gather_layer, specs.get("params", {}))

            def own(variables, batch, key):
                return apply(variables, batch, key=key, train=train)

            def run(variables):
                gathered = self._gather(variables, specs, now)
                with stacks.gathering(layer if rules.stacked else None):
                    return own(gathered, batch, key)

            if self.mesh.shape.get(FSDP, 1) > 1 and not rules.stacked:
                own = keep_remat(own)
                run = jax.checkpoint(run, policy=keep_layers_split)
            signals, changed = run(variables)
            return {name: self._rows_of(signal) for name, signal in signals.items()}, changed

        return placed

    def _gather_layer(self, specs: PyTree, params: PyTree, stack: str) -> PyTree:
        """One layer of a stack; its partition is the stack's without the axis of layers."""
        for part in stack.split("/"):
            if part not in specs:
                raise ValueError(f"stack is {stack!r}; at {part!r} the parameters have {[*specs]}")
            specs = specs[part]
        own = jax.tree.map(lambda spec: P(*spec[1:]), specs, is_leaf=_is_spec)
        return self._gather(params, own, jax.tree.map(without_fsdp, own, is_leaf=_is_spec))

    def _gather(self, variables: PyTree, specs: PyTree, wanted: PyTree) -> PyTree:
        """Split variables gathered over `fsdp`; their gradients go back split."""
        split, gathered = self._on_mesh(specs), self._on_mesh(wanted)
        # A constraint alone would be its own transpose, and force each device to hold the sum of
        # the whole gradient before it keeps its part.
        whole = jax.tree.map(_gather_leaf, variables, gathered, split)
        return checkpoint_name(whole, GATHERED)

    def _rows_of(self, signal: Any) -> Any:
        """A signal that is one array per example, kept split along them."""
        if not isinstance(signal, jax.Array) or not signal.ndim:
            return signal
        if signal.shape[0] % meshes.batch_shards(self.mesh):
            return signal
        rest = [P.UNCONSTRAINED] * (signal.ndim - 1)
        spec = P(meshes.batch_spec(self.mesh)[0], *rest)
        return jax.lax.with_sharding_constraint(signal, NamedSharding(self.mesh, spec))

    def check(self, batch: Batch) -> None:
        """Raises `ValueError` unless a batch splits evenly; over all processes together."""
        here = meshes.batch_shards(self.mesh)
        if not spans_processes(self.mesh):
            check_divisible(batch, here)
            return
        local = here // jax.process_count()
        host = {k: v for k, v in dict(batch).items() if not _is_global(v)}
        check_divisible(host, max(local, 1))

    def place_batch(self, batch: Batch) -> PyTree:
        """The batch on the mesh. With several processes each gives its own rows."""
        self.check(batch)
        if not spans_processes(self.mesh):
            return jax.device_put(dict(batch), self.rows)

        def leaf(x: Any) -> jax.Array:
            if _is_global(x):
                return x
            return jax.make_array_from_process_local_data(self.rows, np.asarray(x))

        return jax.tree.map(leaf, dict(batch))

    def whole(self, batch: Batch) -> PyTree:
        """The global batch as every process can read it."""
        if not spans_processes(self.mesh):
            return dict(batch)
        return multihost_utils.process_allgather(self.place_batch(batch), tiled=True)


def _is_spec(x: Any) -> bool:
    return isinstance(x, P)


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Moves arrays to their shardings.

    With several processes, arrays that live in one of them must be alike in all.
    """
    return jax.tree.map(_place, tree, shardings)


def _place(x: Any, sharding: NamedSharding) -> jax.Array:
    if getattr(x, "sharding", None) == sharding:
        return x
    if _is_global(x):
        return jax.jit(lambda x: x, out_shardings=sharding)(x)
    if not spans_processes(sharding.mesh):
        return jax.device_put(x, sharding)
    if jax.dtypes.issubdtype(getattr(x, "dtype", None), jax.dtypes.prng_key):
        data = _place(jax.random.key_data(x), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    whole = np.asarray(x)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def spans_processes(mesh: Mesh) -> bool:
    """Whether a mesh has devices of other processes."""
    return mesh.is_multi_process


def _is_global(x: Any) -> bool:
    return isinstance(x, jax.Array) and not x.is_fully_addressable


def _gather_leaf(x: jax.Array, gathered: NamedSharding, split: NamedSharding) -> jax.Array:
    to = jax.lax.with_sharding_constraint
    return jax.custom_derivatives.linear_call(
        lambda _, x: to(x, gathered), lambda _, x: to(x, split), (), x
    )


def constrain(tree: PyTree, shardings: PyTree) -> PyTree:
    """Tells the compiler where arrays are to live; on Auto axes."""
    return jax.tree.map(jax.lax.with_sharding_constraint, tree, shardings)


def auto(layout: Layout) -> Layout:
    """The same layout for code that leaves the shardings to the compiler."""
    return dataclasses.replace(layout, mesh=meshes.retyped(layout.mesh, AxisType.Auto))


def is_explicit(mesh: Mesh) -> bool:
    """Whether shardings are part of the types of some axis."""
    return AxisType.Explicit in mesh.axis_types


def check_divisible(batch: Any, devices: int) -> None:
    """Raises `ValueError` unless each array's leading axis splits evenly over the devices."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if not np.ndim(leaf) or np.shape(leaf)[0] % devices:
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"batch{name} has shape {np.shape(leaf)}; its first axis must be a multiple of the "
                f"{devices} devices"
            )
