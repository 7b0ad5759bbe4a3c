"""Where each array lives: rules of path patterns, and an automatic rule for the rest."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from kdjax.base import PlayerState, PyTree, TrainState
from kdjax.parallel.meshes import FSDP, axis_size


@dataclasses.dataclass(frozen=True)
class Rules:
    """How variables are split over a mesh.

    The first pattern found in an array's path (`re.search`, parts joined by `/`, such as
    `encoder/layer_0/kernel`) decides. Other arrays go by the automatic rule: the largest axis
    that the devices of the `fsdp` axis divide is split over them, the last one where two are
    alike; arrays of fewer than `smallest` elements stay whole on each device.

    Attributes:
      patterns: pairs of a regular expression and a `PartitionSpec`.
      fsdp: the mesh axis of the automatic rule; `None` keeps unmatched arrays whole.
      smallest: elements below which the automatic rule leaves an array whole.
      stacked: a pattern of the arrays whose leading axis is the layers of a loop, and which the
        model gathers itself, one layer at a time, with `gather_layer`; '' for none.

    Example:
      >>> rules = Rules((('head/kernel', P(None, 'tensor')),))
      >>> mesh = jax.sharding.AbstractMesh((2, 4, 2), ('data', 'fsdp', 'tensor'))
      >>> tree = {'head': {'kernel': jax.ShapeDtypeStruct((64, 1000), 'float32')},
      ...         'mlp': {'kernel': jax.ShapeDtypeStruct((64, 256), 'float32'),
      ...                 'bias': jax.ShapeDtypeStruct((256,), 'float32')}}
      >>> found = rules.specs(tree, mesh)
      >>> found['head']['kernel'] == P(None, 'tensor')
      True
      >>> found['mlp'] == {'bias': P(), 'kernel': P(None, 'fsdp')}
      True
    """

    patterns: tuple[tuple[str, P], ...] = ()
    fsdp: str | None = FSDP
    smallest: int = 4096
    stacked: str = ""

    def specs(self, tree: PyTree, mesh: Mesh, *, strict: bool = True) -> PyTree:
        """A `PartitionSpec` for each array.

        Args:
          tree: of arrays or their shapes.
          mesh: whose axes the rules name.
          strict: whether a pattern whose partition does not fit an array is an error; otherwise
            the automatic rule takes over (optimisers keep factors of parameters under their
            names).

        Raises:
          ValueError: a partition names an axis that the mesh has not, has more entries than the
            array has axes, or does not divide it.
        """
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._spec(path, np.shape(leaf), mesh, strict), tree
        )

    def in_loop(self, path: Any) -> bool:
        """Whether the array at a path is gathered inside the loop over its leading axis."""
        return bool(self.stacked and re.search(self.stacked, path_name(path)))

    def _spec(self, path: Any, shape: tuple[int, ...], mesh: Mesh, strict: bool) -> P:
        name = path_name(path)
        for pattern, spec in self.patterns:
            if not re.search(pattern, name):
                continue
            problem = misfit(spec, shape, mesh)
            if not problem:
                return spec
            if strict:
                raise ValueError(f"rule {pattern!r} gives {name} {shape} {spec}: {problem}")
            break
        return self.automatic(shape, mesh)

    def automatic(self, shape: tuple[int, ...], mesh: Mesh) -> P:
        """The automatic rule for an array of a shape."""
        devices = mesh.shape.get(self.fsdp, 1) if self.fsdp else 1
        axes = [axis for axis, size in enumerate(shape) if size % devices == 0]
        if devices == 1 or not axes or int(np.prod(shape)) < self.smallest:
            return P()
        longest = max(axes, key=lambda axis: (shape[axis], axis))
        return P(*[self.fsdp if axis == longest else None for axis in range(longest + 1)])


REPLICATED = Rules(fsdp=None)
"""Every array whole on each device."""

RulesByRole = Rules | Mapping[str, Rules] | None


def path_name(path: Any) -> str:
    """A path in a tree as the patterns see it, `encoder/layer_0/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def misfit(spec: P, shape: tuple[int, ...], mesh: Mesh) -> str:
    """Why an array cannot be partitioned so, '' if it can."""
    if len(spec) > len(shape):
        return f"{len(spec)} entries for {len(shape)} axes"
    for size, names in zip(shape, spec, strict=False):
        given = () if names is None else (names,) if isinstance(names, str) else names
        if unknown := [name for name in given if name not in mesh.shape]:
            return f"the mesh has no axis {unknown[0]!r}, it has {tuple(mesh.shape)}"
        if size % axis_size(mesh, given):
            return f"{size} does not divide into {axis_size(mesh, given)} parts"
    return ""


def without_fsdp(spec: P) -> P:
    """The partition of an array once it is gathered over the `fsdp` axis.

    Example:
      >>> without_fsdp(P(('fsdp', 'tensor'), 'fsdp')) == P('tensor', None)
      True
    """

    def entry(names: Any) -> Any:
        kept = tuple(n for n in ((names,) if isinstance(names, str) else names or ()) if n != FSDP)
        return kept[0] if len(kept) == 1 else kept or None

    return P(*map(entry, spec))


def rules_of(rules: RulesByRole, role: str) -> Rules:
    """The rules of a player or teacher; automatic ones where none are given."""
    if rules is None:
        return Rules()
    return rules if isinstance(rules, Rules) else rules.get(role, Rules())


def state_specs(state: TrainState, mesh: Mesh, rules: RulesByRole = None) -> TrainState:
    """Partitions of a train state, each player by its own rules.

    Optimisers' state lies as the parameters do. Model and objective state (batch statistics,
    queues) stay whole unless a pattern names them.
    """

    def player(name: str, part: PlayerState) -> PlayerState:
        own = rules_of(rules, name)
        carried = dataclasses.replace(own, fsdp=None)
        return PlayerState(
            own.specs(part.params, mesh),
            carried.specs(part.model_state, mesh, strict=False),
            carried.specs(part.objective_state, mesh, strict=False),
            own.specs(part.opt_state, mesh, strict=False),
        )

    return TrainState(
        {name: player(name, part) for name, part in state.players.items()},
        {name: rules_of(rules, name).specs(part, mesh) for name, part in state.averages.items()},
        P(),
        P(),
    )


def frozen_specs(
    frozen: Mapping[str, PyTree], mesh: Mesh, rules: RulesByRole = None
) -> Mapping[str, PyTree]:
    """Partitions of the frozen teachers' variables, each by its own rules."""
    return {name: rules_of(rules, name).specs(tree, mesh) for name, tree in frozen.items()}
