"""Open segment files, a bounded number of them: a node has more segments than descriptors.

Files are opened when they are needed, and those that were not needed for longest are closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.errors import CorruptionError
from walle.storage.segment import check_header

if TYPE_CHECKING:
    from walle.storage.segment import Segment
    from walle.storage.vfs import File, Files

WRITERS_COUNT_MAX = 256
MAPS_COUNT_MAX = 256


class Pool:
    """Files open for writing, and maps for reading. A map takes a descriptor, too.

    unsynced: the segments that were written and not synced yet. They stay open: only the
        descriptor that wrote is sure to be told of a failure. The owner keeps them to a bounded
        number, by syncing when `is_full`.
    """

    def __init__(self, files: Files) -> None:
        self.unsynced: dict[Segment, None] = {}
        self._files = files
        self._writers: dict[Segment, File] = {}
        self._maps: dict[Segment, memoryview] = {}

    @property
    def is_full(self) -> bool:
        """Whether it is time to sync, before yet another segment is written."""
        return len(self.unsynced) >= WRITERS_COUNT_MAX

    def create(self, segment: Segment) -> None:
        """Makes the segment's file."""
        self._keep(segment, self._files.create(segment.path, segment.size))

    def writer(self, segment: Segment) -> File:
        """The segment's file, for writing."""
        file = self._writers.pop(segment, None)
        if file is None:
            file = self._files.open(segment.path)
        self._keep(segment, file)
        return file

    def _keep(self, segment: Segment, file: File) -> None:
        if len(self._writers) >= WRITERS_COUNT_MAX:
            oldest = next((each for each in self._writers if each not in self.unsynced), None)
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

    def _open_map(self, segment: Segment) -> memoryview:
        try:
            view = self._files.map(segment.path)
            reason = check_header(view, segment)
        except FileNotFoundError:
            reason = "no file"
        if reason is None:
            return view
        raise CorruptionError(
            str(segment.path),
            0,
            expected=f"the header of file {segment.number} of stream {segment.stream_id}, "
            f"incarnation {segment.incarnation}",
            found=reason,
        )

    def forget(self, segment: Segment) -> None:
        """Closes what is open of a segment that is about to be removed."""
        self.unsynced.pop(segment, None)
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
        self.unsynced.clear()
