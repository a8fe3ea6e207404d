"""What opening makes of torn, damaged, missing and foreign files; and the decision tables."""

from __future__ import annotations

import copy
import itertools
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.storage.model import (
    Driver,
    batch_of,
    by_position,
    check_reads,
    check_recovered,
    essence,
    read_action,
    read_bytes,
    records_of,
)
from walle.core import effects
from walle.errors import CorruptionError
from walle.ids import NO_WRITER, ORIGIN, Position
from walle.native import crc32c
from walle.record import size_of
from walle.storage import notes, recovery, segment
from walle.storage.examine import Examined, Piece
from walle.storage.extent import Extent
from walle.storage.manifest import ExtentRecord, Kind, StreamRecord
from walle.storage.notes import RECORDS_START
from walle.storage.recovery import FATES, TAILS, Fate, Found, Side, StreamRecovery
from walle.storage.segment import Segment
from walle.storage.store import Store
from walle.testing.files import Inode, SimulatedFiles

if TYPE_CHECKING:
    from walle.core.member import State

DIRECTORY = Path("/data")
STREAM = 5
SIZE = size_of(50)

pytestmark = pytest.mark.usefixtures("small_files")


class Bench:
    """A store of one stream on a simulated disk, closed, to be damaged and opened again."""

    def __init__(self) -> None:
        self.files = SimulatedFiles()
        self.driver = Driver(Store(DIRECTORY, self.files))
        self.driver.create(STREAM)

    def append(self, *counts: int) -> None:
        """Rounds with so many entries of 50 bytes each."""
        for count in counts:
            self.driver.append(STREAM, [50] * count)
            self.driver.store.sync()

    def confirm(self) -> None:
        """Lets the store be idle."""
        while self.driver.store.has_unconfirmed:
            self.driver.store.confirm()
            self.driver.store.sync()

    def commit(self, entry_id: int) -> None:
        """Makes that commit point durable."""
        history = self.driver.model.streams[STREAM].history
        self.driver.commit(STREAM, entry_id - history.committed.entry_id)
        self.driver.promise(STREAM)
        self.driver.store.sync()
        assert self.driver.store._logs[STREAM].journaled.entry_id == entry_id

    def path(self, number: int) -> Path:
        return segment.path_of(DIRECTORY / "streams", STREAM, number)

    def file(self, number: int = 1) -> Inode:
        inode = self.files.names_now[self.path(number)]
        assert inode is not None
        return inode

    def change(self, offset: int, new: bytes, number: int = 1) -> None:
        """Overwrites a part of a segment."""
        inode = self.file(number)
        for data in (inode.data, inode.durable):
            data[offset : offset + len(new)] = new

    def flip(self, offset: int, number: int = 1) -> None:
        self.change(offset, bytes([self.file(number).data[offset] ^ 0x10]), number)

    def spoil(self, entry_id: int, first_id: int = 1, number: int = 1) -> None:
        """Damages the entry's record in a file that begins with first_id."""
        self.flip(RECORDS_START + (entry_id - first_id) * SIZE + 60, number)

    def open(self) -> State:
        """Opens the store; opening it once more must find the same, and nothing to be done."""
        self.driver.store.close()
        store = Store(DIRECTORY, self.files)
        recovered = copy.deepcopy(store.recovered())
        again = Store(DIRECTORY, self.files)
        assert essence(again.recovered()) == essence(recovered)
        assert [text for text in again.findings if text not in store.findings] == []
        self.driver.store = again
        self.findings = " | ".join(store.findings)
        (state,) = recovered.states
        return state

    def ids(self, start: int = 1) -> list[int]:
        """The entries that a read from there returns."""
        found = by_position(read_bytes(self.driver.store, read_action(STREAM, start)))
        assert all(self.driver.known[STREAM][each] == found[each] for each in found)
        return [position.entry_id for position in found]

    def check_goes_on(self, state: State) -> None:
        """The store takes entries behind the recovered tail, and holds them."""
        batch = batch_of(records_of(state.history.tail, [50] * 4, self.driver.new_writer()))
        self.driver.known[STREAM].update(by_position(bytes(batch.payload.view())))
        self.driver.store.execute(effects.Append(STREAM, batch, 0, None))
        self.driver.store.sync()
        self.driver.store.close()
        store = self.driver.store = Store(DIRECTORY, self.files)
        (after,) = store.recovered().states
        assert after.history.tail == batch.last
        assert self.ids(batch.first_id) == list(range(batch.first_id, batch.last_id + 1))


def runs(state: State) -> list[tuple[int, int]]:
    return [(run.start, run.last.entry_id) for run in state.history.runs]


def asides(state: State) -> list[tuple[int, int]]:
    return [(run.start, run.last.entry_id) for run in state.history.aside]


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- torn tails -----------------------------------------------------------------------------------


def test_torn_tail_is_cut_wherever_it_is_torn() -> None:
    """At every byte of the last append, whatever of it follows: it goes as a whole."""
    start, end = RECORDS_START + 3 * SIZE, RECORDS_START + 5 * SIZE
    for torn_at in range(start, end):
        for size in (end - torn_at, 1, SIZE):
            bench = Bench()
            bench.append(3, 2)
            whole = bytes(bench.file().data)
            bench.change(torn_at, bytes(min(size, end - torn_at)))
            is_whole = bytes(bench.file().data) == whole
            state = bench.open()
            assert runs(state) == [(1, 5 if is_whole else 3)]
            assert ("which was never completed" in bench.findings) == (not is_whole)
            assert state.doubtful_id == 0
            assert bench.ids() == list(range(1, 6 if is_whole else 4))
        bench.check_goes_on(state)


def test_append_without_its_note_does_not_exist(bench: Bench) -> None:
    """Its records are whole; but where they lie, a file that is used again may hold anything."""
    bench.append(3, 2)
    bench.change(notes.BLOCK_BYTES, bytes(notes.BLOCK_BYTES))
    state = bench.open()
    assert runs(state) == [(1, 3)]
    assert state.doubtful_id == 0
    assert bench.findings == ""
    bench.check_goes_on(state)
    assert [each.segment.number for each in bench.driver.store._logs[STREAM].runs] == [1]


def test_torn_note_is_as_though_it_were_not_there() -> None:
    for place in range(notes.LAYOUT[-1].offset + 4):
        bench = Bench()
        bench.append(3, 2)
        bench.flip(notes.BLOCK_BYTES + place)
        state = bench.open()
        assert (runs(state), state.doubtful_id) == ([(1, 3)], 0)
        bench.check_goes_on(state)


def test_what_was_torn_is_never_written_over(bench: Bench) -> None:
    """So no part of it can come to life between newer records."""
    bench.append(3, 2)
    bench.change(RECORDS_START + 4 * SIZE - 20, bytes(20 + SIZE // 2))
    bench.change(RECORDS_START + 5 * SIZE - 20, bytes(20))
    before = bytes(bench.file().data)
    state = bench.open()
    assert runs(state) == [(1, 3)]
    assert "which was never completed" in bench.findings
    bench.check_goes_on(state)
    assert bytes(bench.file().data) == before
    assert [each.segment.number for each in bench.driver.store._logs[STREAM].runs] == [1, 2]


def test_clean_tail_goes_on_in_its_file(bench: Bench) -> None:
    bench.append(3, 2)
    state = bench.open()
    assert bench.findings == ""
    bench.check_goes_on(state)
    assert [each.segment.number for each in bench.driver.store._logs[STREAM].runs] == [1]


# --- damage in the uncommitted part ---------------------------------------------------------------


def test_damage_before_good_records_is_doubted(bench: Bench) -> None:
    bench.append(3, 5)
    bench.confirm()
    bench.spoil(5)
    state = bench.open()
    assert runs(state) == [(1, 4)]
    assert asides(state) == []
    assert state.doubtful_id == 8
    assert "up to entry 8 may have been acknowledged" in bench.findings
    assert bench.ids() == [1, 2, 3, 4]
    bench.check_goes_on(state)


def test_damage_below_the_last_append_is_doubted(bench: Bench) -> None:
    """Whether that is whole or torn as well."""
    for torn_id in (8, 7, 0):
        bench = Bench()
        bench.append(3, 3, 2)
        bench.spoil(5)
        if torn_id:
            bench.spoil(torn_id)
        state = bench.open()
        assert runs(state) == [(1, 4)]
        assert 6 <= state.doubtful_id <= 8
        bench.check_goes_on(state)


def test_damage_of_the_first_append_of_a_file_is_doubted(bench: Bench) -> None:
    """The journal names the extent, so it was durable."""
    bench.append(5)
    bench.spoil(3)
    state = bench.open()
    assert runs(state) == [(1, 2)]
    assert state.doubtful_id == 5
    bench.check_goes_on(state)


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("damage", ["zeros", "noise", "stale"])
@pytest.mark.parametrize("is_recovered", [False, True])
def test_one_note_is_enough_once_the_end_is_confirmed(
    bench: Bench, block: int, damage: str, is_recovered: bool
) -> None:
    """Nothing is forgotten or doubted; the store goes on, and what it then forgets is doubted."""
    bench.append(3, 2)
    stale = bytes(bench.file().data[block * 4_096 :][:4_096])
    bench.append(4)
    if is_recovered:
        bench.open()
    bench.confirm()
    new = {"zeros": bytes(4_096), "noise": b"?" * 4_096, "stale": stale}[damage]
    bench.change(block * 4_096, new)
    state = bench.open()
    assert (runs(state), state.doubtful_id, bench.findings) == ([(1, 9)], 0, "")
    bench.check_goes_on(state)
    bench.confirm()
    bench.spoil(13)
    state = bench.open()
    assert (runs(state), state.doubtful_id) == ([(1, 12)], 13)


def test_file_without_a_note_is_lost(bench: Bench) -> None:
    bench.append(3, 2)
    bench.change(notes.BLOCK_BYTES, bytes(2 * notes.BLOCK_BYTES))
    state = bench.open()
    assert runs(state) == []
    assert state.doubtful_id >= 5
    assert "no valid note of where it ends" in bench.findings
    assert bench.path(1).with_suffix(".damaged") in bench.files.names_now
    bench.check_goes_on(state)


def test_notes_of_another_file_are_not_believed(bench: Bench) -> None:
    """Nor those of another life of the same one."""
    bench.append(3, 2)
    segment = bench.driver.store._logs[STREAM].runs[0].segment
    for change in ({"stream_id": 6}, {"file_number": 2}, {"incarnation": 77}):
        note = segment.note.following(segment.note.end, segment.last)
        bench.change(note.offset, note.encode(segment.key._replace(**change)))
        assert notes.newest(memoryview(bench.file().data), segment.key) == segment.note


@pytest.mark.parametrize("entry_id", range(1, 6))
def test_every_damaged_byte_is_found(entry_id: int) -> None:
    for place in range(SIZE):
        bench = Bench()
        bench.append(2, 4)
        bench.confirm()
        bench.flip(RECORDS_START + (entry_id - 1) * SIZE + place)
        state = bench.open()
        assert runs(state) == ([(1, entry_id - 1)] if entry_id > 1 else [])
        assert state.doubtful_id == 6


def test_lost_first_record_is_damage(bench: Bench) -> None:
    """The journal names an extent only when its first record is durable."""
    bench.append(1)
    bench.change(RECORDS_START, bytes(SIZE))
    state = bench.open()
    assert runs(state) == []
    assert state.history.tail == ORIGIN
    assert state.doubtful_id >= 1
    bench.check_goes_on(state)


def test_doubt_lasts_until_a_newer_writer_or_the_commit_point_ends_it(bench: Bench) -> None:
    bench.append(3, 5)
    bench.confirm()
    bench.spoil(5)
    state = bench.open()
    bench.check_goes_on(state)  # entries 5 to 8 of the same writer
    (again,) = Store(DIRECTORY, bench.files).recovered().states
    assert again.doubtful_id == 8
    writer = bench.driver.new_writer()
    store = Store(DIRECTORY, bench.files)
    store.execute(effects.SetAccepted(STREAM, writer))
    store.sync()
    (again,) = Store(DIRECTORY, bench.files).recovered().states
    assert again.doubtful_id == 0


def test_doubt_ends_with_the_commit_point_behind_it(bench: Bench) -> None:
    bench.append(3, 5)
    bench.confirm()
    bench.spoil(5)
    bench.check_goes_on(bench.open())
    store = bench.driver.store
    store.execute(effects.Commit(STREAM, store._logs[STREAM].tail))
    store.execute(effects.SetAccepted(STREAM, NO_WRITER))
    store.sync()
    (again,) = Store(DIRECTORY, bench.files).recovered().states
    assert (again.history.committed.entry_id, again.doubtful_id) == (8, 0)


# --- damage in the committed part -----------------------------------------------------------------


def test_damage_below_the_commit_point_is_a_gap(bench: Bench) -> None:
    bench.append(3, 5)
    bench.commit(6)
    bench.spoil(4)
    state = bench.open()
    assert runs(state) == [(1, 3), (5, 8)]
    assert state.history.committed.entry_id == 6
    assert [tuple(gap) for gap in state.history.gaps()] == [(4, 5)]
    assert state.doubtful_id == 0
    assert bench.ids(1) == [1, 2, 3]
    assert bench.ids(4) == []
    assert bench.ids(5) == [5, 6, 7, 8]
    store = bench.driver.store
    record = bench.driver.model.streams[STREAM].runs[4]
    store.execute(effects.Fill(STREAM, batch_of([record])))
    store.execute(effects.CloseGap(STREAM))
    store.sync()
    check_reads(store, bench.driver.model)
    bench.append(3)
    check_recovered(Store(DIRECTORY, bench.files).recovered(), bench.driver.model)


def test_good_records_between_damaged_ones_are_kept_aside(bench: Bench) -> None:
    """They lie in the gap: nothing proves them, but they may be the only copies."""
    bench.append(3, 7)
    bench.commit(9)
    bench.spoil(4)
    bench.spoil(7)
    state = bench.open()
    assert runs(state) == [(1, 3), (8, 10)]
    assert asides(state) == [(5, 6)]
    assert bench.ids(5) == []
    chain = bench.driver.model.streams[STREAM].history.chain_at(4)
    assert read_bytes(
        bench.driver.store, read_action(STREAM, 5, after=chain, aside=True)
    ) == b"".join(bench.driver.model.streams[STREAM].runs[each] for each in (5, 6))
    bench.check_goes_on(state)


def test_damaged_commit_point_is_not_vouched_for(bench: Bench) -> None:
    """What is left of the run is committed; the rest may have been acknowledged."""
    bench.append(3, 7)
    bench.commit(6)
    bench.spoil(6)
    state = bench.open()
    assert runs(state) == [(1, 5)]
    assert state.history.committed == state.history.tail
    assert state.doubtful_id >= 10
    bench.check_goes_on(state)


def test_tail_below_the_commit_point_is_damage(bench: Bench) -> None:
    """Zeros from there on look like a torn tail; but the commit point was durable."""
    bench.append(3, 7)
    bench.commit(8)
    bench.change(RECORDS_START + 5 * SIZE, bytes(5 * SIZE))
    state = bench.open()
    assert runs(state) == [(1, 5)]
    assert state.history.committed == state.history.tail
    assert state.doubtful_id == 10
    bench.check_goes_on(state)


def test_run_above_a_gap_that_is_wholly_lost(bench: Bench) -> None:
    """The commit point falls back to the run below the gap, not into it."""
    bench.append(3)
    bench.commit(3)
    bench.driver.jump(STREAM, [50] * 5, [50] * 2)
    bench.driver.store.sync()
    del bench.files.names_now[bench.path(2)]
    state = bench.open()
    assert runs(state) == [(1, 3)]
    assert state.history.committed == state.history.tail
    assert state.doubtful_id >= 9
    bench.check_goes_on(state)


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def rotated(bench: Bench) -> Bench:
    """Entries 1 to 36 in the first segment, 37 to 300 in the second, up to 360 in the third."""
    bench.append(*[12] * 30)
    log = bench.driver.store._logs[STREAM]
    assert [each.first_id for each in log.runs] == [1, 37, 301]
    return bench


def test_missing_file_of_a_committed_part_is_a_gap(rotated: Bench) -> None:
    rotated.commit(350)
    del rotated.files.names_now[rotated.path(1)]
    state = rotated.open()
    assert runs(state) == [(37, 360)]
    assert [tuple(gap) for gap in state.history.gaps()] == [(1, 37)]
    assert state.doubtful_id == 0
    assert f"{rotated.path(1)} is missing" in rotated.findings
    rotated.check_goes_on(state)


def test_missing_file_of_the_uncommitted_part_is_doubted(rotated: Bench) -> None:
    """What lies above it is kept aside."""
    rotated.commit(100)
    del rotated.files.names_now[rotated.path(2)]
    state = rotated.open()
    assert runs(state) == [(1, 36)]
    assert asides(state) == [(301, 360)]
    assert state.history.committed.entry_id == 36
    assert state.doubtful_id > 359
    rotated.check_goes_on(state)


@pytest.mark.parametrize("committed_id", [300, 359, 360, 400])
def test_aside_run_is_dropped_once_the_commit_point_has_passed_it(
    rotated: Bench, committed_id: int
) -> None:
    """The live run has grown over it, in several files; the core drops it at the same time."""
    rotated.commit(100)
    del rotated.files.names_now[rotated.path(2)]
    history = rotated.open().history
    assert asides(rotated.open()) == [(301, 360)]
    store = rotated.driver.store
    while history.tail.entry_id < 400:
        batch = batch_of(records_of(history.tail, [50] * 14, rotated.driver.new_writer()))
        history.append(batch, 0)
        store.execute(effects.Append(STREAM, batch, 0, None))
        store.sync()
    committed = Position(committed_id, history.chain_at(committed_id) or 0)
    history.commit(committed)
    history.drop_covered_aside()
    store.execute(effects.Commit(STREAM, committed))
    assert len(history.aside) == len(store._logs[STREAM].aside) == (committed_id < 360)
    store.sync()
    assert (rotated.path(3) in rotated.files.names_now) == (committed_id < 360)
    assert len(asides(rotated.open())) == (committed_id < 360)


def test_aside_run_that_reaches_into_a_gap_is_kept(rotated: Bench) -> None:
    """The commit point has passed it, and it may be what is missing there."""
    rotated.commit(100)
    del rotated.files.names_now[rotated.path(2)]
    history = rotated.open().history
    before, batches = history.tail, []
    for count in (330 - before.entry_id, 1, 100):
        batches.append(batch_of(records_of(before, [50] * count, rotated.driver.new_writer())))
        before = batches[-1].last
    store = rotated.driver.store
    store.execute(effects.Append(STREAM, batches[0], 0, None))
    store.execute(effects.Commit(STREAM, batches[0].last))
    store.execute(effects.Jump(STREAM, batches[2], 0, batches[2].position_at(332), None))
    store.execute(effects.Commit(STREAM, batches[2].last))
    assert len(store._logs[STREAM].aside) == 1
    store.execute(effects.Fill(STREAM, batches[1]))
    store.execute(effects.CloseGap(STREAM))
    assert store._logs[STREAM].aside == []


def test_missing_last_file_is_doubted(rotated: Bench) -> None:
    rotated.commit(100)
    del rotated.files.names_now[rotated.path(3)]
    state = rotated.open()
    assert runs(state) == [(1, 300)]
    assert state.history.committed.entry_id == 100
    assert state.doubtful_id >= 301
    rotated.check_goes_on(state)


def test_damage_in_a_sealed_file_above_the_commit_point_is_doubted(rotated: Bench) -> None:
    rotated.commit(100)
    rotated.spoil(150, first_id=37, number=2)
    state = rotated.open()
    assert runs(state) == [(1, 149)]
    assert asides(state) == [(151, 360)]
    assert state.doubtful_id == 360
    rotated.check_goes_on(state)


@pytest.mark.parametrize(
    ("limit", "value", "base_id"),
    [("COMMITTED_LAG_ENTRIES_MAX", 20, 330), ("CHAINS_READ_BYTES", 264 * SIZE, 36)],
)
def test_sealed_file_far_below_the_commit_point_is_not_read(
    rotated: Bench, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, base_id: int
) -> None:
    monkeypatch.setattr(recovery, limit, value)
    rotated.commit(350)
    rotated.spoil(10)
    state = rotated.open()
    assert runs(state) == [(1, 360)]
    assert rotated.findings == ""
    assert state.history.base.entry_id == base_id
    with pytest.raises(CorruptionError):
        rotated.driver.store.read(read_action(STREAM, 10))


def test_damage_in_a_sealed_file_costs_no_more_than_the_record(rotated: Bench) -> None:
    """Where the file's records end is in the journal; so those behind the damage are proved."""
    rotated.commit(350)
    rotated.spoil(150, first_id=37, number=2)
    state = rotated.open()
    assert runs(state) == [(1, 149), (151, 360)]
    assert asides(state) == []
    rotated.check_goes_on(state)


def test_all_damage_is_found_if_all_is_read(
    rotated: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is far below the commit point is read then, too, and what is known of it forgotten."""
    monkeypatch.setattr(recovery, "COMMITTED_LAG_ENTRIES_MAX", 8)
    rotated.commit(350)
    rotated.spoil(10)
    assert runs(rotated.open()) == [(1, 360)]
    rotated.driver.store.close()
    store = Store(DIRECTORY, rotated.files, reads_all=True)
    (state,) = store.recovered().states
    assert runs(state) == [(1, 9), (11, 360)]
    assert store.findings == (
        "stream /stream/5: entries [10, 11) are damaged or missing in file 1",
    )
    assert state.history.base.entry_id >= 300
    assert [extent.index for extent in store._logs[STREAM].runs[:2]] == [None, None]


@pytest.mark.parametrize("offset", [0, 9, 20, 30, 35, 44, 50, 57])
def test_damaged_header_costs_the_file(rotated: Bench, offset: int) -> None:
    rotated.commit(350)
    rotated.flip(offset, number=2)
    state = rotated.open()
    assert runs(state) == [(1, 36), (301, 360)]
    assert state.doubtful_id == 0
    assert rotated.path(2) not in rotated.files.names_now
    assert rotated.path(2).with_suffix(".damaged") in rotated.files.names_now
    rotated.check_goes_on(state)


def test_file_of_another_stream_is_not_taken(rotated: Bench) -> None:
    rotated.commit(350)
    header = segment.Header(
        6, 2, rotated.driver.store._logs[STREAM].runs[1].segment.incarnation, 1, 0
    )
    rotated.change(0, header.encode(), number=2)
    assert runs(rotated.open()) == [(1, 36), (301, 360)]


def test_other_history_in_a_sealed_file_is_not_taken(rotated: Bench) -> None:
    """Every record is good, and the first one fits."""
    rotated.commit(350)
    log = rotated.driver.store._logs[STREAM]
    other = b"".join(records_of(log.runs[0].last, [50] * 264, rotated.driver.new_writer()))
    rotated.change(RECORDS_START, other, number=2)
    assert runs(rotated.open()) == [(1, 36), (301, 360)]


def test_other_history_in_the_last_file_is_not_taken(bench: Bench) -> None:
    """It is as long as what the note tells of."""
    bench.append(5)
    other = b"".join(records_of(ORIGIN, [50] * 5, bench.driver.new_writer()))
    bench.change(RECORDS_START, other)
    state = bench.open()
    assert runs(state) == []
    assert state.doubtful_id >= 5
    bench.check_goes_on(state)


def test_file_of_another_format_version_is_left_alone(rotated: Bench) -> None:
    header = bytearray(rotated.file(3).data[:56])
    header[8] = 3
    rotated.change(0, bytes(header) + crc32c(header).to_bytes(4, "little"), number=3)
    names = set(rotated.files.names_now)
    with pytest.raises(CorruptionError, match="run the release of walle that wrote it"):
        Store(DIRECTORY, rotated.files)
    assert set(rotated.files.names_now) == names


def test_shortened_file_is_not_written_beyond_its_end(bench: Bench) -> None:
    bench.append(3, 2)
    inode = bench.file()
    size = RECORDS_START + 5 * SIZE
    inode.data, inode.durable = inode.data[:size], inode.durable[:size]
    state = bench.open()
    assert (runs(state), state.doubtful_id) == ([(1, 5)], 0)
    bench.check_goes_on(state)


def test_what_a_shortened_file_lacks_is_damage() -> None:
    """Wherever it ends: a loss of power shortens none."""
    for size in range(0, RECORDS_START + 5 * SIZE, 31):
        bench = Bench()
        bench.append(3, 2)
        inode = bench.file()
        inode.data, inode.durable = inode.data[:size], inode.durable[:size]
        state = bench.open()
        held = max(0, size - RECORDS_START) // SIZE
        assert runs(state) == ([(1, held)] if held else [])
        assert state.doubtful_id >= 5
        bench.check_goes_on(state)


def test_files_that_no_extent_names_are_removed(bench: Bench) -> None:
    bench.append(3)
    for path in (bench.path(9), DIRECTORY / "streams" / ("0" * 15 + "7") / "00000001.segment"):
        bench.files.make_directory(path.parent)
        bench.files.create(path, 100)
    keep = [bench.path(1).parent / "notes.txt", DIRECTORY / "streams" / "notes.txt"]
    for path in keep:
        bench.files.create(path, 100)
    bench.open()
    left = [path for path, inode in bench.files.names_now.items() if inode is not None]
    assert sorted(path for path in left if path.suffix != ".journal") == sorted(
        [bench.path(1), *keep]
    )


# --- aside runs and the fill ----------------------------------------------------------------------


@pytest.fixture
def jumped(bench: Bench) -> Bench:
    """A run 1 to 3, an aside run 4 to 6, a gap 4 to 12, a live run 13 to 14, a fill 4 to 8."""
    bench.append(3, 3)
    bench.commit(3)
    bench.driver.jump(STREAM, [50] * 9, [50] * 2)
    bench.driver.fill(STREAM, 5)
    bench.driver.store.sync()
    check_recovered(Store(DIRECTORY, bench.files).recovered(), bench.driver.model)
    return bench


def test_torn_fill_is_cut(jumped: Bench) -> None:
    jumped.change(RECORDS_START + 3 * SIZE + 30, bytes(2 * SIZE - 30), number=3)
    state = jumped.open()
    assert state.history.fill is not None
    assert state.history.fill.last.entry_id == 6
    assert state.doubtful_id == 0
    truth = jumped.driver.truth[STREAM]
    store = jumped.driver.store
    rest = batch_of([truth[each] for each in range(7, 13)])
    store.execute(effects.Fill(STREAM, rest))
    store.execute(effects.CloseGap(STREAM))
    store.sync()
    (state,) = Store(DIRECTORY, jumped.files).recovered().states
    assert (runs(state), asides(state)) == ([(1, 14)], [])


def test_missing_file_of_the_fill_drops_it(jumped: Bench) -> None:
    del jumped.files.names_now[jumped.path(3)]
    state = jumped.open()
    assert state.history.fill is None
    assert runs(state) == [(1, 3), (13, 14)]
    assert state.doubtful_id == 0


def test_missing_file_of_an_aside_run_drops_it(jumped: Bench) -> None:
    del jumped.files.names_now[jumped.path(1)]
    state = jumped.open()
    assert asides(state) == []
    assert runs(state) == [(13, 14)]
    assert state.history.fill is None  # it does not build on what is below the lowest gap any more


def test_aside_run_without_its_middle_is_two(rotated: Bench) -> None:
    rotated.commit(20)
    rotated.driver.jump(STREAM, [50] * 400, [50] * 2)
    rotated.driver.store.sync()
    del rotated.files.names_now[rotated.path(2)]
    state = rotated.open()
    assert asides(state) == [(21, 36), (301, 360)]
    assert len(rotated.driver.store._logs[STREAM].aside) == 2
    assert runs(state) == [(1, 20), (421, 422)]
    assert state.doubtful_id == 0


def test_gap_that_the_fill_spans_is_closed(jumped: Bench) -> None:
    """The machine died between the last of the fill and the journal's word that it is proved."""
    truth = jumped.driver.truth[STREAM]
    rest = batch_of([truth[each] for each in range(9, 13)])
    jumped.driver.store.execute(effects.Fill(STREAM, rest))
    jumped.driver.store.sync()
    state = jumped.open()
    assert (runs(state), asides(state), state.history.fill) == ([(1, 14)], [], None)
    jumped.check_goes_on(state)
    assert jumped.path(3) in jumped.files.names_now


def test_fill_that_does_not_meet_the_run_above_is_dropped(jumped: Bench) -> None:
    log = jumped.driver.store._logs[STREAM]
    other = batch_of(records_of(log.fill[-1].last, [50] * 4, jumped.driver.new_writer()))
    jumped.driver.store.execute(effects.Fill(STREAM, other))
    jumped.driver.store.sync()
    state = jumped.open()
    assert (runs(state), asides(state), state.history.fill) == ([(1, 3), (13, 14)], [(4, 6)], None)
    assert jumped.path(3) not in jumped.files.names_now


# --- the tables -----------------------------------------------------------------------------------


def test_tables_have_one_row_for_each_case() -> None:
    assert set(FATES) == set(itertools.product(Found, Side))
    assert set(TAILS) == set(itertools.product([False, True], repeat=2))


COMMITTED = Position(50, 5_000)


def chain_of(entry_id: int) -> int:
    """The chain after an entry of the made-up history."""
    return entry_id * 100


def make_piece(
    first_id: int, last_id: int, *, is_named: bool = True, is_denying: bool = False
) -> Piece:
    """Records of a history in which each entry's chain is 100 times its id."""
    chains = array("Q", [chain_of(each) + is_denying for each in range(first_id, last_id + 1)])
    extent = Extent(
        Segment(Path("file"), STREAM, first_id, 1, 1 << 20),
        Kind.RUN,
        RECORDS_START,
        first_id,
        chain_of(first_id - 1),
        RECORDS_START + 8 * (last_id - first_id + 1),
        Position(last_id, chains[-1]),
        is_sealed=True,
    )
    return Piece(extent, chains, is_named)


def make_record(piece: Piece) -> ExtentRecord:
    return piece.extent.record()


def recover(pieces: list[Piece]) -> StreamRecovery:
    """Recovers a stream whose extents hold one piece each, all sealed."""
    stream = StreamRecord(
        STREAM, 1, 1, 0, NO_WRITER, 0, 0, NO_WRITER, COMMITTED, 0, "/s", "", ("n1",), (), (), ()
    )
    found = {piece.extent.segment.number: piece for piece in pieces}

    def look(record: ExtentRecord, is_read: bool) -> Examined:
        piece = found[record.file_number]
        return Examined([piece], piece.extent.last.entry_id)

    one = StreamRecovery(stream, [make_record(piece) for piece in pieces], look)
    one.recovered = one.recover()  # type: ignore[attr-defined]
    return one


CASES: dict[tuple[Found, Side], list[tuple[int, int]]] = {
    (Found.LINKED, Side.BELOW): [(1, 40)],
    (Found.LINKED, Side.HOLDS): [(1, 60)],
    (Found.LINKED, Side.DENIES): [(1, 60)],
    (Found.LINKED, Side.ABOVE): [(1, 50), (51, 60)],
    (Found.NAMED, Side.BELOW): [(11, 40)],
    (Found.NAMED, Side.HOLDS): [(11, 60)],
    (Found.NAMED, Side.DENIES): [(11, 60)],
    (Found.NAMED, Side.ABOVE): [(1, 50), (61, 70)],
    (Found.LOOSE, Side.BELOW): [(11, 40)],
    (Found.LOOSE, Side.HOLDS): [(11, 60)],
    (Found.LOOSE, Side.DENIES): [(11, 60)],
    (Found.LOOSE, Side.ABOVE): [(1, 50), (61, 70)],
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0].name} {case[1].name}")
def test_fate_of_a_piece(case: tuple[Found, Side]) -> None:
    found, side = case
    *below, (first_id, last_id) = CASES[case]
    pieces = [make_piece(*each) for each in below]
    pieces.append(
        make_piece(
            first_id,
            last_id,
            is_named=found is not Found.LOOSE,
            is_denying=side is Side.DENIES,
        )
    )
    assert recovery.side_of(pieces[-1], COMMITTED) is side
    state = recover(pieces).recovered.state  # type: ignore[attr-defined]
    judged = (first_id, last_id)
    held = [run for run in runs(state) if run[0] <= first_id and last_id <= run[1]]
    fate = Fate.RUN if held else Fate.ASIDE if judged in asides(state) else Fate.LOST
    assert fate is FATES[case]
    is_doubtful = side is not Side.HOLDS and case != (Found.LINKED, Side.ABOVE)
    assert (state.doubtful_id >= last_id) == is_doubtful
    assert state.history.committed.entry_id <= state.history.tail.entry_id
