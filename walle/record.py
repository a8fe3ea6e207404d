"""The record: one entry as its bytes, the same on the wire, in the rings and in segments.

The writer's client encodes an entry once; nobody encodes it again, so the replicas of a committed
run are byte-identical. All integers are little-endian.

     0       4               12      16              24              32              40          48
     +-------+---------------+-------+---------------+---------------+---------------+-----------+
     | crc   | prev_chain    | length| entry_id      | writer_ts     | writer_nonce  | time_us   |
     | u32   | u64           | u32   | u64           | u64           | u64           | u64       |
     +-------+---------------+-------+---------------+---------------+---------------+-----------+
     | data: `length` bytes, then zeros up to a multiple of 8                                    |
     +-------------------------------------------------------------------------------------------+

`length` holds the stored data's size in its low 24 bits and flags in its high 8 bits. Flags say in
what form the data are stored, `walle/compression.py` lists them; 0: as they were put. What is
stored is what CRC and chain cover: members never look at flags.

    crc    CRC32C of bytes 4 up to the end of the data
    chain  xxh64(bytes 12 up to the end of the data, seed = prev_chain): the record's own chain,
           which its successor carries as `prev_chain`. It covers the writer id: without it, equal
           data of two writers would make two histories look the same.

The header carries the predecessor's chain, so a record fetched alone can be verified.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, replace
from enum import IntEnum
from operator import or_
from typing import TYPE_CHECKING, NamedTuple, Protocol

import xxhash

from walle.errors import CorruptionError, LocalProtocolError
from walle.ids import NO_WRITER, Position, WriterId, new_tuple
from walle.limits import ENTRY_DATA_BYTES_MAX
from walle.native import crc32c, records_decode, records_encode, records_fit, records_scan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from walle.native import Buffer


class Field(NamedTuple):
    """One field of the header: its offset and size in bytes."""

    name: str
    offset: int
    size: int


LAYOUT = (
    Field("crc", 0, 4),
    Field("prev_chain", 4, 8),
    Field("length", 12, 4),
    Field("entry_id", 16, 8),
    Field("writer_ts", 24, 8),
    Field("writer_nonce", 32, 8),
    Field("time_us", 40, 8),
)
"""The layout table. The C core's offsets are compared with it by a test."""

HEADER = struct.Struct("<" + "".join({4: "I", 8: "Q"}[field.size] for field in LAYOUT))
HEADER_BYTES = HEADER.size
ALIGNMENT = 8
CRC_START = 4
CHAIN_START = 12
LENGTH_MASK = 0x00FF_FFFF
FLAGS_SHIFT = 24

_NO_BOUND = 1 << 62


class Stop(IntEnum):
    """Why a scan stopped. The values are the C core's."""

    END = 0  # every byte was read
    SHORT = 1  # the last record is incomplete
    BAD_LENGTH = 2
    BAD_CRC = 3
    BAD_PADDING = 4
    BAD_ID = 5  # not the predecessor's id plus one
    BAD_CHAIN = 6  # not the predecessor's chain
    FULL = 7  # a bound of the caller's was reached
    BLANK = 8  # a header of zeros: unwritten space


class Payload(Protocol):
    """Where the bytes of a batch lie: plain bytes, or a place in the node's shared arena."""

    @property
    def size(self) -> int:
        """Bytes."""

    def detach(self) -> Bytes:
        """The same bytes, to be kept for as long as one likes: copied out of the arena."""

    def view(self) -> memoryview:
        """The bytes."""


class Bytes(NamedTuple):
    """A payload that owns its bytes."""

    data: bytes | bytearray

    @property
    def size(self) -> int:
        return len(self.data)

    def detach(self) -> Bytes:
        return self

    def view(self) -> memoryview:
        return memoryview(self.data)


@dataclass(slots=True)
class Batch:
    """Consecutive records whose CRCs, ids and chains have been checked.

    first_id: the first record's entry id.
    prev_chain: the chain of the entry before it.
    chains: the chain after each record; as many as there are records, at least one.
    writer: of all the records; None when they are of several.
    """

    first_id: int
    prev_chain: int
    chains: array[int]
    writer: WriterId | None
    payload: Payload

    @property
    def count(self) -> int:
        return len(self.chains)

    @property
    def last_id(self) -> int:
        return self.first_id + len(self.chains) - 1

    @property
    def before(self) -> Position:
        """The position that the batch builds on."""
        return Position(self.first_id - 1, self.prev_chain)

    @property
    def last(self) -> Position:
        chains = self.chains
        return new_tuple(Position, (self.first_id + len(chains) - 1, chains[-1]))

    def chain_at(self, entry_id: int) -> int:
        """The chain after `entry_id`, which lies in [first_id - 1, last_id]."""
        index = entry_id - self.first_id
        return self.chains[index] if index >= 0 else self.prev_chain

    def position_at(self, entry_id: int) -> Position:
        """The position of `entry_id`, which lies in [first_id - 1, last_id]."""
        return Position(entry_id, self.chain_at(entry_id))

    def detach(self) -> Batch:
        """The same batch, its bytes kept for as long as one likes."""
        return replace(self, payload=self.payload.detach())


def joined(batches: Sequence[Batch]) -> Batch:
    """Consecutive batches of one writer, at least one, as one."""
    first = batches[0]
    if len(batches) == 1:
        return first
    chains = array("Q", first.chains)
    for batch in batches[1:]:
        chains += batch.chains
    data = b"".join([batch.payload.view() for batch in batches])
    return replace(first, chains=chains, payload=Bytes(data))


class Entry(NamedTuple):
    """One entry, decoded. The C core makes them, by the order of the fields (`decode_all`).

    time_us: when the writer's client encoded it, by its wall clock, in microseconds since 1970.
    chain: the chain after it.
    flags: in what form `data` is; 0: as it was put.
    """

    entry_id: int
    writer: WriterId
    time_us: int
    data: bytes
    chain: int
    prev_chain: int
    flags: int = 0


def size_of(data_bytes: int) -> int:
    """Bytes of the record that holds `data_bytes` of data."""
    return (HEADER_BYTES + data_bytes + ALIGNMENT - 1) & -ALIGNMENT


RECORD_BYTES_MAX = size_of(ENTRY_DATA_BYTES_MAX)


def _check_length(entry_id: int, length: int) -> None:
    if length > ENTRY_DATA_BYTES_MAX:
        raise LocalProtocolError(
            f"entry {entry_id} has {length} bytes of data; at most {ENTRY_DATA_BYTES_MAX} fit"
        )


def encode(
    entry_id: int, writer: WriterId, time_us: int, data: bytes, prev_chain: int, flags: int = 0
) -> tuple[bytes, int]:
    """The record's bytes and its chain.

    Args:
        data: what is stored, in the form that `flags` tells.

    Raises:
        LocalProtocolError: the data is larger than an entry may be.
    """
    length = len(data)
    _check_length(entry_id, length)
    lengths, times = array("I", [length | flags << FLAGS_SHIFT]), array("Q", [time_us])
    after = Position(entry_id - 1, prev_chain)
    record, chains = records_encode(data, lengths, times, after, writer, size_of(length))
    return bytes(record), chains[0]


class Encoder:
    """Collects consecutive entries of one writer, and encodes them: many at once, by one call.

    tail: the last entry that was taken.
    size: bytes of the records of those that were added and not taken.
    """

    def __init__(self, writer: WriterId, tail: Position) -> None:
        self.writer = writer
        self.tail = tail
        self.size = 0
        self._datas: list[Buffer] = []
        self._lengths = array("I")  # with the flags, as records have them
        self._times = array("Q")

    @property
    def last_id(self) -> int:
        """Of the last entry that was added."""
        return self.tail.entry_id + len(self._datas)

    def add(self, data: Buffer, time_us: int, flags: int = 0) -> None:
        """Adds the next entry.

        Args:
            data: bytes, what is stored, in the form that `flags` tells. Not copied before `take`.

        Raises:
            LocalProtocolError: the data is larger than an entry may be.
        """
        length = len(data)
        if length > ENTRY_DATA_BYTES_MAX:
            _check_length(self.last_id + 1, length)
        self._datas.append(data)
        self._lengths.append(length | flags << FLAGS_SHIFT)
        self._times.append(time_us)
        self.size += (HEADER_BYTES + length + ALIGNMENT - 1) & -ALIGNMENT

    def add_all(
        self, datas: Sequence[Buffer], time_us: int, flags: Sequence[int] | None = None
    ) -> None:
        """As `add`, of the next entries. flags: of each; None: all 0.

        Raises:
            LocalProtocolError: one of them is larger than an entry may be. None is added then.
        """
        lengths = array("I", map(len, datas))
        largest = max(lengths, default=0)
        if largest > ENTRY_DATA_BYTES_MAX:
            _check_length(self.last_id + 1 + lengths.index(largest), largest)
        if flags is not None:
            lengths = array("I", map(or_, lengths, (each << FLAGS_SHIFT for each in flags)))
        self._datas += datas
        self._lengths += lengths
        self._times += array("Q", (time_us,)) * len(lengths)
        self.size += records_fit(lengths, _NO_BOUND)[1]

    def take(self, bytes_max: int = _NO_BOUND) -> Batch:
        """Encodes what was added since it was called last: as many entries as fit so many bytes of
        records, at least one. At least one was added."""
        count, size = records_fit(self._lengths, bytes_max)
        datas, lengths, before = self._datas[:count], self._lengths[:count], self.tail
        data = datas[0] if count == 1 else b"".join(datas)
        records, chains = records_encode(
            data, lengths, self._times[:count], before, self.writer, size
        )
        del self._datas[:count], self._lengths[:count], self._times[:count]
        self.size -= size
        batch = Batch(before.entry_id + 1, before.chain, chains, self.writer, Bytes(records))
        self.tail = batch.last
        return batch


@dataclass(slots=True)
class Scan:
    """What a scan found: `count` good records in `size` bytes, and why it stopped there.

    first_id, prev_chain: of the first good record; 0 when there is none.
    chains: the chain after each good record.
    writer: of all good records, None when they are of several or none.
    """

    count: int
    size: int
    stop: Stop
    first_id: int
    prev_chain: int
    chains: array[int]
    writer: WriterId | None

    @property
    def last(self) -> Position:
        """The last good record's position."""
        return Position(self.first_id + self.count - 1, self.chains[-1])


def scan(
    buffer: Buffer,
    *,
    after: Position | None = None,
    count_max: int = 1 << 20,
    size_max: int = 1 << 62,
) -> Scan:
    """Checks consecutive records: length, CRC, padding, id and chain of each.

    Args:
        buffer: bytes that begin with a record.
        after: the position the first record must follow; None: any.
        count_max: stop with FULL once so many records were read.
        size_max: stop with FULL at the first record boundary at or behind so many bytes.
    """
    found, chains = records_scan(buffer, after, count_max, size_max)
    writer = (
        None if found.mixed or not found.count else WriterId(found.writer_ts, found.writer_nonce)
    )
    return Scan(
        found.count, found.size, Stop(found.stop), found.first_id, found.prev_chain, chains, writer
    )


def check(payload: Payload, *, where: str) -> Batch:
    """The batch that `payload` holds, every record checked.

    Raises:
        CorruptionError: the payload is not wholly good, consecutive records, or is empty.
    """
    found, chains = records_scan(payload.view(), None, _NO_BOUND, _NO_BOUND)
    if found.stop or not found.count:
        what = Stop(found.stop).name
        raise CorruptionError(
            where, found.size, expected="a record that passes its checks", found=what
        )
    writer = None
    if not found.mixed:
        writer = new_tuple(WriterId, (found.writer_ts, found.writer_nonce))
    return Batch(found.first_id, found.prev_chain, chains, writer, payload)


def decode(buffer: memoryview | bytes, offset: int = 0) -> Entry:
    """The entry whose record begins at `offset`, checked by CRC.

    Raises:
        CorruptionError: the record fails a check.
    """
    if len(buffer) - offset < HEADER_BYTES:
        raise CorruptionError("record", offset, expected="a whole header", found="fewer bytes")
    crc, prev_chain, length, entry_id, ts, nonce, time_us = HEADER.unpack_from(buffer, offset)
    size = length & LENGTH_MASK
    end = offset + HEADER_BYTES + size
    if size > ENTRY_DATA_BYTES_MAX or end > len(buffer):
        raise CorruptionError("record", offset, expected="its data", found=f"a length of {size}")
    found = crc32c(buffer[offset + CRC_START : end])
    if found != crc:
        raise CorruptionError("record", offset, expected=f"CRC32C {crc:08x}", found=f"{found:08x}")
    chain = xxhash.xxh64_intdigest(buffer[offset + CHAIN_START : end], prev_chain)
    data = bytes(buffer[offset + HEADER_BYTES : end])
    return Entry(
        entry_id, WriterId(ts, nonce), time_us, data, chain, prev_chain, length >> FLAGS_SHIFT
    )


def decode_all(batch: Batch, count: int | None = None) -> list[Entry]:
    """The batch's entries; `count`: so many from its first on."""
    chains = batch.chains if count is None else batch.chains[:count]
    return records_decode(batch.payload.view(), chains, Entry, WriterId)


__all__ = [
    "ALIGNMENT",
    "CHAIN_START",
    "CRC_START",
    "HEADER",
    "HEADER_BYTES",
    "LAYOUT",
    "NO_WRITER",
    "RECORD_BYTES_MAX",
    "Batch",
    "Bytes",
    "Encoder",
    "Entry",
    "Payload",
    "Scan",
    "Stop",
    "check",
    "decode",
    "decode_all",
    "encode",
    "joined",
    "scan",
    "size_of",
]
