"""Reading records: finding them by the sparse index, and checking every one before it leaves.

Files are read through read-only maps. Where the device cannot read, or where somebody has made the
file shorter, looking at a map ends the process by SIGBUS; so the system is asked before.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from walle.errors import CorruptionError, invariant
from walle.ids import Position
from walle.native import records_seek
from walle.record import HEADER_BYTES, RECORD_BYTES_MAX, Scan, Stop, scan
from walle.storage.extent import INDEX_STEP_BYTES, SparseIndex, first_id_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from walle.storage.extent import Extent
    from walle.storage.pool import Pool

INDEXES_COUNT_MAX = 256
"""How many sealed extents keep an index in memory; one takes up to 24 KiB."""

_PREV_CHAIN = struct.Struct("<4xQ")


class Wanted(NamedTuple):
    """The entries in [start, end), about bytes_max bytes of records, but one record at least.

    after: the chain that `start`'s record must build on; None: any.
    """

    start: int
    end: int
    bytes_max: int
    after: int | None


class Place(NamedTuple):
    """Where a record begins, and the chain of the entry before it."""

    offset: int
    prev_chain: int


class Reader:
    """Reads the extents of all streams."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._indexed: dict[Extent, None] = {}

    def read(self, extents: Sequence[Extent], wanted: Wanted) -> list[memoryview]:
        """The wanted records from one run, checked; nothing if `start` is not there.

        They end before one that fails its checks.

        Args:
            extents: of one kind, sorted; where one does not follow the other, a run ends.

        Raises:
            CorruptionError: the first of them fails its checks.
        """
        index = bisect_right(extents, wanted.start, key=first_id_of) - 1
        if index < 0 or extents[index].last.entry_id < wanted.start:
            return []
        place = self.locate(extents[index], wanted.start)
        before, offset, size = Position(wanted.start - 1, place.prev_chain), place.offset, 0
        if wanted.after is not None and place.prev_chain != wanted.after:
            # It builds on something else, unless that is what was damaged.
            self._scan(extents[index], offset, before, wanted._replace(bytes_max=1), size)
            return []
        views: list[memoryview] = []
        while before.entry_id + 1 < wanted.end and (not views or size < wanted.bytes_max):
            extent = extents[index]
            try:
                view, found = self._scan(extent, offset, before, wanted, size)
            except CorruptionError:
                if not views:
                    raise
                break
            views.append(view)
            size += found.size
            before = found.last
            index += 1
            if before != extent.last or index == len(extents) or extents[index].before != before:
                break
            offset = extents[index].offset
        return views

    def _scan(
        self, extent: Extent, offset: int, before: Position, wanted: Wanted, size: int
    ) -> tuple[memoryview, Scan]:
        """Checks the wanted records from `offset` on, behind `before`; one at least is good.

        size: bytes of records that are there already.
        """
        size_max = max(1, wanted.bytes_max - size)
        view = self.map(extent)
        for ahead in (size_max + INDEX_STEP_BYTES, RECORD_BYTES_MAX):
            records = self._see(extent, view, offset, offset + ahead)
            found = scan(
                records,
                after=before,
                count_max=min(
                    wanted.end - before.entry_id - 1, wanted.bytes_max // HEADER_BYTES + 1
                ),
                size_max=size_max,
            )
            if found.count or found.stop is not Stop.SHORT:
                break
        if not found.count or offset + found.size == extent.end:
            _check(extent, found, offset)
        return records[: found.size], found

    def locate(self, extent: Extent, entry_id: int) -> Place:
        """Where in the extent, which holds it, the entry's record begins.

        Raises:
            CorruptionError: the extent is damaged before it.
        """
        view = self.map(extent)
        index = self._index(extent)
        while index.last.entry_id < entry_id:
            offset = index.end
            found = self._read_on(extent, view, index)
            # What lies behind the entry may be damaged: that is no reason to refuse the entry.
            if index.last.entry_id < entry_id or found.stop is Stop.END:
                _check(extent, found, offset)
        stretch = index.around(entry_id)
        if stretch.before.entry_id + 1 == entry_id:
            return Place(stretch.start, stretch.before.chain)
        rest = self._see(extent, view, stretch.start, stretch.end)
        place = records_seek(rest, entry_id)
        if place < 0:
            _check(extent, scan(rest, after=stretch.before), stretch.start)
        invariant(place >= 0, "good records are found", entry_id=entry_id, extent=extent.key)
        offset = stretch.start + place
        (prev_chain,) = _PREV_CHAIN.unpack_from(view, offset)
        return Place(offset, prev_chain)

    def points(self, extent: Extent) -> Iterator[int]:
        """The offsets of the index's points, from the first on; it is made as far as it is asked
        for.

        Raises:
            CorruptionError: the extent is damaged before the next one.
        """
        view, index = self.map(extent), self._index(extent)
        number = 0
        while True:
            yield from index.offsets[number:]
            number = len(index.offsets)
            if index.last.entry_id >= extent.last.entry_id:
                return
            offset = index.end
            _check(extent, self._read_on(extent, view, index), offset)

    def keep_index(self, extent: Extent) -> None:
        """The extent, sealed now, has an index: it counts among the bounded number."""
        self._indexed.pop(extent, None)
        if len(self._indexed) >= INDEXES_COUNT_MAX:
            oldest = next(iter(self._indexed))
            del self._indexed[oldest]
            oldest.index = None
        self._indexed[extent] = None

    def forget_index(self, extent: Extent) -> None:
        """The extent is sealed, and is not what its index says, or is no more."""
        self._indexed.pop(extent, None)
        extent.index = None

    def _index(self, extent: Extent) -> SparseIndex:
        if extent.index is None:
            extent.index = SparseIndex(extent.offset, extent.before)
        if extent.is_sealed:
            self.keep_index(extent)
        return extent.index

    def _read_on(self, extent: Extent, view: memoryview, index: SparseIndex) -> Scan:
        """Checks and indexes some more of what `map` gave."""
        self._see(extent, view, index.end, index.end + INDEX_STEP_BYTES + RECORD_BYTES_MAX)
        return index.read_on(view)

    def map(self, extent: Extent) -> memoryview:
        """The extent's file up to where the extent ends. The header of its first record, and what
        is indexed, can be looked at."""
        if extent.segment.buffers:
            self._pool.write(extent.segment)
        view = self._pool.map(extent.segment)
        if len(view) < extent.end:
            raise CorruptionError(
                str(extent.segment.path),
                len(view),
                expected=f"records up to byte {extent.end}",
                found="the end of the file",
            )
        view = view[: extent.end]
        self._see(extent, view, extent.offset, extent.offset + HEADER_BYTES)
        return view

    def _see(self, extent: Extent, view: memoryview, start: int, end: int) -> memoryview:
        """These bytes of what `map` gave, as far as it reaches.

        Raises:
            CorruptionError: they cannot be looked at.
        """
        end = min(end, extent.end)
        if self._pool.can_see(view, start, end):
            return view[start:end]
        raise CorruptionError(
            str(extent.segment.path),
            start,
            expected="bytes that can be read",
            found="an error of the device, or the end of the file",
        )


def _check(extent: Extent, found: Scan, offset: int) -> None:
    """Raises CorruptionError unless the scan, which began at `offset`, found good records only."""
    is_end = found.stop is Stop.END
    if found.count and (found.stop is Stop.FULL or (is_end and found.last == extent.last)):
        return
    reason = "other records" if is_end else found.stop.name.lower().replace("_", " ")
    if found.count:
        reason += f" behind entry {found.last.entry_id}"
    raise CorruptionError(
        str(extent.segment.path),
        offset + found.size,
        expected=f"records that pass their checks, up to entry {extent.last}",
        found=reason,
    )
