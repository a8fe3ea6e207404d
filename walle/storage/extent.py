"""Extents in memory, and the sparse index: where in an extent some of its records begin."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from walle.ids import Position
from walle.limits import KIB
from walle.record import HEADER_BYTES as RECORD_HEADER_BYTES
from walle.record import Scan, scan
from walle.storage.manifest import ExtentKey, ExtentRecord, Kind

if TYPE_CHECKING:
    from walle.storage.segment import Segment

INDEX_STEP_BYTES = 64 * KIB
_STEP_RECORDS_MAX = INDEX_STEP_BYTES // RECORD_HEADER_BYTES + 1


class Stretch(NamedTuple):
    """A part of an extent between two points of the index: offsets, and how it begins."""

    start: int
    end: int
    before: Position


class SparseIndex:
    """A point for about every INDEX_STEP_BYTES of an extent: entry id, offset, chain before it.

    Where a batch is larger than that there are fewer: points are taken per batch, not per entry.

    offsets: of the points.
    end, last: the records up to there are indexed, and have been checked.
    """

    __slots__ = ("_chains", "_ids", "end", "last", "offsets")

    def __init__(self, offset: int, before: Position) -> None:
        self._ids = array("Q", [before.entry_id + 1])
        self.offsets = array("Q", [offset])
        self._chains = array("Q", [before.chain])
        self.end = offset
        self.last = before

    def add(self, size: int, last: Position) -> None:
        """The next `size` bytes hold the entries up to `last`."""
        if self.end - self.offsets[-1] >= INDEX_STEP_BYTES:
            self._ids.append(self.last.entry_id + 1)
            self.offsets.append(self.end)
            self._chains.append(self.last.chain)
        self.end += size
        self.last = last

    def read_on(self, view: memoryview) -> Scan:
        """Checks and indexes about INDEX_STEP_BYTES more of the records.

        Args:
            view: the file up to where the extent ends.
        """
        found = scan(
            view[self.end :],
            after=self.last,
            count_max=_STEP_RECORDS_MAX,
            size_max=INDEX_STEP_BYTES,
        )
        if found.count:
            self.add(found.size, found.last)
        return found

    def around(self, entry_id: int) -> Stretch:
        """The stretch that holds the entry, which is indexed."""
        index = bisect_right(self._ids, entry_id) - 1
        end = self.offsets[index + 1] if index + 1 < len(self.offsets) else self.end
        return Stretch(
            self.offsets[index], end, Position(self._ids[index] - 1, self._chains[index])
        )


class Damage(NamedTuple):
    """Entries that do not pass their checks: those behind `after`, up to `last`."""

    after: Position
    last: Position


@dataclass(slots=True, eq=False)
class Extent:
    """A stretch of a segment that holds the records (first_id - 1, last], whose first builds on
    prev_chain.

    offset, end: where the records lie in the file.
    is_sealed: it will not grow.
    group_id: of an extent of an aside run: the first entry id of that run.
    index: None when nothing is indexed; always there while the extent may grow.
    damage: what was found damaged, and has not been cut out yet.
    """

    segment: Segment
    kind: Kind
    offset: int
    first_id: int
    prev_chain: int
    end: int
    last: Position
    is_sealed: bool
    group_id: int = 0
    index: SparseIndex | None = None
    damage: Damage | None = None

    @property
    def before(self) -> Position:
        return Position(self.first_id - 1, self.prev_chain)

    @property
    def key(self) -> ExtentKey:
        return ExtentKey(self.segment.number, self.offset)

    def record(self) -> ExtentRecord:
        """What the journal holds of the extent."""
        segment = self.segment
        return ExtentRecord(
            segment.number,
            self.kind,
            int(self.is_sealed),
            segment.size,
            segment.incarnation,
            self.offset,
            self.end if self.is_sealed else 0,
            self.first_id,
            self.prev_chain,
            self.last if self.is_sealed else Position(0, 0),
            self.group_id,
        )


def first_id_of(extent: Extent) -> int:
    """The key by which extents of one run, or of all runs, are sorted."""
    return extent.first_id


def last_id_of(extent: Extent) -> int:
    """The same, by their ends."""
    return extent.last.entry_id


def key_of(extent: Extent) -> ExtentKey:
    """The key by which extents of one stream are sorted as they lie on the disk."""
    return extent.key
