"""What each function of the C core must do, in plain Python: the shortest text, at any price.

The tests give the same input to both and compare.
"""

from __future__ import annotations

import errno
import os
from array import array
from collections import deque
from typing import TYPE_CHECKING

from walle.ids import WriterId
from walle.native import FilePlace, ScanResult
from walle.record import FLAGS_SHIFT, HEADER, HEADER_BYTES, LENGTH_MASK, Entry, Stop

if TYPE_CHECKING:
    from collections.abc import Sequence

MASK_64 = (1 << 64) - 1
DATA_BYTES_MAX = 1 << 20


def crc32c(data: bytes, crc: int = 0) -> int:
    """Bit by bit, as the polynomial division that it is."""
    crc ^= 0xFFFF_FFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    return crc ^ 0xFFFF_FFFF


PRIMES = (
    0,
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
)


def _rotate(value: int, bits: int) -> int:
    value &= MASK_64
    return (value << bits | value >> (64 - bits)) & MASK_64


def _round(lane: int, word: int) -> int:
    return _rotate(lane + word * PRIMES[2], 31) * PRIMES[1] & MASK_64


def xxh64(data: bytes, seed: int = 0) -> int:
    """Step by step after the specification."""
    offset = 0

    def take(size: int) -> int:
        nonlocal offset
        offset += size
        return int.from_bytes(data[offset - size : offset], "little")

    if len(data) >= 32:
        lanes = [seed + PRIMES[1] + PRIMES[2], seed + PRIMES[2], seed, seed - PRIMES[1]]
        while len(data) - offset >= 32:
            lanes = [_round(lane, take(8)) for lane in lanes]
        bits = (1, 7, 12, 18)
        acc = sum(_rotate(lane, count) for lane, count in zip(lanes, bits, strict=True))
        for lane in lanes:
            acc = (acc ^ _round(0, lane)) * PRIMES[1] + PRIMES[4] & MASK_64
    else:
        acc = seed + PRIMES[5]
    acc = acc + len(data) & MASK_64
    while len(data) - offset >= 8:
        acc = _rotate(acc ^ _round(0, take(8)), 27) * PRIMES[1] + PRIMES[4] & MASK_64
    if len(data) - offset >= 4:
        acc = _rotate(acc ^ take(4) * PRIMES[1] & MASK_64, 23) * PRIMES[2] + PRIMES[3] & MASK_64
    while offset < len(data):
        acc = _rotate(acc ^ take(1) * PRIMES[5] & MASK_64, 11) * PRIMES[1] & MASK_64
    acc = (acc ^ acc >> 33) * PRIMES[2] & MASK_64
    acc = (acc ^ acc >> 29) * PRIMES[3] & MASK_64
    return acc ^ acc >> 32


def _why_not_good(rest: bytes) -> Stop | None:
    """What is wrong with the bytes of the record that `rest` begins with."""
    if not any(rest[:HEADER_BYTES]):
        return Stop.BLANK
    if len(rest) < HEADER_BYTES:
        return Stop.SHORT
    crc, _, length, *_ = HEADER.unpack_from(rest)
    end = HEADER_BYTES + (length & 0xFF_FFFF)
    if end - HEADER_BYTES > DATA_BYTES_MAX:
        return Stop.BAD_LENGTH
    size = record_size(rest)
    if size > len(rest):
        return Stop.SHORT
    if crc32c(rest[4:end]) != crc:
        return Stop.BAD_CRC
    if any(rest[end:size]):
        return Stop.BAD_PADDING
    return None


def record_size(rest: bytes) -> int:
    """Bytes of the record that `rest` begins with, by its header."""
    length = int.from_bytes(rest[12:15], "little")
    return (HEADER_BYTES + length + 7) // 8 * 8


def records_scan(
    buffer: bytes, after: tuple[int, int] | None, count_max: int, size_max: int
) -> tuple[ScanResult, array[int]]:
    """Record by record; the state is the position that the next one must follow."""
    chains = array("Q")
    first = (0, 0, 0, 0)
    writers = set()
    offset = 0
    stop = None
    while stop is None:
        rest = buffer[offset:]
        if not rest:
            stop = Stop.END
        elif len(chains) == count_max or offset >= size_max:
            stop = Stop.FULL
        else:
            stop = _why_not_good(rest)
        if stop is not None:
            break
        _, prev_chain, length, entry_id, ts, nonce, _ = HEADER.unpack_from(rest)
        if entry_id == 0 or (after is not None and entry_id != after[0] + 1):
            stop = Stop.BAD_ID
            break
        if after is not None and prev_chain != after[1]:
            stop = Stop.BAD_CHAIN
            break
        chain = xxh64(rest[12 : HEADER_BYTES + (length & 0xFF_FFFF)], prev_chain)
        if not chains:
            first = (entry_id, prev_chain, ts, nonce)
        chains.append(chain)
        writers.add((ts, nonce))
        after = (entry_id, chain)
        offset += record_size(rest)
    return ScanResult(len(chains), offset, stop, *first, len(writers) > 1), chains


def records_follow(data: bytes, place: FilePlace, *, end: int, last_id: int) -> FilePlace:
    """data: the file."""
    offset, *before = place
    after = before[0], before[1]
    count_max = max(last_id - place.entry_id, 0)
    found, chains = records_scan(data[offset:end], after, count_max, len(data))
    if not chains:
        return place
    return FilePlace(offset + found.size, place.entry_id + found.count, chains[-1])


def records_seek(buffer: bytes, entry_id: int) -> int:
    """For consecutive good records only."""
    offset = 0
    while offset < len(buffer):
        if HEADER.unpack_from(buffer, offset)[3] == entry_id:
            return offset
        offset += record_size(buffer[offset:])
    return -1


def records_decode(buffer: bytes, chains: array[int]) -> list[Entry]:
    """For consecutive good records only."""
    entries = []
    for chain in chains:
        _, prev_chain, length, entry_id, *writer, time_us = HEADER.unpack_from(buffer)
        data = buffer[HEADER_BYTES : HEADER_BYTES + (length & LENGTH_MASK)]
        flags = length >> FLAGS_SHIFT
        entries.append(Entry(entry_id, WriterId(*writer), time_us, data, chain, prev_chain, flags))
        buffer = buffer[record_size(buffer) :]
    return entries


def records_search(buffer: bytes, first_id: int) -> int:
    """Every place that is a multiple of 8."""
    for offset in range(0, len(buffer) - HEADER_BYTES + 1, 8):
        rest = buffer[offset:]
        if _why_not_good(rest) is None and HEADER.unpack_from(rest)[3] >= max(first_id, 1):
            return offset
    return -1


def records_fit(lengths: array[int], size_max: int) -> tuple[int, int]:
    """All counts, from the largest on."""
    sizes = [(HEADER_BYTES + (length & 0xFF_FFFF) + 7) // 8 * 8 for length in lengths]
    for count in range(len(sizes), -1, -1):
        if count <= 1 or sum(sizes[:count]) <= size_max:
            return count, sum(sizes[:count])
    raise AssertionError


def records_encode(
    data: bytes,
    lengths: array[int],
    times: array[int],
    after: tuple[int, int],
    writer: tuple[int, int],
) -> tuple[bytearray, array[int]]:
    """Record by record."""
    records, chains = bytearray(), array("Q")
    entry_id, chain = after
    for length, time_us in zip(lengths, times, strict=True):
        size = length & 0xFF_FFFF
        entry_id += 1
        covered = HEADER.pack(0, chain, length, entry_id, *writer, time_us)[4:] + data[:size]
        chain = xxh64(covered[8:], chain)
        record = crc32c(covered).to_bytes(4, "little") + covered
        records += record + bytes(-len(record) % 8)
        chains.append(chain)
        data = data[size:]
    return records, chains


def sync_files(fds: Sequence[int]) -> list[int]:
    """One after the other."""
    results = []
    for fd in fds:
        try:
            os.fdatasync(fd)
        except OSError as error:
            results.append(error.errno or errno.EIO)
        else:
            results.append(0)
    return results


def _with_header(size: int) -> int:
    return 8 + (size + 7) // 8 * 8


class Ring:
    """A ring in one process: a queue a state, and each message with the room that it takes."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.written: deque[tuple[bytes, int]] = deque()
        self.published: deque[tuple[bytes, int]] = deque()
        self.consumed: deque[tuple[bytes, int]] = deque()
        self.written_bytes = 0
        self.released_bytes = 0
        self.consumer_sleeps = False
        self.producer_waits_for = 0

    def _room(self, size: int) -> int:
        """What a message takes: its header, its bytes up to a multiple of 8, what a wrap skips."""
        size = _with_header(size)
        rest = self.capacity - self.written_bytes % self.capacity
        return size + (rest if size > rest else 0)

    def _missing(self, size: int) -> int:
        """How much must be released before a message of that size has room."""
        return self.written_bytes + self._room(size) - self.released_bytes - self.capacity

    def try_write(self, *parts: bytes) -> bool:
        message = b"".join(parts)
        if self._missing(len(message)) > 0:
            return False
        room = self._room(len(message))
        self.written.append((message, room))
        self.written_bytes += room
        return True

    def publish(self) -> bool:
        if not self.written:
            return False
        self.published.extend(self.written)
        self.written.clear()
        is_ringing, self.consumer_sleeps = self.consumer_sleeps, False
        return is_ringing

    def arm_producer(self, size: int) -> bool:
        if self._missing(size) <= 0:
            return False
        self.producer_waits_for = self.released_bytes + self._missing(size)
        return True

    def consume(self, bytes_max: int) -> list[bytes]:
        messages: list[bytes] = []
        taken = 0
        while self.published and (not messages or taken < bytes_max):
            message, room = self.published.popleft()
            self.consumed.append((message, room))
            messages.append(message)
            taken += _with_header(len(message))
        return messages

    def release(self) -> bool:
        self.released_bytes += sum(room for _, room in self.consumed)
        is_idle = not self.consumed
        self.consumed.clear()
        if is_idle or not 0 < self.producer_waits_for <= self.released_bytes:
            return False
        self.producer_waits_for = 0
        return True

    def arm_consumer(self) -> bool:
        self.consumer_sleeps = not self.published
        return self.consumer_sleeps
