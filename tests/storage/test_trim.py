"""Trims: what goes, what stays though it reaches below, and what a crash or damage makes of it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.storage.model import (
    CLUSTER_ID,
    Driver,
    batch_of,
    check_reads,
    check_recovered,
    read_action,
    read_bytes,
    records_of,
)
from walle.core import effects
from walle.ids import NO_WRITER, IdRange, Position
from walle.storage.store import REMOVED_AT_ONCE_COUNT, Store
from walle.testing.files import Crash, SimulatedFiles

if TYPE_CHECKING:
    from walle.core.history import History
    from walle.core.member import State

DIRECTORY = Path("/data")
STREAM = 7
NAMES = DIRECTORY / "streams" / f"{STREAM:016x}"

pytestmark = pytest.mark.usefixtures("small_files")


class Bench(Driver):
    """A store with one stream, on a disk that can lose power."""

    def __init__(self) -> None:
        self.files = SimulatedFiles()
        super().__init__(Store(DIRECTORY, self.files))
        self.do(effects.SetCluster(CLUSTER_ID, ()))
        self.create(STREAM)

    @property
    def history(self) -> History:
        return self.model.streams[STREAM].history

    def add(self, count: int, size: int = 1_000) -> None:
        """Appends entries of that size, one at a time, and commits them."""
        for _ in range(count):
            self.append(STREAM, [size])
        self.commit(STREAM, count)

    def trim_to(self, entry_id: int, *, is_held: bool = True) -> None:
        """Lets the stream begin behind that entry."""
        self.trim(STREAM, entry_id - self.history.origin.entry_id, is_held=is_held)

    def reopen(self) -> State:
        """After a loss of power that spares nothing; what was synced is there, and no more."""
        self.store.close()
        self.files.lose_power(random.Random(1))
        self.store = Store(DIRECTORY, self.files)
        recovered = self.store.recovered()
        check_recovered(recovered, self.model)
        check_reads(self.store, self.model)
        assert self.store.findings == ()
        (state,) = recovered.states
        self.history.committed = state.history.committed
        return state

    def file_names(self) -> list[str]:
        return sorted(self.files.names(NAMES))

    def firsts(self) -> list[int]:
        """Of the extents of runs."""
        return [extent.first_id for extent in self.store._logs[STREAM].runs]

    def read(self, start: int) -> bytes:
        return read_bytes(self.store, read_action(STREAM, start))


# --- what goes ------------------------------------------------------------------------------------


def full(count: int = 60) -> Bench:
    """Several segments full of entries."""
    bench = Bench()
    bench.add(count)
    bench.store.sync()
    assert len(bench.firsts()) > 3
    return bench


@pytest.mark.parametrize("number", [1, 2, -1])
@pytest.mark.parametrize("ahead", [-1, 0, 1])
def test_extents_wholly_below_go_and_the_next_stays_whole(number: int, ahead: int) -> None:
    bench = full()
    firsts = bench.firsts()
    origin_id = firsts[number] - 1 + ahead
    bench.trim_to(origin_id)
    left = [
        each
        for each in firsts
        if each > origin_id or each == max(each for each in firsts if each <= origin_id + 1)
    ]
    assert bench.firsts() == (left if ahead else firsts[number:])
    bench.store.sync()
    check_reads(bench.store, bench.model)
    state = bench.reopen()
    assert state.history.runs[0].start == origin_id + 1
    assert state.topology.first_entry_id == origin_id + 1


def test_all_may_go() -> None:
    bench = full()
    bench.trim_to(60)
    bench.store.sync()
    while bench.store.remove_some():
        pass
    assert bench.file_names() == []
    assert bench.reopen().history.tail == bench.history.origin
    bench.add(3)
    bench.store.sync()
    bench.reopen()


def test_stream_that_was_left_keeps_its_promise_and_no_files() -> None:
    bench = full(300)
    bench.promise(STREAM)
    bench.accept(STREAM)
    bench.leave(STREAM)
    bench.store.sync()
    assert bench.store.remove_some() == REMOVED_AT_ONCE_COUNT
    state = bench.reopen()
    assert bench.file_names() == [], "the rest was removed while it was opened"
    assert state.history.is_empty
    assert (state.accepted, state.promise) == (NO_WRITER, bench.model.streams[STREAM].promise)
    bench.add(3)
    bench.store.sync()
    bench.reopen()


def test_files_go_a_few_at_a_time_and_only_when_the_journal_names_them_no_more() -> None:
    bench = full(300)
    before = bench.file_names()
    bench.trim_to(299)
    assert bench.store.remove_some() == 0
    bench.store.sync()
    assert bench.file_names() == before
    count = len(before) - 1
    assert count > 2 * REMOVED_AT_ONCE_COUNT
    assert bench.store.status()[STREAM]["files"] == 1
    while bench.store.has_trimmed_files:
        done = bench.store.remove_some()
        count -= done
        assert 0 < done <= REMOVED_AT_ONCE_COUNT
        assert len(bench.file_names()) == count + 1
    assert count == 0
    assert bench.store.remove_some() == 0


@pytest.mark.parametrize("rounds", [0, 1])
def test_files_that_a_crash_has_left_go_when_the_store_is_opened(rounds: int) -> None:
    bench = full(300)
    bench.trim_to(299)
    bench.store.sync()
    for _ in range(rounds):
        bench.store.remove_some()
    bench.reopen()
    assert len(bench.file_names()) == 1
    assert not bench.store.has_trimmed_files


def test_crash_at_any_operation_leaves_the_trim_done_or_not() -> None:
    at, seen = 0, set()
    while True:
        at += 1
        bench = full(100)
        bench.files.crash_at = bench.files.steps + at
        try:
            bench.trim_to(80)
            bench.store.sync()
            while bench.store.remove_some():
                pass
        except Crash:
            bench.files.lose_power(random.Random(at))
            store = Store(DIRECTORY, bench.files)
            (state,) = store.recovered().states
            seen.add(state.history.origin.entry_id)
            assert state.history.gaps() == []
            assert state.history.tail == bench.history.tail
            assert store.findings == ()
            read = read_action(STREAM, state.history.origin.entry_id + 1)
            assert read_bytes(store, read)
        else:
            assert seen == {0, 80}
            return


def test_files_of_a_stream_that_is_trimmed_all_the_time_do_not_grow() -> None:
    """What it keeps would soon be little beside one large file."""
    bench = Bench()
    sizes = set()
    for _ in range(40):
        bench.add(3, 300)
        bench.trim_to(bench.history.committed.entry_id - 1)
        bench.store.sync()
        sizes.add(bench.store._logs[STREAM].runs[-1].segment.size)
    assert len(sizes) == 1
    bench.add(60, 300)
    assert bench.store._logs[STREAM].runs[-1].segment.size > max(sizes)


# --- beyond the commit point ----------------------------------------------------------------------


def with_suffix() -> Bench:
    """Entries 1 to 20 are committed, 21 to 40 are not."""
    bench = Bench()
    bench.add(20)
    for _ in range(20):
        bench.append(STREAM, [1_000])
    bench.store.sync()
    return bench


@pytest.mark.parametrize("origin_id", [21, 30, 40])
def test_suffix_that_holds_the_origin_stays(origin_id: int) -> None:
    bench = with_suffix()
    bench.trim_to(origin_id)
    bench.store.sync()
    assert bench.reopen().history.tail.entry_id == 40
    assert bench.history.committed.entry_id == origin_id
    bench.add(3)
    bench.store.sync()
    bench.reopen()


@pytest.mark.parametrize("origin_id", [21, 30, 40, 90])
def test_live_run_without_the_origin_goes_with_its_files(origin_id: int) -> None:
    bench = with_suffix()
    bench.trim_to(origin_id, is_held=False)
    bench.store.sync()
    while bench.store.remove_some():
        pass
    assert bench.file_names() == []
    state = bench.reopen()
    assert state.history.tail == state.history.committed == bench.history.origin
    bench.add(3)
    bench.store.sync()
    assert bench.reopen().history.tail.entry_id == origin_id + 3


def lose_data(bench: Bench) -> Store:
    """Syncs a round, of which only the journal survives."""
    before = {
        path: bytes(inode.durable)
        for path, inode in bench.files.names_now.items()
        if inode is not None and path.parent == NAMES
    }
    bench.store.sync()
    for path, data in before.items():
        inode = bench.files.names_now[path]
        assert inode is not None
        inode.data[:] = inode.durable[:] = data
    store = Store(DIRECTORY, bench.files)
    assert store.findings == ()
    return store


def test_trim_that_is_durable_before_the_entries_around_it() -> None:
    """The origin is committed, so the member has it; what followed was never acknowledged."""
    bench = Bench()
    bench.add(3, 100)
    bench.store.sync()
    bench.add(3, 100)
    bench.trim_to(5)
    store = lose_data(bench)
    (state,) = store.recovered().states
    assert state.doubtful_id == 0
    assert state.history.committed == state.history.tail == bench.history.origin
    batch = batch_of(records_of(bench.history.origin, [10]))
    store.execute(effects.Append(STREAM, batch, 0, None))
    store.execute(effects.Commit(STREAM, batch.last))
    store.sync()
    (state,) = Store(DIRECTORY, bench.files).recovered().states
    assert state.history.committed == state.history.tail == batch.last


def test_trim_that_is_durable_before_the_commit_point_that_it_needs() -> None:
    """What was acknowledged above the origin is no less held for that: the run that begins below
    it, and above the journal's commit point, is not taken for one that lies apart."""
    bench = Bench()
    bench.add(3, 1_300)
    bench.append(STREAM, [1_300])
    bench.append(STREAM, [10] * 4)
    bench.store.sync()
    assert bench.firsts() == [1, 4]
    bench.trim_to(3)
    bench.store.sync()
    bench.append(STREAM, [10])
    bench.commit(STREAM, 6)
    bench.trim_to(5)
    (state,) = lose_data(bench).recovered().states
    assert state.history.committed == bench.history.origin
    assert [(run.start, run.end) for run in state.history.runs] == [(6, 9)]


# --- gaps -----------------------------------------------------------------------------------------


def with_gap(filled: int = 0, missing: int = 30) -> Bench:
    """Entries 1 to 10 are held, 11 to 40 are missing, but for those that are filled, 41 to 50 are
    held; an aside run has others from 11 to 20."""
    bench = Bench()
    bench.add(10)
    for _ in range(10):
        bench.append(STREAM, [1_000])
    bench.jump(STREAM, [1_000] * missing, [1_000] * 10)
    bench.commit(STREAM, 10)
    for _ in range(filled):
        bench.fill(STREAM, 1)
    bench.store.sync()
    assert bench.history.gaps() == [IdRange(11, 11 + missing)]
    return bench


@pytest.mark.parametrize("filled", [0, 3, 20])
@pytest.mark.parametrize("origin_id", [4, 10, 11, 12, 13, 14, 25, 31, 39, 40, 41, 49])
@pytest.mark.parametrize("is_reopened", [True, False])
def test_gap_is_closed_as_far_as_it_is_left(
    filled: int, origin_id: int, *, is_reopened: bool
) -> None:
    bench = with_gap(filled)
    bench.trim_to(origin_id)
    bench.store.sync()
    if is_reopened:
        bench.reopen()
    check_reads(bench.store, bench.model)
    bench.fill(STREAM, 5)
    bench.store.sync()
    bench.fill(STREAM, 99)
    bench.store.sync()
    assert bench.history.gaps() == []
    bench.reopen()
    while bench.store.remove_some():
        pass
    assert len(bench.file_names()) == bench.store.status()[STREAM]["files"]


@pytest.mark.parametrize(
    ("origin_id", "is_left"), [(9, True), (19, True), (20, False), (41, False)]
)
def test_aside_run_stays_while_it_may_close_what_is_left_of_the_gap(
    origin_id: int, *, is_left: bool
) -> None:
    bench = with_gap()
    bench.trim_to(origin_id)
    bench.store.sync()
    assert bool(bench.store._logs[STREAM].aside) == bool(bench.history.aside) == is_left
    assert bool(bench.reopen().history.aside) == is_left


# --- damage ---------------------------------------------------------------------------------------


def test_damage_in_the_extent_that_reaches_below_is_a_gap_above_the_origin_only() -> None:
    bench = full()
    start = bench.firsts()[1]
    bench.trim_to(start + 1)
    bench.store.sync()
    path = bench.store._logs[STREAM].runs[0].segment.path
    bench.store.close()
    inode = bench.files.names_now[path]
    assert inode is not None
    inode.data[5_000] ^= 1  # in the extent's first record
    inode.durable[:] = inode.data
    store = Store(DIRECTORY, bench.files)
    (state,) = store.recovered().states
    assert all(gap.start > bench.history.origin.entry_id for gap in state.history.gaps())
    assert state.history.tail == bench.history.tail


def test_live_extent_that_loses_all_above_the_origin_is_doubted_and_left() -> None:
    bench = Bench()
    bench.add(6, 100)
    bench.trim_to(4)
    bench.store.sync()
    path = bench.store._logs[STREAM].runs[0].segment.path
    bench.store.close()
    inode = bench.files.names_now[path]
    assert inode is not None
    fifth = bytes(inode.data).index(bench.model.streams[STREAM].runs[5])
    inode.data[fifth:] = inode.durable[fifth:] = bytes(len(inode.data) - fifth)
    store = Store(DIRECTORY, bench.files)
    (state,) = store.recovered().states
    assert state.history.tail == state.history.committed == bench.history.origin
    assert state.doubtful_id >= 6
    assert store._logs[STREAM].tail == bench.history.origin
    batch = batch_of(records_of(bench.history.origin, [10]))
    store.execute(effects.Append(STREAM, batch, 0, None))
    store.sync()
    assert read_bytes(store, read_action(STREAM, 5))


def test_other_streams_do_not_notice() -> None:
    bench = full()
    bench.create(8, Position(0, 0))
    bench.append(8, [100] * 10)
    bench.trim_to(50)
    bench.store.sync()
    while bench.store.remove_some():
        pass
    assert len(bench.store._logs[8].runs) == 1
    check_reads(bench.store, bench.model)
