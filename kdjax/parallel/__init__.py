"""Running one algorithm on one device, a mesh of devices, or under `pmap`."""

from jax.sharding import PartitionSpec as P

from kdjax.parallel.compilation import (
    PMAP_AXIS,
    compile,
    mesh_step,
    replicate,
    spread,
    unreplicate,
)
from kdjax.parallel.layout import Layout, place
from kdjax.parallel.meshes import batch_spec, make_mesh
from kdjax.parallel.rules import REPLICATED, Rules

__all__ = [
    "PMAP_AXIS",
    "REPLICATED",
    "Layout",
    "P",
    "Rules",
    "batch_spec",
    "compile",
    "make_mesh",
    "mesh_step",
    "place",
    "replicate",
    "spread",
    "unreplicate",
]
