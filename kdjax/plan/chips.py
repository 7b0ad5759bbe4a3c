"""What the makers say of their chips."""

from __future__ import annotations

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip's published figures; a roofline made of them is an estimate.

    Attributes:
      name: as in the name of a topology.
      memory: bytes of high-bandwidth memory. The compiler keeps a little of it for itself.
      flops: peak bfloat16 operations per second.
      bandwidth: bytes per second between chip and memory.
      ring: bytes per second that a chip sends along one axis of the torus, in both directions
        together: the published two-way bandwidth of all links, over the number of links.
      clock: cycles per second of a core, where the peak and the published number of multipliers
        give it; none otherwise.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    ring: float
    clock: float | None = None


CHIPS = {
    # 4 units of 128 by 128 multipliers; 4 links with 400 GB/s together.
    "v5e": Chip("v5e", 16 * GIB, 197e12, 819e9, 400e9 / 4, 197e12 / (2 * 4 * 128**2)),
    # 2 cores of 4 such units; 6 links with 1200 GB/s together.
    "v5p": Chip("v5p", 95 * GIB, 459e12, 2765e9, 1200e9 / 6, 459e12 / (2 * 2 * 4 * 128**2)),
    # 4 links with 800 GB/s together.
    "v6e": Chip("v6e", 32 * GIB, 918e12, 1638e9, 800e9 / 4),
}
"""By name, from the system architecture pages of the Cloud TPU documentation."""
