"""Encoding entries into batches, and what a batch tells of its entries.

The bytes are checked in tests/golden, the scan in tests/native.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.making import W1, entries
from walle.errors import CorruptionError, LocalProtocolError
from walle.ids import ORIGIN, Position
from walle.limits import ENTRY_DATA_BYTES_MAX
from walle.record import HEADER_BYTES, Bytes, Encoder, check, decode_all, encode, size_of

TAIL = Position(41, 4_141)


@given(
    st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=3), min_size=1, max_size=3),
    st.booleans(),
)
def test_batches_taken_one_after_another_are_one_history(
    groups: list[list[bytes]], add_all: bool
) -> None:
    encoder = Encoder(W1, TAIL)
    decoded, tail = [], TAIL
    for group in groups:
        if add_all:
            encoder.add_all(group, time_us=7)
        else:
            for data in group:
                encoder.add(data, time_us=7)
        size, last_id = encoder.size, encoder.last_id
        assert encoder.tail == tail, "what was not taken has no chain yet"
        batch = encoder.take()
        assert (batch.before, batch.last_id, batch.count) == (tail, last_id, len(group))
        assert encoder.tail == batch.last == batch.position_at(last_id)
        assert batch.chain_at(batch.first_id - 1) == batch.prev_chain
        assert size == batch.payload.size == sum(size_of(len(data)) for data in group)
        assert check(batch.payload, where="test") == batch
        assert batch.detach() == batch
        decoded += list(decode_all(batch))
        tail = encoder.tail
    assert encoder.size == 0
    assert [entry.data for entry in decoded] == [data for group in groups for data in group]
    assert [entry.entry_id for entry in decoded] == list(range(42, tail.entry_id + 1))
    assert {(entry.writer, entry.time_us, entry.flags) for entry in decoded} == {(W1, 7, 0)}


@given(st.binary(max_size=8), st.binary(max_size=8), st.integers(0, 1))
def test_chain_tells_entries_apart_by_all_that_they_hold(
    one: bytes, other: bytes, before: int
) -> None:
    _, chain = encode(1, W1, 0, one, 0)
    _, again = encode(1, W1, 0, other, before)
    assert (chain == again) == (one == other and not before)
    assert encode(1, W1, 1, one, 0)[1] != chain
    assert encode(2, W1, 0, one, 0)[1] != chain
    assert encode(1, W1._replace(nonce=9), 0, one, 0)[1] != chain


def test_largest_entry_fits_and_no_larger() -> None:
    data = bytes(ENTRY_DATA_BYTES_MAX)
    record, _ = encode(1, W1, 0, data, 0)
    assert len(record) == size_of(len(data)) == HEADER_BYTES + ENTRY_DATA_BYTES_MAX
    with pytest.raises(LocalProtocolError, match="entry 8 has 1048577 bytes of data; at most"):
        encode(8, W1, 0, data + b"x", 0)


def test_flags_are_beside_the_size_and_in_the_chain() -> None:
    encoder = Encoder(W1, TAIL)
    for flags in (0, 0x01, 0xFF):
        encoder.add(b"data", 7, flags)
    encoder.add_all([b"data", b""], 7, [0xFE, 0])
    batch = encoder.take()
    decoded = list(decode_all(batch))
    assert [(entry.data, entry.flags) for entry in decoded] == [
        (b"data", 0),
        (b"data", 0x01),
        (b"data", 0xFF),
        (b"data", 0xFE),
        (b"", 0),
    ]
    assert check(batch.payload, where="test").last == batch.last, "the C core allows any flags"
    assert encode(1, W1, 0, b"data", 0, 1)[1] != encode(1, W1, 0, b"data", 0)[1]


def test_refused_entry_leaves_the_encoder_as_it_was() -> None:
    encoder = Encoder(W1, TAIL)
    too_large = bytes(ENTRY_DATA_BYTES_MAX + 1)
    with pytest.raises(LocalProtocolError, match="entry 42 has 1048577 bytes"):
        encoder.add(too_large, 0)
    with pytest.raises(LocalProtocolError, match="entry 43 has 1048577 bytes"):
        encoder.add_all([b"y", too_large], 0)
    assert (encoder.last_id, encoder.size) == (TAIL.entry_id, 0)
    encoder.add(b"x", 0)
    assert (encoder.take().before, encoder.tail.entry_id) == (TAIL, 42)


def test_as_many_entries_are_taken_as_fit_but_one_at_least() -> None:
    encoder = Encoder(W1, TAIL)
    encoder.add_all([b"x" * 100] * 3 + [b"y" * 1_000], 0)
    taken = [encoder.take(2 * size_of(100)).count for _ in range(3)]
    assert (taken, encoder.size) == ([2, 1, 1], 0)


def test_buffers_are_taken_as_bytes_are() -> None:
    encoder = Encoder(W1, TAIL)
    encoder.add_all([b"one", memoryview(b"two"), bytearray(b"three")], 0)
    encoder.add(memoryview(b"four"), 0)
    batches = [encoder.take(3 * size_of(8)), encoder.take()]
    data = [entry.data for batch in batches for entry in decode_all(batch)]
    assert data == [b"one", b"two", b"three", b"four"]


def test_records_that_do_not_follow_each_other_are_refused() -> None:
    first, other = entries(1, ORIGIN), entries(1, Position(1, 5))
    with pytest.raises(CorruptionError, match="found BAD_CHAIN"):
        check(Bytes(bytes(first.payload.view()) + bytes(other.payload.view())), where="test")


@pytest.mark.parametrize("data", [b"", bytes(HEADER_BYTES), b"x" * 100])
def test_payload_that_is_no_batch_is_refused_by_place(data: bytes) -> None:
    with pytest.raises(CorruptionError, match="segment 7 at byte 0: expected a record"):
        check(Bytes(data), where="segment 7")
