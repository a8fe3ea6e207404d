"""Golden frames and records: known bytes with their values, fed in every way bytes may arrive.

One file a message type under messages/, the good records in records.yaml, and in invalid.yaml what
must be refused, with after how many bytes and in which words. The files are for other
implementations as well. How to change them: see the docstring of golden.py
(WALLE_REWRITE_GOLDEN=1).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.golden import golden, invalid
from walle import frame, messages, record
from walle.compression import Decompressor
from walle.core.connection import Connection
from walle.errors import CorruptionError, RemoteProtocolError
from walle.ids import Position, WriterId
from walle.messages import CODES, TYPES, Failure, Hello, Message, Welcome
from walle.record import Bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SEED = 20_240_229
CUTS_COUNT = 20


class Example(NamedTuple):
    """One frame of a golden file.

    session: its place in the session of docs/wire.md; 0: not part of it.
    plain: the whole item of the file.
    """

    name: str
    session: int
    request_id: int
    message: Message
    records: bytes
    frame: bytes
    plain: dict[str, Any]


def file_of(cls: type[Any]) -> str:
    """The golden file of a message type."""
    return f"messages/{CODES[cls]:02d}-{cls.__name__}.yaml"


def load_examples() -> Iterator[Example]:
    """All good frames, as far as there are files."""
    for cls in CODES:
        if not (golden.DIRECTORY / file_of(cls)).exists():
            continue
        for number, plain in enumerate(golden.load(file_of(cls)), start=1):
            message = golden.from_plain(cls, plain["message"])
            records = b""
            if "records" in plain:
                records, _ = golden.encode_records(**plain["records"])
            yield Example(
                f"{cls.__name__}-{number}",
                plain.get("session", 0),
                plain["request_id"],
                message,
                records,
                bytes.fromhex(plain["frame"]),
                plain,
            )


EXAMPLES = list(load_examples())
each_example = pytest.mark.parametrize("example", EXAMPLES, ids=lambda each: each.name)
each_invalid = pytest.mark.parametrize("case", invalid.cases(), ids=lambda each: each.name)

HELLO = golden.join(golden.spell_frame(Hello(1, 0, bytes(16), "", bytes(16)), 1))
WELCOME = golden.join(golden.spell_frame(Welcome(1, bytes(16), "n1", bytes(16)), 1))


# --- feeding --------------------------------------------------------------------------------------


class Received(NamedTuple):
    """One frame as it came out of a connection, everything about it checked."""

    type: int
    request_id: int
    message: Message
    records: bytes


def feed(connection: Connection, chunks: Iterable[bytes]) -> Iterator[Received]:
    """What comes out of the connection when these bytes arrive one chunk after the other."""
    buffer = b""
    for chunk in chunks:
        buffer += chunk
        view = memoryview(buffer)
        handled = 0
        for each in connection.frames(view):
            request_id, message = each.message()
            if each.records:
                record.check(Bytes(bytes(each.records)), where="the frame's records")
            yield Received(each.type, request_id, message, bytes(each.records))
            handled = each.end
        assert connection.wanted(view[handled:]) > len(view) - handled
        buffer = buffer[handled:]


def chunkings(data: bytes) -> Iterator[list[bytes]]:
    """The data whole, byte by byte, and cut at places drawn from a seed."""
    yield [data]
    yield [data[index : index + 1] for index in range(len(data))]
    draw = random.Random(SEED)
    print(f"cuts are drawn from seed {SEED}")  # noqa: T201 - shown with a failure
    for _ in range(CUTS_COUNT):
        cuts = sorted(draw.sample(range(1, len(data)), min(draw.randint(1, 6), len(data) - 1)))
        yield [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def handshakes(message: Message) -> list[tuple[bool, bytes]]:
    """The ends at which the message may arrive, as is_node, and what arrives there before it."""
    if isinstance(message, Hello):
        return [(True, b"")]
    if isinstance(message, Welcome):
        return [(False, b"")]
    refusal = [(False, b"")] if isinstance(message, Failure) else []
    return [*refusal, (False, WELCOME), (True, HELLO)]


# --- the good -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", TYPES.values(), ids=lambda cls: cls.__name__)
def test_every_message_type_has_a_file_and_its_bytes_are_the_codecs(cls: type[Any]) -> None:
    """Also what WALLE_REWRITE_GOLDEN=1 rewrites, from the values."""
    examples = [each for each in EXAMPLES if type(each.message) is cls]
    assert examples, f"write {golden.DIRECTORY / file_of(cls)}, with empty frames to be filled in"
    items = []
    for example in examples:
        head = frame.encode_head(example.message, example.request_id, len(example.records))
        plain = {**example.plain, "message": golden.to_plain(example.message)}
        if "records" in plain:
            plain["records"] = plain_records(plain["records"])
        items.append({**plain, "frame": head + example.records})
    golden.compare(file_of(cls), golden.dump(f"{cls.__name__}, type {CODES[cls]}", items))


@each_example
def test_the_codec_agrees_with_an_encoding_by_hand(example: Example) -> None:
    head = frame.encode_head(example.message, example.request_id, len(example.records))
    assert head == golden.join(
        golden.spell_frame(example.message, example.request_id, example.records)
    )


@each_example
def test_a_golden_frame_is_decoded_however_it_arrives(example: Example) -> None:
    expected = Received(
        CODES[type(example.message)], example.request_id, example.message, example.records
    )
    for is_node, before in handshakes(example.message):
        for chunks in chunkings(example.frame):
            connection = Connection(is_node=is_node)
            list(feed(connection, [before]))
            assert list(feed(connection, chunks)) == [expected]
            assert connection.is_open


@pytest.mark.parametrize("is_node", [True, False], ids=["node", "client"])
def test_all_golden_frames_come_through_in_one_stream(*, is_node: bool) -> None:
    later = [each for each in EXAMPLES if not isinstance(each.message, Hello | Welcome)]
    stream = (HELLO if is_node else WELCOME) + b"".join(each.frame for each in later)
    for chunks in chunkings(stream):
        _, *found = feed(Connection(is_node=is_node), chunks)
        assert [each.message for each in found] == [each.message for each in later]
        assert [each.records for each in found] == [each.records for each in later]


def test_the_session_of_the_document_is_numbered_without_holes() -> None:
    numbers = sorted(each.session for each in EXAMPLES if each.session)
    assert numbers == list(range(1, len(numbers) + 1))


# --- records --------------------------------------------------------------------------------------


def plain_records(batch: dict[str, Any]) -> dict[str, Any]:
    """Records as they are written to a file."""
    entries = [
        {**entry, "writer": golden.to_plain(WriterId(**entry["writer"]))}
        for entry in batch["entries"]
    ]
    return {**batch, "prev_chain": golden.Hex(batch["prev_chain"]), "entries": entries}


def test_the_golden_records_are_what_the_encoder_writes() -> None:
    items = []
    for batch in golden.load("records.yaml"):
        data, chains = golden.encode_records(batch["entries"], batch["prev_chain"])
        plain = plain_records(batch)
        items.append({**plain, "chains": [golden.Hex(chain) for chain in chains], "bytes": data})
    golden.compare("records.yaml", golden.dump("Good records: batches as frames carry them", items))


@pytest.mark.parametrize("batch", golden.load("records.yaml"), ids=lambda each: each["about"])
def test_golden_records_are_checked_and_decoded(batch: dict[str, Any]) -> None:
    data = bytes.fromhex(batch["bytes"])
    checked = record.check(Bytes(data), where="the file")
    first = batch["entries"][0]["entry_id"]
    assert list(checked.chains) == batch["chains"]
    assert checked.before == Position(first - 1, batch["prev_chain"])
    assert golden.join(golden.spell_records(data, texts=False)) == data
    decompressor = Decompressor("the file")
    for entry, plain in zip(record.decode_all(checked), batch["entries"], strict=True):
        content = bytes.fromhex(plain["data"]) if "data" in plain else plain["text"].encode()
        assert (entry.entry_id, entry.time_us, entry.data, entry.flags) == (
            plain["entry_id"],
            plain["time_us"],
            content,
            plain.get("flags", 0),
        )
        unpacked = plain["unpacked"].encode() if "unpacked" in plain else content
        assert decompressor.unpack(entry).data == unpacked
        assert entry.writer == WriterId(**plain["writer"])


# --- the bad --------------------------------------------------------------------------------------


def test_the_invalid_file_is_what_invalid_py_makes() -> None:
    golden.compare("invalid.yaml", invalid.dump())


@each_invalid
def test_an_invalid_frame_is_refused_however_it_arrives(case: invalid.Case) -> None:
    """Whole, cut, or byte by byte: the same error, and no later than the file says."""
    is_node = case.end == "node"
    before = (HELLO if is_node else WELCOME) if case.is_open else b""
    expected = RemoteProtocolError if case.error == "RemoteProtocolError" else CorruptionError
    for chunks in chunkings(case.data):
        connection = Connection(is_node=is_node)
        list(feed(connection, [before]))
        fed = b""

        def arriving(chunks: list[bytes] = chunks) -> Iterator[bytes]:
            nonlocal fed
            for chunk in chunks:
                fed += chunk
                yield chunk

        with pytest.raises(expected, match=case.says):
            list(feed(connection, arriving()))
        if len(chunks) == len(case.data):
            assert len(fed) == case.refused_after


def test_message_numbers_are_unique_and_every_request_has_its_name() -> None:
    assert len(set(messages.TYPES.values())) == len(messages.TYPES)
    assert max(messages.TYPES) < 1 << 16
