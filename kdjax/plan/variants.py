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
    fits: Callable[[int], bool],
    start: int,
    *,
    multiple: int = 1,
    how: str = "powers",
    limit: int = 2**20,
) -> int | None:
    """The largest batch size that fits, by trying; larger batches are taken to need more.

    Args:
      fits: whether a batch size does.
      start: where to begin; twice as much is tried while it fits, half as much until it does.
      multiple: of which all sizes are to be.
      how: `'powers'` stops there; `'multiples'` goes on halving the interval between the last that
        fits and the first that does not.
      limit: none above is tried.

    Returns:
      The batch size, or none if not even `multiple` fits.

    Raises:
      ValueError: for another `how`, or a start that is no positive multiple.

    Example:
      >>> tried = lambda size: size <= 44
      >>> largest_batch(tried, 4), largest_batch(tried, 4, multiple=4, how="multiples")
      (32, 44)
    """
    if how not in ("powers", "multiples"):
        raise ValueError(f"how is {how!r}, wanted 'powers' or 'multiples'")
    if start < 1 or start % multiple:
        raise ValueError(f"start is {start}, wanted a positive multiple of {multiple}")
    best, too_large = start, 0
    while not fits(best):
        if best == multiple:
            return None
        best, too_large = max(best // 2 // multiple, 1) * multiple, best
    while not too_large and 2 * best <= limit:
        best, too_large = (2 * best, 0) if fits(2 * best) else (best, 2 * best)
    while how == "multiples" and too_large - best > multiple:
        middle = (best + too_large) // 2 // multiple * multiple
        best, too_large = (middle, too_large) if fits(middle) else (best, middle)
    return best
