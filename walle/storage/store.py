"""The storage engine: carries out actions in order, and makes them durable a round at a time.

A *round* is what was executed between two syncs. docs/storage.md says in which order a round's
writes and syncs happen, and what a crash between any two of them leaves.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from walle.core import effects
from walle.errors import CorruptionError, InvariantError, invariant
from walle.limits import COMMITTED_LAG_ENTRIES_MAX
from walle.native import records_seek
from walle.storage import manifest
from walle.storage.extent import Damage
from walle.storage.log import StreamLog, snapshot
from walle.storage.manifest import Kind
from walle.storage.oldest import find_oldest
from walle.storage.opening import open_directory
from walle.storage.pool import Pool
from walle.storage.reader import Reader, Wanted
from walle.storage.reserve import NO_SPACE
from walle.storage.scrub import Scrubber
from walle.storage.segment import Header, Segment, directory_of, next_size, path_of
from walle.storage.spare import Spare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from walle.core.node import Recovered
    from walle.ids import Position
    from walle.record import Batch
    from walle.storage.extent import Extent
    from walle.storage.vfs import File, Files

JOURNAL_LAG_ENTRIES = COMMITTED_LAG_ENTRIES_MAX // 2
"""A commit point is written for its own sake once it is so far ahead of the journal's."""
REMOVED_AT_ONCE_COUNT = 4
"""Of the files of what was trimmed: large ones take a while."""


class Store:
    """One node's storage, in the data directory `directory`. For one process, one thread.

    Opening it recovers: when the constructor returns, all that `recovered` tells is durable.

    Any exception but CorruptionError out of `read` is the end of the store: what is durable is not
    known any more, and only opening the directory afresh can tell. `sync` refuses from then on.

    findings: what recovery had to cut, give up or doubt, in sentences for the operator.
    scrubber: looks for damage, a step at a time.

    Args:
        reads_all: look at all records while opening; else damage to old ones is found when they
            are read.

    Raises:
        CorruptionError: the journal is damaged, or a file is of another format version. Opening
            it again will not help; the error says what will.
        OSError: the disk refuses.
    """

    def __init__(self, directory: Path, files: Files, *, reads_all: bool = False) -> None:
        opened = open_directory(directory, files, reads_all=reads_all)
        self.findings = opened.findings
        self._files = files
        self._streams = opened.streams
        self._journal = opened.journal
        self._cluster = opened.cluster
        self._logs = opened.logs
        self._recovered: Recovered | None = opened.recovered
        self._spare = Spare(opened.spare, files)
        self._pool = Pool(files, self._spare)
        for log in self._logs.values():
            for segment in log.growing():
                self._pool.take_recovered(segment)
        self._reader = Reader(self._pool)
        self.scrubber = Scrubber(files, self._pool, self._reader, self._logs)
        # What the round has to make durable, beside what the pool has written.
        self._appended: list[StreamLog] = []
        self._changed: dict[StreamLog, None] = {}
        self._lagging: dict[StreamLog, None] = {}
        self._directories: dict[Path, None] = {}
        self._trimmed: deque[Segment] = deque()
        self._has_new_cluster = False
        self._has_failed = False
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            effects.SetCluster: self._set_cluster,
            effects.SetTopology: self._set_topology,
            effects.SetPromise: self._set_promise,
            effects.SetAccepted: self._set_accepted,
            effects.Append: self._append,
            effects.Truncate: self._truncate,
            effects.Jump: self._jump,
            effects.Fill: self._fill,
            effects.CloseGap: self._close_gap,
            effects.DropFill: self._drop_fill,
            effects.Cut: self._cut,
            effects.Leave: self._leave,
            effects.Commit: self._commit,
        }

    def recovered(self) -> Recovered:
        """What was found when the store was opened. May be asked once: it is given away."""
        recovered, self._recovered = self._recovered, None
        invariant(recovered is not None, "what was recovered is told once")
        assert recovered is not None  # noqa: S101 - for the type checker
        return recovered

    def execute(self, action: effects.Action) -> None:
        """Carries out any action but ReadRecords and Forward; durable once `sync` returned.

        The payload of a batch must stay as it is until then.
        """
        try:
            self._handlers.get(type(action), _refuse)(action)
        except BaseException:
            self._has_failed = True
            raise

    def read(self, action: effects.ReadAction) -> list[memoryview]:
        """The records' bytes from `start` on, in order, checked: CRC, id and chain of each.

        They come from one run, at least one record if there is one, and end before `end`, behind
        about bytes_max bytes, or before a damaged record. Runs are looked at first, then aside
        runs if the action says so. With `after`, only a run whose record `start` builds on that
        chain. What was executed and not yet synced is seen. Of ReadOldest it is one record.

        Returns:
            Parts of read-only maps, valid until the next round: a file may be used again then.
            Nothing if the entry is not held.

        Raises:
            CorruptionError: the first record does not pass its checks. The store goes on, and
                `damage` tells what is to be done.
        """
        log = self._logs.get(action.stream_id)
        if log is None:
            return []
        try:
            if isinstance(action, effects.ReadOldest):
                return self._read_oldest(log, action)
            wanted = Wanted(action.start, action.end, action.bytes_max, action.after)
            views = self._reader.read(log.runs, wanted)
            for group in log.aside if action.aside else ():
                if not views:
                    views = self._read_aside(group, wanted)
        except OSError:
            self._has_failed = True
            raise
        return views

    def _read_oldest(self, log: StreamLog, action: effects.ReadOldest) -> list[memoryview]:
        if not log.runs:
            return []
        entry_id = min(find_oldest(self._reader, log.runs, action), action.end - 1)
        return self._reader.read(log.runs, Wanted(entry_id, entry_id + 1, 1, None))

    def _read_aside(self, group: list[Extent], wanted: Wanted) -> list[memoryview]:
        """The same from an aside run. Nobody relies on one, so what is damaged is passed over."""
        try:
            return self._reader.read(group, wanted)
        except CorruptionError:
            return []

    def damage(self, stream_id: int, error: CorruptionError) -> effects.Cut | None:
        """What must be cut out of a run of the stream, as that was found. The store changes nothing
        by itself: it waits for the order. None: all is good on the device, or not held any more.

        Raises:
            CorruptionError: what is damaged reaches up to the commit point. Opening the store
                afresh decides what is left.
        """
        log = self._log(stream_id)
        damage = self.scrubber.examine(log, error.path)
        if damage is None:
            return None
        if damage.last.entry_id <= log.topology.origin.entry_id:
            self.scrubber.cut(log, damage)  # the core knows no more of what was trimmed
            self._changed[log] = None
            return None
        return effects.Cut(stream_id, *damage)

    @property
    def is_dirty(self) -> bool:
        """Whether `sync` would have something to do."""
        return bool(
            self._appended
            or self._changed
            or self._lagging
            or self._has_new_cluster
            or self._pool.is_dirty
        )

    @property
    def has_unconfirmed(self) -> bool:
        """Whether there is something to be confirmed: `confirm` is to be called again soon."""
        return self._pool.has_unconfirmed

    def confirm(self) -> None:
        """Lets the next `sync` say on disk that earlier ones were completed, in segments to which
        nothing was appended since the call before. Damage of what they made durable is told from
        a torn append from then on. Nothing depends on when that happens."""
        self._pool.confirm()

    def drop_spare(self) -> None:
        """Gives back the space of files that are kept for later: the disk is full."""
        self._spare.clear()

    def sync(self) -> None:
        """Makes everything executed so far durable: one round of group commit.

        Raises:
            OSError: a write or a sync failed. Nothing of the round may be believed durable.
        """
        invariant(not self._has_failed, "a store that has failed is not used again")
        try:
            self._sync()
        except BaseException:
            self._has_failed = True
            raise

    @property
    def has_trimmed_files(self) -> bool:
        """Whether `remove_some` would have something to do."""
        return bool(self._trimmed)

    def remove_some(self) -> int:
        """Removes a few files of what was trimmed, or keeps them for other use; returns how many.
        The journal does not name them any more: those that a crash leaves are removed when the
        directory is opened."""
        count = 0
        while self._trimmed and count < REMOVED_AT_ONCE_COUNT:
            self._pool.recycle(self._trimmed.popleft())
            count += 1
        return count

    def status(self) -> dict[int, dict[str, int]]:
        """For each stream, how many segment files it has and their bytes on disk."""
        status = {}
        for stream_id, log in self._logs.items():
            segments = log.segments()
            status[stream_id] = {
                "files": len(segments),
                "bytes": sum(segment.size for segment in segments),
            }
        return status

    def finish(self) -> None:
        """Closes in good order: nothing that is durable can be taken for a torn append."""
        while self.has_unconfirmed:
            self.confirm()
            self.sync()
        self.close()

    def close(self) -> None:
        """Closes the files. What was not synced may be lost."""
        self._pool.close()
        self._journal.close()

    # --- small state ------------------------------------------------------------------------------

    def _log(self, stream_id: int) -> StreamLog:
        log = self._logs.get(stream_id)
        if log is None:
            raise InvariantError(f"a stream begins with its topology: stream {stream_id}")
        return log

    def _set_cluster(self, action: effects.SetCluster) -> None:
        self._cluster = action
        self._has_new_cluster = True

    def _set_topology(self, action: effects.SetTopology) -> None:
        log = self._logs.get(action.stream_id)
        if log is None:
            log = StreamLog(action.stream_id, action.name, action.topology)
            self._logs[action.stream_id] = log
        log.name, log.topology = action.name, action.topology
        log.trim()
        self._changed[log] = None

    def _set_promise(self, action: effects.SetPromise) -> None:
        log = self._log(action.stream_id)
        log.promise = action.promise
        self._changed[log] = None

    def _set_accepted(self, action: effects.SetAccepted) -> None:
        log = self._log(action.stream_id)
        log.accept(action.accepted)
        self._changed[log] = None

    def _commit(self, action: effects.Commit) -> None:
        log, committed = self._log(action.stream_id), action.committed
        invariant(
            log.committed.entry_id <= committed.entry_id <= log.tail.entry_id,
            "the commit point advances up to the tail",
            stream_id=action.stream_id,
            committed=committed,
        )
        if log.commit(committed):
            self._changed[log] = None
        if committed.entry_id - log.journaled.entry_id >= JOURNAL_LAG_ENTRIES:
            self._lagging[log] = None

    # --- entries ----------------------------------------------------------------------------------

    def _append(self, action: effects.Append) -> None:
        log, batch = self._log(action.stream_id), action.batch
        tail, before_id = log.tail, batch.first_id + action.skip - 1
        if (before_id, batch.chain_at(before_id)) != tail:
            raise InvariantError(f"appends build on the tail: before_id={before_id}, tail={tail}")
        self._add(log, Kind.RUN, batch, action.skip, tail)
        if action.accepted is not None:
            log.accept(action.accepted)
            self._changed[log] = None

    def _truncate(self, action: effects.Truncate) -> None:
        log, tail = self._log(action.stream_id), action.tail
        invariant(
            log.committed.entry_id <= tail.entry_id <= log.tail.entry_id,
            "a truncation keeps what is committed",
            stream_id=action.stream_id,
            tail=tail,
        )
        log.truncate(tail, self._reader.locate)
        self._changed[log] = None

    def _jump(self, action: effects.Jump) -> None:
        log, batch = self._log(action.stream_id), action.batch
        before = batch.position_at(batch.first_id + action.skip - 1)
        invariant(
            log.committed.entry_id < before.entry_id < action.committed.entry_id <= batch.last_id
            and batch.position_at(action.committed.entry_id) == action.committed,
            "a jump leaves a gap and goes to an entry of the batch",
            stream_id=action.stream_id,
            committed=action.committed,
        )
        log.leave_run(self._reader.locate)
        log.committed = action.committed
        self._add(log, Kind.RUN, batch, action.skip, before)
        if action.accepted is not None:
            log.accept(action.accepted)

    def _fill(self, action: effects.Fill) -> None:
        log, batch = self._log(action.stream_id), action.batch
        before = log.fill_position()
        invariant(batch.before == before, "backfill builds on what is below", before=before)
        self._add(log, Kind.FILL, batch, 0, before)

    def _close_gap(self, action: effects.CloseGap) -> None:
        log = self._log(action.stream_id)
        log.close_gap()
        self._changed[log] = None

    def _drop_fill(self, action: effects.DropFill) -> None:
        log = self._log(action.stream_id)
        log.drop_fill()
        self._changed[log] = None

    def _cut(self, action: effects.Cut) -> None:
        log = self._log(action.stream_id)
        invariant(
            action.last.entry_id < log.committed.entry_id,
            "what is cut out of a run is committed",
            stream_id=action.stream_id,
            last=action.last,
        )
        self.scrubber.cut(log, Damage(action.after, action.last))
        self._changed[log] = None

    def _leave(self, action: effects.Leave) -> None:
        log = self._log(action.stream_id)
        log.leave()
        self._changed[log] = None

    def _add(self, log: StreamLog, kind: Kind, batch: Batch, skip: int, before: Position) -> None:
        """Adds the batch but its first `skip` records to the runs or to the fill."""
        view = batch.payload.view()
        if skip:
            offset = records_seek(view, before.entry_id + 1)
            invariant(offset > 0, "a batch holds the records it tells of", before=before)
            view = view[offset:]
        size = len(view)
        extents = log.fill if kind is Kind.FILL else log.runs
        extent = extents[-1] if extents else None
        if extent is None or extent.is_sealed or extent.end + size > extent.segment.size:
            extent = self._start_extent(log, kind, before, size)
        extent.end += size
        last = extent.last = batch.last
        extent.index.add(size, last)  # type: ignore[union-attr]  # it may grow, so it has one
        self._pool.add(extent.segment, view, last)
        if not log.has_unsynced:
            log.has_unsynced = True
            self._appended.append(log)

    def _start_extent(
        self, log: StreamLog, kind: Kind, before: Position, needed_bytes: int
    ) -> Extent:
        """A new extent in a new segment, with the header as the first thing to be written."""
        extents = log.fill if kind is Kind.FILL else log.runs
        former = extents[-1] if extents else None
        is_full = is_trimmed = False
        if former is not None and not former.is_sealed:
            is_full, is_trimmed = True, former.first_id < log.topology.first_entry_id
            log.seal(former)
            self._reader.keep_index(former)
        directory = directory_of(self._streams, log.stream_id)
        size_for = partial(
            next_size,
            log.stream_id,
            former.segment if former else None,
            needed_bytes,
            is_full=is_full,
            is_trimmed=is_trimmed,
        )
        segment = Segment(
            path_of(self._streams, log.stream_id, log.next_number),
            log.stream_id,
            log.next_number,
            self._journal.sequence + 1,
            size_for(room_bytes=self._files.free_bytes(self._streams)),
        )
        if log.next_number == 1:
            self._files.make_directory(directory)
            self._directories[self._streams] = None
        log.next_number += 1
        try:
            self._pool.create(segment)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            segment.size = size_for(room_bytes=0)  # there is less room than was told: a quota
            self._pool.create(segment)
        self._directories[directory] = None
        header = Header(
            log.stream_id, segment.number, segment.incarnation, before.entry_id + 1, before.chain
        )
        self._pool.add(segment, header.encode(), before)
        self._changed[log] = None
        return log.start_extent(extents, kind, segment, before)

    # --- durability -------------------------------------------------------------------------------

    def _sync(self) -> None:
        if self._changed or self._lagging:
            self._sync_what_is_told()
        if not self._changed and not self._has_new_cluster:
            self._sync_data()
            return
        self._pool.write_all()
        if self._write_journal():
            self._sync_data(self._journal.file)
        else:
            self._sync_data()
        self._remove_garbage()
        self._changed = {}

    def _sync_what_is_told(self) -> None:
        """Makes the records durable first, if the journal must not tell of them before they are.
        Commit points that lag too far are to be told, if their entries are durable."""
        if any(log.depends_on_data for log in self._changed) or not all(
            log.is_commit_due for log in self._lagging
        ):
            self._sync_data()
        for log in self._lagging:
            if log.is_commit_due:
                self._changed[log] = None

    def _sync_data(self, *others: File) -> None:
        """Makes all records executed so far durable, and `others` as well."""
        self._pool.sync(*others)
        for directory in self._directories:
            self._files.sync_directory(directory)
        self._directories.clear()
        for log in self._appended:
            log.has_unsynced = False
            log.durable_id = log.tail.entry_id
        self._appended = []

    def _write_journal(self) -> bool:
        """Writes what the journal lacks. False: into a fresh journal, which is durable already."""
        clusters = (self._cluster,) if self._cluster and self._has_new_cluster else ()
        streams = tuple([log.take_changes() for log in self._changed])
        body = manifest.encode(manifest.Update(clusters, streams))
        has_room = self._journal.has_room(body)
        if has_room:
            self._journal.append(body)
        else:
            self._journal.replace(snapshot(self._cluster, self._logs.values()))
        self._has_new_cluster = False
        self._lagging = {
            log: None
            for log in self._lagging
            if log.committed.entry_id - log.journaled.entry_id >= JOURNAL_LAG_ENTRIES
        }
        return has_room

    def _remove_garbage(self) -> None:
        """Removes the segments that the journal does not name any more; those of trims later."""
        for log in self._changed:
            for segment in log.garbage:
                self._pool.remove(segment)
            self._trimmed += log.trimmed
            log.garbage, log.trimmed = [], []


def _refuse(action: Any) -> None:
    raise InvariantError(f"storage executes actions that change it, and no {type(action).__name__}")
