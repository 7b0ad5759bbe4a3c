"""Meshes to compare, and the largest batch that fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kdjax.losses.numerics import nearest
from kdjax.parallel.meshes import AXES, DATA


def parse_variants(text: str) -> list[dict[str, int]]:
    """Reads meshes such as `'data=-1;fsdp=-1;data=4,fsdp=4'`.

    Args:
      text: meshes between semicolons, sizes of axes between commas; -1 takes all that is left.

    Returns:
      Sizes by axis, see `mesh_sizes`.

    Raises:
      ValueError: for an unknown axis or a size that is no number.

    Example:
      >>> parse_variants("data=-1; fsdp=4,tensor=2")
      [{'data': -1}, {'fsdp': 4, 'tensor': 2}]
    """
    variants = []
    for mesh in filter(None, (part.strip() for part in text.split(";"))):
        sizes = {}
        for part in mesh.split(","):
            name, _, size = (word.strip() for word in part.partition("="))
            if name not in AXES:
                raise ValueError(f"a mesh has no axis {name!r}{nearest(name, AXES)}")
            if not size.lstrip("-").isdigit():
                raise ValueError(f"{name} is {size!r} in {mesh!r}, wanted a number")
            sizes[name] = int(size)
        variants.append(sizes)
    if not variants:
        raise ValueError(f"compare is {text!r}, wanted meshes such as 'data=-1;fsdp=-1'")
    return variants


def mesh_sizes(given: Mapping[str, int]) -> dict[str, int]:
    """The sizes of all axes: 1 where none is given, and `data` takes what nobody else does.

    Args:
      given: sizes of some axes; -1 takes all that the others leave.

    Returns:
      Arguments of `kdjax.parallel.make_mesh`.

    Example:
      >>> mesh_sizes({"tensor": 2}), mesh_sizes({"fsdp": -1})
      ({'data': -1, 'fsdp': 1, 'tensor': 2}, {'data': 1, 'fsdp': -1, 'tensor': 1})
    """
    sizes = dict.fromkeys(AXES, 1) | dict(given)
    if DATA not in given and -1 not in given.values():
        sizes[DATA] = -1
    return sizes


def largest_batch(
    fits: Callable[[int], bool], start: int, *, how: str = "powers", limit: int = 2**20
) -> int | None:
    """The largest batch size that fits, by trying; larger batches are taken to need more.

    Args:
      fits: whether a batch size does.
      start: the smallest one; all others are multiples of it.
      how: `'powers'`, the start times powers of two; `'multiples'`, then halving the interval
        between the last that fits and the first that does not.
      limit: none above is tried.

    Returns:
      The batch size, or none if not even the smallest fits.

    Raises:
      ValueError: for another `how`, or a start that is not positive.

    Example:
      >>> tried = lambda size: size <= 44
      >>> largest_batch(tried, 4), largest_batch(tried, 4, how="multiples")
      (32, 44)
    """
    if how not in ("powers", "multiples"):
        raise ValueError(f"how is {how!r}, wanted 'powers' or 'multiples'")
    if start < 1:
        raise ValueError(f"start is {start}, wanted a positive number")
    if not fits(start):
        return None
    best, step = start, start
    while 2 * best <= limit and fits(2 * best):
        best *= 2
    if how == "powers" or 2 * best > limit:
        return best
    too_large = 2 * best
    while too_large - best > step:
        middle = (best + too_large) // 2 // step * step
        best, too_large = (middle, too_large) if fits(middle) else (best, middle)
    return best
