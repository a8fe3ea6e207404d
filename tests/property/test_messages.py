"""Messages and frames: all values survive the wire, and no bytes do worse than an error."""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walle import frame, messages, record
from walle.core.connection import Connection
from walle.errors import CorruptionError, LocalProtocolError, RemoteProtocolError
from walle.ids import ORIGIN, Position, WriterId
from walle.messages import CODES, TYPES, WITH_RECORDS, Hello, Message, Welcome
from walle.native import crc32c
from walle.record import Bytes, Encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hypothesis.strategies import SearchStrategy

U64 = st.integers(0, 2**64 - 1)
SCALARS: dict[str, SearchStrategy[Any]] = {
    "B": st.integers(0, 2**8 - 1),
    "H": st.integers(0, 2**16 - 1),
    "I": st.integers(0, 2**32 - 1),
    "Q": U64,
    "16s": st.binary(min_size=16, max_size=16),
}
REQUEST_IDS = U64
NOBODY = bytes(16)
HELLO = frame.encode_head(Hello(1, 0, NOBODY, "", NOBODY), 1)
WELCOME = frame.encode_head(Welcome(1, NOBODY, "n1", NOBODY), 1)


def values_of(hint: Any) -> SearchStrategy[Any]:
    """What a field of this type may hold."""
    if hint is str:
        return st.text(max_size=20)
    if hint is bytes:
        return st.binary(max_size=40)
    if hint in (WriterId, Position):
        return st.builds(hint, U64, U64)
    if get_origin(hint) is tuple:
        return st.lists(values_of(get_args(hint)[0]), max_size=3).map(tuple)
    if get_args(hint):
        return SCALARS[get_args(hint)[1]]
    return messages_of(hint)


def messages_of(cls: type[Any]) -> SearchStrategy[Message]:
    """Any message of this type."""
    hints = get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{name: values_of(hints[name]) for name in cls._fields})


def any_records() -> SearchStrategy[bytes]:
    """The records of a few consecutive entries."""
    return st.builds(_encode_records, st.lists(st.binary(max_size=30), min_size=1, max_size=4))


def _encode_records(contents: Sequence[bytes]) -> bytes:
    encoder = Encoder(WriterId(1, 2), ORIGIN)
    for data in contents:
        encoder.add(data, 3)
    return bytes(encoder.take().payload.view())


@st.composite
def any_frames(draw: st.DrawFn) -> bytes:
    """One good frame of any type, with records where it may have them."""
    cls = draw(st.sampled_from(list(CODES)))
    records = draw(any_records()) if cls in WITH_RECORDS and draw(st.booleans()) else b""
    head = frame.encode_head(draw(messages_of(cls)), draw(REQUEST_IDS), len(records))
    return head + records


def receive(data: bytes, cuts: Sequence[int], *, is_node: bool) -> list[tuple[int, Message, bytes]]:
    """Request id, message and records of each frame that comes out when `data` is fed in pieces.

    Raises:
        RemoteProtocolError, CorruptionError: as the network process would see them.
    """
    connection = Connection(is_node=is_node)
    received = []
    places = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    start = 0
    for end in places:
        view = memoryview(data)[start:end]
        handled = 0
        for each in connection.frames(view):
            if each.records:
                record.check(Bytes(bytes(each.records)), where="the frame's records")
            received.append((*each.message(), bytes(each.records)))
            handled = each.end
        assert connection.wanted(view[handled:]) > len(view) - handled
        start += handled
    return received


def refuses_or_receives(data: bytes, cuts: Sequence[int], *, is_node: bool) -> None:
    """Any other exception than the two fails the test."""
    with suppress(RemoteProtocolError, CorruptionError):
        receive(data, cuts, is_node=is_node)


CUTS = st.lists(st.integers(0, 400), max_size=4)
each_type = pytest.mark.parametrize("cls", list(CODES), ids=lambda cls: cls.__name__)


# --- the good -------------------------------------------------------------------------------------


@each_type
@given(data=st.data())
def test_every_message_survives_the_wire(cls: type[Any], data: st.DataObject) -> None:
    message = data.draw(messages_of(cls))
    request_id = data.draw(REQUEST_IDS)
    head = frame.encode_head(message, request_id)
    assert len(head) % frame.ALIGNMENT == 0
    assert frame.request_id_of(head) == request_id
    is_node = cls is not Welcome
    before = b"" if cls in {Hello, Welcome} else HELLO
    *_, received = receive(before + head, data.draw(CUTS), is_node=is_node)
    assert received == (request_id, message, b"")
    assert type(received[1]) is cls


@given(st.lists(any_frames(), max_size=4), CUTS)
def test_frames_come_out_one_by_one_wherever_they_are_cut(
    frames: list[bytes], cuts: list[int]
) -> None:
    handshakes = {CODES[Hello], CODES[Welcome]}
    frames = [each for each in frames if each[12] not in handshakes]
    received = receive(HELLO + b"".join(frames), cuts, is_node=True)[1:]
    again = [
        frame.encode_head(message, request_id, len(records)) + records
        for request_id, message, records in received
    ]
    assert again == frames


@given(any_frames(), any_records())
def test_a_head_can_be_given_other_records(one: bytes, records: bytes) -> None:
    head_size = frame.Header._make(frame.HEADER.unpack_from(one)).head_size
    head = one[:head_size]
    changed = frame.with_records(head, len(records))
    assert frame.decode_head(changed) == frame.decode_head(head)
    header = frame.parse_header(changed, 0, size_max=1 << 21)
    frame.check_head(changed, header)
    assert header.size == head_size + len(records)


@given(any_frames(), REQUEST_IDS)
def test_a_head_can_be_that_of_another_answer(one: bytes, request_id: int) -> None:
    head = one[: frame.Header._make(frame.HEADER.unpack_from(one)).head_size]
    changed = frame.with_request_id(head, request_id)
    assert frame.decode_head(changed) == (request_id, frame.decode_head(head)[1])
    header = frame.parse_header(changed, 0, size_max=1 << 21)
    frame.check_head(changed, header)


# --- what does not fit ----------------------------------------------------------------------------


@each_type
@given(data=st.data())
def test_a_value_that_does_not_fit_its_field_is_not_sent(
    cls: type[Any], data: st.DataObject
) -> None:
    hints = get_type_hints(cls, include_extras=True)
    bounds = {"B": 2**8, "H": 2**16, "I": 2**32, "Q": 2**64}
    numbers = [name for name in cls._fields if _layout_of(hints[name]) in bounds]
    texts = [name for name in cls._fields if hints[name] is str]
    if not numbers and not texts:
        return
    name = data.draw(st.sampled_from(numbers + texts))
    wrong: Any = "x" * 65_536
    if name in numbers:
        bound = bounds[_layout_of(hints[name])]
        wrong = data.draw(st.sampled_from([-1, bound, bound + 1]))
    message = data.draw(messages_of(cls))._replace(**{name: wrong})
    with pytest.raises(LocalProtocolError):
        frame.encode_head(message, 1)


def _layout_of(hint: Any) -> str:
    arguments = get_args(hint)
    return arguments[1] if get_origin(hint) is not tuple and len(arguments) == 2 else ""


# --- the bad --------------------------------------------------------------------------------------


@given(st.binary(max_size=300), CUTS, st.booleans())
def test_any_bytes_are_refused_or_understood(data: bytes, cuts: list[int], is_node: bool) -> None:
    refuses_or_receives(data, cuts, is_node=is_node)
    refuses_or_receives((HELLO if is_node else WELCOME) + data, cuts, is_node=is_node)


@given(st.sampled_from(sorted(TYPES)), st.binary(max_size=200), st.integers(0, 2**16 - 1))
def test_any_bytes_are_a_message_or_an_error(number: int, data: bytes, other: int) -> None:
    for each in (number, other):
        try:
            message = messages.decode(each, data, 0)
        except RemoteProtocolError:
            continue
        assert type(message) is TYPES[each]


@given(any_frames(), st.data())
def test_a_changed_frame_is_refused(good: bytes, data: st.DataObject) -> None:
    """Any one bit: the CRC of the head or those of the records find it."""
    place = data.draw(st.integers(0, 8 * len(good) - 1))
    changed = bytearray(good)
    changed[place // 8] ^= 1 << place % 8
    stream = HELLO + bytes(changed)
    try:
        received = receive(stream, data.draw(CUTS), is_node=True)
    except (RemoteProtocolError, CorruptionError):
        return
    assert len(received) == 1  # its size has grown: the frame is not complete yet


@given(any_frames(), st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=9)), max_size=4))
def test_a_mutated_frame_with_a_good_crc_is_refused_or_understood(
    good: bytes, patches: list[tuple[int, bytes]]
) -> None:
    """What a faulty client would send, rather than a faulty line."""
    changed = bytearray(good)
    for place, patch in patches:
        changed[place : place + len(patch)] = patch
    if len(changed) >= frame.HEADER_BYTES:
        head_size = int.from_bytes(changed[8:12], "little")
        if head_size <= len(changed):
            struct.pack_into("<I", changed, 0, crc32c(bytes(changed[4:head_size])))
    refuses_or_receives(HELLO + bytes(changed), [], is_node=True)
    refuses_or_receives(WELCOME + bytes(changed), [100], is_node=False)


@given(any_records(), st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=5)), max_size=3))
def test_mutated_records_are_refused_or_good(good: bytes, patches: list[tuple[int, bytes]]) -> None:
    """The C core's check and the decoder in Python agree on which."""
    changed = bytearray(good)
    for place, patch in patches:
        changed[place : place + len(patch)] = patch
    data = bytes(changed)
    try:
        batch = record.check(Bytes(data), where="test")
    except CorruptionError:
        return
    offset = 0
    for entry in record.decode_all(batch):
        assert entry == record.decode(data, offset)
        offset += record.size_of(len(entry.data))
