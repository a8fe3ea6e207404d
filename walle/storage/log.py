"""One stream as storage has it: its small state, its extents, and what of both the journal lacks.

The mirror of `walle.core.history.History`, with places instead of chains. No IO is done here.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from walle.core.effects import NO_PROMISE, Promise
from walle.errors import invariant
from walle.ids import NO_WRITER, Position
from walle.storage.extent import Extent, SparseIndex, first_id_of, last_id_of
from walle.storage.manifest import Kind, StreamRecord, Update, encode
from walle.storage.notes import RECORDS_START

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from walle.core.effects import SetCluster
    from walle.core.topology import StreamTopology
    from walle.ids import WriterId
    from walle.storage.manifest import ExtentKey
    from walle.storage.reader import Place
    from walle.storage.segment import Segment


class StreamLog:
    """One stream's state and extents.

    runs: of all runs, sorted. The last one may grow: it ends the live run.
    aside: the extents of each aside run, oldest run first.
    fill: the extents of the fill; the last one may grow.
    committed: the known commit point. journaled: the one in the journal.
    durable_id: the entries of the live run up to here are durable.
    doubtful_id: as in `walle.core.member.State`.
    next_number: of the stream's next segment file.
    has_unsynced: records were added that are not durable yet.
    garbage: segments in which no extent lies any more, to be removed once the journal says so.
    trimmed: such ones that held trimmed entries last, or that this node has left, perhaps many:
        their files may be used again.
    """

    def __init__(self, stream_id: int, name: str, topology: StreamTopology) -> None:
        self.stream_id = stream_id
        self.name = name
        self.topology = topology
        self.promise: Promise = NO_PROMISE
        self.accepted: WriterId = NO_WRITER
        self.committed = self.journaled = topology.origin
        self.durable_id = self.committed.entry_id
        self.doubtful_id = 0
        self.runs: list[Extent] = []
        self.aside: list[list[Extent]] = []
        self.fill: list[Extent] = []
        self.next_number = 1
        self.has_unsynced = False
        self.garbage: list[Segment] = []
        self.trimmed: list[Segment] = []
        self._upserts: dict[ExtentKey, Extent] = {}
        self._removals: list[ExtentKey] = []
        self._has_accepted = False

    @property
    def tail(self) -> Position:
        return self.runs[-1].last if self.runs else self.topology.origin

    @property
    def is_commit_due(self) -> bool:
        """Whether the known commit point is durable here, and not in the journal."""
        return self.journaled.entry_id < self.committed.entry_id <= self.durable_id

    @property
    def depends_on_data(self) -> bool:
        """Whether what the journal lacks may be written only behind records not durable yet."""
        return self.has_unsynced and bool(self._upserts or self._removals or self._has_accepted)

    # --- changes ----------------------------------------------------------------------------------

    def accept(self, accepted: WriterId) -> None:
        """The present history was accepted under that writer.

        A newer writer's claim made sure of all that was ever acknowledged, and this member holds
        its history now: there is nothing left to doubt.
        """
        if accepted > self.accepted:
            self.doubtful_id = 0
        self.accepted = accepted
        self._has_accepted = True

    def commit(self, committed: Position) -> bool:
        """Advances the commit point. Drops the aside runs that lie up to there and within a run;
        whether there were any."""
        self.committed = committed
        covered = [group for group in self.aside if self._covers(group)]
        for group in covered:
            self.aside.remove(group)
            self._drop(group)
        return bool(covered)

    def _covers(self, aside: list[Extent]) -> bool:
        last_id = aside[-1].last.entry_id
        if last_id > self.committed.entry_id:
            return False
        start = max(aside[0].first_id, self.topology.first_entry_id)
        index = bisect_right(self.runs, last_id, key=first_id_of) - 1
        if index < 0 or self.runs[index].last.entry_id < last_id:
            return False
        while index and start < self.runs[index].first_id:
            if self.runs[index - 1].last != self.runs[index].before:
                return False
            index -= 1
        return self.runs[index].first_id <= start

    def trim(self) -> None:
        """The topology's origin may have risen. Extents wholly below it go; one that reaches above
        it stays whole, as does the file it lies in.

        If the commit point is below it, the live run does not hold that entry, and goes.
        """
        origin = self.topology.origin
        if self.committed.entry_id < origin.entry_id:
            self._drop(self.runs)
            self.runs = []
            self.committed = origin
            self.durable_id = origin.entry_id
        for extents in (self.runs, self.fill):
            count = bisect_right(extents, origin.entry_id, key=last_id_of)
            self._drop(extents[:count])
            del extents[:count]
        is_next_missing = bool(self.runs) and self.runs[0].first_id > origin.entry_id + 1
        kept = []
        for group in self.aside:
            is_above = group[-1].last.entry_id > origin.entry_id
            if group[0].first_id > origin.entry_id or (is_next_missing and is_above):
                kept.append(group)
            else:
                self._drop(group)
        self.aside = kept

    def leave(self) -> None:
        """This node is no member any more: all extents go, and all that was known of the history.

        There may be many files: they are removed little by little.
        """
        origin = self.topology.origin
        self._drop(self.extents())
        self.runs, self.aside, self.fill = [], [], []
        self.trimmed += self.garbage
        self.garbage = []
        self.committed = self.journaled = origin
        self.durable_id = origin.entry_id
        self.accepted, self.doubtful_id = NO_WRITER, 0

    def start_extent(
        self, extents: list[Extent], kind: Kind, segment: Segment, before: Position
    ) -> Extent:
        """A new extent at the end of `extents` (the runs or the fill), in a segment of its own.

        before: the position that its first record builds on.
        """
        extent = Extent(
            segment,
            kind,
            RECORDS_START,
            before.entry_id + 1,
            before.chain,
            RECORDS_START,
            before,
            is_sealed=False,
            index=SparseIndex(RECORDS_START, before),
        )
        segment.extents_count += 1
        extents.append(extent)
        self._touch(extent)
        return extent

    def seal(self, extent: Extent) -> None:
        """The extent is full. It keeps its index; the reader has to bound how many do."""
        extent.is_sealed = True
        self._touch(extent)

    def truncate(self, tail: Position, locate: Callable[[Extent, int], Place]) -> None:
        """Drops what follows `tail` from the live run.

        locate: where in an extent an entry's record begins.
        """
        self._drop(self._split(tail, locate))
        self.durable_id = min(self.durable_id, tail.entry_id)

    def leave_run(self, locate: Callable[[Extent, int], Place]) -> None:
        """Ends the live run at the commit point; what follows that becomes an aside run."""
        upper = self._split(self.committed, locate)
        for extent in upper:
            extent.kind = Kind.ASIDE
            extent.group_id = upper[0].first_id
            self._touch(extent)
        if upper:
            self.aside.append(upper)
        if self.runs and not self.runs[-1].is_sealed:
            self._close(self.runs[-1])
        self.durable_id = min(self.durable_id, self.committed.entry_id)

    def fill_position(self) -> Position:
        """What the next backfilled entry builds on."""
        if self.fill:
            return self.fill[-1].last
        below = self.topology.origin
        for extent in self.runs:
            if extent.first_id > below.entry_id + 1:
                break
            below = extent.last
        return below

    def close_gap(self) -> None:
        """The fill has met the run above it: it is part of it now. Aside runs that began below the
        gap's end are dropped."""
        invariant(self.fill, "a gap is closed by a fill", stream=self.stream_id)
        fill, self.fill = self.fill, []
        start = fill[0].first_id
        index = bisect_right(self.runs, start, key=first_id_of)
        invariant(
            index < len(self.runs) and self.runs[index].before == fill[-1].last,
            "a fill meets the run above",
            stream=self.stream_id,
            fill=fill[-1].last,
        )
        end = self.runs[index].first_id
        for extent in fill:
            extent.kind = Kind.RUN
            self._close(extent)
        self.runs[index:index] = fill
        kept = []
        for group in self.aside:
            if group[0].first_id < end:
                self._drop(group)
            else:
                kept.append(group)
        self.aside = kept

    def drop_fill(self) -> None:
        """The fill did not meet the run above it."""
        fill, self.fill = self.fill, []
        self._drop(fill)

    def extent_with(self, entry_id: int) -> Extent | None:
        """The extent of a run that holds the entry."""
        index = bisect_right(self.runs, entry_id, key=first_id_of) - 1
        if index < 0 or self.runs[index].last.entry_id < entry_id:
            return None
        return self.runs[index]

    def replace(self, extent: Extent, parts: list[Extent]) -> None:
        """Keeps only these parts of an extent of a run."""
        index = self.runs.index(extent)
        self.runs[index : index + 1] = parts
        extent.segment.extents_count += len(parts)
        self._drop([extent])
        for part in parts:
            self._touch(part)

    def _split(self, position: Position, locate: Callable[[Extent, int], Place]) -> list[Extent]:
        """Takes what follows `position` out of the runs; returns it, sealed."""
        index = bisect_right(self.runs, position.entry_id, key=first_id_of)
        upper = self.runs[index:]
        del self.runs[index:]
        if self.runs and self.runs[-1].last.entry_id > position.entry_id:
            lower = self.runs[-1]
            place = locate(lower, position.entry_id + 1)
            invariant(
                place.prev_chain == position.chain,
                "a run is cut behind an entry that it holds",
                stream=self.stream_id,
                position=position,
            )
            rest = Extent(
                lower.segment,
                lower.kind,
                place.offset,
                position.entry_id + 1,
                position.chain,
                lower.end,
                lower.last,
                is_sealed=True,
            )
            lower.segment.extents_count += 1
            lower.end, lower.last = place.offset, position
            self._close(lower)
            upper.insert(0, rest)
        for extent in upper:
            extent.is_sealed = True
            extent.index = None
        return upper

    def _close(self, extent: Extent) -> None:
        """Seals the extent and forgets its index, which may reach too far."""
        extent.is_sealed = True
        extent.index = None
        self._touch(extent)

    # --- the journal ------------------------------------------------------------------------------

    def _touch(self, extent: Extent) -> None:
        self._upserts[extent.key] = extent

    def _drop(self, extents: Iterable[Extent]) -> None:
        for extent in extents:
            self._upserts.pop(extent.key, None)
            self._removals.append(extent.key)
            extent.segment.extents_count -= 1
            if extent.segment.extents_count == 0:
                is_trimmed = extent.first_id < self.topology.first_entry_id
                (self.trimmed if is_trimmed else self.garbage).append(extent.segment)

    def take_changes(self) -> StreamRecord:
        """What the journal lacks, which is from now on taken for written."""
        record = self._record(self._upserts.values(), tuple(self._removals))
        self._forget_changes()
        return record

    def take_all(self) -> StreamRecord:
        """The same for a journal that holds nothing of the stream."""
        self._forget_changes()
        return self._record(self.extents(), ())

    def _forget_changes(self) -> None:
        self._upserts = {}
        self._removals = []
        self._has_accepted = False

    def _record(self, extents: Iterable[Extent], removals: tuple[ExtentKey, ...]) -> StreamRecord:
        if self.is_commit_due:
            self.journaled = self.committed
        topology, promise = self.topology, self.promise
        return StreamRecord(
            stream_id=self.stream_id,
            version=topology.version,
            first_entry_id=topology.first_entry_id,
            first_prev_chain=topology.first_prev_chain,
            promised=promise.writer,
            lease_ms=promise.lease_ms,
            older_lease_ms=promise.older_lease_ms,
            accepted=self.accepted,
            committed=self.journaled,
            doubtful_id=self.doubtful_id if self.doubtful_id > self.journaled.entry_id else 0,
            name=self.name,
            address=promise.address,
            members=topology.members,
            old_members=topology.old_members,
            extents=tuple([extent.record() for extent in extents]),
            removed=removals,
        )

    def segments(self) -> set[Segment]:
        """The segment files in which extents lie."""
        return {extent.segment for extent in self.extents()}

    def growing(self) -> list[Segment]:
        """The segments that are appended to: of the live run and of the fill."""
        ends = [extents[-1] for extents in (self.runs, self.fill) if extents]
        return [extent.segment for extent in ends if not extent.is_sealed]

    def extents(self) -> list[Extent]:
        """All extents."""
        extents = [*self.runs, *self.fill]
        for group in self.aside:
            extents += group
        return extents


def snapshot(cluster: SetCluster | None, logs: Iterable[StreamLog]) -> bytes:
    """The body of the first frame of a fresh journal: everything there is."""
    clusters = (cluster,) if cluster else ()
    return encode(Update(clusters, tuple([log.take_all() for log in logs])))
