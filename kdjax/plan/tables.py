"""Plans as text: a page for one, a table for several, and files of both."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdjax.plan.chips import GIB, Chip
from kdjax.plan.results import Plan

_TITLES = (
    "mesh", "batch", "fits", "arrays", "temporaries", "total", "sent per step", "seconds, roofline",
    "per second, roofline",
)  # fmt: skip


def described(plan: Plan) -> str:
    """A plan as a page of Markdown: memory, traffic, operations, time.

    Args:
      plan: what to describe.

    Returns:
      The text.
    """
    parts = [
        f"# {_named(plan)}",
        *([f"> {plan.note}"] if plan.note else []),
        _verdict(plan),
        "Parameters: " + ", ".join(f"{k} {v:,}" for k, v in plan.parameters.items()) + ".",
        "## Memory per device",
        _memory(plan),
        "## Between devices, per step",
        _traffic(plan),
        "## Operations and time, per step",
        _time(plan),
    ]
    return "\n\n".join(parts) + "\n"


def compared(plans: Sequence[Plan]) -> str:
    """Several plans in one table, a row for each.

    Args:
      plans: of the same problem.

    Returns:
      The text, in Markdown.
    """
    return _table(_TITLES, [_row(plan) for plan in plans]) + "\n"


def written(plans: Sequence[Plan], folder: str | os.PathLike[str]) -> list[Path]:
    """Writes `plan.json` and `plan.md`.

    Args:
      plans: one or more.
      folder: made if missing.

    Returns:
      The two paths.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / "plan.json", folder / "plan.md"
    data.write_text(json.dumps([plan.as_dict() for plan in plans], indent=1) + "\n")
    page.write_text(text_of(plans))
    return [data, page]


def text_of(plans: Sequence[Plan]) -> str:
    """What `plan.md` holds: a table if there are several, and a page for each."""
    pages = [described(plan) for plan in plans]
    return "\n".join([compared(plans), *pages] if len(plans) > 1 else pages)


def _named(plan: Plan) -> str:
    return f"{plan.topology or 'Devices'}, {_mesh(plan.mesh)}, batch {plan.batch_size:,}"


def _mesh(mesh: Mapping[str, int]) -> str:
    return " · ".join(f"{name} {size}" for name, size in mesh.items() if size > 1) or "one device"


def _verdict(plan: Plan) -> str:
    memory = plan.memory
    if memory.needed is not None:
        return (
            f"**Does not fit**: the compiler needs {_size(memory.needed)} of "
            f"{_size(memory.available)}."
        )
    arrays = f"Its arrays take {_size(sum(memory.parts.values()))} of"
    if plan.simulated:
        verdict = "" if plan.fits is None else "**Does not fit**: "
        return f"{verdict}{arrays} {_size(plan.chip.memory)} per device."
    if plan.fits is None:
        return f"It takes {_size(memory.total)} per device."
    how = "Fits" if plan.fits else "Does not fit"
    return f"**{how}**: {_size(memory.total)} of {_size(plan.chip.memory)} per device."


def _memory(plan: Plan) -> str:
    memory, shapes = plan.memory, "shapes and shardings"
    rows = [(name, _size(size), shapes) for name, size in memory.parts.items()]
    if memory.arguments is not None:
        padding = memory.arguments - sum(memory.parts.values())
        rows += [
            (
                "padding, less what is unused",
                _size(padding),
                "the compiler's arguments less all above",
            ),
            (
                "temporaries",
                _size(memory.temporaries),
                "the compiler: activations, gradients, gathered variables, workspace",
            ),
            ("new results", _size(memory.outputs), "the compiler: what replaces no argument"),
            ("program", _size(memory.code), "the compiler"),
        ]
    how = "the sum" if memory.needed is None else "the compiler, as it gave up"
    rows.append(("**all**", f"**{_size(memory.total)}**", how))
    return _table(("what", "bytes per device", "from"), rows)


def _traffic(plan: Plan) -> str:
    if plan.memory.needed is not None:
        return "Not known: the compiler gave up."
    if not plan.traffic:
        return "Nothing travels."
    rows = [
        (part.kind, " · ".join(part.axes), f"{part.count:,}", _size(part.bytes))
        for part in plan.traffic
    ]
    table = _table(("collective", "along", "times", "a device sends"), rows)
    return table + _loops(plan)


def _loops(plan: Plan) -> str:
    if not plan.unknown_loops:
        return ""
    return f"\n\nThe bodies of {plan.unknown_loops} loops of unknown length are counted once."


def _time(plan: Plan) -> str:
    lines = [
        f"- {plan.flops:.3g} operations in matrix products on all devices, counted in the traced "
        "step, loops by their length."
    ]
    if plan.compiler_flops is not None:
        lines.append(
            f"- {plan.compiler_flops:.3g} operations on one device by the compiler's own count, "
            "which takes the body of a loop once."
        )
    lines += [_compiler_time(plan), *_roofline(plan)]
    return "\n".join(lines)


def _compiler_time(plan: Plan) -> str:
    if plan.compiler_seconds is not None:
        return f"- The compiler estimates {_seconds(plan.compiler_seconds)}."
    none = "- The compiler gave no estimate of the time of the whole step"
    if plan.core_seconds is not None:
        return (
            f"{none}. Its cycles of the single operations, loops by their length, are "
            f"{_seconds(plan.core_seconds)} at {plan.chip.clock / 1e9:.2f} GHz, without waiting "
            "for other devices."
        )
    if plan.compiler_cycles is not None:
        return f"{none}. The cycles of the single operations are {plan.compiler_cycles:,}."
    return none + "."


def _roofline(plan: Plan) -> list[str]:
    if plan.roofline is None:
        return []
    found = plan.roofline
    return [
        f"- Roofline, an estimate: {_seconds(found.compute)} of matrix products, "
        f"{_seconds(found.memory)} of memory, {_seconds(found.interconnect)} between devices; "
        f"{_seconds(found.seconds)} if they overlap, {_seconds(found.without_overlap)} if not.",
        f"- That is at most {plan.items_per_second:,.0f} {plan.unit} per second, an estimate.",
        f"- Assumed: {_figures(plan.chip)} Every argument and result moves once, temporaries "
        "twice; collectives follow one another on one axis of the torus.",
    ]


def _figures(chip: Chip) -> str:
    return (
        f"{chip.flops / 1e12:g} TFLOP/s in bfloat16, {chip.bandwidth / 1e9:g} GB/s of memory, "
        f"{chip.ring / 1e9:g} GB/s sent along an axis of the torus."
    )


def _row(plan: Plan) -> tuple[str, ...]:
    memory, found = plan.memory, plan.roofline
    fits = {True: "yes", False: "no", None: "–"}[plan.fits]
    compiled = memory.arguments is not None
    return (
        _mesh(plan.mesh),
        f"{plan.batch_size:,}",
        fits,
        _size(sum(memory.parts.values())),
        _size(memory.temporaries) if compiled else "–",
        _size(memory.total) if memory.total is not None else "–",
        _size(plan.sent) if compiled else "–",
        _seconds(found.seconds) if found else "–",
        f"{plan.items_per_second:,.0f} {plan.unit}" if found else "–",
    )


def _size(size: int) -> str:
    """Bytes in the unit that suits them."""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(size) >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} B"


def _seconds(seconds: float) -> str:
    for unit, name in ((1, "s"), (1e-3, "ms")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e6:.3g} µs"


def _table(titles: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
