"""Reading a compiled program's text: computations, instructions, and how often each one runs."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_TRIPS = re.compile(r"known_trip_count\W+n\W+(\d+)")
_NAMES = re.compile(r"%?([\w.\-]+)")
_CALLED = re.compile(
    r"\b(body|condition|calls|to_apply|true_computation|false_computation|branch_computations|"
    r"called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_BITS = {"pred": 8, "token": 0, "c64": 64, "c128": 128}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in the program.
      opcode: such as `all-gather`.
      shape: the type of its result, as written.
      operands: names of what it reads.
      rest: its attributes, as written.
      root: whether it is the computation's answer.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    def attribute(self, name: str) -> str | None:
        """The name of the computation that an attribute holds."""
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found[1] if found else None


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Text:
    """A program: its computations by name, and the name of the one where it starts."""

    computations: Mapping[str, Computation]
    entry: str

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often each computation runs; the most of its callers, clones share their work."""
        found = {self.entry: 1}
        waiting = [self.entry]
        while waiting:
            name = waiting.pop()
            for instruction in self.computations.get(name, {}).values():
                for kind, callee in called(instruction):
                    times = found[name]
                    if kind == "body":
                        times *= self.trips(instruction, name) or 1
                    if found.get(callee, 0) < times:
                        found[callee] = times
                        waiting.append(callee)
        return found

    @functools.cached_property
    def sequential(self) -> set[str]:
        """Computations whose instructions run one by one, unlike those of a fusion."""
        found, waiting = {self.entry}, [self.entry]
        while waiting:
            for instruction in self.computations.get(waiting.pop(), {}).values():
                if instruction.opcode not in ("while", "conditional", "call"):
                    continue
                new = {callee for _, callee in called(instruction)} - found
                found |= new
                waiting.extend(new)
        return found

    def loops(self) -> Iterator[tuple[Instruction, int | None]]:
        """Loops that run, and how often their body does each time; none where nobody can say."""
        for name in self.runs:
            for instruction in self.computations.get(name, {}).values():
                if instruction.opcode == "while":
                    yield instruction, self.trips(instruction, name)

    def trips(self, loop: Instruction, where: str) -> int | None:
        """How often a loop's body runs: as noted, or as its condition, start and step say."""
        if found := _TRIPS.search(loop.rest):
            return int(found[1])
        condition = self.computations.get(loop.attribute("condition") or "", {})
        body = self.computations.get(loop.attribute("body") or "", {})
        test = _root(condition)
        if test is None or test.opcode != "compare" or "direction=LT" not in test.rest:
            return None
        index = _element(condition, test.operands[0])
        bound = _constant(condition, test.operands[1])
        if index is None or bound is None:
            return None
        start = self._start(loop, where, index)
        return max(math.ceil((bound - start) / _step(body, index)), 0)

    def _start(self, loop: Instruction, where: str, index: int) -> int:
        computation = self.computations[where]
        given = computation.get(loop.operands[0])
        if given is None or given.opcode != "tuple":
            return 0
        return _constant(computation, given.operands[index]) or 0


def parse(text: str) -> Text:
    """Reads the text that `compiled.as_text()` gives.

    Args:
      text: of an optimised program.

    Returns:
      The program.

    Raises:
      ValueError: if it has no entry.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[2], found[3], bool(found[1]))
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("the text is no compiled program: it has no ENTRY")
    return Text(computations, entry)


def _instruction(name: str, text: str, root: bool) -> Instruction:
    shape, text = _first(text)
    opcode, _, text = text.partition("(")
    operands, rest = _first("(" + text)
    return Instruction(name, opcode.strip(), shape, tuple(_operands(operands)), rest, root)


def _first(text: str) -> tuple[str, str]:
    """What stands before the first space that is not in parentheses, and what follows."""
    depth = 0
    for position, character in enumerate(text):
        depth += character in "({["
        depth -= character in ")}]"
        if depth == 0 and (character == " " or (text[0] == "(" and character == ")")):
            end = position + (character == ")")
            return text[:end], text[end:].lstrip(" ")
    return text, ""


def _operands(text: str) -> Iterator[str]:
    depth, start = 0, 1
    for position, character in enumerate(text):
        depth += character in "({["
        depth -= character in ")}]"
        if (character == "," and depth == 1) or (character == ")" and depth == 0):
            if words := text[start:position].split():
                yield words[-1].lstrip("%")
            start = position + 1


def called(instruction: Instruction) -> Iterator[tuple[str, str]]:
    """Kind and name of the computations that an instruction calls."""
    for kind, names in _CALLED.findall(instruction.rest):
        for name in _NAMES.findall(names):
            yield kind, name


def arrays(shape: str) -> list[tuple[str, str]]:
    """Element type and dimensions of each array in a type.

    Example:
      >>> arrays('(bf16[2,3]{1,0:T(8,128)(2,1)}, f32[])')
      [('bf16', '2,3'), ('f32', '')]
    """
    return _ARRAY.findall(shape)


def array_bytes(shape: str) -> list[int]:
    """Bytes of each array in a type, `'(bf16[2,3]{1,0}, f32[])'`, without padding.

    Example:
      >>> array_bytes('(bf16[2,3]{1,0:T(8,128)(2,1)}, f32[])')
      [12, 4]
    """
    sizes = []
    for kind, dimensions in arrays(shape):
        digits = re.search(r"\d+", kind)
        bits = _BITS.get(kind, int(digits[0]) if digits else 0)
        numbers = math.prod(int(size) for size in dimensions.split(",") if size)
        sizes.append(math.ceil(bits * numbers / 8))
    return sizes


def _root(computation: Computation) -> Instruction | None:
    return next((i for i in computation.values() if i.root), None)


def _element(computation: Computation, name: str) -> int | None:
    """Which element of the loop's tuple a value is."""
    instruction = computation.get(name)
    while instruction is not None and instruction.opcode in ("copy", "bitcast", "convert"):
        instruction = computation.get(instruction.operands[0])
    if instruction is None or instruction.opcode != "get-tuple-element":
        return None
    return int(re.search(r"index=(\d+)", instruction.rest)[1])


def _constant(computation: Computation, name: str) -> int | None:
    instruction = computation.get(name)
    while instruction is not None and instruction.opcode in ("copy", "bitcast", "convert"):
        instruction = computation.get(instruction.operands[0])
    if instruction is None or instruction.opcode != "constant":
        return None
    value = instruction.operands[0] if instruction.operands else ""
    return int(value) if re.fullmatch(r"-?\d+", value) else None


def _step(body: Computation, index: int) -> int:
    """By how much a loop's counter grows each time; 1 where it cannot be seen."""
    answer = _root(body)
    if answer is None or answer.opcode != "tuple":
        return 1
    grown = body.get(answer.operands[index])
    if grown is None or grown.opcode != "add":
        return 1
    steps = [_constant(body, name) for name in grown.operands]
    return next((step for step in steps if step), 1)
