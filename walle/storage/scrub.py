"""Damage while the node runs: looking for it, telling what it is, and cutting it out.

The scrubber reads what is committed of all runs, stream after stream, file after file, over and
over, so that damage is found while the other members still hold what it took. What it reads is
asked of the device a step ahead, in the background, and then lies in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from walle.errors import CorruptionError
from walle.limits import SCRUB_STEP_BYTES
from walle.record import RECORD_BYTES_MAX, Stop, scan
from walle.storage.examine import find_damage, without
from walle.storage.extent import Damage, key_of
from walle.storage.notes import RECORDS_START
from walle.storage.segment import check_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from walle.ids import Position
    from walle.record import Scan
    from walle.storage.extent import Extent
    from walle.storage.log import StreamLog
    from walle.storage.pool import Pool
    from walle.storage.reader import Reader
    from walle.storage.vfs import Files


class Suspect(NamedTuple):
    """Something of a stream that the scrubber could not read."""

    stream_id: int
    error: CorruptionError


class Scrubber:
    """Looks for damage in the runs of all streams.

    passes_count: of those that have been completed.
    done_bytes, total_bytes: of records, in the pass that is under way.
    found_count: how often damage was found, in whatever way.
    """

    def __init__(
        self, files: Files, pool: Pool, reader: Reader, logs: Mapping[int, StreamLog]
    ) -> None:
        self.passes_count = 0
        self.done_bytes = 0
        self.total_bytes = 0
        self.found_count = 0
        self._files = files
        self._pool = pool
        self._reader = reader
        self._logs = logs
        self._steps = self._pass()

    # --- looking ----------------------------------------------------------------------------------

    def step(self) -> Suspect | None:
        """Reads about SCRUB_STEP_BYTES more; to be called between two rounds. Once a pass is over,
        the next call begins another one.

        Returns:
            What could not be read, if anything.
        """
        try:
            return next(self._steps)
        except StopIteration:
            self.passes_count += 1
            self._steps = self._pass()
            return None

    def _pass(self) -> Iterator[Suspect | None]:
        logs = sorted(self._logs.values(), key=lambda log: log.stream_id)
        extents = [(log, extent) for log in logs for extent in sorted(log.runs, key=key_of)]
        self.done_bytes = 0
        self.total_bytes = sum(extent.end - extent.offset for _, extent in extents)
        for log, extent in extents:
            try:
                yield from self._read(log, extent)
            except FileNotFoundError:
                if log.extent_with(extent.first_id) is extent:
                    yield _suspect(log, extent, 0, "no file")

    def _read(self, log: StreamLog, extent: Extent) -> Iterator[Suspect | None]:
        """Reads one extent, up to the commit point, as long as it is a part of a run."""
        path, at, before = extent.segment.path, extent.offset, extent.before
        if before.entry_id >= log.committed.entry_id:
            return
        self._files.refresh(path, 0, RECORDS_START)
        self._files.refresh(path, at, min(at + SCRUB_STEP_BYTES, extent.end))
        yield None
        reason = check_header(self._files.read(path, 0, RECORDS_START), extent.segment)
        while reason is None and before.entry_id < min(extent.last, log.committed).entry_id:
            if log.extent_with(before.entry_id + 1) is not extent:
                return
            found = self._scan(extent, at, before, log.committed)
            if not found.count:
                reason = found.stop.name.lower().replace("_", " ")
                break
            before = found.last
            at += found.size
            self.done_bytes += found.size
            self.total_bytes = max(self.total_bytes, self.done_bytes)  # it may have grown
            self._files.refresh(path, at, min(at + SCRUB_STEP_BYTES, extent.end))
            yield None
        if before.entry_id == extent.last.entry_id and before != extent.last:
            reason = "records of another history"
        if reason is not None:
            yield _suspect(log, extent, at, reason)

    def _scan(self, extent: Extent, at: int, after: Position, committed: Position) -> Scan:
        """Checks about SCRUB_STEP_BYTES of records; one at least, however large, if it is good."""
        for size in (SCRUB_STEP_BYTES, RECORD_BYTES_MAX):
            view = self._files.read(extent.segment.path, at, min(at + size, extent.end))
            found = scan(view, after=after, count_max=committed.entry_id - after.entry_id)
            if found.count or found.stop is not Stop.SHORT:
                break
        return found

    # --- what it is, and cutting it out -----------------------------------------------------------

    def examine(self, log: StreamLog, path: str) -> Damage | None:
        """What is damaged of a file; of the first of its extents, if it holds several."""
        for extent in log.runs:
            if str(extent.segment.path) == path:
                if extent.damage is None:
                    self._look_at(extent)
                if extent.damage is not None:
                    _require_committed(log, extent, extent.damage)
                    return extent.damage
        return None

    def _look_at(self, extent: Extent) -> None:
        """Reads all of it once more."""
        if extent.is_sealed:
            self._reader.forget_index(extent)
        extent.damage = find_damage(extent, self._pool.reload(extent.segment, extent.end))
        self.found_count += extent.damage is not None

    def cut(self, log: StreamLog, damage: Damage) -> None:
        """Cuts these entries out of the run that holds them, and what was trimmed below them."""
        after, last = damage
        is_above = after.entry_id > log.topology.origin.entry_id
        for extent in list(log.runs):
            if extent.first_id <= last.entry_id and after.entry_id < extent.last.entry_id:
                below = max(after, extent.before) if is_above else extent.before
                own = Damage(below, min(last, extent.last))
                view = self._pool.reload(extent.segment, extent.end)
                log.replace(extent, without(extent, view, own))
                self._reader.forget_index(extent)


def _suspect(log: StreamLog, extent: Extent, offset: int, found: str) -> Suspect:
    expected = f"records that pass their checks, up to entry {extent.last}"
    path = str(extent.segment.path)
    return Suspect(log.stream_id, CorruptionError(path, offset, expected=expected, found=found))


def _require_committed(log: StreamLog, extent: Extent, damage: Damage) -> None:
    """Raises CorruptionError if it takes the commit point, or what may not be committed."""
    if damage.last.entry_id < log.committed.entry_id:
        return
    raise CorruptionError(
        str(extent.segment.path),
        extent.offset,
        expected=f"records of {log.name} that pass their checks, up to entry {extent.last}",
        found=f"damage behind entry {damage.after}, which takes the commit point "
        f"({log.committed}) or what is not committed yet",
    )
