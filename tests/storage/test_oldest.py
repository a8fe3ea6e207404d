"""The oldest record that is to stay: by its time, by the bytes behind it, and by both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.model import NOBODY, WRITER, Driver, batch_of
from walle.core import effects
from walle.errors import CorruptionError
from walle.record import decode, encode
from walle.storage import oldest
from walle.storage.store import Store
from walle.testing.files import SimulatedFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

DIRECTORY = Path("/data")
STREAM = 7
NO_BOUND = (1 << 64) - 1

pytestmark = pytest.mark.usefixtures("small_files_in_module")


class Bench(Driver):
    """A store with one stream, whose entries were written at given times."""

    def __init__(self) -> None:
        self.files = SimulatedFiles()
        super().__init__(Store(DIRECTORY, self.files))
        self.create(STREAM)
        self.records: list[bytes] = []
        self.times: list[int] = []

    def add(self, times: Sequence[int], size: int = 300, at_once: int = 1) -> None:
        """Appends an entry for each time."""
        for start in range(0, len(times), at_once):
            records = []
            entry_id, chain = self.model.streams[STREAM].history.tail
            for time_us in times[start : start + at_once]:
                entry_id += 1
                record, chain = encode(entry_id, WRITER, time_us, b"x" * size, chain)
                records.append(record)
            self.do(effects.Append(STREAM, batch_of(records), 0, None))
            self.records += records
        self.times += times

    def find(self, before_us: int = 0, bytes_max: int = NO_BOUND, end: int = 1 << 40) -> int | None:
        """The id of the record found."""
        end = min(end, len(self.records) + 1)
        action = effects.ReadOldest(STREAM, end, before_us, bytes_max, NOBODY)
        views = self.store.read(action)
        return decode(b"".join(views)).entry_id if views else None

    def wanted(self, before_us: int = 0, bytes_max: int = NO_BOUND) -> int:
        """The same, by looking at every record; the times must grow."""
        left = sum(map(len, self.records))
        for entry_id, (record, time_us) in enumerate(
            zip(self.records, self.times, strict=True), start=1
        ):
            if left <= bytes_max and time_us >= before_us:
                return entry_id
            left -= len(record)
        return len(self.records)


def grown(count: int = 200, at_once: int = 1) -> Bench:
    """Entry k was written at time 10 k."""
    bench = Bench()
    bench.add([10 * number for number in range(1, count + 1)], at_once=at_once)
    bench.store.sync()
    assert len(bench.store._logs[STREAM].runs) > 2
    return bench


@pytest.mark.parametrize("is_reopened", [True, False])
@pytest.mark.parametrize("at_once", [1, 7, 50])
def test_every_time_and_every_size_is_found_exactly(at_once: int, *, is_reopened: bool) -> None:
    bench = grown(at_once=at_once)
    if is_reopened:
        bench.store.close()
        bench.store = Store(DIRECTORY, bench.files)
    for entry_id in range(1, 201):
        for delta in (-1, 0, 1):
            before_us = 10 * entry_id + delta
            assert bench.find(before_us) == bench.wanted(before_us)
    size = len(bench.records[0])
    for count in range(202):
        for delta in (-1, 0, 1):
            bytes_max = max(count * size + delta, 0)
            assert bench.find(0, bytes_max) == bench.wanted(0, bytes_max)
    assert bench.find(10 * 150, 100 * size) == 150
    assert bench.find(10 * 50, 100 * size) == 101


@given(
    sizes=st.lists(st.sampled_from([0, 1, 100, 2_000, 5_000]), min_size=1, max_size=40),
    before_us=st.integers(0, 500),
    bytes_max=st.integers(0, 60_000),
)
@settings(max_examples=60)
def test_sizes_of_any_kind(sizes: list[int], before_us: int, bytes_max: int) -> None:
    bench = Bench()
    for number, size in enumerate(sizes):
        bench.add([10 * number], size)
    bench.store.sync()
    assert bench.find(before_us, bytes_max) == bench.wanted(before_us, bytes_max)


def test_last_record_below_the_end_stays_whatever_is_asked_for() -> None:
    bench = grown()
    assert bench.find(before_us=1 << 60) == 200
    assert bench.find(bytes_max=0) == 200
    assert bench.find(before_us=1 << 60, end=150) == 149
    assert bench.find(before_us=1_000, end=150) == 100


def test_nothing_is_found_where_nothing_is_held() -> None:
    bench = Bench()
    assert bench.find() is None
    bench.store._logs.clear()
    assert bench.find() is None


def test_what_is_not_synced_yet_counts() -> None:
    bench = grown()
    bench.add([5_000] * 3)
    assert bench.find(before_us=4_000) == 201


def test_entries_of_a_clock_that_was_behind_take_nothing_before_them_along() -> None:
    """A search by halves would meet them in the middle, and take all before them for old."""
    bench = Bench()
    bench.add([1, 2, 3] + [900] * 150 + [5] * 150 + [901] * 100)
    bench.store.sync()
    assert bench.find(before_us=800) == 4


def test_entries_that_lie_between_old_ones_go_with_them() -> None:
    """Not each record's time is looked at: those that begin extents, and the index's stretches."""
    bench = Bench()
    bench.add([1] * 20 + [900] + [2] * 180 + [901] * 20)
    bench.store.sync()
    assert bench.find(before_us=800) in (21, 202)


def test_few_files_are_opened_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants to trim more asks again, once those have gone."""
    monkeypatch.setattr(oldest, "EXTENTS_OPENED_MAX", 2)
    bench = grown(300)
    firsts = [extent.first_id for extent in bench.store._logs[STREAM].runs]
    assert len(firsts) > 4
    assert bench.find(before_us=1 << 60) == firsts[2]
    bytes_max = 10 * len(bench.records[0])
    assert bench.find(0, bytes_max) == 291, "bytes are counted without opening any"


def test_what_is_trimmed_already_is_passed_over_if_it_is_old() -> None:
    bench = grown()
    first = bench.store._logs[STREAM].runs[1].first_id
    bench.trim(STREAM, first + 2)
    bench.store.sync()
    for entry_id in range(first + 5, 201, 7):
        assert bench.find(10 * entry_id) == entry_id


def test_only_what_goes_and_what_begins_an_extent_is_read() -> None:
    """Damage further on is not noticed; damage on the way is told."""
    bench = grown()
    runs = bench.store._logs[STREAM].runs
    path, entry_id = runs[-2].segment.path, runs[-2].first_id + 5
    bench.store.close()
    inode = bench.files.names_now[path]
    assert inode is not None
    place = bytes(inode.data).index(bench.records[entry_id - 1])
    bench.store = Store(DIRECTORY, bench.files)
    inode.data[place + 50] ^= 1
    assert bench.find(before_us=runs[1].first_id * 10 + 30) == runs[1].first_id + 3
    with pytest.raises(CorruptionError, match=r"\.segment"):
        bench.find(before_us=(entry_id + 3) * 10)
