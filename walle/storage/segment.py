"""A segment file: its name, its header, its size, and what of it waits to be written.

    data/streams/<stream id, 16 hex digits>/<file number, 8 digits>.segment

     0          8         12        16         24          32
     +----------+---------+---------+----------+-----------+
     | magic    | version | records | stream   | file      |
     | WALLESEG | u32     | start   | id u64   | number u64|
     |          |         | u32     |          |           |
     +----------+---------+---------+----------+-----------+
     32            40         48           56        60
     +-------------+----------+------------+---------+
     | incarnation | first    | prev_chain | crc u32 |
     | u64         | id u64   | u64        | of 0-56 |
     +-------------+----------+------------+---------+
     | zeros up to byte 4096                         |
     +-----------------------------------------------+
     | two notes (walle/storage/notes.py), 4096 each |
     +-----------------------------------------------+
     | records (walle/record.py), back to back       |
     +-----------------------------------------------+
     | anything: what nobody has written yet         |
     +-----------------------------------------------+

Appending never writes the header's block again: a torn append cannot harm it. What the newest note
does not tell of does not exist; space that was never written is zeros in a new file, and in one
that is used again the records of a former life.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from walle.errors import CorruptionError
from walle.limits import SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN
from walle.native import crc32c
from walle.record import Field
from walle.storage.notes import BLOCK_BYTES, NO_NOTE, RECORDS_START, Note, SegmentKey

if TYPE_CHECKING:
    from pathlib import Path

    from walle.ids import Position

MAGIC = b"WALLESEG"
VERSION = 2

LAYOUT = (
    Field("magic", 0, 8),
    Field("version", 8, 4),
    Field("records_start", 12, 4),
    Field("stream_id", 16, 8),
    Field("file_number", 24, 8),
    Field("incarnation", 32, 8),
    Field("first_id", 40, 8),
    Field("prev_chain", 48, 8),
    Field("crc", 56, 4),
)
_HEADER = struct.Struct("<8s" + "".join({4: "I", 8: "Q"}[each.size] for each in LAYOUT[1:]))
_CRC_OFFSET = LAYOUT[-1].offset

STREAM_DIGITS = 16
SUFFIX = ".segment"
DAMAGED_SUFFIX = ".damaged"
SIZES_COUNT = 16
"""So many sizes do the first segments of streams have. Many streams are often written to alike:
their files are not to be full, and new ones to be made, all at the same moment."""
GROWTH = 4
"""A stream's next segment is so many times as large as the one it has filled: a quiet stream takes
little of the disk, and a busy one soon has few large files. It is so many times smaller than one
that was left early: a member that falls behind again and again leaves one each time it jumps."""


class Header(NamedTuple):
    """What a segment says of itself.

    incarnation: the number of the journal frame that was to be written next when the file was
        made; the journal says the same, so a file of another life is recognized.
    first_id, prev_chain: of the first record, and of the entry before it.
    """

    stream_id: int
    file_number: int
    incarnation: int
    first_id: int
    prev_chain: int

    def encode(self) -> bytes:
        """The header's bytes, and zeros up to where the records begin."""
        head = _HEADER.pack(MAGIC, VERSION, RECORDS_START, *self, 0)[:_CRC_OFFSET]
        return (head + crc32c(head).to_bytes(4, "little")).ljust(RECORDS_START, b"\0")


def header_of(view: memoryview) -> Header:
    """What the header that the file begins with says, which was checked."""
    _, _, _, *found, _ = _HEADER.unpack_from(view)
    return Header(*found)


def check_header(view: memoryview, segment: Segment) -> str | None:
    """Why the file, whose bytes the view shows, is not that segment; None: it is.

    Raises:
        CorruptionError: it is one of another format version: this program must leave it alone.
    """
    if len(view) < RECORDS_START:
        return f"only {len(view)} bytes"
    magic, version, records_start, *found, _, _, crc = _HEADER.unpack_from(view)
    if magic != MAGIC or crc32c(view[:_CRC_OFFSET]) != crc:
        return "no valid header"
    if version != VERSION:
        raise CorruptionError(
            str(segment.path),
            LAYOUT[1].offset,
            expected=f"format version {VERSION}",
            found=f"version {version}; run the release of walle that wrote it",
        )
    key = SegmentKey(*found)
    if records_start != RECORDS_START or key != segment.key:
        return f"the header of {key}"
    return None


@dataclass(slots=True, eq=False)
class Segment:
    """One segment file, as it will be once what waits is written.

    size: of the file, in bytes.
    extents_count: how many extents lie in it; without any it is removed.
    key: which one it is.
    written: the bytes up to here are written.
    buffers: what follows them. They are the caller's, who keeps them until the next sync.
    last: the entry that ends behind all of that.
    note: of the last sync.
    """

    path: Path
    stream_id: int
    number: int
    incarnation: int
    size: int
    extents_count: int = 0
    key: SegmentKey = field(init=False)
    written: int = 0
    buffers: list[bytes | memoryview] = field(default_factory=list)
    last: Position = NO_NOTE.last
    note: Note = NO_NOTE

    def __post_init__(self) -> None:
        self.key = SegmentKey(self.stream_id, self.number, self.incarnation)

    def resume(self, note: Note) -> None:
        """The file was found, with this as its newest note: it goes on behind it."""
        self.written, self.last, self.note = note.end, note.last, note


def directory_of(streams: Path, stream_id: int) -> Path:
    """Where a stream's segments lie."""
    return streams / f"{stream_id:0{STREAM_DIGITS}x}"


def stream_id_of(name: str) -> int | None:
    """The stream id that a directory's name tells; None: it is no stream's directory."""
    is_id = len(name) == STREAM_DIGITS and not set(name) - set("0123456789abcdef")
    return int(name, 16) if is_id else None


def path_of(streams: Path, stream_id: int, number: int) -> Path:
    """A segment's path."""
    return directory_of(streams, stream_id) / f"{number:08d}{SUFFIX}"


def number_of(name: str) -> int | None:
    """The file number that a file's name tells; None: it is no segment's name."""
    digits = name.removesuffix(SUFFIX)
    return int(digits) if digits != name and digits.isascii() and digits.isdecimal() else None


def next_size(
    stream_id: int,
    previous: Segment | None,
    needed_bytes: int,
    *,
    is_full: bool,
    is_trimmed: bool,
    room_bytes: int,
) -> int:
    """The size of a stream's next segment.

    Args:
        previous: the segment before it, None for the first.
        needed_bytes: records that must fit.
        is_full: that one is full; else it was left before.
        is_trimmed: a trim has reached into it: larger ones would only keep more.
        room_bytes: what the disk has room for; above the smallest size, no more is asked of it.
    """
    if previous is None:
        size = SEGMENT_BYTES_MIN + stream_id % SIZES_COUNT * BLOCK_BYTES
    elif not is_full:
        size = previous.size // GROWTH
    else:
        size = previous.size if is_trimmed else previous.size * GROWTH
    size = min(size, SEGMENT_BYTES_MAX, room_bytes)
    size = max(SEGMENT_BYTES_MIN, size, RECORDS_START + needed_bytes)
    return (size + BLOCK_BYTES - 1) & -BLOCK_BYTES
