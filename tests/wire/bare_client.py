"""A client on bare sockets, written from docs/wire.md: no library, this file is all of it.

    python bare_client.py 127.0.0.1:7411 /bare 50

connects to that one node, finds or creates the stream, claims it, puts 50 entries through the
node, renews its lease for a while, reads all entries back and checks every CRC and chain, asks who
the writer is, and releases the stream. It ends with status 0, or with an error.

Left out: changing to another node when this one fails ("Puts through one member", step 5).
"""

# ruff: noqa: T201 - it is a program that prints

from __future__ import annotations

import socket
import struct
import sys
import time
from typing import NamedTuple

# --- checksums ------------------------------------------------------------------------------------

M = (1 << 64) - 1
P1, P2, P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P4, P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ (0x82F63B78 if crc & 1 else 0) for crc in table]
    return table


CRC_TABLE = crc_table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def rotl(x: int, bits: int) -> int:
    return (x << bits | x >> 64 - bits) & M


def mix(lane: int, value: int) -> int:
    return rotl(lane + value * P2 & M, 31) * P1 & M


def xxh64(data: bytes, seed: int) -> int:
    at, h = 0, seed + P5 & M
    if len(data) >= 32:
        lanes = [seed + P1 + P2 & M, seed + P2 & M, seed, seed - P1 & M]
        for at in range(0, len(data) - 31, 32):
            words = struct.unpack_from("<4Q", data, at)
            lanes = [mix(lane, word) for lane, word in zip(lanes, words, strict=True)]
        at += 32
        h = sum(rotl(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & M
        for lane in lanes:
            h = (h ^ mix(0, lane)) * P1 + P4 & M
    h = h + len(data) & M
    while at + 8 <= len(data):
        h = rotl(h ^ mix(0, struct.unpack_from("<Q", data, at)[0]), 27) * P1 + P4 & M
        at += 8
    if at + 4 <= len(data):
        h = rotl(h ^ struct.unpack_from("<I", data, at)[0] * P1 & M, 23) * P2 + P3 & M
        at += 4
    for byte in data[at:]:
        h = rotl(h ^ byte * P5 & M, 11) * P1 & M
    h = (h ^ h >> 33) * P2 & M
    h = (h ^ h >> 29) * P3 & M
    return h ^ h >> 32


# --- records --------------------------------------------------------------------------------------

RECORD = struct.Struct("<IQIQQQQ")  # crc, prev_chain, length, entry_id, writer, time_us


class Position(NamedTuple):
    """An entry's id and its chain."""

    entry_id: int
    chain: int


def encode_record(after: Position, writer: tuple[int, ...], data: bytes) -> tuple[bytes, Position]:
    """The next entry's record, and its position."""
    entry_id, time_us = after.entry_id + 1, time.time_ns() // 1000
    header = RECORD.pack(0, after.chain, len(data), entry_id, *writer, time_us)
    record = struct.pack("<I", crc32c(header[4:] + data)) + header[4:] + data
    return record + bytes(-len(record) % 8), Position(entry_id, xxh64(record[12:], after.chain))


def decode_records(records: bytes, after: Position | None) -> list[tuple[Position, bytes]]:
    """The entries with their positions; `after` is what the first must follow, if that is known."""
    entries, at = [], 0
    while at < len(records):
        crc, prev_chain, length, entry_id, *_ = RECORD.unpack_from(records, at)
        end = at + RECORD.size + (length & 0xFFFFFF)
        check(crc32c(records[at + 4 : end]) == crc, f"entry {entry_id} fails its CRC")
        check(not length >> 24, f"entry {entry_id} is compressed, or of a later version")
        if after is not None:
            check(after == (entry_id - 1, prev_chain), f"entry {entry_id} does not follow {after}")
        after = Position(entry_id, xxh64(records[at + 12 : end], prev_chain))
        entries.append((after, records[at + RECORD.size : end]))
        at = end + -end % 8
    return entries


def check(condition: bool, text: str) -> None:
    if not condition:
        raise RuntimeError(text)


# --- frames ---------------------------------------------------------------------------------------

HEADER = struct.Struct("<IIIHHQ")  # crc, size, head, type, zero, request_id
HELLO, WELCOME, FAILURE, PUT, PUT_REPLY, CLAIM, CLAIM_REPLY = 1, 2, 3, 10, 11, 12, 13
RELEASE, RELEASE_REPLY, WRITER_STATUS, WRITER_STATUS_REPLY, READ, READ_REPLY = (
    14,
    15,
    16,
    17,
    20,
    21,
)
DESCRIBE, STREAM_INFO, CREATE_STREAM = 30, 31, 34
OK, BUSY, CONFLICT, UNKNOWN_STREAM = 0, 1, 6, 7
RELAY = 1
NO_MARK = 0  # the relay echoes marks by itself
PUTS = 1 << 32  # the request id that all puts share


class RefusedError(Exception):
    """The node answered with a Failure."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"refused with code {code}: {text}")
        self.code = code


class Frame:
    """A received frame; its fields are taken one after the other."""

    def __init__(self, whole: bytes) -> None:
        crc, size, head, self.type, zero, self.request_id = HEADER.unpack_from(whole)
        check(zero == 0 and 24 <= head <= size == len(whole), "impossible sizes")
        check(crc32c(whole[4:head]) == crc, "a frame fails its CRC")
        self.records, self._message, self._at = whole[head:], whole[:head], HEADER.size

    def take(self, layout: str) -> tuple[int, ...]:
        values = struct.unpack_from("<" + layout, self._message, self._at)
        self._at += struct.calcsize("<" + layout)
        return values

    def number(self, layout: str) -> int:
        return self.take(layout)[0]

    def text(self) -> str:
        self._at += 2 + (size := struct.unpack_from("<H", self._message, self._at)[0])
        return self._message[self._at - size : self._at].decode()


def text(value: str) -> bytes:
    return struct.pack("<H", len(value.encode())) + value.encode()


class Session:
    """A connection to one node, with the handshake done."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""
        self._last_id = 0
        hello = struct.pack("<HB", 1, 0) + bytes(16) + text("") + bytes(16)
        welcome = self.ask(HELLO, hello, WELCOME)
        self.protocol, self.cluster = welcome.number("H"), bytes(welcome.take("16B"))
        self.node = welcome.text()

    def send(self, number: int, message: bytes, request_id: int, records: bytes = b"") -> None:
        message += bytes(-len(message) % 8)
        head = HEADER.size + len(message)
        header = HEADER.pack(0, head + len(records), head, number, 0, request_id)
        crc = crc32c(header[4:] + message)
        self._socket.sendall(struct.pack("<I", crc) + header[4:] + message + records)

    def receive(self, timeout_s: float = 10.0) -> Frame | None:
        """The next frame; None if none comes in that time."""
        while len(self._received) < (size := self._wanted()):
            self._socket.settimeout(max(timeout_s, 0.001))
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                return None
            check(bool(data), "the node closed the connection")
            self._received += data
        data, self._received = self._received[:size], self._received[size:]
        frame = Frame(data)
        if frame.type == FAILURE:
            raise RefusedError(frame.number("H"), frame.text())
        return frame

    def _wanted(self) -> int:
        """Bytes of the frame that is arriving, as far as can be told."""
        if len(self._received) < HEADER.size:
            return HEADER.size
        size: int = HEADER.unpack_from(self._received)[1]
        check(HEADER.size <= size <= 2_097_152, "a frame is too large")
        return size

    def ask(self, number: int, message: bytes, answer: int) -> Frame:
        """Sends a request and waits for its answer; BUSY is asked again. Late answers to puts,
        which share an id of their own, are passed over."""
        for _ in range(100):
            self._last_id += 1
            self.send(number, message, self._last_id)
            try:
                while (frame := self.receive()) is None or frame.request_id != self._last_id:
                    check(frame is not None, "no answer in 10 s")
            except RefusedError as refused:
                if refused.code != BUSY:
                    raise
                time.sleep(0.05)
                continue
            check(frame.type == answer, f"request {number} was answered by {frame.type}")
            return frame
        raise RuntimeError("the node is busy all the time")


# --- the writer -----------------------------------------------------------------------------------


def now() -> float:
    """Seconds on a clock that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Writer:
    """A claimed stream, written through one member."""

    def __init__(self, session: Session, stream_id: int, lease_ms: int) -> None:
        address = text(f"bare client on {socket.gethostname()}")
        message = struct.pack("<Q", stream_id) + address + struct.pack("<IIB", lease_ms, 9_000, 0)
        reply = session.ask(CLAIM, message, CLAIM_REPLY)
        self.stream_id, self.version = reply.take("QQ")
        self.id = reply.take("QQ")
        self.tail = self.committed = Position(*reply.take("QQ"))
        self.exclusive_until = 0.0
        self._session, self._lease_s, self._transmission = session, lease_ms / 1000, 0
        self._sent: dict[int, float] = {}  # by transmission, when it was sent
        self._heartbeat_at = self._resend_at = 0.0
        self._unacknowledged: list[tuple[Position, bytes]] = []

    def put(self, data: bytes) -> None:
        """Sends an entry; waits for nothing."""
        record, self.tail = encode_record(self.tail, self.id, data)
        self._unacknowledged.append((self.tail, record))
        self._send(record)

    def _send(self, record: bytes = b"") -> None:
        self._transmission += 1
        self._sent[self._transmission] = now()
        self._heartbeat_at = now() + self._lease_s / 5
        place = (self.stream_id, self.version, *self.id, self._transmission, *self.committed)
        self._session.send(PUT, struct.pack("<7QBQ", *place, RELAY, NO_MARK), PUTS, record)

    def work(self, until: float) -> None:
        """Takes one answer if one comes by then; heartbeats and sends again what is due."""
        if self._unacknowledged and now() >= self._resend_at > 0:
            self._resend_at = now() + 1
            self._send()
            for _, record in self._unacknowledged:
                self._send(record)
        if now() >= self._heartbeat_at:
            self._send()
        reply = self._session.receive(min(until, self._heartbeat_at) - now())
        if reply is None or reply.type != PUT_REPLY:
            return
        _, code, version, _, _, transmission, held_id, held_chain = reply.take("QHQQQQQQ")
        if code in {BUSY, CONFLICT}:
            self._resend_at = now() + 0.05
            return
        check(code == OK, f"the put was answered with code {code}")
        if version != self.version:
            return
        sent = self._sent.get(transmission, 0.0)
        self._sent = {number: at for number, at in self._sent.items() if number >= transmission}
        self.exclusive_until = max(self.exclusive_until, sent + self._lease_s * 3 / 4)
        self._resend_at = now() + 1
        if held_id > self.committed.entry_id:
            self.committed = Position(held_id, held_chain)
            self._unacknowledged = [
                each for each in self._unacknowledged if each[0].entry_id > held_id
            ]

    def release(self) -> int:
        """Gives the stream back; returns the answer's code."""
        place = (self.stream_id, self.version, *self.id, *self.committed)
        reply = self._session.ask(RELEASE, struct.pack("<6QB", *place, RELAY), RELEASE_REPLY)
        return reply.take("QH")[1]


# --- the program ----------------------------------------------------------------------------------


def find_or_create(session: Session, name: str) -> int:
    """The stream's id."""
    try:
        info = session.ask(DESCRIBE, text(name), STREAM_INFO)
    except RefusedError as refused:
        if refused.code != UNKNOWN_STREAM:
            raise
        settings = text("none") + struct.pack("<QQBII", 0, 0, 0, 0, 0)
        wanted = text(name) + struct.pack("<I", 0) + settings + struct.pack("<QQ", 0, 0)
        info = session.ask(CREATE_STREAM, wanted, STREAM_INFO)
    return info.number("Q")


def read_all(session: Session, stream_id: int) -> list[tuple[Position, bytes]]:
    """All entries that are acknowledged by now, checked from the first to the last."""
    entries: list[tuple[Position, bytes]] = []
    after, end, linearizable = Position(0, 0), 1, 1
    while after.entry_id < end:
        wanted = stream_id, after.entry_id + 1, 1 << 19, 0, linearizable, 0, 0
        message = struct.pack("<QQIIBBQ", *wanted)
        reply = session.ask(READ, message, READ_REPLY)
        if linearizable:
            _, first_id, end, _ = reply.take("QQQQ")
            check(first_id == 1, "the stream was trimmed; this program wants it all")
        entries += decode_records(reply.records, after)
        after, linearizable = (entries[-1][0] if entries else after), 0
    return entries


def main() -> None:
    address, name, count, lease_ms = sys.argv[1], sys.argv[2], int(sys.argv[3]), 1_000
    session = Session(address)
    print(f"connected with {session.node} of cluster {session.cluster.hex()}")
    stream_id = find_or_create(session, name)
    writer = Writer(session, stream_id, lease_ms)
    while now() > writer.exclusive_until:
        writer.work(until=now() + 1)
    print(f"claimed stream {stream_id}, which ends at entry {writer.tail.entry_id}")

    written = [f"entry {number} ".encode() * (number % 9) for number in range(count)]
    for data in written:
        writer.put(data)
    while writer.committed != writer.tail:
        writer.work(until=now() + 1)
    print(f"{count} entries are durable, the last is {writer.committed.entry_id}")
    for _ in range(3):  # renews the lease until three quarters of it have gone by three times
        first, until = writer.exclusive_until, now() + lease_ms / 1000
        while now() < until:
            check(now() < writer.exclusive_until, "the lease has lapsed")
            writer.work(until)
        check(writer.exclusive_until > first, "heartbeats renew the lease")

    entries = read_all(session, stream_id)
    check([data for _, data in entries[-count:]] == written, "what was put is what is read")
    check(entries[-1][0] == writer.committed, "the chain read is the chain written")
    print(f"read {len(entries)} entries; every CRC and every chain is good")

    asked = struct.pack("<QBQQI", stream_id, 0, 0, 0, 0)
    status = session.ask(WRITER_STATUS, asked, WRITER_STATUS_REPLY)
    _, _, *who = status.take("QQQQ")
    who_address, (_, remaining_ms, established) = status.text(), status.take("IIB")
    check(tuple(who) == writer.id and established == 1, "this program is the writer")
    print(f"the writer is {who_address!r}, with {remaining_ms} ms of its lease left")
    check(writer.release() == OK, "the stream is released")
    print("released")


if __name__ == "__main__":
    main()
