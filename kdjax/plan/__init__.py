"""Will it fit, and what will it cost? A train step, compiled ahead of time for other devices.

    found = kdjax.plan.plan(algorithm, batch, frozen, mesh, rules, chip=kdjax.plan.CHIPS["v5e"])
    found.memory.total, found.fits, found.traffic, found.roofline.seconds

`python -m kdjax.plan --config=… --topology=v5e:4x4` does so for a recipe. No TPU is needed, only
its compiler: `pip install 'kdjax[plan]'`.
"""

from kdjax.plan.chips import CHIPS, Chip
from kdjax.plan.counting import matrix_flops
from kdjax.plan.planning import plan
from kdjax.plan.problems import Problem, load_problem
from kdjax.plan.program import Program, Traffic, parse_program
from kdjax.plan.results import Memory, Plan, Roofline
from kdjax.plan.tables import compared, described, written
from kdjax.plan.topologies import Topology, topology
from kdjax.plan.variants import largest_batch, mesh_sizes, parse_variants

__all__ = [
    "CHIPS",
    "Chip",
    "Memory",
    "Plan",
    "Problem",
    "Program",
    "Roofline",
    "Topology",
    "Traffic",
    "compared",
    "described",
    "largest_batch",
    "load_problem",
    "matrix_flops",
    "mesh_sizes",
    "parse_program",
    "parse_variants",
    "plan",
    "topology",
    "written",
]
