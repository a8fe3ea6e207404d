"""Which record of a stream is the oldest that is to stay, by its time and by the bytes behind it.

The search looks at the first records of extents, then at those of the stretches of one extent's
index, then at each record of one stretch. So little is read of what goes, and nothing of what
stays. It goes from the oldest on to the first that stays, and not by halves: where a writer's clock
was behind for a while, a search by halves might take all before that for old.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from walle.record import LENGTH_MASK, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from walle.core.effects import ReadOldest
    from walle.storage.extent import Extent
    from walle.storage.reader import Reader

EXTENTS_OPENED_MAX = 64
"""In one search, for the times of their first records."""

_HEADER = struct.Struct("<12xIQ16xQ")  # length, entry id, time


class _Bounds(NamedTuple):
    """end: where the stream's last record would end if all that follow were in one file."""

    before_us: int
    bytes_max: int
    end: int

    def admit(self, view: memoryview, offset: int) -> bool:
        """Whether the record at that offset of a file may stay."""
        is_near = self.end - offset <= self.bytes_max
        return is_near and _HEADER.unpack_from(view, offset)[2] >= self.before_us


def find_oldest(reader: Reader, runs: Sequence[Extent], action: ReadOldest) -> int:
    """The id of the oldest entry that stays; the one behind the last if none does.

    Raises:
        CorruptionError: a record that has to be looked at is damaged.
    """
    extent, bounds = _find_extent(reader, runs, action)
    view = reader.map(extent)
    start = extent.offset
    for offset in reader.points(extent):
        if bounds.admit(view, offset):
            break
        start = offset
    while start < extent.end and not bounds.admit(view, start):
        start += size_of(_HEADER.unpack_from(view, start)[0] & LENGTH_MASK)
    if start == extent.end:
        return extent.last.entry_id + 1
    entry_id: int = _HEADER.unpack_from(view, start)[1]
    return entry_id


def _find_extent(
    reader: Reader, runs: Sequence[Extent], action: ReadOldest
) -> tuple[Extent, _Bounds]:
    """The last extent in a row whose first record goes; the first extent if none does."""
    left_bytes = sum(extent.end - extent.offset for extent in runs)
    found = runs[0], _Bounds(action.before_us, action.bytes_max, runs[0].offset + left_bytes)
    opened = 0
    for extent in runs:
        bounds = found[1]._replace(end=extent.offset + left_bytes)
        if left_bytes <= action.bytes_max:
            if opened == EXTENTS_OPENED_MAX or bounds.admit(reader.map(extent), extent.offset):
                break
            opened += 1
        found = extent, bounds
        left_bytes -= extent.end - extent.offset
    return found
