"""What `python -m kdjax.plan` does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kdjax.parallel import batch_shards, make_mesh
from kdjax.parallel.meshes import AXES
from kdjax.plan import tables
from kdjax.plan.planning import plan
from kdjax.plan.problems import load_problem
from kdjax.plan.results import Plan
from kdjax.plan.topologies import Topology, topology
from kdjax.plan.variants import largest_batch, mesh_sizes, parse_variants


def run(
    path: str,
    config: Any,
    *,
    name: str,
    devices: int | None = None,
    sizes: Mapping[str, int] | None = None,
    compare: str = "",
    search: str = "",
    output: str = "",
) -> list[Plan]:
    """Plans a recipe, prints what it found, and writes it.

    Args:
      path: of the recipe's file.
      config: what it gave, with changes.
      name: of the topology.
      devices: how many, with `cpu`.
      sizes: of the mesh's axes; the recipe's by default.
      compare: several meshes instead, see `parse_variants`.
      search: `'powers'` or `'multiples'`: looks for the largest batch that fits, on each mesh.
      output: folder for `plan.json` and `plan.md`; '' for none.

    Returns:
      A plan per mesh.

    Raises:
      ValueError: for whatever does not fit together.
      kdjax.train.errors.RecipeError: for whatever is wrong with the recipe.
    """
    found = topology(name, devices)
    given = sizes or {axis: config.get("mesh", {}).get(axis, 1) for axis in AXES}
    meshes = parse_variants(compare) if compare else [given if config.get("mesh") or sizes else {}]
    plans = []
    for mesh in meshes:
        made = _searched if search else _planned
        plans.append(made(path, config, found, mesh_sizes(mesh), search))
    print(tables.text_of(plans))
    for file in tables.written(plans, output) if output else ():
        print(file)
    return plans


def _planned(
    path: str, config: Any, where: Topology, sizes: Mapping[str, int], _: str = ""
) -> Plan:
    mesh = make_mesh(**sizes, devices=where.devices)
    problem = load_problem(path, config, mesh)
    return plan(
        problem.algorithm,
        problem.batch,
        problem.frozen,
        mesh,
        problem.rules,
        chip=where.chip,
        items=problem.items,
        unit=problem.unit,
        topology=where.name,
        note=where.note,
    )


def _searched(path: str, config: Any, where: Topology, sizes: Mapping[str, int], how: str) -> Plan:
    """The plan of the largest batch that fits; of the smallest if none does."""
    if where.chip is None:
        raise ValueError(f"search wants a chip to fit, and topology is {where.name!r}")
    shards = batch_shards(make_mesh(**sizes, devices=where.devices))
    start = max(config.data.batch_size // shards, 1) * shards
    plans: dict[int, Plan] = {}

    def fits(size: int) -> bool:
        config.data.batch_size = size
        plans[size] = _planned(path, config, where, sizes)
        print(_tried(plans[size]))
        return bool(plans[size].fits)

    best = largest_batch(fits, start, multiple=shards, how=how)
    return plans[shards if best is None else best]


def _tried(found: Plan) -> str:
    return f"tried batch {found.batch_size:,}: {'fits' if found.fits else 'does not fit'}"


def chosen_sizes(given: Iterable[int | None]) -> dict[str, int]:
    """The sizes that flags gave, of `data`, `fsdp` and `tensor`; none where none was given."""
    return {axis: size for axis, size in zip(AXES, given, strict=True) if size is not None}
