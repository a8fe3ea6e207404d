"""The journal: the root of a node's state, an append-only file of checked frames.

    data/journal/<number, 8 digits>.journal

     0          8         12        16          24          32        36
     +----------+---------+---------+-----------+-----------+---------+-----------+
     | magic    | version | header  | number u64| sequence  | crc u32 | zeros to  |
     | WALLEJNL | u32     | bytes   |           | u64       | of 0-32 | 4096      |
     +----------+---------+---------+-----------+-----------+---------+-----------+
     frame:  0     4            8             16           24
     +-------+------------+-------------+------------+------+-----------------+
     | crc   | body bytes | sequence    | number u64 | body | zeros to a      |
     | u32   | u32        | u64         |            |      | multiple of 4096|
     +-------+------------+-------------+------------+------+-----------------+

    crc        CRC32C of the bytes before it; of byte 4 up to the end of the body
    sequence   one more than the frame before has; it goes on over all journals of a node. The
               header has that of the first frame
    number     the journal's, as in its name

One frame holds what one round of group commit changed, in all streams. It is written twice in one
write, and the next frame only when that is durable. So damage of one copy costs nothing, and a
frame of which no copy is valid, and behind which nothing is, was never acknowledged. Each copy
begins in a block of its own, so that a torn write cannot harm the promises in the frame before.
The first frame is a snapshot of everything. When the file is full a fresh one takes its place:
written under another name, synced, then renamed, so that a `.journal` file was complete once.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from walle.errors import CorruptionError, invariant
from walle.limits import MIB
from walle.native import crc32c
from walle.record import Field
from walle.storage import manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from walle.storage.vfs import File, Files

MAGIC = b"WALLEJNL"
VERSION = 3
BLOCK_BYTES = 4096

LAYOUT = (
    Field("magic", 0, 8),
    Field("version", 8, 4),
    Field("header_bytes", 12, 4),
    Field("number", 16, 8),
    Field("sequence", 24, 8),
    Field("crc", 32, 4),
)
FRAME_LAYOUT = (
    Field("crc", 0, 4),
    Field("body_bytes", 4, 4),
    Field("sequence", 8, 8),
    Field("number", 16, 8),
)
_SIZES = {4: "I", 8: "Q"}
_HEADER = struct.Struct("<8s" + "".join(_SIZES[field.size] for field in LAYOUT[1:]))
_FRAME = struct.Struct("<" + "".join(_SIZES[field.size] for field in FRAME_LAYOUT))
_HEADER_CRC_OFFSET = LAYOUT[-1].offset
_FRAME_CRC_START = 4

SUFFIX = ".journal"
UNFINISHED_SUFFIX = ".new"
BYTES_MIN = 4 * MIB
SNAPSHOT_SHARE = 4
"""A fresh journal has room for so many times its snapshot, so that writing snapshots costs little
compared with what is written between them."""

REMEDY = (
    "the promises of this node cannot be trusted any more; stop it for good, and put a new node "
    "with an empty data directory and a new identity in its place"
)


def path_of(directory: Path, number: int) -> Path:
    """A journal's path."""
    return directory / f"{number:08d}{SUFFIX}"


def _refuse(path: Path, offset: int, *, expected: str, found: str) -> NoReturn:
    raise CorruptionError(str(path), offset, expected=expected, found=f"{found}: {REMEDY}")


def encode_header(number: int, sequence: int) -> bytes:
    """The first block of a journal whose first frame has that sequence number."""
    head = _HEADER.pack(MAGIC, VERSION, BLOCK_BYTES, number, sequence, 0)[:_HEADER_CRC_OFFSET]
    return (head + crc32c(head).to_bytes(4, "little")).ljust(BLOCK_BYTES, b"\0")


def _read_header(view: memoryview, path: Path, number: int) -> int:
    """The sequence number of the journal's first frame."""
    if len(view) < BLOCK_BYTES:
        _refuse(path, 0, expected="a journal", found=f"{len(view)} bytes")
    magic, version, _, found_number, sequence, crc = _HEADER.unpack_from(view)
    if magic != MAGIC or crc32c(view[:_HEADER_CRC_OFFSET]) != crc or found_number != number:
        _refuse(path, 0, expected=f"the header of journal {number}", found="other bytes")
    if version != VERSION:
        raise CorruptionError(
            str(path),
            LAYOUT[1].offset,
            expected=f"format version {VERSION}",
            found=f"version {version}; run the release of walle that wrote it",
        )
    return int(sequence)


def encode_frame(number: int, sequence: int, body: bytes) -> bytes:
    """One copy of a frame, padded to whole blocks."""
    head = _FRAME.pack(0, len(body), sequence, number)
    crc = crc32c(body, crc32c(head[_FRAME_CRC_START:]))
    frame = b"".join((crc.to_bytes(4, "little"), head[_FRAME_CRC_START:], body))
    return frame.ljust(_blocks(len(frame)), b"\0")


class Frame(NamedTuple):
    """One copy of a frame, valid.

    offset, end: where it begins, and where the next copy does.
    """

    offset: int
    sequence: int
    body: bytes
    end: int


def frames_in(view: memoryview, number: int) -> Iterator[Frame]:
    """The valid frames of that journal, each copy by itself."""
    offset = BLOCK_BYTES
    while offset < len(view):
        frame = _frame_at(view, offset, number)
        if frame is not None:
            yield frame
        offset = frame.end if frame is not None else offset + BLOCK_BYTES


def _frame_at(view: memoryview, offset: int, number: int) -> Frame | None:
    """The valid frame that begins at `offset`; None: there is none."""
    if len(view) - offset < _FRAME.size:
        return None
    crc, body_bytes, sequence, found_number = _FRAME.unpack_from(view, offset)
    start = offset + _FRAME.size
    if found_number != number or not 0 < body_bytes <= len(view) - start:
        return None
    if crc32c(view[offset + _FRAME_CRC_START : start + body_bytes]) != crc:
        return None
    body = bytes(view[start : start + body_bytes])
    return Frame(offset, sequence, body, offset + _blocks(_FRAME.size + body_bytes))


def _blocks(size: int) -> int:
    return (size + BLOCK_BYTES - 1) & -BLOCK_BYTES


class Loaded(NamedTuple):
    """What the journals of a directory say.

    number, sequence: of the newest journal, and of its last frame.
    torn_bytes: of a last frame that was never completed, and so never acknowledged.
    """

    manifest: manifest.Manifest
    number: int
    sequence: int
    torn_bytes: int

    @property
    def findings(self) -> list[str]:
        """What a node that starts goes on without, in sentences."""
        if not self.torn_bytes:
            return []
        text = "of a frame that was never completed, and so never acknowledged"
        return [f"journal {self.number} ends with {self.torn_bytes} bytes {text}"]


def load(directory: Path, files: Files) -> Loaded | None:
    """Reads the newest journal; None: there is none.

    Raises:
        CorruptionError: the journal is damaged; the error says what to do.
    """
    names = [name for name in files.names(directory) if name.endswith(SUFFIX)]
    if not names:
        return None
    name = max(names)
    path = directory / name
    digits = name.removesuffix(SUFFIX)
    if not digits.isdecimal():
        _refuse(path, 0, expected="a journal's number as its name", found=name)
    number = int(digits)
    view = files.read(path, 0, files.size_of(path))
    sequence = _read_header(view, path, number) - 1
    found = manifest.Manifest()
    end = BLOCK_BYTES
    for frame in frames_in(view, number):
        if frame.sequence != sequence:
            update = manifest.decode(frame.body)
            if update is None or frame.sequence != sequence + 1:
                _refuse(path, frame.offset, expected=f"frame {sequence + 1}", found="another")
            found.apply(update)
            sequence = frame.sequence
            end = frame.end + frame.end - frame.offset  # a copy follows
    if end == BLOCK_BYTES:
        _refuse(path, end, expected="a snapshot", found="no valid frame")
    return Loaded(found, number, sequence, _written_bytes(view[end:]))


def _written_bytes(view: memoryview) -> int:
    """How many bytes there are up to the last that is not zero. Most often all are zeros; that is
    found out in pieces, as a copy of all would take much longer."""
    end = len(view)
    while end:
        piece = bytes(view[max(end - BLOCK_BYTES, 0) : end])
        end -= len(piece)
        if piece != bytes(len(piece)):
            return end + len(piece.rstrip(b"\0"))
    return 0


class Journal:
    """The journal that is written to.

    sequence: of the last frame written.
    """

    def __init__(self, directory: Path, files: Files, *, number: int, sequence: int) -> None:
        """Follows journal `number`; nothing can be appended before the first `replace`."""
        self._directory = directory
        self._files = files
        self._number = number
        self.sequence = sequence
        self._file: File | None = None
        self._size = 0
        self._end = 0

    @property
    def file(self) -> File:
        """What is to be synced after `append`."""
        invariant(self._file is not None, "a journal is open")
        assert self._file is not None  # noqa: S101 - for the type checker
        return self._file

    def has_room(self, body: bytes) -> bool:
        """Whether the frame would fit."""
        return self._end + 2 * _blocks(_FRAME.size + len(body)) <= self._size

    def append(self, body: bytes) -> None:
        """Writes a frame. It is durable once `file` is synced, and none may follow before that."""
        invariant(self.has_room(body), "a frame fits its journal", size=len(body))
        frame = self._encode_frame(body)
        self.file.write([frame], self._end)
        self._end += len(frame)

    def replace(self, snapshot: bytes) -> None:
        """Makes a fresh journal that begins with the snapshot, and removes all others.

        Durable when this returns. After a crash in the middle, the former journal is in force.
        """
        self._number += 1
        header = encode_header(self._number, self.sequence + 1)
        frame = self._encode_frame(snapshot)
        self._end = len(header) + len(frame)
        self._size = BLOCK_BYTES + max(BYTES_MIN, len(frame) * SNAPSHOT_SHARE)
        path = path_of(self._directory, self._number)
        unfinished = path.with_suffix(UNFINISHED_SUFFIX)
        file = self._files.create(unfinished, self._size)
        file.write([header, frame], 0)
        self._files.sync([file])
        self._files.rename(unfinished, path)
        self._files.sync_directory(self._directory)
        self.close()
        self._file = file
        for name in self._files.names(self._directory):
            if name != path.name and name.endswith(SUFFIX):
                self._files.remove(self._directory / name)

    def _encode_frame(self, body: bytes) -> bytes:
        """The next frame, twice."""
        self.sequence += 1
        return 2 * encode_frame(self._number, self.sequence, body)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def remove_unfinished(directory: Path, files: Files) -> None:
    """Removes what a crash left of a journal that was never in force."""
    for name in files.names(directory):
        if name.endswith(UNFINISHED_SUFFIX):
            files.remove(directory / name)
