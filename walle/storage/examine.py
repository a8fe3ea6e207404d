"""Looking at what a segment really holds, for recovery: pieces of good records, and the rest."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from walle.ids import Position
from walle.native import records_search
from walle.record import scan
from walle.storage.extent import Extent, SparseIndex
from walle.storage.manifest import ExtentRecord, Kind

if TYPE_CHECKING:
    from walle.storage.segment import Segment


class Piece(NamedTuple):
    """Good records in a row.

    extent: the piece as an extent of its own, sealed.
    chains: the chain after each record; None: the records were not looked at.
    is_named: it begins where the journal says that an extent does.
    """

    extent: Extent
    chains: array[int] | None
    is_named: bool


class Examined(NamedTuple):
    """What an extent holds.

    pieces: in the order of the file; ids grow from one to the next.
    known_id: the highest entry id that was here for certain: found, or named by the journal.
    garbage_bytes: behind the last piece, up to the last byte that is not zero.
    room_bytes: behind the last piece, up to the end of the file, where more records may have been.
    can_grow: the extent is not sealed, and there is room.
    """

    pieces: list[Piece]
    known_id: int
    garbage_bytes: int = 0
    room_bytes: int = 0
    can_grow: bool = False


def extent_of(record: ExtentRecord, segment: Segment) -> Extent:
    """A sealed extent, as the journal describes it."""
    return Extent(
        segment,
        Kind(record.kind),
        record.offset,
        record.first_id,
        record.prev_chain,
        record.end,
        record.last,
        is_sealed=True,
        group_id=record.group_id,
    )


def take_unread(record: ExtentRecord, segment: Segment) -> Examined:
    """A sealed extent of which the journal is believed."""
    piece = Piece(extent_of(record, segment), None, is_named=True)
    return Examined([piece], record.last.entry_id)


def take_lost(record: ExtentRecord) -> Examined:
    """An extent whose file is not there, or another one."""
    if record.is_sealed:
        return Examined([], record.last.entry_id)
    return Examined([], record.first_id, room_bytes=record.file_bytes - record.offset)


def examine(record: ExtentRecord, segment: Segment, view: memoryview) -> Examined:
    """Reads an extent.

    Args:
        view: the file; up to the extent's end if it is sealed, else up to where data ends.
    """
    pieces = []
    at, before, is_named = record.offset, Position(record.first_id - 1, record.prev_chain), True
    while at >= 0:
        index, chains = _read_run(view, at, before)
        if chains:
            extent = Extent(
                segment,
                Kind(record.kind),
                at,
                before.entry_id + 1,
                before.chain,
                index.end,
                index.last,
                is_sealed=True,
                group_id=record.group_id,
                index=index,
            )
            pieces.append(Piece(extent, chains, is_named))
        end, is_named = index.end, False
        at, before = _search(view, end, index.last.entry_id + 1)
    if record.is_sealed:
        last = pieces[-1].extent.last if pieces else before
        if last.entry_id >= record.last.entry_id and last != record.last:
            return take_lost(record)  # good records of another history
        return Examined(pieces, record.last.entry_id)
    known_id = max(record.first_id, index.last.entry_id)
    garbage_bytes = len(bytes(view[end:]).rstrip(b"\0"))
    room_bytes = segment.size - end
    return Examined(pieces, known_id, garbage_bytes, room_bytes, can_grow=room_bytes > 0)


def _read_run(view: memoryview, at: int, before: Position) -> tuple[SparseIndex, array[int]]:
    """Indexes good records from `at` on, up to the first that is not; returns their chains, too."""
    index, chains = SparseIndex(at, before), array("Q")
    while True:
        found = index.read_on(view)
        if not found.count:
            return index, chains
        chains += found.chains


def _search(view: memoryview, start: int, first_id: int) -> tuple[int, Position]:
    """The next good record behind `start` with an id of `first_id` or above, and what it builds
    on; -1: none."""
    found = records_search(view[start:], first_id)
    if found < 0:
        return -1, Position(0, 0)
    first = scan(view[start + found :], count_max=1)
    return start + found, Position(first.first_id - 1, first.prev_chain)
