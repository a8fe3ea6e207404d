"""What must be refused: frames and records that break one rule each, made by hand."""

from __future__ import annotations

import struct
from typing import NamedTuple

from tests.golden import golden
from walle.ids import WriterId
from walle.messages import (
    CODES,
    Describe,
    Hello,
    Put,
    PutReply,
    Status,
    Welcome,
)
from walle.native import crc32c
from walle.record import encode

WRITER = WriterId(1_700_000_000_000_000, 0x0123_4567_89AB_CDEF)
NOBODY = bytes(16)
EMPTY_PUT = struct.pack("<QQQQQQQBQ", 2, 1, *WRITER, 1, 0, 0, 0, 0)
FRAME_HEADER_BYTES = 24


class Case(NamedTuple):
    """One thing to be refused.

    end: which end receives it, "node" or "client".
    is_open: whether the handshake has come before it.
    refused_after: how many of the bytes have come when it is refused, at the latest.
    error: the error's class; CorruptionError for what is wrong with records.
    says: what the error's text contains.
    """

    name: str
    end: str
    is_open: bool
    data: bytes
    refused_after: int
    error: str
    says: str


def dump() -> str:
    """The text of invalid.yaml."""
    items = []
    for case in cases():
        plain = case._asdict()
        data = plain.pop("data")
        items.append({**plain, "bytes": data})
    comment = (
        "What must be refused. Each begins behind a good handshake if is_open; refused_after is\n"
        "# how many of the bytes need to have come."
    )
    return golden.dump(comment, items)


def cases() -> list[Case]:
    """All of them."""
    return [*_headers(), *_handshakes(), *_messages(), *_records()]


# --- making ---------------------------------------------------------------------------------------


def make_frame(
    number: int,
    body: bytes = b"",
    records: bytes = b"",
    *,
    size: int | None = None,
    head: int | None = None,
    zero: int = 0,
    crc: int | None = None,
) -> bytes:
    """A frame of message `number`; what is given replaces what would be right."""
    body += bytes(-len(body) % 8)
    right_head = FRAME_HEADER_BYTES + len(body)
    header = struct.pack(
        "<IIHHQ",
        right_head + len(records) if size is None else size,
        right_head if head is None else head,
        number,
        zero,
        7,
    )
    right_crc = crc32c(header + body)
    return struct.pack("<I", right_crc if crc is None else crc) + header + body + records


def text(data: bytes, size: int | None = None) -> bytes:
    """A text field, with another size if that is given."""
    return struct.pack("<H", len(data) if size is None else size) + data


def hello(node_id: bytes = b"") -> bytes:
    """A Hello frame."""
    body = struct.pack("<HB", 1, 0) + NOBODY + text(node_id) + NOBODY
    return make_frame(CODES[Hello], body)


def _case(
    name: str, data: bytes, says: str, *, end: str = "node", after: int | None = None
) -> Case:
    return Case(name, end, True, data, after or len(data), "RemoteProtocolError", says)


def _first(name: str, data: bytes, says: str, *, end: str, after: int | None = None) -> Case:
    return _case(name, data, says, end=end, after=after)._replace(is_open=False)


# --- the frame's header ---------------------------------------------------------------------------


def _headers() -> list[Case]:
    status, describe = CODES[Status], CODES[Describe]
    good = make_frame(describe, text(b"/orders"))
    flipped = bytearray(good)
    flipped[30] ^= 1
    rest = bytes(200)
    not_walle, impossible = "not a frame of the WALLE protocol", "impossible sizes"

    def header(name: str, data: bytes, says: str) -> Case:
        return _case(name, data, says, after=FRAME_HEADER_BYTES)

    return [
        _case("the CRC is another", make_frame(status, crc=0), "fails its CRC"),
        _case("a bit of the message has changed", bytes(flipped), "fails its CRC"),
        header("larger than frames may be", make_frame(status, rest, size=2_097_160), "at most"),
        header("claims 4 GiB", make_frame(status, rest, size=0xFFFF_FFF8), "at most 2097152 are"),
        header("a size of 0", make_frame(status, rest, size=0), impossible),
        header("a size that is no multiple of 8", make_frame(status, rest, size=28), impossible),
        header("a head that is no multiple of 8", make_frame(status, rest, head=28), impossible),
        header("a head smaller than a header", make_frame(status, rest, head=16), impossible),
        header("a head larger than the frame", make_frame(status, rest, head=232), impossible),
        header(
            "a head larger than heads may be",
            make_frame(CODES[Put], rest, size=1_048_576, head=262_152),
            impossible,
        ),
        header("a number that no message has", make_frame(9_999, rest), not_walle),
        header("message number 0", make_frame(0, rest), not_walle),
        header("the field `zero` is not", make_frame(status, rest, zero=1), not_walle),
    ]


# --- handshakes -----------------------------------------------------------------------------------


def _handshakes() -> list[Case]:
    status = make_frame(CODES[Status])
    welcome = make_frame(CODES[Welcome], struct.pack("<H", 1) + NOBODY + text(b"n1") + NOBODY)
    reply = make_frame(CODES[PutReply], bytes(92))
    http = b"GET / HTTP/1.1\r\nHost: localhost:7411\r\nUser-Agent: curl/8.5.0\r\n\r\n"
    tls = bytes.fromhex("16030100f8010000f40303") + bytes(range(64))
    not_walle = "not a frame of the WALLE protocol"
    return [
        _first("a request before Hello", status, "is Status, no handshake", end="node"),
        _first("Welcome, sent to a node", welcome, "is Welcome, no handshake", end="node"),
        _first("Hello, sent to a client", hello(), "is Hello, no handshake", end="client"),
        _first("an answer before Welcome", reply, "is PutReply, no handshake", end="client"),
        _first(
            "a Hello of more than 4 KiB",
            hello(b"n" * 4_096),
            "at most 4096 are allowed",
            end="node",
            after=FRAME_HEADER_BYTES,
        ),
        _first("an HTTP request", http, not_walle, end="node", after=FRAME_HEADER_BYTES),
        _first("a TLS ClientHello", tls, not_walle, end="node", after=FRAME_HEADER_BYTES),
        _first("zeros", bytes(64), not_walle, end="node", after=FRAME_HEADER_BYTES),
        _case("a second Hello", hello(), "a second handshake"),
        _case("a second Welcome", welcome, "a second handshake", end="client"),
    ]


# --- the message ----------------------------------------------------------------------------------


def _messages() -> list[Case]:
    describe, create, ask_committed = 30, 34, 62
    beyond = "ends behind its message"

    def body(name: str, number: int, data: bytes, says: str) -> Case:
        return _case(name, make_frame(number, data), says)

    return [
        body("bytes follow the message", describe, text(b"/ab") + bytes(3 + 8), "bytes follow"),
        body("a text is cut off", describe, text(b"/orders", 100), beyond),
        body("no message at all", describe, b"", "Describe: "),
        body("fixed fields are cut off", CODES[Put], EMPTY_PUT[:32], "Put: "),
        body("bytes are cut off", 37, struct.pack("<I", 1 << 31) + b"{}", beyond),
        body("a text is no UTF-8", describe, text(b"/\xff\xfe"), "Describe: 'utf-8' codec"),
        body("a text holds a surrogate", describe, text(b"/\xed\xa0\x80"), "Describe: 'utf-8'"),
        body("a text is encoded too long", describe, text(b"/\xc0\x80"), "Describe: 'utf-8'"),
        body(
            "a list whose items cannot fit",
            create,
            text(b"/a") + struct.pack("<I", 0xFFFF_FFFF),
            "a list of 4294967295 items",
        ),
        body(
            "a list with an item missing",
            ask_committed,
            struct.pack("<IQQ", 3, 1, 2),
            "a list of 3 items",
        ),
        body(
            "a list whose last item is cut off",
            create,
            text(b"/a") + struct.pack("<I", 2) + text(b"n1") + text(b"n2", 200),
            beyond,
        ),
    ]


# --- records --------------------------------------------------------------------------------------


def _records() -> list[Case]:
    first, chain = encode(1, WRITER, 1, b"hello", 0)
    second, _ = encode(2, WRITER, 2, b"second entry", chain)
    third, _ = encode(3, WRITER, 2, b"second entry", chain)
    elsewhere, _ = encode(2, WRITER, 2, b"second entry", chain ^ 1)
    nothing, _ = encode(0, WRITER, 2, b"hello", 0)

    def put(name: str, records: bytes, says: str) -> Case:
        data = make_frame(CODES[Put], EMPTY_PUT, records)
        return _case(name, data, says)._replace(error="CorruptionError")

    return [
        put("a record's data has changed", _changed(first, 50), "at byte 0: .* found BAD_CRC"),
        put("a record's time has changed", _changed(first, 40), "found BAD_CRC"),
        put("the second record has changed", first + _changed(second, 59), "at byte 56: .*BAD_CRC"),
        put("a record's padding is not zero", _changed(first, 55), "found BAD_PADDING"),
        put("an entry is left out", first + third, "found BAD_ID"),
        put("an entry comes twice", first + first, "found BAD_ID"),
        put("the entries are in another order", second + first, "found BAD_ID"),
        put("entry 0", nothing, "found BAD_ID"),
        put("the chain is another", first + elsewhere, "found BAD_CHAIN"),
        put("more data than an entry may have", _with_length(first, 0xFF_FFFF), "BAD_LENGTH"),
        put("a record is cut off", _with_length(first, 64), "found SHORT"),
        put("a header is cut off", first + second[:40], "at byte 56: .* found SHORT"),
        put("zeros behind the records", first + bytes(48), "found BLANK"),
        _case(
            "records on a message that carries none",
            make_frame(CODES[Status], b"", first),
            "Status: bytes follow the message",
        ),
    ]


def _changed(record: bytes, offset: int) -> bytes:
    out = bytearray(record)
    out[offset] ^= 1
    return bytes(out)


def _with_length(record: bytes, length: int) -> bytes:
    return record[:12] + struct.pack("<I", length) + record[16:]
