"""The receiving side of a session: whole frames come out, whatever is wrong is told at once.

That all messages survive and mutated ones are refused is tested in tests/property.
"""

from __future__ import annotations

import pytest

from tests.unit.making import W1, entries
from walle import frame
from walle.core.connection import Connection
from walle.errors import Code, RemoteProtocolError
from walle.ids import NO_IDENTITY, ORIGIN
from walle.limits import FRAME_BYTES_MAX, HANDSHAKE_FRAME_BYTES_MAX
from walle.messages import CODES, Describe, Failure, Hello, Message, Probe, Put, Welcome
from walle.native import crc32c

RECORDS = bytes(entries(3).payload.view())
HELLO = frame.encode_head(Hello(1, 0, NO_IDENTITY, "", NO_IDENTITY), 1)
WELCOME = frame.encode_head(Welcome(1, NO_IDENTITY, "n1", NO_IDENTITY), 1)
FAILURE = frame.encode_head(Failure(Code.WRONG_CLUSTER, "no"), 1)
PUT = frame.encode_head(Put(1, 1, W1, 1, ORIGIN, 0), 2, len(RECORDS)) + RECORDS
DESCRIBE = frame.encode_head(Describe("/orders"), 3)


def with_header(head: bytes, **changes: int) -> bytes:
    """The head with other values in its header, and a CRC that fits them."""
    header = frame.Header._make(frame.HEADER.unpack_from(head))._replace(**changes)
    changed = frame.HEADER.pack(*header) + head[frame.HEADER_BYTES :]
    crc = crc32c(changed[4 : header.head_size])
    return crc.to_bytes(4, "little") + changed[4:]


def feed(connection: Connection, data: bytes) -> list[tuple[int, Message, bytes]]:
    return [(*each.message(), bytes(each.records)) for each in connection.frames(memoryview(data))]


@pytest.mark.parametrize("cut", range(len(HELLO + PUT + DESCRIBE) + 1))
def test_session_cut_anywhere_is_the_same_session(cut: int) -> None:
    """What is not a whole frame yet is given again with what comes behind it."""
    connection, data = Connection(is_node=True), HELLO + PUT + DESCRIBE
    found, handled = [], 0
    for end in (cut, len(data)):
        view = memoryview(data)[handled:end]
        ends = [0]
        for each in connection.frames(view):
            found.append((each.type, *each.message(), bytes(each.records)))
            ends.append(each.end)
        left = view[ends[-1] :]
        assert connection.wanted(left) > len(left)
        handled += ends[-1]
    assert [(code, rid) for code, rid, _, _ in found] == [
        (CODES[Hello], 1),
        (CODES[Put], 2),
        (CODES[Describe], 3),
    ]
    assert [records for *_, records in found] == [b"", RECORDS, b""]


@pytest.mark.parametrize("size", [0, 1, frame.HEADER_BYTES - 1])
def test_header_is_wanted_first(size: int) -> None:
    connection = Connection(is_node=True)
    assert connection.wanted(memoryview(HELLO[:size])) == frame.HEADER_BYTES
    assert connection.wanted(memoryview(HELLO[: frame.HEADER_BYTES])) == len(HELLO)


@pytest.mark.parametrize(("is_node", "first"), [(True, HELLO), (False, WELCOME), (False, FAILURE)])
def test_session_opens_with_the_other_sides_handshake(*, is_node: bool, first: bytes) -> None:
    connection = Connection(is_node=is_node)
    assert not connection.is_open
    feed(connection, first)
    assert connection.is_open


@pytest.mark.parametrize(
    ("is_node", "data", "text"),
    [
        (True, DESCRIBE, "the first frame is Describe, no handshake"),
        (True, WELCOME, "the first frame is Welcome"),
        (True, FAILURE, "the first frame is Failure"),
        (False, HELLO, "the first frame is Hello"),
        (True, HELLO + HELLO, "a second handshake"),
        (True, HELLO + WELCOME, "a second handshake"),
        (False, WELCOME + WELCOME, "a second handshake"),
        (True, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "not a frame of the WALLE protocol"),
        (True, with_header(HELLO, zero=1), "not a frame"),
        (True, with_header(HELLO, type=9_999), "not a frame"),
        (True, with_header(HELLO, head_size=16), "impossible sizes"),
        (True, with_header(HELLO, head_size=len(HELLO) + 8), "impossible sizes"),
        (True, with_header(HELLO, size=len(HELLO) + 1), "impossible sizes"),
        (True, with_header(HELLO, head_size=len(HELLO) - 1), "impossible sizes"),
        (True, bytes([HELLO[0] ^ 1]) + HELLO[1:], "fails its CRC"),
        (
            True,
            HELLO + with_header(DESCRIBE, size=len(DESCRIBE) + 8) + bytes(8),
            "Describe: bytes follow",
        ),
    ],
)
def test_what_breaks_the_protocol_is_refused(*, is_node: bool, data: bytes, text: str) -> None:
    with pytest.raises(RemoteProtocolError, match=text):
        feed(Connection(is_node=is_node), data)


def test_frames_before_the_bad_one_come_out() -> None:
    connection = Connection(is_node=True)
    frames = connection.frames(memoryview(HELLO + DESCRIBE + HELLO))
    assert [next(frames).type, next(frames).type] == [CODES[Hello], CODES[Describe]]
    with pytest.raises(RemoteProtocolError):
        next(frames)


def test_handshake_is_small_and_other_frames_may_be_large() -> None:
    """Whoever has not said who it is costs little."""
    connection = Connection(is_node=True)
    large = with_header(HELLO, size=HANDSHAKE_FRAME_BYTES_MAX + 8)[: frame.HEADER_BYTES]
    with pytest.raises(RemoteProtocolError, match=f"at most {HANDSHAKE_FRAME_BYTES_MAX}"):
        connection.wanted(memoryview(large))
    feed(connection, HELLO)
    assert connection.wanted(memoryview(large)) == HANDSHAKE_FRAME_BYTES_MAX + 8
    larger = with_header(PUT, size=FRAME_BYTES_MAX + 8)[: frame.HEADER_BYTES]
    with pytest.raises(RemoteProtocolError, match=f"at most {FRAME_BYTES_MAX}"):
        connection.wanted(memoryview(larger))


def test_message_that_cannot_be_understood_is_found_when_it_is_decoded() -> None:
    head = frame.encode_head(Probe(), 1) + bytes(8)
    longer = with_header(head, size=len(head), head_size=len(head))
    connection = Connection(is_node=True)
    feed(connection, HELLO)
    (found,) = connection.frames(memoryview(longer))
    with pytest.raises(RemoteProtocolError, match="Probe: bytes follow the message"):
        found.message()
