"""Scanning, seeking and searching records: C against its twin, on good and on damaged runs."""

from __future__ import annotations

import gc
import os
import random
import sys
from array import array
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.native import twins
from walle import record
from walle.errors import InvariantError
from walle.ids import ORIGIN, Position, WriterId
from walle.native import (
    FilePlace,
    crc32c,
    records_decode,
    records_encode,
    records_fit,
    records_follow,
    records_scan,
    records_search,
    records_seek,
)
from walle.record import HEADER_BYTES, Entry, Stop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MANY = 1 << 20
FAR = 1 << 62
WRITER = WriterId(7, 0xFEDC_BA98_7654_3210)


class Run(NamedTuple):
    """Consecutive good records: the bytes, and where each begins."""

    data: bytes
    offsets: list[int]
    before: Position


def make_run(
    sizes: Sequence[int], before: Position = ORIGIN, writers: Sequence[WriterId] = (WRITER,)
) -> Run:
    """A run with data of these sizes; the writers take turns."""
    data = b""
    offsets = []
    entry_id, chain = before
    for index, size in enumerate(sizes):
        entry_id += 1
        offsets.append(len(data))
        content = bytes((entry_id + place) % 251 for place in range(size))
        encoded, chain = record.encode(
            entry_id, writers[index % len(writers)], 1_000 + index, content, chain
        )
        data += encoded
    return Run(data, offsets, before)


def scan_both(
    buffer: bytes,
    after: tuple[int, int] | None = None,
    count_max: int = MANY,
    size_max: int = FAR,
) -> tuple[Stop, int]:
    """Scans in C and by the twin, compares all, returns why they stopped and after how many."""
    found, chains = records_scan(buffer, after, count_max, size_max)
    expected, expected_chains = twins.records_scan(buffer, after, count_max, size_max)
    assert found == expected
    assert chains == expected_chains
    return Stop(found.stop), found.count


def mend_crc(data: bytearray, offset: int) -> None:
    """Gives the record there the CRC of what it now holds."""
    length = int.from_bytes(data[offset + 12 : offset + 15], "little")
    crc = crc32c(data[offset + 4 : offset + HEADER_BYTES + length])
    data[offset : offset + 4] = crc.to_bytes(4, "little")


def changed(run: Run, index: int, name: str, value: int) -> bytes:
    """The run with one field of one record set, its CRC good."""
    field = next(field for field in record.LAYOUT if field.name == name)
    data = bytearray(run.data)
    start = run.offsets[index] + field.offset
    data[start : start + field.size] = value.to_bytes(field.size, "little")
    if name != "crc":
        mend_crc(data, run.offsets[index])
    return bytes(data)


runs = st.builds(
    make_run,
    st.lists(st.integers(0, 40) | st.sampled_from([200, 1_000]), min_size=1, max_size=6),
    st.builds(Position, st.integers(0, 1 << 40), st.integers(0, twins.MASK_64)),
    st.lists(
        st.builds(WriterId, st.integers(0, twins.MASK_64), st.integers(0, twins.MASK_64)),
        min_size=1,
        max_size=3,
    ),
)


def test_scan_of_good_records_reads_to_the_end() -> None:
    run = make_run([0, 1, 7, 8, 9, 1_000])
    found, chains = records_scan(run.data, None, MANY, FAR)
    assert found == (6, len(run.data), Stop.END, 1, 0, *WRITER, False)
    assert [record.decode(run.data, offset).chain for offset in run.offsets] == list(chains)
    assert scan_both(run.data, ORIGIN) == (Stop.END, 6)


def test_scan_of_nothing_is_the_end() -> None:
    assert scan_both(b"") == (Stop.END, 0)


def test_scan_takes_the_largest_record_and_no_larger() -> None:
    run = make_run([twins.DATA_BYTES_MAX])
    # The twin would take a minute for a megabyte.
    found, _ = records_scan(run.data, None, MANY, FAR)
    assert (found.stop, found.count) == (Stop.END, 1)
    larger = run.data[:12] + (twins.DATA_BYTES_MAX + 1).to_bytes(4, "little") + run.data[16:]
    assert scan_both(larger + bytes(8)) == (Stop.BAD_LENGTH, 0)


def test_scan_says_whether_the_writers_are_several() -> None:
    other = WriterId(WRITER.ts, WRITER.nonce + 1)
    assert not records_scan(make_run([5, 5]).data, None, MANY, FAR)[0].mixed
    mixed = make_run([5, 5], writers=[WRITER, other]).data
    assert records_scan(mixed, None, MANY, FAR)[0].mixed
    # A record that is not read does not count.
    assert not records_scan(mixed, None, 1, FAR)[0].mixed


@pytest.mark.parametrize("size", [1, 8, 47, 48, 100, 5_000])
def test_scan_stops_at_blank_space_of_any_size(size: int) -> None:
    run = make_run([10, 10])
    assert scan_both(run.data + bytes(size)) == (Stop.BLANK, 2)


def test_scan_of_every_prefix_is_short_unless_it_ends_between_records() -> None:
    run = make_run([3, 0, 17])
    ends = [*run.offsets[1:], len(run.data)]
    for size in range(1, len(run.data)):
        whole = sum(end <= size for end in ends)
        stop, count = scan_both(run.data[:size])
        assert count == whole
        assert stop is (Stop.END if size in ends else Stop.SHORT), size


@pytest.mark.parametrize(
    ("name", "value", "stop"),
    [
        ("crc", 1, Stop.BAD_CRC),
        ("length", 0xFF_FFFF, Stop.BAD_LENGTH),
        ("length", 400, Stop.SHORT),
        ("entry_id", 5, Stop.BAD_ID),
        ("entry_id", 0, Stop.BAD_ID),
        ("prev_chain", 5, Stop.BAD_CHAIN),
    ],
)
def test_scan_stops_at_a_bad_field(name: str, value: int, stop: Stop) -> None:
    run = make_run([20, 20, 20])
    for index in range(1, 3):
        assert scan_both(changed(run, index, name, value)) == (stop, index)


def test_scan_stops_at_padding_that_is_not_zero() -> None:
    run = make_run([20, 21])
    data = bytearray(run.data)
    data[-1] = 1
    assert scan_both(bytes(data)) == (Stop.BAD_PADDING, 1)


def test_scan_stops_with_the_first_check_that_fails() -> None:
    run = make_run([20, 21])
    data = bytearray(changed(changed_run(run, 1, "prev_chain", 5), 1, "entry_id", 0))
    assert scan_both(bytes(data)) == (Stop.BAD_ID, 1)
    data[-1] = 1
    assert scan_both(bytes(data)) == (Stop.BAD_PADDING, 1)
    data[run.offsets[1]] ^= 1
    assert scan_both(bytes(data)) == (Stop.BAD_CRC, 1)


def changed_run(run: Run, index: int, name: str, value: int) -> Run:
    return run._replace(data=changed(run, index, name, value))


def test_scan_takes_any_first_record_but_the_virtual_one() -> None:
    run = make_run([4, 4], Position(40, 99))
    assert scan_both(run.data) == (Stop.END, 2)
    assert scan_both(run.data, (40, 99)) == (Stop.END, 2)
    assert scan_both(run.data, (39, 99)) == (Stop.BAD_ID, 0)
    assert scan_both(run.data, (40, 98)) == (Stop.BAD_CHAIN, 0)
    assert scan_both(changed(run, 0, "entry_id", 0)) == (Stop.BAD_ID, 0)


def test_scan_does_not_count_past_the_last_id() -> None:
    run = make_run([4], Position(twins.MASK_64 - 1, 1))
    assert scan_both(run.data, run.before) == (Stop.END, 1)
    zero = changed(run, 0, "entry_id", 0)
    assert scan_both(zero, (twins.MASK_64, 1)) == (Stop.BAD_ID, 0)


def test_scan_of_several_records_stops_full_at_its_bounds() -> None:
    run = make_run([4, 4, 4])
    size = len(run.data) // 3
    for count in range(3):
        assert scan_both(run.data, count_max=count) == (Stop.FULL, count)
        assert scan_both(run.data, size_max=count * size) == (Stop.FULL, count)
    assert scan_both(run.data, size_max=size + 1) == (Stop.FULL, 2)
    # Without bytes left there is nothing to come back for.
    assert scan_both(run.data, count_max=3) == (Stop.END, 3)
    assert scan_both(run.data, size_max=len(run.data)) == (Stop.END, 3)
    # A bound is looked at before the record behind it.
    assert scan_both(run.data[:-1], count_max=2) == (Stop.FULL, 2)


@pytest.mark.parametrize("wrong", [-1, 1 << 64])
def test_scan_refuses_bounds_that_are_no_u64(wrong: int) -> None:
    with pytest.raises(OverflowError):
        records_scan(b"", None, 1, wrong)


@given(
    run=runs,
    is_following=st.booleans(),
    tail=st.binary(max_size=60) | st.integers(0, 120).map(bytes),
    count_max=st.just(MANY) | st.integers(0, 6),
    size_max=st.just(FAR) | st.integers(0, 2_000),
)
def test_scan_is_its_twin_on_good_runs(
    run: Run, is_following: bool, tail: bytes, count_max: int, size_max: int
) -> None:
    scan_both(run.data + tail, run.before if is_following else None, count_max, size_max)


@given(run=runs, data=st.data())
def test_scan_is_its_twin_with_a_byte_changed_anywhere(run: Run, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(run.data) - 1), label="place")
    damaged = bytearray(run.data)
    damaged[place] ^= data.draw(st.integers(1, 255), label="change")
    stop, _ = scan_both(bytes(damaged))
    assert stop is not Stop.END, "a changed byte is always found"
    # With a good CRC the damage reaches the later checks.
    offset = max(offset for offset in run.offsets if offset <= place)
    mend_crc(damaged, offset)
    scan_both(bytes(damaged), run.before)


@given(buffer=st.binary(max_size=200))
def test_scan_search_and_seek_are_safe_on_any_bytes(buffer: bytes) -> None:
    scan_both(buffer)
    assert records_search(buffer, 0) == twins.records_search(buffer, 0)
    assert -1 <= records_seek(buffer, 1) <= max(0, len(buffer) - HEADER_BYTES)


@given(run=runs)
def test_seek_finds_each_record_and_no_other(run: Run) -> None:
    first = run.before.entry_id + 1
    for index, offset in enumerate(run.offsets):
        assert records_seek(run.data, first + index) == offset
    for entry_id in (0, first - 1, first + len(run.offsets), twins.MASK_64):
        assert records_seek(run.data, entry_id) == -1
        assert twins.records_seek(run.data, entry_id) == -1


@given(run=runs)
def test_decoded_entries_are_those_of_the_twin(run: Run) -> None:
    _, chains = records_scan(run.data, None, MANY, FAR)
    for count in (len(chains), len(chains) // 2):
        found = records_decode(memoryview(run.data), chains[:count], Entry, WriterId)
        assert found == twins.records_decode(run.data, chains[:count])
        assert {(type(entry), type(entry.writer)) for entry in found} <= {(Entry, WriterId)}


def test_decoded_are_no_more_records_than_there_are() -> None:
    run = make_run([20, 20, 20])
    for data, count in ((run.data, 4), (run.data[:-1], 3), (b"", 1), (bytes(200), 1)):
        with pytest.raises(InvariantError, match="so many records are there"):
            records_decode(data, array("Q", range(count)), Entry, WriterId)
    damaged = changed(run, 0, "length", 0xFF_FFFF)
    with pytest.raises(InvariantError):
        records_decode(damaged, array("Q", [1]), Entry, WriterId)


def test_decoded_entries_cost_the_collector_nothing_and_leave_nothing_behind() -> None:
    run = make_run([2_000] * 100, writers=(WRITER, WriterId(8, 1 << 63)))
    _, chains = records_scan(run.data, None, MANY, FAR)
    assert not any(map(gc.is_tracked, records_decode(run.data, chains, Entry, WriterId)))
    before = sys.getallocatedblocks()
    for _ in range(20):
        records_decode(run.data, chains, Entry, WriterId)
    assert sys.getallocatedblocks() - before < len(chains)


def test_seek_does_not_leave_the_buffer() -> None:
    run = make_run([20, 20, 20])
    assert records_seek(b"", 1) == -1
    assert records_seek(run.data[:-1], 3) == -1
    assert records_seek(run.data[: run.offsets[1]] + bytes(200), 2) == -1
    assert records_seek(changed(run, 0, "length", 0xFF_FFFF), 2) == -1


@given(
    parts=st.lists(runs.map(lambda run: run.data) | st.binary(max_size=100), max_size=4),
    data=st.data(),
)
def test_search_is_its_twin(parts: list[bytes], data: st.DataObject) -> None:
    buffer = bytearray(b"".join(part + bytes(-len(part) % 8) for part in parts))
    if buffer:
        place = data.draw(st.integers(0, len(buffer) - 1))
        buffer[place] ^= data.draw(st.integers(0, 255))
    ids = [0, 1, 2, 1 << 63]
    ids += [int.from_bytes(buffer[at + 16 : at + 24], "little") for at in range(0, len(buffer), 48)]
    first_id = data.draw(st.sampled_from(ids))
    assert records_search(buffer, first_id) == twins.records_search(bytes(buffer), first_id)


def test_search_finds_a_record_behind_damage_and_zeros() -> None:
    run = make_run([20, 20, 20])
    gap = bytes(3 << 20)
    data = bytearray(run.data + gap + run.data)
    assert records_search(data, 0) == 0
    assert records_search(data, 2) == run.offsets[1]
    data[run.offsets[2] + 50] ^= 1
    assert records_search(data, 3) == len(run.data) + len(gap) + run.offsets[2]
    assert records_search(data, 4) == -1


def test_search_is_at_home_in_random_bytes() -> None:
    seed = random.randrange(1 << 32)
    noise = random.Random(seed).randbytes(1 << 20)
    run = make_run([20])
    assert records_search(noise, 0) == -1, f"seed {seed}"
    assert records_search(noise + run.data, 0) == len(noise), f"seed {seed}"


def test_search_finds_no_record_with_bad_padding_and_none_that_is_cut() -> None:
    run = make_run([21])
    assert records_search(run.data[:-8], 0) == -1
    assert records_search(run.data[:-1] + b"\1", 0) == -1
    assert records_search(run.data[:40], 0) == -1


# --- a file's records -----------------------------------------------------------------------------


def follow(data: bytes, place: FilePlace, *, end: int, last_id: int) -> FilePlace:
    """Of a file that holds those bytes."""
    fd = os.memfd_create("records")
    try:
        assert os.write(fd, data) == len(data)
        return records_follow(fd, place, end=end, last_id=last_id)
    finally:
        os.close(fd)


@given(
    run=runs,
    ahead=st.sampled_from([0, 8, 12_288]),
    skipped=st.integers(0, 3),
    short=st.integers(-100, 100),
    count=st.integers(-1, 7),
    damaged=st.none() | st.integers(0, 1 << 20),
)
def test_follow_is_its_twin(
    run: Run, ahead: int, skipped: int, short: int, count: int, damaged: int | None
) -> None:
    """From any record on, up to any byte, wherever the file is damaged."""
    first = twins.records_scan(run.data, run.before, skipped, FAR)
    chain = [run.before.chain, *first[1]][-1]
    place = FilePlace(ahead + first[0].size, run.before.entry_id + first[0].count, chain)
    data = bytearray(bytes(ahead) + run.data)
    if damaged is not None:
        data[damaged % len(data)] ^= 1
    bounds = {"end": max(len(data) - short, 0), "last_id": max(place.entry_id + count, 0)}
    file = bytes(data)
    assert follow(file, place, **bounds) == twins.records_follow(file, place, **bounds)


def test_follow_takes_records_across_its_steps_and_larger_ones() -> None:
    """A step has 256 KiB; in the end one record is as large as any may be."""
    step = 256 * 1024
    run = make_run([1_000] * 700 + [step - 48, step, 10] + [3_000] * 100 + [1 << 20, 5])
    places = [
        FilePlace(offset, *position)
        for offset, position in zip(
            [*run.offsets, len(run.data)],
            [(0, 0), *enumerate(records_scan(run.data, None, MANY, FAR)[1], start=1)],
            strict=True,
        )
    ]
    for count in (0, 1, 263, 699, 700, 701, 702, 703, 803, 804, 805):
        wanted = places[count]
        assert follow(run.data, places[0], end=FAR, last_id=count) == wanted
        assert follow(run.data, places[0], end=wanted.offset, last_id=MANY) == wanted
        assert follow(run.data[: wanted.offset + 20], places[0], end=FAR, last_id=MANY) == wanted
        assert follow(run.data, wanted, end=FAR, last_id=MANY) == places[-1]


def test_what_cannot_be_read_is_not_followed(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    place = FilePlace(0, 0, 0)
    assert records_follow(fd, place, end=4_096, last_id=10) == place
    os.close(fd)


# --- making records -------------------------------------------------------------------------------

words = st.integers(0, twins.MASK_64)


@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 255), words), max_size=5),
    st.builds(Position, st.integers(0, 1 << 62), words),
    st.builds(WriterId, words, words),
)
def test_records_are_made_as_the_twin_makes_them(
    entries: list[tuple[bytes, int, int]], after: Position, writer: WriterId
) -> None:
    lengths = array("I", [len(data) | flags << 24 for data, flags, _ in entries])
    times = array("Q", [time_us for _, _, time_us in entries])
    data = b"".join(data for data, _, _ in entries)
    count, size = records_fit(lengths, FAR)
    assert (count, size) == twins.records_fit(lengths, FAR)
    made = records_encode(data, lengths, times, after, writer, size)
    assert made == twins.records_encode(data, lengths, times, after, writer)
    if entries:
        found, chains = records_scan(made[0], after, MANY, FAR)
        assert (found.stop, found.count, chains) == (Stop.END, len(entries), made[1])


@given(st.lists(st.integers(0, twins.DATA_BYTES_MAX | 0xFF << 24), max_size=5), st.integers(0, 999))
def test_as_many_records_fit_as_the_twin_says(lengths: list[int], size_max: int) -> None:
    packed = array("I", lengths)
    for bound in (size_max, size_max << 12):
        assert records_fit(packed, bound) == twins.records_fit(packed, bound)


@pytest.mark.parametrize(
    ("data_bytes", "size"), [(9, 112), (11, 112), (10, 104), (10, 120), (10, 40), (0, 0)]
)
def test_lengths_that_do_not_make_up_the_bytes_are_refused(data_bytes: int, size: int) -> None:
    """Nothing outside of them is touched: the sanitizers look on (test_sanitized)."""
    lengths, times = array("I", [3, 7]), array("Q", [0, 0])
    assert records_fit(lengths, FAR) == (2, 2 * 56)
    records_encode(bytes(10), lengths, times, ORIGIN, WRITER, 112)
    with pytest.raises(InvariantError, match="made of all the data"):
        records_encode(bytes(data_bytes), lengths, times, ORIGIN, WRITER, size)
