"""Batches of row numbers: the step takes the examples from columns on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdjax.base import COLUMNS, ROW, Batch, PyTree


def with_columns(batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[Batch, dict[str, Any]]:
    """A batch with the examples that its row numbers name, and `frozen` without the columns."""
    rest = {name: tree for name, tree in frozen.items() if name != COLUMNS}
    if COLUMNS not in frozen:
        return batch, rest
    if ROW not in batch:
        raise ValueError(
            f"batch: has {sorted(batch)}, wanted a field {ROW!r} beside frozen[{COLUMNS!r}]; give "
            "batches of the rows that kdjax.data.on_device gave"
        )
    numbers = batch[ROW]
    taken = {
        name: column.at[numbers].get(mode="promise_in_bounds")
        for name, column in frozen[COLUMNS].items()
    }
    return {**{name: array for name, array in batch.items() if name != ROW}, **taken}, rest
