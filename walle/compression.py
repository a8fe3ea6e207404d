"""Compressed entries: what a writer's client stores in place of the data, and the way back.

Flag 0x01 of a record (`walle/record.py`): what is stored is one zstd frame (RFC 8878), whose header
tells how many bytes of data there are. No other flag is defined. CRC and chain cover what is
stored; members never look inside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zstandard

from walle.errors import UnreadableEntry
from walle.limits import COMPRESSED_DATA_BYTES_MIN, ENTRY_DATA_BYTES_MAX, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from walle.record import Entry

FLAG_ZSTD = 0x01
LEVEL = 3
UNPACKED_BYTES = 4 * MIB


class Compressor:
    """Of one writer. Threads must not share it."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)

    def pack(self, data: bytes) -> tuple[bytes, int]:
        """What to store, and its flags: the data as they are where a frame is no smaller."""
        if COMPRESSED_DATA_BYTES_MIN <= len(data) <= ENTRY_DATA_BYTES_MAX:
            frame = self._zstd.compress(data)
            if len(frame) < len(data):
                return frame, FLAG_ZSTD
        return data, 0


def make_compressor(compression: str) -> Compressor | None:
    """What packs a writer's data; None where nothing does.

    Args:
        compression: one of COMPRESSIONS, or a name of a later version, which is left alone.
    """
    return Compressor() if compression == "zstd" else None


class Decompressor:
    """Of one reader of a stream. Threads must not share it."""

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._zstd = zstandard.ZstdDecompressor()

    def unpack(self, entry: Entry) -> Entry:
        """The entry with its data as they were put.

        Raises:
            UnreadableEntry: its flags are unknown, or its data are not what they say.
        """
        if not entry.flags:
            return entry
        unknown = entry.flags & ~FLAG_ZSTD
        if unknown:
            text = f"has the unknown flag {unknown:#04x}: read it with a newer version of walle"
            raise UnreadableEntry(self._stream, entry.entry_id, text)
        try:
            return entry._replace(data=self._decode(entry.data), flags=0)
        except zstandard.ZstdError as error:
            text = (
                f"was stored as a zstd frame that cannot be decoded ({error}): its writer is at "
                f"fault; read on from entry {entry.entry_id + 1}"
            )
            raise UnreadableEntry(self._stream, entry.entry_id, text) from error

    def unpack_all(self, entries: list[Entry]) -> Iterator[list[Entry]]:
        """The same of many, in lists of a bounded size: data may be thousands of times as large as
        they are stored.

        Raises:
            UnreadableEntry: behind the last list of those before that entry.
        """
        unpacked: list[Entry] = []
        size = 0
        try:
            for entry in entries:
                unpacked.append(self.unpack(entry))
                size += len(unpacked[-1].data)
                if size >= UNPACKED_BYTES:
                    yield unpacked
                    unpacked, size = [], 0
        except UnreadableEntry:
            if unpacked:
                yield unpacked
            raise
        if unpacked:
            yield unpacked

    def _decode(self, frame: bytes) -> bytes:
        size = zstandard.frame_content_size(frame)
        if not 0 < size <= ENTRY_DATA_BYTES_MAX:  # before memory of that size is taken
            raise zstandard.ZstdError(f"its header must tell of 1 to {ENTRY_DATA_BYTES_MAX} bytes")
        return self._zstd.decompress(frame, allow_extra_data=False)
