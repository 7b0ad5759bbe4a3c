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
from kdjax.parallel.stacks import KEEP_LAYERS_SPLIT, gather_layer

__all__ = [
    "KEEP_LAYERS_SPLIT",
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
    "make_mesh",
    "mesh_step",
    "place",
    "replicate",
    "spread",
    "teacher_ahead",
    "unreplicate",
]
