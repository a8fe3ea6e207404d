"""A simulated disk that keeps what it holds in the real store, on a simulated file system.

The model (`walle.testing.disk`) is told the same, so the checks read it as they do that of any
disk. After a crash it is made anew from what the store has recovered.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from walle.core.effects import NO_CLUSTER
from walle.errors import CorruptionError, InvariantError
from walle.record import Bytes, check
from walle.storage.reader import Wanted
from walle.storage.store import Store
from walle.testing.disk import DamageFound, Disk, Records, Stream, copy_history, split
from walle.testing.files import Crash, SimulatedFiles
from walle.testing.violation import require

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from walle.core import effects
    from walle.core.effects import Action
    from walle.core.history import History
    from walle.core.member import State
    from walle.record import Batch
    from walle.storage.extent import Extent

DIRECTORY = Path("/data")
ALL_BYTES = 1 << 30
CRASH_STEPS_MAX = 8
CONFIRM_EVERY = 3
"""After so many syncs comes one that confirms those before it."""


class StoredDisk(Disk):
    """What one node has stored, by `walle.storage`."""

    def __init__(self) -> None:
        super().__init__()
        self._files = SimulatedFiles()
        self._store = Store(DIRECTORY, self._files)
        self._syncs = 0
        self._is_damaged = False
        self._found: list[effects.Cut] = []

    def execute(self, action: Action) -> None:
        super().execute(action)
        try:
            self._store.execute(action)
        except InvariantError as error:
            if not self._is_damaged:
                raise
            # What it has to build on is not what was stored: a real node ends, too.
            raise CorruptionError(
                str(DIRECTORY), 0, expected="what was stored", found=str(error)
            ) from error

    def sync(self) -> None:
        self._files.is_failing = self.is_failing
        self._syncs += 1
        if self._syncs % CONFIRM_EVERY == 0:
            self._store.confirm()
        if self._store.is_dirty:
            self._store.sync()
        unsynced, self._unsynced = self._unsynced, []
        self._make_durable(unsynced)

    def crash(self, kept: int | random.Random) -> None:
        """The process is killed, or the machine loses power; perhaps in the middle of a sync.
        Without chance, all is kept."""
        if isinstance(kept, int):
            self._store.sync()
        else:
            if not self._store._has_failed and kept.random() < 0.5:
                self._files.crash_at = self._files.steps + kept.randint(1, CRASH_STEPS_MAX)
                with suppress(Crash, OSError):
                    self._store.sync()
            self._files.crash_at, self._files.is_failing = None, False
            if kept.random() < 0.5:
                self._files.lose_power(kept)
        self.is_failing = False
        self._unsynced.clear()
        self._reopen()

    def _reopen(self) -> None:
        self._store.close()
        self._found.clear()
        self._store = Store(DIRECTORY, self._files, reads_all=self._is_damaged)
        recovered = self._store.recovered()
        self.cluster = recovered.cluster if recovered.cluster != NO_CLUSTER else None
        self._durable_cluster = self.cluster
        before = self._durable
        self.streams = {state.stream_id: self._stream_of(state) for state in recovered.states}
        self._durable = {key: stream.copy() for key, stream in self.streams.items()}
        for stream_id, stream in before.items():
            found = self.streams.get(stream_id)
            require(
                found is not None
                and found.promise.writer >= stream.promise.writer
                and (found.accepted >= stream.accepted or found.has_left)
                and found.topology.version >= stream.topology.version,
                f"storage: {stream.name} was forgotten, or its promise, stamp or topology",
            )
            require(
                found is None or self._is_damaged or not found.is_doubtful,
                f"storage: {stream.name}'s tail is doubted though nothing is damaged",
            )

    def read(self, action: effects.ReadRecords) -> Batch | None:
        try:
            views = self._store.read(action)
        except CorruptionError as error:
            self._report(action.stream_id, error)
            raise DamageFound from error
        return check(Bytes(b"".join(views)), where="the store") if views else None

    # --- damage -----------------------------------------------------------------------------------

    def rot(self, stream_id: int, rng: random.Random) -> bool:
        if not self.rot_running(stream_id, rng):
            return False
        self._reopen()
        return True

    def rot_running(self, stream_id: int, rng: random.Random) -> bool:
        """Flips a bit in a segment of the stream; whether it has any. Not before what was appended
        last is confirmed: until then it would be taken for torn."""
        if self.is_failing:
            return False
        self.sync()
        while self._store.has_unconfirmed:
            self._store.confirm()
            self._store.sync()
        log = self._store._logs.get(stream_id)
        paths = sorted(segment.path for segment in log.segments()) if log is not None else []
        inode = self._files.names_now.get(rng.choice(paths)) if paths else None
        if inode is None:
            return False
        written = inode.data.rstrip(b"\0")
        offset, bit = rng.randrange(len(written)), 1 << rng.randrange(8)
        for data in (inode.data, inode.durable):
            data[offset] ^= bit
        self._is_damaged = True
        return True

    def scrub(self) -> None:
        scrubber = self._store.scrubber
        passes_count = scrubber.passes_count
        while scrubber.passes_count == passes_count:
            suspect = scrubber.step()
            if suspect is not None:
                self._report(*suspect)

    def _report(self, stream_id: int, error: CorruptionError) -> None:
        cut = self._store.damage(stream_id, error)
        if cut is not None:
            self._found.append(cut)

    def take_damage(self) -> list[effects.Cut]:
        found, self._found = self._found, []
        return found

    # --- what the model is compared with ----------------------------------------------------------

    def compare(self) -> None:
        """Whether the store holds what the model does, byte for byte.

        Raises:
            Violation: it does not.
        """
        for stream_id, stream in self.streams.items():
            runs, aside, fill = self._records_of(stream_id, stream.history)
            require(
                (runs, aside, fill) == (stream.runs, stream.aside, stream.fill),
                f"storage: {stream.name} is stored otherwise than it was ordered",
            )

    def _stream_of(self, state: State) -> Stream:
        runs, aside, fill = self._records_of(state.stream_id, state.history)
        return Stream(
            state.name,
            state.topology,
            copy_history(state.history),
            state.promise,
            state.accepted,
            state.history.committed,
            state.doubtful_id,
            runs,
            aside,
            fill,
        )

    def _records_of(
        self, stream_id: int, history: History
    ) -> tuple[Records, list[Records], Records]:
        """The records of the runs, of each aside run, and of the fill."""
        log = self._store._logs[stream_id]
        found: Records = {}
        for run in history.runs:
            found |= self._read_all(log.runs, run.start)
        aside = [self._read_all(group, group[0].first_id) for group in log.aside]
        fill = self._read_all(log.fill, history.fill.start) if history.fill else {}
        return found, aside, fill

    def _read_all(self, extents: Sequence[Extent], start: int) -> Records:
        """The records of the run that begins there."""
        wanted = Wanted(start, 1 << 62, ALL_BYTES, None)
        views = self._store._reader.read(extents, wanted)
        return split(check(Bytes(b"".join(views)), where="the store"))
