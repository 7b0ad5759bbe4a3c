"""Compiling a train step ahead of time, and reading what its compiler found."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from kdjax import parallel
from kdjax.base import COLUMNS, Algorithm, Batch, PyTree, TrainState
from kdjax.parallel.columns import with_columns
from kdjax.parallel.layout import check_divisible
from kdjax.parallel.meshes import batch_shards
from kdjax.parallel.rules import RulesByRole
from kdjax.plan.chips import GIB, Chip
from kdjax.plan.counting import matrix_flops
from kdjax.plan.program import parse_program
from kdjax.plan.results import Memory, Plan

_UNITS = {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40, "": 1}
_SIZE = r"([\d.]+)([KMGT]?)"
_EXHAUSTED = (
    rf"Used {_SIZE}i?B? of {_SIZE}",
    rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)",
)


def plan(
    algorithm: Algorithm,
    batch: Batch,
    frozen: Mapping[str, PyTree],
    mesh: Mesh,
    rules: RulesByRole = None,
    *,
    chip: Chip | None = None,
    items: int | None = None,
    unit: str = "examples",
    topology: str = "",
    note: str = "",
) -> Plan:
    """Compiles one train step for a mesh and says what it takes; nothing is run.

    Args:
      algorithm: not yet compiled.
      batch: arrays or `jax.ShapeDtypeStruct`s, the global batch.
      frozen: the frozen teachers' variables, likewise; with a data set on the device (see
        `kdjax.data.on_device`), its columns, and the batch has row numbers.
      mesh: of devices here, or of a topology (see `kdjax.plan.topology`).
      rules: how variables are split, as for `kdjax.parallel.compile`.
      chip: its figures, for whether it fits and for the roofline.
      items: examples or tokens per step; the rows of the batch if none.
      unit: what they are called.
      topology: its name, for the tables.
      note: for the tables.

    Returns:
      A plan. Running out of memory is an answer: `plan.fits` is False.

    Raises:
      ValueError: if the batch does not divide over the mesh, or a rule does not fit an array.

    Example:
      >>> import jax.numpy as jnp, kdjax, optax
      >>> network = kdjax.models.from_linen(kdjax.models.MLP(features=(8,)))
      >>> objective = kdjax.lift(kdjax.losses.cross_entropy)
      >>> step = kdjax.algorithms.distill(network, None, objective, optax.adam(1e-3))
      >>> batch = {"image": jnp.ones((8, 4)), "label": jnp.zeros(8, int)}
      >>> found = plan(step, batch, {}, kdjax.parallel.make_mesh())
      >>> found.parameters, found.memory.parts["student: parameters"]
      ({'student': 130}, 520)
    """
    batch, frozen = _abstract(dict(batch)), _abstract(dict(frozen))
    check_divisible(batch, batch_shards(mesh))
    layout = parallel.Layout(mesh, rules)
    state = jax.eval_shape(
        lambda *given: algorithm.init(jax.random.key(0), *with_columns(*given)), batch, frozen
    )
    state = _placed(state, layout.state(state))
    frozen = _placed(frozen, layout.frozen(frozen))
    batch = _placed(batch, jax.tree.map(lambda _: layout.rows, batch))
    with warnings.catch_warnings():
        # Scalars of the state cannot take each other's place; that costs a few bytes.
        warnings.filterwarnings("ignore", message=".*donated buffers were not usable")
        traced = parallel.mesh_step(algorithm, layout).trace(state, batch, frozen)
        rows = jax.tree.leaves(batch)[0].shape[0]
        facts = {
            "topology": topology,
            "mesh": {name: int(size) for name, size in mesh.shape.items()},
            "chip": chip,
            "note": note,
            "simulated": chip is not None and mesh.devices.flat[0].platform == "cpu",
            "items": rows if items is None else items,
            "unit": unit,
            "batch_size": rows,
            "parameters": _parameters(state, frozen),
            "flops": matrix_flops(traced.jaxpr),
        }
        parts = _parts(state, frozen, batch)
        try:
            compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            return Plan(memory=_exhausted(error, parts), **facts)
    return _read(compiled, parts, facts)


def _read(compiled: Any, parts: Mapping[str, int], facts: dict[str, Any]) -> Plan:
    found = compiled.memory_analysis()
    memory = Memory(
        parts,
        arguments=found.argument_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
        outputs=found.output_size_in_bytes - found.alias_size_in_bytes,
        code=found.generated_code_size_in_bytes,
    )
    program = parse_program(compiled.as_text(), facts["mesh"])
    costs = compiled.cost_analysis() or {}
    seconds = costs.get("optimal_seconds", -1)
    # Where the compiler knows no time for an instruction it adds a negative one.
    usable = seconds > 0 and not program.loops and not program.unknown_loops
    return Plan(
        memory=memory,
        traffic=program.traffic,
        compiler_flops=costs.get("flops"),
        compiler_seconds=seconds if usable else None,
        compiler_cycles=program.cycles,
        unknown_loops=program.unknown_loops,
        **facts,
    )


def _exhausted(error: Exception, parts: Mapping[str, int]) -> Memory:
    """What the compiler says as it gives up; any other error is none of ours."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        raise error
    for pattern in _EXHAUSTED:
        if found := re.search(pattern, text):
            needed, available = (int(float(found[i]) * _UNITS[found[i + 1]]) for i in (1, 3))
            return Memory(parts, needed=needed, available=available)
    raise error


def _abstract(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _placed(tree: PyTree, shardings: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
        shardings,
    )


def _parts(state: TrainState, frozen: PyTree, batch: Batch) -> dict[str, int]:
    """Bytes per device by role; parts without arrays are left out."""
    parts = {
        "training set" if name == COLUMNS else f"{name}: variables": tree
        for name, tree in frozen.items()
    }
    for name, player in state.players.items():
        parts |= {
            f"{name}: parameters": player.params,
            f"{name}: optimiser": player.opt_state,
            f"{name}: state": (player.model_state, player.objective_state),
        }
    parts |= {f"{name}: average": tree for name, tree in state.averages.items()}
    sizes = {name: _bytes(tree) for name, tree in (parts | {"batch": batch}).items()}
    return {name: size for name, size in sizes.items() if size}


def _bytes(tree: PyTree) -> int:
    """Of the part of each array that one device holds."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        count = 1
        for size in leaf.sharding.shard_shape(leaf.shape):
            count *= size
        total += count * leaf.dtype.itemsize
    return total


def _parameters(state: TrainState, frozen: PyTree) -> dict[str, int]:
    counts = {
        name: _count(tree.get("params", tree)) for name, tree in frozen.items() if name != COLUMNS
    }
    return counts | {name: _count(p.params["model"]) for name, p in state.players.items()}


def _count(tree: PyTree) -> int:
    return sum(int(leaf.size) for leaf in jax.tree.leaves(tree))
