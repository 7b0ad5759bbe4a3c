"""Meshes of devices with the axes that the sharding rules speak of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

DATA, FSDP, TENSOR = AXES = ("data", "fsdp", "tensor")
"""Examples are split over `data` and `fsdp`, parameters over `fsdp` and `tensor`."""


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    *,
    devices: Sequence[Any] | None = None,
    explicit: bool = False,
) -> Mesh:
    """A mesh over `data`, `fsdp` and `tensor`.

    The batch is split over `data` and `fsdp`. Parameters are split over `fsdp` and gathered where
    they are used, and over `tensor` where a rule says so.

    Args:
      data: devices along this axis; -1 takes all that the others leave.
      fsdp: likewise.
      tensor: likewise; neighbours on the interconnect.
      devices: all devices of all processes by default.
      explicit: whether shardings are part of the arrays' types (`AxisType.Explicit`), or the
        compiler's business.

    Raises:
      ValueError: if the sizes do not multiply to the number of devices.

    Example:
      >>> dict(make_mesh().shape) == {'data': jax.device_count(), 'fsdp': 1, 'tensor': 1}
      True
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {DATA: data, FSDP: fsdp, TENSOR: tensor}
    open_axes = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    wrong = any(size < 1 and size != -1 for size in sizes.values())
    if wrong or len(open_axes) > 1 or known < 1 or len(devices) % known:
        raise ValueError(
            f"data={data}, fsdp={fsdp}, tensor={tensor} do not fit {len(devices)} devices; wanted "
            "positive sizes whose product is that number, one of them may be -1"
        )
    for name in open_axes:
        sizes[name] = len(devices) // known
    if math.prod(sizes.values()) != len(devices):
        raise ValueError(
            f"data={data}, fsdp={fsdp}, tensor={tensor} take {math.prod(sizes.values())} devices, "
            f"there are {len(devices)}"
        )
    kind = AxisType.Explicit if explicit else AxisType.Auto
    return jax.make_mesh(tuple(sizes.values()), AXES, (kind,) * len(AXES), devices=devices)


def batch_spec(mesh: Mesh) -> P:
    """How the example axis of a batch is laid over a mesh: over `data` and `fsdp`.

    Meshes with other names have their first axis for it.

    Example:
      >>> batch_spec(make_mesh(1, jax.device_count())) == P(('data', 'fsdp'))
      True
    """
    axes = tuple(name for name in mesh.axis_names if name in (DATA, FSDP))
    return P(axes if axes else mesh.axis_names[0])


def batch_shards(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return axis_size(mesh, batch_spec(mesh)[0])


def axis_size(mesh: Mesh, names: str | tuple[str, ...] | None) -> int:
    """The number of devices along one mesh axis, or several together."""
    names = () if names is None else (names,) if isinstance(names, str) else names
    return math.prod(mesh.shape[name] for name in names)


def retyped(mesh: Mesh, kind: AxisType) -> Mesh:
    """The same mesh with axes of another type."""
    return Mesh(np.asarray(mesh.devices), mesh.axis_names, axis_types=(kind,) * len(mesh.shape))
