"""Devices that are not here: TPU topologies for the compiler, or simulated CPU devices."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from kdjax.losses.numerics import nearest
from kdjax.plan.chips import CHIPS, Chip

_NAME = re.compile(r"(\w+):(\d+(?:x\d+){1,2})$")
_CHIPS_PER_HOST = (2, 2, 1)
_COMPILER_ONLY = {
    # Without these libtpu asks a metadata server where it is running, and complains.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5e-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # A chip belongs to one process, and libtpu to the one that has the chip. Here is none.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Topology(NamedTuple):
    """Devices to compile for.

    Attributes:
      name: such as `'v5e:4x4'`, or `'cpu'`.
      devices: which can be compiled for, but run nothing.
      chip: its figures; none for CPU devices.
      note: what the reader should know, such as that the TPU's compiler is missing; '' for nothing.
    """

    name: str
    devices: Sequence[Any]
    chip: Chip | None = None
    note: str = ""


def topology(name: str, devices: int | None = None) -> Topology:
    """Looks a topology up.

    Without libtpu, which holds the TPU's compiler, the answer has as many simulated CPU devices and
    a note: what arrays take under their shardings is the same there, what the compiler adds is not.

    Args:
      name: `'v5e:4x4'`, `'v5p:2x2x2'`, `'v6e:2x4'`: a chip and how many there are along each axis
        of the torus, even numbers; or `'cpu'`.
      devices: with `'cpu'`, how many; all there are by default.

    Returns:
      A topology.

    Raises:
      ValueError: for an unknown name, or if there cannot be that many CPU devices in this process.

    Example:
      >>> topology("cpu", devices=1).chip is None
      True
    """
    if name == "cpu":
        return Topology(name, _cpu(devices))
    match = _NAME.match(name)
    if not match or match[1] not in CHIPS:
        known = ["cpu", *CHIPS]
        raise ValueError(
            f"topology is {name!r}{nearest(name.partition(':')[0], known)}; wanted 'cpu' or a chip "
            "and its torus, such as 'v5e:4x4' or 'v5p:2x2x2'"
        )
    chip, sizes = CHIPS[match[1]], [int(size) for size in match[2].split("x")]
    if importlib.util.find_spec("libtpu") is None:
        return Topology(name, _cpu(math.prod(sizes)), chip, _missing(math.prod(sizes)))
    return Topology(name, _tpu(name), chip)


def _missing(count: int) -> str:
    return (
        "libtpu is not installed, so this was compiled for "
        f"{count} simulated CPU devices. What arrays take, and operations, are as on the TPU; "
        "temporaries and collectives are not. For the TPU's own compiler: pip install 'kdjax[plan]'"
    )


def _tpu(name: str) -> Sequence[Any]:
    from jax.experimental import topologies

    for variable, value in _COMPILER_ONLY.items():
        os.environ.setdefault(variable, value)
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=name, chips_per_host_bounds=_CHIPS_PER_HOST
        )
    except Exception as error:  # libtpu raises its own types
        raise ValueError(f"topology {name!r}: {' '.join(str(error).split())}") from error
    return found.devices


def _cpu(count: int | None) -> Sequence[Any]:
    """Devices of this process; their number is fixed once the first one is used."""
    if count is not None and "device_count" not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # too late; there may be enough of them
            jax.config.update("jax_num_cpu_devices", count)
    there = jax.devices("cpu")
    count = len(there) if count is None else count
    if not 1 <= count <= len(there):
        raise ValueError(
            f"devices is {count}, and this process has {len(there)} CPU devices; start it with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return there[:count]
