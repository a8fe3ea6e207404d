"""Notes: what a segment says of where its records end, so that a torn end is told from damage.

A segment has two, each in a block of its own behind the header's, so that a torn write of one
cannot harm the other:

     0        8        16            24       32      40    48      56      64
     +--------+--------+-------------+--------+-------+-----+-------+-------+---------+
     | stream | file   | incarnation | number | start | end | last  | chain | crc u32 |
     | id u64 | number | u64         | u64    | u64   | u64 | id u64| u64   | of 0-64 |
     |        | u64    |             |        |       |     |       |       |         |
     +--------+--------+-------------+--------+-------+-----+-------+-------+---------+

Each sync of a segment takes a note with it: the records in [start, end) are those of this sync, so
all before `start` were durable when the note was written. Note n goes to block n % 2, and note
n + 1 is written when n is durable; so there is always a whole one, and the newer one counts.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from walle.ids import Position
from walle.native import crc32c
from walle.record import Field

BLOCK_BYTES = 4096
"""The unit that the page cache writes: a write to one block does not touch the others."""
RECORDS_START = 3 * BLOCK_BYTES
"""Where a segment's records begin: behind the blocks of the header and of the two notes."""

LAYOUT = (
    Field("stream_id", 0, 8),
    Field("file_number", 8, 8),
    Field("incarnation", 16, 8),
    Field("number", 24, 8),
    Field("start", 32, 8),
    Field("end", 40, 8),
    Field("last_id", 48, 8),
    Field("chain", 56, 8),
    Field("crc", 64, 4),
)
_NOTE = struct.Struct("<" + "".join({4: "I", 8: "Q"}[each.size] for each in LAYOUT))
_CRC_OFFSET = LAYOUT[-1].offset


class SegmentKey(NamedTuple):
    """Which segment it is, and in which of its file's lives; see `walle.storage.segment.Header`."""

    stream_id: int
    file_number: int
    incarnation: int

    def __str__(self) -> str:
        return f"file {self.file_number} of stream {self.stream_id}, life {self.incarnation}"


class Note(NamedTuple):
    """What one sync made durable.

    number: one more than the note before has.
    start, end: the offsets between which the records of this sync lie; equal when it had none, and
        confirms that what the note before tells of is durable.
    last: the entry that ends at `end`.
    """

    number: int
    start: int
    end: int
    last: Position

    @property
    def offset(self) -> int:
        """Where in the file it lies."""
        return BLOCK_BYTES * (1 + self.number % 2)

    @property
    def is_confirmed(self) -> bool:
        """Whether all that it tells of was durable before it was written."""
        return self.start == self.end

    def following(self, end: int, last: Position) -> Note:
        """The note of the next sync."""
        return Note(self.number + 1, self.end, end, last)

    def encode(self, key: SegmentKey) -> bytes:
        """The note's bytes in that segment."""
        number, start, end, last = self
        body = _NOTE.pack(*key, number, start, end, *last, 0)[:_CRC_OFFSET]
        return body + crc32c(body).to_bytes(4, "little")


NO_NOTE = Note(0, RECORDS_START, RECORDS_START, Position(0, 0))
"""Of a segment without records; it is never written."""


def newest(view: memoryview, key: SegmentKey) -> Note | None:
    """The newer one of that segment's whole notes.

    Args:
        view: the segment's file, its first RECORDS_START bytes at least.
    """
    found = [note for index in range(2) if (note := decode(view, index, key))]
    return max(found, default=None)


def decode(view: memoryview, index: int, key: SegmentKey) -> Note | None:
    """The note in one of the segment's two blocks, by the block's index; None: no whole one."""
    offset = BLOCK_BYTES * (1 + index)
    stream_id, file_number, incarnation, number, start, end, last_id, chain, crc = (
        _NOTE.unpack_from(view, offset)
    )
    is_whole = crc32c(view[offset : offset + _CRC_OFFSET]) == crc
    if not is_whole or (stream_id, file_number, incarnation) != key:
        return None
    note = Note(number, start, end, Position(last_id, chain))
    return note if note.offset == offset else None
