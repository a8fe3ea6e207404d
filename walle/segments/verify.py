"""`verify`: every byte of a replica that means something, against what must be there.

What nobody has written yet means nothing, nor does what lies behind the newest note of a segment,
nor a file that the journal does not name.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from walle.data_directory import OWNER
from walle.errors import ConfigError, CorruptionError
from walle.ids import IdRange, Position
from walle.native import FilePlace
from walle.record import Stop, decode, scan
from walle.storage import journal, notes
from walle.storage.manifest import Kind
from walle.storage.recovery import Side, side_of
from walle.storage.segment import Segment, check_header, header_of, path_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from walle.segments.replica import Replica
    from walle.storage.examine import Examined
    from walle.storage.manifest import ExtentRecord, StreamRecord

_STOPS = {
    Stop.BAD_PADDING: "padding that is not zero",
    Stop.BAD_ID: "the record of another entry",
    Stop.BAD_CHAIN: "a record that builds on another history",
    Stop.BLANK: "zeros",
}


class Damage(NamedTuple):
    """A place where a file is not as it was written.

    stream: its name; empty if the place is not one stream's.
    entries: those that cannot be read for it; None: there are none.
    """

    path: Path
    offset: int
    expected: str
    found: str
    stream: str = ""
    entries: IdRange | None = None


class Checked(NamedTuple):
    """One file.

    remarks: of what is no damage, and will be cut or removed when the node starts.
    entries_count: good ones.
    """

    path: Path
    size: int
    damage: list[Damage]
    remarks: list[str]
    entries_count: int = 0


def verify_replica(replica: Replica) -> Iterator[Checked]:
    """Checks the journal and whose it is, then the segments, a few at a time."""
    yield _verify_journal(replica)
    yield from _verify_owner(replica)
    files = files_of(replica)
    executor = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from executor.map(lambda file: _SegmentCheck(replica, *file).run(), files)
    finally:
        executor.shutdown(cancel_futures=True)


def size_of(replica: Replica) -> int:
    """About how many bytes of files `verify_replica` looks at."""
    path = journal.path_of(replica.path / "journal", replica.loaded.number)
    sizes = [extents[0].file_bytes for _, extents in files_of(replica)]
    return sum(sizes, len(replica.files.map(path)))


def files_of(replica: Replica) -> list[tuple[StreamRecord, list[ExtentRecord]]]:
    """The extents of each segment file, in the order of the file, and their stream."""
    manifest = replica.loaded.manifest
    return [
        (manifest.streams[stream_id], list(group))
        for stream_id, extents in manifest.extents.items()
        for _, group in groupby(
            sorted(extents.values(), key=attrgetter("key")), key=attrgetter("file_number")
        )
    ]


def _verify_journal(replica: Replica) -> Checked:
    number = replica.loaded.number
    path = journal.path_of(replica.path / "journal", number)
    view = replica.files.map(path)
    damage: list[Damage] = []
    start = journal.BLOCK_BYTES
    frames = groupby(journal.frames_in(view, number), key=attrgetter("sequence"))
    for sequence, group in frames:
        if start == journal.BLOCK_BYTES:
            damage += _compare(path, view, 0, journal.encode_header(number, sequence), "the header")
        expected = journal.encode_frame(number, sequence, next(group).body)
        for _ in range(2):
            damage += _compare(path, view, start, expected, f"a copy of frame {sequence}")
            start += len(expected)
    return Checked(path, len(view), damage, replica.loaded.findings)


def _verify_owner(replica: Replica) -> Iterator[Checked]:
    path = replica.path / OWNER
    try:
        if replica.owner is not None:
            yield Checked(path, path.stat().st_size, [], [])
    except ConfigError as error:
        damage = Damage(path, 0, "a node's name and identity", error.rule)
        yield Checked(path, path.stat().st_size, [damage], [])


def _compare(
    path: Path, view: memoryview, offset: int, expected: bytes, what: str
) -> Iterator[Damage]:
    """The first byte from `offset` on that is not as expected."""
    found = view[offset : offset + len(expected)]
    if found == expected:
        return
    place = next(
        (each for each, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
        len(found),
    )
    byte = f"{found[place]:#04x}" if place < len(found) else "the end of the file"
    yield Damage(path, offset + place, f"{expected[place]:#04x} in {what}", byte)


class _SegmentCheck:
    """The check of one segment: its header, its notes, and the records of its extents."""

    def __init__(
        self, replica: Replica, stream: StreamRecord, extents: Sequence[ExtentRecord]
    ) -> None:
        first = extents[0]
        self._files = replica.files
        self._stream = stream
        self._extents = extents
        self._look = replica.disk.look(stream)
        self._segment = Segment(
            path_of(replica.path / "streams", stream.stream_id, first.file_number),
            stream.stream_id,
            first.file_number,
            first.incarnation,
            first.file_bytes,
        )
        self._view = memoryview(b"")
        self._newest = notes.NO_NOTE
        self._damage: list[Damage] = []
        self._remarks: list[str] = []
        self._entries_count = 0

    def run(self) -> Checked:
        reason = self._open()
        if reason is None:
            self._check_head()
        for extent in self._extents:
            count = self._count_good(extent) if reason is None else 0
            self._entries_count += count
            if count:
                continue
            examined = self._look(extent, True)
            if reason is None:
                self._check_extent(extent, examined)
            else:
                entries = IdRange(extent.first_id, examined.known_id + 1)
                self._add(0, f"the header of {self._segment.key}", reason, entries)
        size = len(self._view)
        return Checked(self._segment.path, size, self._damage, self._remarks, self._entries_count)

    def _add(self, offset: int, expected: str, found: str, entries: IdRange | None = None) -> None:
        path, name = self._segment.path, self._stream.name
        self._damage.append(Damage(path, offset, expected, found, name, entries))

    def _open(self) -> str | None:
        """Why the file is not that segment; None: it is."""
        try:
            self._view = self._files.map(self._segment.path)
        except FileNotFoundError:
            return "no file"
        return check_header(self._view, self._segment)

    # --- header and notes -------------------------------------------------------------------------

    def _check_head(self) -> None:
        view, size, first = self._view, self._segment.size, self._extents[0]
        if len(view) != size:
            self._add(min(len(view), size), f"{size} bytes", f"{len(view)} bytes")
        header = header_of(view)
        if first.offset == notes.RECORDS_START:
            header = header._replace(first_id=first.first_id, prev_chain=first.prev_chain)
        block = header.encode()[: notes.BLOCK_BYTES]
        self._damage += _compare(self._segment.path, view, 0, block, "the header")
        self._check_notes()

    def _check_notes(self) -> None:
        key, blank = self._segment.key, bytes(notes.BLOCK_BYTES)
        for index in range(2):
            offset = notes.BLOCK_BYTES * (1 + index)
            note = notes.decode(self._view, index, key)
            if note is not None:
                block = note.encode(key).ljust(len(blank), b"\0")
                self._damage += _compare(self._segment.path, self._view, offset, block, "a note")
            elif self._view[offset : offset + len(blank)] != blank:
                self._add(offset, f"a note of {key}, or zeros", "other bytes")
        newest = notes.newest(self._view, key)
        end = max(extent.end for extent in self._extents)
        if newest is None:
            self._add(notes.BLOCK_BYTES, f"a note of {key}", "none")
            return
        self._newest = newest
        if newest.end < end:
            self._add(newest.offset, f"a note that reaches byte {end}", f"byte {newest.end}")

    # --- records ----------------------------------------------------------------------------------

    def _count_good(self, extent: ExtentRecord) -> int:
        """How many records the extent has; 0: it takes a closer look, not all is well."""
        end, last, committed = extent.end, extent.last, self._stream.committed
        if not extent.is_sealed:
            _, _, end, last = self._newest
        wanted = [last]
        if extent.kind == Kind.RUN and extent.first_id <= committed.entry_id <= last.entry_id:
            wanted.insert(0, committed)
        place = FilePlace(extent.offset, extent.first_id - 1, extent.prev_chain)
        for position in wanted:
            path, last_id = self._segment.path, position.entry_id
            place = self._files.follow(path, place, end=end, last_id=last_id)
            if place[1:] != position:
                return 0
        return last.entry_id + 1 - extent.first_id if place.offset == end else 0

    def _check_extent(self, extent: ExtentRecord, examined: Examined) -> None:
        """Finds out what is wrong with the extent, if anything is."""
        self._entries_count += sum(len(piece.chains or ()) for piece in examined.pieces)
        at, before = extent.offset, Position(extent.first_id - 1, extent.prev_chain)
        for piece in examined.pieces:
            if piece.extent.before != before:
                self._add_break(extent, at, before, piece.extent.first_id)
            at, before = piece.extent.end, piece.extent.last
            is_denied = side_of(piece, self._stream.committed) is Side.DENIES
            if extent.kind == Kind.RUN and is_denied:
                expected = f"a history with the committed entry {self._stream.committed}"
                self._add(piece.extent.offset, expected, "another one")
        if before.entry_id < examined.known_id:
            self._add_break(extent, at, before, examined.known_id + 1)
        if examined.torn_bytes:
            self._remarks.append(
                f"{self._segment.path} at byte {at}: an append of {examined.torn_bytes} bytes, "
                f"behind entry {before.entry_id} of {self._stream.name}, was never completed"
            )

    def _add_break(self, extent: ExtentRecord, at: int, before: Position, end_id: int) -> None:
        """No good record that follows `before` begins at byte `at`."""
        rest = self._view[at : extent.end or len(self._view)]
        stop = scan(rest, after=before, count_max=1).stop
        expected, found = "the record", _STOPS.get(stop, "other records")
        try:
            decode(rest)
        except CorruptionError as error:
            if stop is not Stop.BLANK:
                expected, found = error.expected, error.found
        entries = IdRange(before.entry_id + 1, end_id)
        what = f"{expected} of entry {entries.start} behind {before}"
        self._add(at, what, found, entries if entries.start < entries.end else None)
