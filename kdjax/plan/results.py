"""What a plan says, as types."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from kdjax.plan.chips import Chip
from kdjax.plan.program import Traffic


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes per device.

    Attributes:
      parts: of the arrays that a step is given, by role, from their shapes and shardings.
      arguments: of the same arrays together, as the compiler lays them out; none if it gave up.
      temporaries: activations, gradients, gathered variables and all else that lives during the
        step, from the compiler; none if it gave up.
      outputs: of results that do not take the place of an argument, from the compiler.
      code: of the program itself, from the compiler.
      needed: what the compiler says it needs where it gave up; none otherwise.
      available: what the compiler says there is, where it gave up; none otherwise.
    """

    parts: Mapping[str, int]
    arguments: int | None = None
    temporaries: int | None = None
    outputs: int | None = None
    code: int | None = None
    needed: int | None = None
    available: int | None = None

    @property
    def total(self) -> int | None:
        """All of it; what is needed where the compiler gave up."""
        if self.arguments is None:
            return self.needed
        return self.arguments + self.temporaries + self.outputs + self.code


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that a step takes at least, by what a chip can do at most: an estimate.

    Attributes:
      compute: matrix products per device over the peak.
      memory: arguments and results once, temporaries twice, over the bandwidth of the memory.
      interconnect: bytes sent per device over the bandwidth of one ring.
    """

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """If the three overlap perfectly."""
        return max(self.compute, self.memory, self.interconnect)

    @property
    def without_overlap(self) -> float:
        """If they follow one another."""
        return self.compute + self.memory + self.interconnect


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step takes on some devices.

    Attributes:
      topology: its name.
      mesh: devices along each axis.
      chip: its figures, or none.
      note: what the reader should know.
      items: examples or tokens per step.
      unit: which of the two.
      batch_size: examples per step.
      parameters: numbers trained or frozen, by role.
      memory: bytes per device.
      traffic: what travels between devices.
      flops: of the matrix products of a step, all devices together, counted in the traced step.
      compiler_flops: the compiler's own count per device, which counts the body of a loop once.
      compiler_seconds: its estimate of a step; none if it gave none or counts a loop's body once.
      compiler_cycles: its cycles for what runs on a core, each loop as often as it runs; none if it
        gave none.
      unknown_loops: loops of unknown length; their bodies are counted once.
      simulated: whether it was compiled for simulated devices, so that only what arrays take, and
        operations, are those of the chip.
    """

    topology: str
    mesh: Mapping[str, int]
    chip: Chip | None
    note: str
    items: int
    unit: str
    batch_size: int
    parameters: Mapping[str, int]
    memory: Memory
    traffic: tuple[Traffic, ...] = ()
    flops: int = 0
    compiler_flops: float | None = None
    compiler_seconds: float | None = None
    compiler_cycles: int | None = None
    unknown_loops: int = 0
    simulated: bool = False

    @property
    def devices(self) -> int:
        """Their number."""
        count = 1
        for size in self.mesh.values():
            count *= size
        return count

    @property
    def fits(self) -> bool | None:
        """Whether it fits the chip; none where nobody can say, as for CPU devices."""
        if self.memory.needed is not None:
            return False
        if self.chip is None:
            return None
        if self.simulated:
            return False if sum(self.memory.parts.values()) > self.chip.memory else None
        return self.memory.total <= self.chip.memory

    @property
    def sent(self) -> int:
        """Bytes that a device sends in a step."""
        return sum(part.bytes for part in self.traffic)

    @property
    def roofline(self) -> Roofline | None:
        """The roofline estimate, where the step was compiled for a known chip."""
        if self.chip is None or self.simulated or self.memory.arguments is None:
            return None
        memory = self.memory
        moved = memory.arguments + memory.outputs + 2 * memory.temporaries
        return Roofline(
            self.flops / self.devices / self.chip.flops,
            moved / self.chip.bandwidth,
            self.sent / self.chip.ring,
        )

    @property
    def core_seconds(self) -> float | None:
        """The compiler's cycles over the clock."""
        if self.compiler_cycles is None or self.chip is None or self.chip.clock is None:
            return None
        return self.compiler_cycles / self.chip.clock

    @property
    def items_per_second(self) -> float | None:
        """By the roofline, with perfect overlap: an upper bound, and an estimate."""
        return None if self.roofline is None else self.items / self.roofline.seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the fields and what follows from them."""
        answer = dataclasses.asdict(self)
        answer["memory"]["total"] = self.memory.total
        answer |= {"devices": self.devices, "fits": self.fits, "sent": self.sent}
        if self.roofline is not None:
            answer["roofline"] = {
                **dataclasses.asdict(self.roofline),
                "seconds": self.roofline.seconds,
                "without_overlap": self.roofline.without_overlap,
            }
        answer["core_seconds"] = self.core_seconds
        answer["items_per_second"] = self.items_per_second
        return answer
