"""A stream's runs and gaps as one line of characters."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from walle.ids import IdRange

if TYPE_CHECKING:
    from collections.abc import Sequence

LEGEND = "# held  + in part  = held, perhaps not committed  ? aside or fill  . gap"


def draw(
    entries: IdRange,
    runs: Sequence[IdRange],
    unproved: Sequence[IdRange],
    *,
    committed_id: int,
    width: int,
) -> str:
    """At most `width` characters, each for as many of the entries.

    Args:
        entries: what is drawn, one at least.
        runs, unproved: what of them is held.
    """
    count = entries.end - entries.start
    columns = min(width, count)
    edges = [entries.start + count * column // columns for column in range(columns + 1)]
    cells = [IdRange(start, end) for start, end in pairwise(edges)]
    return "".join(_mark(cell, runs, unproved, committed_id) for cell in cells)


def _mark(
    cell: IdRange, runs: Sequence[IdRange], unproved: Sequence[IdRange], committed_id: int
) -> str:
    held = _overlap(cell, runs)
    if held == cell.end - cell.start:
        return "=" if cell.start > committed_id else "#"
    if held:
        return "+"
    return "?" if _overlap(cell, unproved) else "."


def _overlap(cell: IdRange, ranges: Sequence[IdRange]) -> int:
    """How many of the cell's entries lie in the ranges, which do not overlap."""
    return sum(max(0, min(cell.end, each.end) - max(cell.start, each.start)) for each in ranges)
