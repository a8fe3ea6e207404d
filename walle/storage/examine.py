"""Looking at what a segment really holds: for recovery, pieces of good records, and the rest; while
the node runs, what is damaged of an extent, and what is left without that."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from walle.errors import CorruptionError
from walle.ids import Position
from walle.native import records_search
from walle.record import ALIGNMENT, scan
from walle.storage.extent import Damage, Extent, SparseIndex
from walle.storage.manifest import ExtentRecord, Kind

if TYPE_CHECKING:
    from walle.storage.notes import Note
    from walle.storage.segment import Segment


class Piece(NamedTuple):
    """Good records in a row.

    extent: the piece as an extent of its own, sealed.
    chains: the chain after each record; None: the records were not looked at.
    is_named: it begins, or ends, where the journal says that an extent does.
    """

    extent: Extent
    chains: array[int] | None
    is_named: bool


class Examined(NamedTuple):
    """What an extent holds.

    pieces: in the order of the file; ids grow from one to the next.
    known_id: the highest entry id that was here for certain: found, or named by a note or by the
        journal.
    room_bytes: where more records may have been, if nothing tells otherwise.
    torn_bytes: of an append that was never completed, behind the last piece.
    note: what an extent that is not sealed goes on behind; None: it cannot.
    """

    pieces: list[Piece]
    known_id: int
    room_bytes: int = 0
    torn_bytes: int = 0
    note: Note | None = None


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


def examine_sealed(record: ExtentRecord, segment: Segment, view: memoryview) -> Examined:
    """Reads a sealed extent of the file that the view shows."""
    pieces = _pieces(record, segment, view[: record.end])
    if _is_other(pieces, record.last):
        return take_lost(record)
    if pieces and pieces[-1].extent.last == record.last:
        pieces[-1] = pieces[-1]._replace(is_named=True)  # its chain covers all before it
    return Examined(pieces, record.last.entry_id)


def examine_growing(
    record: ExtentRecord, segment: Segment, view: memoryview, note: Note, durable_id: int
) -> Examined:
    """Reads an extent that is not sealed, of the file that the view shows.

    Nothing behind the note's end exists. What the note's own sync wrote may be torn; it is taken as
    a whole or not at all then. It is not torn if the extent begins with it, as the journal names
    an extent only behind its first sync, or if it wrote the entry durable_id.

    Args:
        note: the newest.
        durable_id: an entry that was durable if the extent has held it.
    """
    pieces = _pieces(record, segment, view[: note.end])
    last = pieces[-1].extent if pieces else None
    is_whole = last is not None and last.last == note.last and last.offset <= note.start
    if not is_whole and note.start > record.offset:
        before = _pieces(record, segment, view[: note.start])
        last = before[-1].extent if before else None
        if last is None or last.end < note.start:
            pieces = before  # there is damage before that, too
        elif durable_id <= last.last.entry_id:
            return Examined(before, last.last.entry_id, torn_bytes=note.end - note.start)
    if _is_other(pieces, note.last):
        return take_lost(record)
    known_id = max(record.first_id, note.last.entry_id)
    return Examined(pieces, known_id, room_bytes=segment.size - note.end, note=note)


def _is_other(pieces: list[Piece], last: Position) -> bool:
    """Whether these are good records of another history than the one that leads to `last`."""
    found = pieces[-1].extent.last if pieces else last
    return found.entry_id >= last.entry_id and found != last


def find_damage(extent: Extent, view: memoryview) -> Damage | None:
    """What of the extent is damaged; None: nothing.

    The good records at its begin and those at its end are kept: where they lead to is known, so the
    chain proves them. All between counts as damaged.

    Args:
        view: the segment's file, from its begin.
    """
    view = view[: extent.end]
    index, _ = _read_run(view, extent.offset, extent.before)
    if index.last == extent.last:
        return None
    after, last, at = index.last, extent.last, index.end
    while index.last != extent.last:
        at, before = _search(view, at, after.entry_id + 1)
        if at < 0:
            break
        index, _ = _read_run(view, at, before)
        at = max(index.end, at + ALIGNMENT)
        if index.last == extent.last:
            last = before
    if last.entry_id <= after.entry_id:
        after = extent.before  # those at the begin are of another history: since when, nobody knows
    return Damage(after, last)


def without(extent: Extent, view: memoryview, damage: Damage) -> list[Extent]:
    """What is left of the extent below the damage and above it, sealed.

    Args:
        view: as for `find_damage`.

    Raises:
        CorruptionError: more is damaged than was found before.
    """
    after, last = damage
    view, end = view[: extent.end], extent.offset
    parts = []
    if after != extent.before:
        count = after.entry_id - extent.before.entry_id
        found = scan(view[end:], after=extent.before, count_max=count)
        end += found.size
        if found.count < count or found.last != after:
            raise _grown(extent, end, f"the records up to entry {after}")
        parts.append(replace(extent, end=end, last=after))
    if last != extent.last:
        at, before = _search(view, end, last.entry_id + 1)
        while at >= 0 and before != last:
            at, before = _search(view, at + ALIGNMENT, last.entry_id + 1)
        if at < 0:
            raise _grown(extent, end, f"the successor of entry {last}")
        parts.append(replace(extent, offset=at, first_id=last.entry_id + 1, prev_chain=last.chain))
    for part in parts:
        part.is_sealed, part.index, part.damage = True, None, None
    return parts


def _grown(extent: Extent, offset: int, expected: str) -> CorruptionError:
    path = str(extent.segment.path)
    return CorruptionError(path, offset, expected=expected, found="more damage than before")


def _pieces(record: ExtentRecord, segment: Segment, view: memoryview) -> list[Piece]:
    """The extent's pieces in the view, which begins with the file."""
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
        is_named = False
        at, before = _search(view, index.end, index.last.entry_id + 1)
    return pieces


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
