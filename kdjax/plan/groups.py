"""Which devices meet in a collective, and which axes of the mesh that is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

_LISTS = re.compile(r"\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"@?mesh\[(.*?)\](.*?)\s*\{([^}]*)\}$")


def device_groups(text: str, devices: int) -> list[list[int]]:
    """The groups that `replica_groups=` or `source_target_pairs=` names.

    Args:
      text: `{{0,1},{2,3}}`; `[2,2]<=[2,2]T(1,0)`, a reshaped and transposed count; or
        `mesh['a'=2,'b'=2] {'b'}`, the axes of a mesh along which devices meet. `{}` means all.
      devices: how many there are.

    Returns:
      Positions of devices in the mesh, by group.

    Raises:
      ValueError: for any other form.

    Example:
      >>> device_groups("[2,2]<=[2,2]T(1,0)", 4)
      [[0, 2], [1, 3]]
      >>> device_groups("mesh['a'=2,'b'=2] {'b'}", 4)
      [[0, 1], [2, 3]]
    """
    text = text.strip()
    if text == "{}":
        return [list(range(devices))]
    if found := _LISTS.fullmatch(text):
        return [_numbers(group) for group in re.findall(r"\{([\d,]*)\}", found[1])]
    if found := _IOTA.fullmatch(text):
        return _iota(*found.groups()).reshape(_numbers(found[1])).tolist()
    if found := _MESH.fullmatch(text):
        return _of_mesh(*found.groups())
    raise ValueError(f"groups of devices in an unknown form: {text[:100]!r}")


def _numbers(text: str | None) -> list[int]:
    return [int(number) for number in text.split(",") if number] if text else []


def _iota(_: str, shape: str, order: str | None) -> np.ndarray:
    counted = np.arange(int(np.prod(_numbers(shape)))).reshape(_numbers(shape))
    return counted.transpose(_numbers(order)) if order else counted


def _of_mesh(axes: str, assignment: str, along: str) -> list[list[int]]:
    names, sizes = [], []
    for name, size in re.findall(r"['\"]?([\w.]+)['\"]?=(\d+)", axes):
        names.append(name)
        sizes.append(int(size))
    ids = np.arange(int(np.prod(sizes)))
    if found := _IOTA.search(assignment + axes) or re.search(
        r"device_ids=\(?\[()([\d,]+)\](?:T\(([\d,]+)\))?", assignment + axes
    ):
        ids = _iota(*found.groups()).reshape(-1)
    # An axis may be met along a part of it only: 'a':(2)4 has 2 parts before and 4 devices.
    wanted = re.findall(r"['\"]?([\w.]+)['\"]?(?::\((\d+)\)(\d+))?", along)
    shape, meeting = [], []
    for name, size in zip(names, sizes, strict=True):
        parts = [(int(a), int(b)) for n, a, b in wanted if n == name and b]
        if parts:
            before, own = parts[0]
            shape += [before, own, size // before // own]
            meeting.append(len(shape) - 2)
        else:
            shape.append(size)
            meeting += [len(shape) - 1] if name in [n for n, *_ in wanted] else []
    rest = [axis for axis in range(len(shape)) if axis not in meeting]
    count = int(np.prod([shape[axis] for axis in meeting]))
    return ids.reshape(shape).transpose(rest + meeting).reshape(-1, count).tolist()


def axes_of(groups: Sequence[Sequence[int]], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of a mesh along which devices of a group differ.

    Args:
      groups: of `device_groups`.
      mesh: devices along each axis.

    Returns:
      Names, in the mesh's order.

    Example:
      >>> axes_of([[0, 2], [1, 3]], {"data": 2, "tensor": 2})
      ('data',)
    """
    if not mesh:
        return ()
    places = np.stack(np.unravel_index(np.arange(int(np.prod([*mesh.values()]))), [*mesh.values()]))
    apart = np.zeros(len(mesh), bool)
    for group in groups:
        own = places[:, list(group)]
        apart |= (own != own[:, :1]).any(1)
    return tuple(name for name, differs in zip(mesh, apart, strict=True) if differs)
