"""The C core's functions as Python functions: checksums, checks of records, parallel syncs.

The C core holds what costs time per byte or must run without the interpreter lock, which every
call here gives up but the one that makes Python objects (`records_decode`). It decides nothing of
the protocol. What each function must do is said a second time, in plain Python, by
tests/native/twins.py.

A buffer is contiguous bytes. It must not change while a call reads it; nobody keeps it afterwards.
"""

from __future__ import annotations

import os
from array import array
from mmap import mmap
from typing import Any, NamedTuple, TypeAlias, TypeVar

from walle.errors import invariant
from walle.ids import new_tuple
from walle.native._core import ffi, lib
from walle.native._entries import decode

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap
E = TypeVar("E", bound=tuple[Any, ...])

_from_buffer = ffi.from_buffer
_WORDS = ffi.typeof("uint64_t[]")
_LENGTHS = ffi.typeof("uint32_t[]")
_FILES = ffi.typeof("int[]")
_ZERO = array("Q", [0])
_FOUND_COUNT: int = lib.WALLE_RECORDS_FOUND_COUNT
_HEADER_BYTES: int = lib.WALLE_RECORD_HEADER_SIZE
_RECORD_BYTES_MAX: int = _HEADER_BYTES + lib.WALLE_RECORD_DATA_SIZE_MAX


def crc32c(data: Buffer, crc: int = 0) -> int:
    """CRC-32C (Castagnoli) of `data`, continued from `crc`, the CRC of the bytes before it."""
    pointer = data if type(data) is bytes else _from_buffer(data)
    return lib.walle_crc32c_extend(crc, pointer, len(pointer))  # type: ignore[no-any-return]


def crc32c_portable(data: Buffer, crc: int = 0) -> int:
    """The same without the processor's CRC instruction."""
    pointer = _from_buffer(data)
    return lib.walle_crc32c_extend_portable(crc, pointer, len(pointer))  # type: ignore[no-any-return]


def crc32c_is_hardware() -> bool:
    """Whether `crc32c` uses the processor's CRC instruction."""
    return bool(lib.walle_crc32c_is_hardware())


def xxh64(data: Buffer, seed: int = 0) -> int:
    """XXH64 of `data`, as records are chained by in the C core."""
    pointer = _from_buffer(data)
    return lib.walle_xxh64_hash(pointer, len(pointer), seed)  # type: ignore[no-any-return]


class ScanResult(NamedTuple):
    """What a scan found; see `walle.record.Scan`.

    count, size: the good records and their bytes.
    stop: why it stopped there, a `walle.record.Stop`.
    first_id, prev_chain, writer_ts, writer_nonce: of the first good record; 0 without one.
    mixed: 1 if the good records are of several writers, else 0.
    """

    count: int  # type: ignore[assignment]  # tuple's method of that name is not missed
    size: int
    stop: int
    first_id: int
    prev_chain: int
    writer_ts: int
    writer_nonce: int
    mixed: int


def records_scan(
    buffer: Buffer, after: tuple[int, int] | None, count_max: int, size_max: int
) -> tuple[ScanResult, array[int]]:
    """Checks consecutive records; returns what was found and the chain after each good record.

    The checks of a record, in this order:

        BLANK       the header is zeros, or fewer bytes than a header are left and all are zeros
        SHORT       fewer bytes than a header are left
        BAD_LENGTH  the length is above the entry maximum
        SHORT       fewer bytes than the record has are left
        BAD_CRC, BAD_PADDING
        BAD_ID      the id is 0, or is not the predecessor's plus one
        BAD_CHAIN   the predecessor's chain is another

    Args:
        buffer: begins with a record.
        after: the entry id and the chain that the first record must follow; None: any.
        count_max: FULL is returned when so many records were read and bytes are left,
        size_max: or at the first record boundary at or behind so many bytes.
    """
    pointer, size = _from_buffer(buffer), len(buffer)
    room = min(count_max, size // _HEADER_BYTES)
    # One allocation: the chains, and behind them what was found.
    words = _ZERO * (room + _FOUND_COUNT)
    chains = _from_buffer(_WORDS, words)
    entry_id, chain = after or (0, 0)
    lib.walle_records_scan(
        pointer, size, after is not None, entry_id, chain, count_max, size_max,
        chains, chains + room,
    )  # fmt: skip
    found = new_tuple(ScanResult, words[room:])
    return found, words[: found.count]


def records_seek(buffer: Buffer, entry_id: int) -> int:
    """The offset of the record with that id; -1 if it is not there.

    Args:
        buffer: consecutive records that were checked; only their headers are read.
    """
    pointer = _from_buffer(buffer)
    return lib.walle_records_seek(pointer, len(pointer), entry_id)  # type: ignore[no-any-return]


def records_decode(
    buffer: Buffer, chains: array[int], entry_type: type[E], writer_type: type[tuple[int, int]]
) -> list[E]:
    """What consecutive records hold. Keeps the interpreter lock.

    Args:
        buffer: records that were checked, as many as chains at least.
        chains: the chain after each.
        entry_type: the class of the entries: a NamedTuple of an entry's id, its writer, time, data,
            chain, predecessor's chain and flags.
        writer_type: that of the writers: one of their two numbers.

    Raises:
        InvariantError: there are fewer records.
    """
    found = decode(entry_type, writer_type, buffer, chains)
    invariant(
        len(found) == len(chains), "so many records are there", count=len(chains), found=len(found)
    )
    return found


def records_search(buffer: Buffer, first_id: int) -> int:
    """The offset of the first record with an id of `first_id` or above; -1 if there is none.

    Args:
        buffer: any bytes. Records are looked for at every multiple of 8, and count when length,
            CRC and padding are good.
    """
    pointer = _from_buffer(buffer)
    return lib.walle_records_search(pointer, len(pointer), first_id)  # type: ignore[no-any-return]


class FilePlace(NamedTuple):
    """Where in a file a record begins, and the id and chain of the entry before it."""

    offset: int
    entry_id: int
    chain: int


def records_follow(fd: int, place: FilePlace, *, end: int, last_id: int) -> FilePlace:
    """Checks a file's records from `place` on, until one fails, or ends at byte `end` or with the
    entry `last_id`; returns the place behind the last good one.

    A record that the device cannot read fails.
    """
    buffer = bytearray(_RECORD_BYTES_MAX)
    chains = _ZERO * (_RECORD_BYTES_MAX // _HEADER_BYTES)
    moved = ffi.new("walle_records_place *", place)
    lib.walle_records_follow(
        fd, moved, end, last_id, _from_buffer(buffer), len(buffer), _from_buffer(_WORDS, chains)
    )
    return FilePlace(moved.offset, moved.entry_id, moved.chain)


def records_fit(lengths: array[int], size_max: int) -> tuple[int, int]:
    """How many records fit `size_max` bytes, at least one if there is one; and their bytes.

    Args:
        lengths: the records' fields of that name, in order: array type "I".
    """
    size = ffi.new("uint64_t *")
    count = lib.walle_records_fit(_from_buffer(_LENGTHS, lengths), len(lengths), size_max, size)
    return count, size[0]


def records_encode(
    data: Buffer,
    lengths: array[int],
    times: array[int],
    after: tuple[int, int],
    writer: tuple[int, int],
    size: int,
) -> tuple[bytearray, array[int]]:
    """Makes consecutive records; returns them and the chain after each.

    Args:
        data: what the records hold, one behind the other.
        lengths: the records' fields of that name: array type "I".
        times: the same: array type "Q".
        after: the entry id and the chain that the first record follows.
        writer: of all of them.
        size: bytes of all the records, as `records_fit` tells.

    Raises:
        InvariantError: the lengths do not make up the data, or the size.
    """
    records = bytearray(size)
    chains = _ZERO * len(lengths)
    pointer = _from_buffer(data)
    is_made = lib.walle_records_encode(
        pointer, len(pointer), _from_buffer(_LENGTHS, lengths), _from_buffer(_WORDS, times),
        len(lengths), after[0] + 1, after[1], *writer,
        _from_buffer(records), size, _from_buffer(_WORDS, chains),
    )  # fmt: skip
    invariant(is_made, "records are made of all the data", data=len(pointer), size=size)
    return records, chains


def sync_files(fds: list[int], threads_max: int = 8) -> list[int]:
    """Makes the data of all these files durable, several at once.

    Returns the errno of each, 0 for a file whose data is on the disk. Whoever gets another value
    must not sync that file again and believe the answer: the system reports a lost write once.
    """
    files = ffi.new(_FILES, fds)
    lib.walle_sync_files(files, len(fds), threads_max)
    return ffi.unpack(files, len(fds))  # type: ignore[no-any-return]


def set_parent_death_signal(signal: int) -> None:
    """Lets the system send `signal` to this process when the thread that forked it ends.

    A parent that ended before the call sends nothing; so look at `os.getppid()` after it.

    Raises:
        OSError: the signal is none, or the system cannot do it.
    """
    error = lib.walle_process_set_parent_death_signal(signal)
    if error:
        raise OSError(error, os.strerror(error))


def return_large_blocks() -> None:
    """From now on, what this process frees in large blocks goes back to the system at once."""
    lib.walle_process_return_large_blocks()
