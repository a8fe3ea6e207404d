"""Segment files: writing, noting and syncing them, and keeping a bounded number of them open.

A node has more segments than descriptors. Files are opened when they are needed, and those that
were not needed for longest are closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.errors import CorruptionError
from walle.limits import CONFIRM_COUNT_MAX
from walle.storage.notes import RECORDS_START
from walle.storage.segment import check_header

if TYPE_CHECKING:
    from walle.ids import Position
    from walle.storage.segment import Segment
    from walle.storage.spare import Spare
    from walle.storage.vfs import File, Files

WRITERS_COUNT_MAX = 256
MAPS_COUNT_MAX = 256


class Pool:
    """Files open for writing, and maps for reading. A map takes a descriptor, too."""

    def __init__(self, files: Files, spare: Spare) -> None:
        self._files = files
        self._spare = spare
        self._writers: dict[Segment, File] = {}
        self._maps: dict[Segment, memoryview] = {}
        # What waits in their buffers is to be written, and what was written is not synced yet. They
        # stay open: only the descriptor that wrote is sure to be told of a failure.
        self._unsynced: dict[Segment, None] = {}
        # Of these the last sync is not confirmed. The idle ones were not written since `confirm`
        # was called last.
        self._fresh: dict[Segment, None] = {}
        self._idle: dict[Segment, None] = {}

    # --- writing ----------------------------------------------------------------------------------

    def create(self, segment: Segment) -> None:
        """Makes the segment's file: a new one, or one that is used again."""
        if not self._spare.take(segment.path, segment.size):
            self._keep(segment, self._files.create(segment.path, segment.size))

    def add(self, segment: Segment, data: bytes | memoryview, last: Position) -> None:
        """The next bytes of the segment, up to the end of that entry; to be written and synced."""
        if segment not in self._unsynced:
            if len(self._unsynced) >= WRITERS_COUNT_MAX:
                self.sync()
            self._unsynced[segment] = None
        segment.buffers.append(data)
        segment.last = last

    def write(self, segment: Segment) -> File:
        """Writes what waits for it, if anything does; returns its file."""
        file = self._writer(segment)
        if segment.buffers:
            # What is mapped is being read, and what is appended will be, too.
            file.write(segment.buffers, segment.written, is_cached=segment in self._maps)
            segment.written += sum(map(len, segment.buffers))
            segment.buffers = []
        return file

    def write_all(self) -> None:
        """Writes what waits for any segment."""
        for segment in self._unsynced:
            self.write(segment)

    @property
    def is_dirty(self) -> bool:
        """Whether `sync` would have something to do."""
        return bool(self._unsynced)

    def sync(self, *others: File) -> None:
        """Writes what waits and makes all that was written durable, with a note of where it ends;
        `others` as well."""
        files = [self._note(segment) for segment in self._unsynced]
        files += others
        if files:
            self._files.sync(files)
        self._unsynced.clear()

    def _note(self, segment: Segment) -> File:
        """Writes what waits, and the note of a sync. None may follow before that is done: a crash
        in between must leave the note before whole."""
        file = self.write(segment)
        note = segment.note = segment.note.following(segment.written, segment.last)
        file.write([note.encode(segment.key)], note.offset)
        self._idle.pop(segment, None)
        if not note.is_confirmed:
            self._fresh[segment] = None
        return file

    # --- confirming -------------------------------------------------------------------------------

    @property
    def has_unconfirmed(self) -> bool:
        """Whether the last sync of some segment is not confirmed."""
        return bool(self._fresh or self._idle)

    def take_recovered(self, segment: Segment) -> None:
        """A segment that goes on behind its newest note."""
        if not segment.note.is_confirmed:
            self._fresh[segment] = None

    def confirm(self) -> None:
        """Lets the next sync confirm the last one of segments that were not written since the call
        before: of those that have waited longest, a few at a time."""
        for segment in list(self._idle)[:CONFIRM_COUNT_MAX]:
            if len(self._unsynced) >= WRITERS_COUNT_MAX:
                break
            del self._idle[segment]
            self._unsynced[segment] = None
        if not self._idle:
            self._idle, self._fresh = self._fresh, {}

    # --- open files -------------------------------------------------------------------------------

    def _writer(self, segment: Segment) -> File:
        """The segment's file, for writing."""
        file = self._writers.pop(segment, None)
        if file is None:
            file = self._files.open(segment.path)
            self._keep(segment, file)
        else:
            self._writers[segment] = file
        return file

    def _keep(self, segment: Segment, file: File) -> None:
        if len(self._writers) >= WRITERS_COUNT_MAX:
            oldest = next((each for each in self._writers if each not in self._unsynced), None)
            if oldest is not None:
                self._writers.pop(oldest).close()
        self._writers[segment] = file  # the newest stand last

    def map(self, segment: Segment) -> memoryview:
        """All of the segment's file, read-only; whatever is written to the file shows in it.

        Raises:
            CorruptionError: there is no such file, or it is not that segment.
        """
        view = self._maps.pop(segment, None)
        if view is None:
            view = self._open_map(segment)
            if len(self._maps) >= MAPS_COUNT_MAX:
                # A map that readers still hold slices of goes away when the last slice does.
                del self._maps[next(iter(self._maps))]
        self._maps[segment] = view
        return view

    def can_see(self, view: memoryview, start: int, end: int) -> bool:
        """As `Files.can_see`, of a segment's map."""
        return self._files.can_see(view, start, end)

    def reload(self, segment: Segment, end: int) -> memoryview:
        """A copy of the segment's file up to `end`, as it is on the device; nothing if there is no
        such file, or it is not that segment."""
        if segment.buffers:
            self.write(segment)
        self._maps.pop(segment, None)  # what is mapped stays in memory
        try:
            self._files.refresh(segment.path, 0, end)
            view = self._files.read(segment.path, 0, end)
        except FileNotFoundError:
            return memoryview(b"")
        return view if check_header(view, segment) is None else memoryview(b"")

    def _open_map(self, segment: Segment) -> memoryview:
        reason: str | None
        try:
            view = self._files.map(segment.path)
            can_see = self._files.can_see(view, 0, min(RECORDS_START, len(view)))
            reason = check_header(view, segment) if can_see else "no header that can be read"
        except FileNotFoundError:
            reason = "no file"
        if reason is None:
            return view
        raise CorruptionError(
            str(segment.path), 0, expected=f"the header of {segment.key}", found=reason
        )

    def recycle(self, segment: Segment) -> None:
        """Keeps the file of a segment that is no more for another one, if there is room.

        Nothing that it holds may ever be appended to its stream again.
        """
        self._forget(segment)
        self._spare.keep(segment.path, segment.size)

    def remove(self, segment: Segment) -> None:
        """Removes the file of a segment that is no more."""
        self._forget(segment)
        self._files.remove(segment.path)

    def _forget(self, segment: Segment) -> None:
        for segments in (self._unsynced, self._fresh, self._idle):
            segments.pop(segment, None)
        self._maps.pop(segment, None)
        file = self._writers.pop(segment, None)
        if file is not None:
            file.close()

    def close(self) -> None:
        """Closes everything."""
        for file in self._writers.values():
            file.close()
        self._writers.clear()
        self._maps.clear()
        self._unsynced.clear()
