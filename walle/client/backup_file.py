"""The backup file: a stream's records, as its members store them, from its first entry on.

     0          8         12        16           32          40         48            56
     +----------+---------+---------+------------+-----------+----------+-------------+
     | magic  8 | version | header  | cluster 16 | stream  8 | first  8 | prev_chain 8|
     | WALLEBAK |       4 | bytes 4 | id         | id        | id       |             |
     +----------+---------+---------+------------+-----------+----------+-------------+
     56         58                                                      508         512
     +----------+-------------------------------------------------------+-----------+
     | name   2 | the stream's name, then zeros                         | crc     4 |
     | bytes    |                                                       | of 0-508  |
     +----------+-------------------------------------------------------+-----------+
     | records, back to back: walle/record.py                                       |
     +-------------------------------------------------------------------+----------+
     | trailer 48                                                        |
     +-------------------------------------------------------------------+

All integers are little-endian. The trailer is written when all before it is on stable storage. It
has the form of a record without data:

    prev_chain     the last entry's chain
    entry_id       0, which no entry has
    writer_ts      the last entry's id
    writer_nonce   where in the file the trailer begins
    time_us        when it was written

A later run writes over it, and a new one behind what it adds. A file without a trailer is
*incomplete*: its last run did not come to its end, or the file was cut.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from walle.errors import CorruptionError, Refused, invariant
from walle.ids import ORIGIN, IdRange, Position, WriterId
from walle.limits import ENTRY_DATA_BYTES_MAX, MIB
from walle.native import crc32c, records_search
from walle.record import HEADER_BYTES as TRAILER_BYTES
from walle.record import Batch, Bytes, decode, encode, scan, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from walle.record import Stop

MAGIC = b"WALLEBAK"
VERSION = 1
HEADER_BYTES = 512
READ_BYTES = 2 * MIB
"""More than the largest record has."""

_LAYOUT = struct.Struct("<8sII16sQQQH")
_CRC = struct.Struct("<I")


class Header(NamedTuple):
    """Whose entries a file holds.

    origin: the position before the first of them.
    """

    cluster_id: bytes
    stream_id: int
    name: str
    origin: Position

    def encode(self) -> bytes:
        """The file's first HEADER_BYTES."""
        name, (before_id, chain) = self.name.encode(), self.origin
        fixed = _LAYOUT.pack(
            *(MAGIC, VERSION, HEADER_BYTES, self.cluster_id, self.stream_id),
            *(before_id + 1, chain, len(name)),
        )
        covered = (fixed + name).ljust(HEADER_BYTES - _CRC.size, b"\0")
        return covered + _CRC.pack(crc32c(covered))


def decode_header(path: str, data: bytes) -> Header:
    """The header that the file at `path` begins with.

    Raises:
        CorruptionError: it is none, or of a later version.
    """
    if data[: len(MAGIC)] != MAGIC or len(data) < HEADER_BYTES:
        raise CorruptionError(
            path, 0, expected="the header of a backup file", found="other bytes; name another file"
        )
    _, version, _, cluster_id, stream_id, first_id, chain, size = _LAYOUT.unpack_from(data)
    if version != VERSION:
        found = f"version {version}; use a newer version of walle"
        raise CorruptionError(path, len(MAGIC), expected=f"version {VERSION}", found=found)
    covered, (crc,) = data[: -_CRC.size], _CRC.unpack(data[-_CRC.size :])
    if crc32c(covered) != crc:
        found = f"{crc32c(covered):08x}; use another copy of the file"
        offset = HEADER_BYTES - _CRC.size
        raise CorruptionError(path, offset, expected=f"CRC32C {crc:08x}", found=found)
    name = data[_LAYOUT.size : _LAYOUT.size + size].decode()
    return Header(cluster_id, stream_id, name, Position(first_id - 1, chain))


class BackupFile:
    """An open file; None as its header: an empty one. Make it by `open_backup`.

    tail, end: the last whole entry, and the offset behind it.
    is_complete: whether a trailer follows. All three are known by `find_end`, or once all of
        `batches` was taken.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd
        data = self._read(HEADER_BYTES, 0)
        self._header = decode_header(path, data) if data else None
        self.tail = self._header.origin if self._header else ORIGIN
        self.end = HEADER_BYTES
        self.is_complete = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written yet."""
        return self._header is None

    @property
    def header(self) -> Header:
        if self._header is None:
            raise CorruptionError(self.path, 0, expected="a backup file", found="an empty one")
        return self._header

    @property
    def held(self) -> IdRange:
        """The entries up to the tail."""
        return IdRange(self.header.origin.entry_id + 1, self.tail.entry_id + 1)

    # --- reading ----------------------------------------------------------------------------------

    def batches(self) -> Iterator[Batch]:
        """All whole records, in order; each was checked, and follows the one before it.

        Raises:
            CorruptionError: one is damaged, for it is not the rest of a run that was interrupted.
        """
        self.tail, self.end = self.header.origin, HEADER_BYTES
        while (found := scan(data := self._read(READ_BYTES, self.end), after=self.tail)).count:
            payload = Bytes(data[: found.size])
            self.tail, self.end = found.last, self.end + found.size
            yield Batch(found.first_id, found.prev_chain, found.chains, found.writer, payload)
        trailer = self._trailer()
        self.is_complete = trailer == self.tail and len(data) == TRAILER_BYTES
        if not self.is_complete and (trailer is not None or self._has_entries_behind()):
            raise self._damage(found.stop)

    def _damage(self, stop: Stop) -> CorruptionError:
        """The error of what follows the tail."""
        remedy = "use another copy of the file, or begin another"
        if self.tail != self.header.origin:
            remedy += f", or restore what is before it by --to {self.tail.entry_id}"
        expected = f"entry {self.tail.entry_id + 1}"
        return CorruptionError(
            self.path, self.end, expected=expected, found=f"{stop.name}; {remedy}"
        )

    def _has_entries_behind(self) -> bool:
        """Whether what follows the tail is more than the rest of a write that was interrupted."""
        offset = self.end
        while data := self._read(READ_BYTES, offset):
            if records_search(data, self.tail.entry_id + 1) >= 0:
                return True
            if len(data) < READ_BYTES:
                break
            offset += READ_BYTES - size_of(ENTRY_DATA_BYTES_MAX)  # a record may span two reads
        return False

    def _trailer(self) -> Position | None:
        """The last entry by the trailer; None without one."""
        offset = os.fstat(self._fd).st_size - TRAILER_BYTES
        try:
            trailer = decode(self._read(TRAILER_BYTES, max(offset, HEADER_BYTES)))
        except CorruptionError:
            return None
        is_one = not trailer.entry_id and trailer.writer.nonce == offset
        return Position(trailer.writer.ts, trailer.prev_chain) if is_one else None

    # --- writing ----------------------------------------------------------------------------------

    def begin(self, header: Header) -> None:
        """Makes the empty file one of that stream."""
        self._header = header
        self.tail = header.origin
        self._write(header.encode(), 0)

    def find_end(self) -> None:
        """Finds where to go on, by the trailer if there is one; cuts what is torn.

        Raises:
            CorruptionError: a record is damaged.
        """
        trailer = self._trailer()
        if trailer is not None:
            self.tail, self.is_complete = trailer, True
            self.end = os.fstat(self._fd).st_size - TRAILER_BYTES
            return
        for _ in self.batches():
            pass
        with _naming(self.path):
            os.ftruncate(self._fd, self.end)

    def append(self, batch: Batch) -> None:
        """Adds records that follow the last one."""
        invariant(batch.before == self.tail, "a backup goes on behind its tail", tail=self.tail)
        self._write(batch.payload.view(), self.end)
        self.tail, self.end, self.is_complete = batch.last, self.end + batch.payload.size, False

    def finish(self, time_us: int) -> None:
        """Makes all that was added durable, and says so in the file."""
        if self.is_complete:
            return
        self._sync()
        place = WriterId(self.tail.entry_id, self.end)
        trailer, _ = encode(0, place, time_us, b"", self.tail.chain)
        self._write(trailer, self.end)
        self._sync()
        self.is_complete = True

    # --- the system -------------------------------------------------------------------------------

    def _read(self, size: int, offset: int) -> bytes:
        with _naming(self.path):
            return os.pread(self._fd, size, offset)

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        left = memoryview(data)
        with _naming(self.path):
            while left:
                written = os.pwrite(self._fd, left, offset)
                left, offset = left[written:], offset + written

    def _sync(self) -> None:
        """Makes the file and its name durable."""
        directory = os.open(Path(self.path).parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with _naming(self.path):
                os.fsync(self._fd)
                os.fsync(directory)
        finally:
            os.close(directory)


@contextmanager
def open_backup(path: str, *, is_writable: bool = False) -> Iterator[BackupFile]:
    """The file at `path`; made, and kept from other runs, if it is to be written.

    Raises:
        CorruptionError: it is no backup file, or its header is damaged.
        Refused: another run is writing it.
        OSError: it cannot be opened, read or written. It names the file.
    """
    flags = os.O_RDWR | os.O_CREAT if is_writable else os.O_RDONLY
    fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
    try:
        if is_writable:
            _lock(path, fd)
        yield BackupFile(path, fd)
    finally:
        os.close(fd)


def _lock(path: str, fd: int) -> None:
    try:
        with _naming(path):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Refused(f"{path} is being written by another backup; wait for it") from None


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Lets an error of the system tell of which file it speaks."""
    try:
        yield
    except OSError as error:
        error.filename = path
        raise
