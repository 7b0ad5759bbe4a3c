"""What a compiled program sends between devices, and the cycles its compiler reckons with."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kdjax.plan import groups, hlo

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip
_CHANNEL = re.compile(r"channel_id=(\d+)")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_GROUPS = re.compile(
    r"replica_groups=(@?mesh\[.*?\].*?\{[^}]*\}|\{(?:\{[\d,]*\},?)*\}|\[[\d,]+\]<=\S*[\])])"
)
_PAIRS = re.compile(r"source_target_pairs=(\{(?:\{[\d,]*\},?)*\})")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind along the same axes.

    Attributes:
      kind: such as `'all-gather'`.
      axes: of the mesh.
      count: how many run in a step, loops by their length.
      bytes: that a device sends in a step, in rings: of a result of `b` bytes over `n` devices
        `b (n-1)/n` for all-gather and all-to-all, twice that for all-reduce, `b (n-1)` for
        reduce-scatter, `b` for a permutation.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Program:
    """What can be read of a compiled program.

    Attributes:
      traffic: by kind and axes, the largest first.
      cycles: of all instructions for which the compiler notes some, none if it notes none.
      loops: how many loops run more than once.
      unknown_loops: how many of unknown length; their bodies are counted once.
    """

    traffic: tuple[Traffic, ...]
    cycles: int | None
    loops: int
    unknown_loops: int


def parse_program(text: str, mesh: Mapping[str, int]) -> Program:
    """Reads a compiled program.

    A collective may stand in several places, since compilers spread it over what it overlaps with:
    what has the same channel, kind and shape counts once.

    Args:
      text: `compiled.as_text()`.
      mesh: devices along each axis, in the order of the mesh that it was compiled for.

    Returns:
      Its traffic, cycles and loops.

    Raises:
      ValueError: if the text is no program.
    """
    parsed = hlo.parse(text)
    trips = [count for _, count in parsed.loops()]
    return Program(
        _traffic(parsed, mesh),
        _cycles(parsed),
        sum(count is not None and count > 1 for count in trips),
        sum(count is None for count in trips),
    )


class _Found(NamedTuple):
    """A collective in a program: how often it runs, its kind, and the line that says it."""

    times: int
    kind: str
    instruction: hlo.Instruction

    @property
    def arrays(self) -> tuple[tuple[str, str], ...]:
        """Types and shapes of its results, without their layout in memory."""
        return tuple(hlo.arrays(self.instruction.shape))


def _traffic(parsed: hlo.Text, mesh: Mapping[str, int]) -> tuple[Traffic, ...]:
    channels: dict[Any, _Found] = {}
    for found in _collectives(parsed):
        channel = _CHANNEL.search(found.instruction.rest)
        # Compilers give the number of a channel away twice, but not to collectives alike.
        key = channel[1] if channel else found.instruction.name, found.kind, found.arrays
        if key not in channels or found.times > channels[key].times:
            channels[key] = found
    counts, sizes = collections.Counter(), collections.Counter()
    for times, kind, instruction in channels.values():
        meeting = _groups(instruction, mesh)
        sent = sent_bytes(kind, _result_bytes(kind, instruction, len(meeting[0])), len(meeting[0]))
        if sent:
            key = kind, groups.axes_of(meeting, mesh)
            counts[key] += times
            sizes[key] += times * sent
    parts = [Traffic(*key, count, sizes[key]) for key, count in counts.items()]
    return tuple(sorted(parts, key=lambda part: (-part.bytes, part.kind, part.axes)))


def _collectives(parsed: hlo.Text) -> Iterator[_Found]:
    for name, times in parsed.runs.items():
        for instruction in parsed.computations.get(name, {}).values():
            kind = instruction.opcode.removesuffix("-start")
            # The TPU's compiler writes a reduce-scatter as a fusion of this name, in which an
            # all-reduce is sliced.
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            if kind in KINDS:
                yield _Found(times, kind, instruction)


def _groups(instruction: hlo.Instruction, mesh: Mapping[str, int]) -> list[list[int]]:
    devices = 1
    for size in mesh.values():
        devices *= size
    found = _PAIRS.search(instruction.rest) or _GROUPS.search(instruction.rest)
    return groups.device_groups(found[1] if found else "{}", devices)


def _result_bytes(kind: str, instruction: hlo.Instruction, devices: int) -> int:
    """Bytes of the result; what starts a collective answers with its operands as well."""
    sizes = hlo.array_bytes(instruction.shape)
    if kind == "reduce-scatter" and instruction.opcode.startswith("all-reduce"):
        return sum(sizes) // devices
    if instruction.opcode == "collective-permute-start":
        return sizes[0]
    if instruction.opcode == "all-gather-start":
        return sum(sizes[len(sizes) // 2 :])
    return sum(sizes)


def sent_bytes(kind: str, result: int, devices: int) -> int:
    """Bytes that each device sends for a collective, as rings do it.

    Args:
      kind: of the collective.
      result: bytes of its result on one device.
      devices: how many meet.

    Returns:
      A number of bytes.

    Example:
      >>> sent_bytes("all-reduce", 800, 8), sent_bytes("reduce-scatter", 100, 8)
      (1400, 700)
    """
    if kind in ("collective-permute", "collective-broadcast"):
        return result
    if kind == "reduce-scatter":
        return result * (devices - 1)
    return (2 if kind == "all-reduce" else 1) * result * (devices - 1) // devices


def _cycles(parsed: hlo.Text) -> int | None:
    total, noted = 0, False
    for name in parsed.sequential:
        for instruction in parsed.computations.get(name, {}).values():
            if found := _CYCLES.search(instruction.rest):
                noted = True
                total += parsed.runs.get(name, 1) * int(found[1])
    return total if noted else None
