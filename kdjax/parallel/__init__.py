"""Running one algorithm on one device, a mesh of devices, or under `pmap`."""

from jax.sharding import PartitionSpec as P

from kdjax.parallel.ahead import AheadTeacher, teacher_ahead
from kdjax.parallel.compilation import (
    PMAP_AXIS,
    compile,
    mesh_step,
    replicate,
    spread,
    unreplicate,
)
from kdjax.parallel.layout import Layout, place
from kdjax.parallel.meshes import batch_shards, batch_spec, make_mesh
from kdjax.parallel.rules import REPLICATED, Rules
from kdjax.parallel.stacks import gather_layer, keep_layers_split

__all__ = [
    "PMAP_AXIS",
    "REPLICATED",
    "AheadTeacher",
    "Layout",
    "P",
    "Rules",
    "batch_shards",
    "batch_spec",
    "compile",
    "gather_layer",
    "keep_layers_split",
    "make_mesh",
    "mesh_step",
    "place",
    "replicate",
    "spread",
    "teacher_ahead",
    "unreplicate",
]
