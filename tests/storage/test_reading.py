"""Which records a read returns, from which run, and that damaged ones are refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.storage.checks import is_in_memory, needs_direct_writes
from tests.storage.model import (
    Driver,
    batch_of,
    by_position,
    check_reads,
    read_action,
    read_bytes,
    records_of,
)
from walle.errors import CorruptionError
from walle.ids import ORIGIN
from walle.limits import MIB
from walle.record import HEADER_BYTES, size_of
from walle.storage import extent, pool, reader, recovery, segment
from walle.storage.notes import RECORDS_START
from walle.storage.segment import Segment
from walle.storage.spare import Spare
from walle.storage.store import Store
from walle.storage.vfs import DIRECT_BYTES_MIN, RealFiles
from walle.testing.files import SimulatedFile, SimulatedFiles

if TYPE_CHECKING:
    from walle.core import effects
    from walle.storage.extent import Extent

STREAM = 5


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    """A store with one stream of twenty entries, all of one record size."""
    driver = Driver(Store(tmp_path / "data", RealFiles()))
    driver.create(STREAM)
    driver.append(STREAM, [100] * 20)
    driver.store.sync()
    return driver


def ids_read(driver: Driver, action: effects.ReadRecords) -> list[int]:
    return [position.entry_id for position in by_position(read_bytes(driver.store, action))]


def segments(driver: Driver) -> list[Path]:
    return sorted({each.segment.path for each in driver.store._logs[STREAM].runs})


def flip(path: Path, offset: int) -> None:
    """Changes one bit of a file, in place: maps of it show the change."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_only_what_is_read_is_kept_in_memory(tmp_path: Path) -> None:
    needs_direct_writes(tmp_path)
    driver = Driver(Store(tmp_path / "data", RealFiles()))
    driver.create(STREAM)

    def put_much() -> bool:
        """Puts a large batch; whether it is in memory then."""
        driver.append(STREAM, [10_000] * (DIRECT_BYTES_MIN // 10_000 + 1))
        driver.store.sync()
        end = driver.store._logs[STREAM].runs[-1].end
        return is_in_memory(segments(driver)[-1], end - DIRECT_BYTES_MIN // 2)

    driver.append(STREAM, [900_000])  # so that the next segment has room
    assert not put_much()
    assert not put_much()
    check_reads(driver.store, driver.model)
    assert put_much(), "what follows will be read, too"
    check_reads(driver.store, driver.model)


# --- bounds ---------------------------------------------------------------------------------------


def test_read_ends_before_end(driver: Driver) -> None:
    assert ids_read(driver, read_action(STREAM, 3, 7)) == [3, 4, 5, 6]
    assert ids_read(driver, read_action(STREAM, 3, 4)) == [3]
    assert ids_read(driver, read_action(STREAM, 3, 3)) == []
    assert ids_read(driver, read_action(STREAM, 3, 2)) == []


def test_read_stops_at_the_tail(driver: Driver) -> None:
    assert ids_read(driver, read_action(STREAM, 18, 99)) == [18, 19, 20]
    assert ids_read(driver, read_action(STREAM, 21, 99)) == []
    assert ids_read(driver, read_action(STREAM, 0, 99)) == []


def test_read_stops_behind_so_many_bytes(driver: Driver) -> None:
    size = size_of(100)
    for bytes_max, count in [(0, 1), (1, 1), (size, 1), (size + 1, 2), (5 * size, 5)]:
        action = read_action(STREAM, 2, bytes_max=bytes_max)
        assert ids_read(driver, action) == list(range(2, 2 + count))


def test_stream_without_entries_or_unknown_reads_as_nothing(driver: Driver) -> None:
    driver.create(6)
    assert driver.store.read(read_action(6, 1)) == []
    assert driver.store.read(read_action(7, 1)) == []


def test_every_entry_can_be_read_alone(driver: Driver) -> None:
    for entry_id, record in driver.model.streams[STREAM].runs.items():
        assert driver.store.read(read_action(STREAM, entry_id, entry_id + 1)) == [record]


@pytest.mark.usefixtures("small_files")
def test_read_goes_on_in_the_next_segment_of_a_run(driver: Driver) -> None:
    for _ in range(30):
        driver.append(STREAM, [500] * 5)
    driver.store.sync()
    assert len(segments(driver)) > 2
    views = driver.store.read(read_action(STREAM, 1))
    assert len(views) == len(segments(driver))
    assert all(view.readonly for view in views)
    check_reads(driver.store, driver.model)
    second = driver.store._logs[STREAM].runs[1]
    action = read_action(STREAM, second.first_id - 1, second.first_id + 1)
    assert ids_read(driver, action) == [second.first_id - 1, second.first_id]


def test_read_ends_at_a_gap(driver: Driver) -> None:
    driver.commit(STREAM, 20)
    driver.jump(STREAM, [1] * 10, [1] * 5)
    assert ids_read(driver, read_action(STREAM, 19)) == [19, 20]
    assert ids_read(driver, read_action(STREAM, 25)) == []
    assert ids_read(driver, read_action(STREAM, 31)) == [31, 32, 33, 34, 35]


# --- the choice of a run --------------------------------------------------------------------------


def test_after_names_the_history(driver: Driver) -> None:
    chain = driver.model.streams[STREAM].history.chain_at(9)
    assert chain is not None
    assert ids_read(driver, read_action(STREAM, 10, 12, after=chain)) == [10, 11]
    assert ids_read(driver, read_action(STREAM, 10, 12, after=chain ^ 1)) == []
    assert ids_read(driver, read_action(STREAM, 1, 2, after=0)) == [1]
    assert ids_read(driver, read_action(STREAM, 1, 2, after=1)) == []


def test_aside_runs_are_read_when_asked_for(driver: Driver) -> None:
    """Entries 6 to 20 lie in an aside run, 16 to 20 of another history in the live run."""
    driver.commit(STREAM, 5)
    suffix = driver.model.streams[STREAM].runs[18]
    driver.jump(STREAM, [7] * 10, [8] * 5)
    history = driver.model.streams[STREAM].history
    (aside,) = history.aside
    assert (aside.start, history.runs[-1].start) == (6, 16)
    live = driver.model.streams[STREAM].runs[18]
    after = int.from_bytes(suffix[4:12], "little")
    for is_aside, chain, wanted in [
        (False, None, live),
        (True, None, live),
        (False, after, b""),
        (True, after, suffix),
        (True, after ^ 1, b""),
    ]:
        action = read_action(STREAM, 18, 19, after=chain, aside=is_aside)
        assert read_bytes(driver.store, action) == wanted
    assert ids_read(driver, read_action(STREAM, 10, 12, aside=True)) == [10, 11]
    assert ids_read(driver, read_action(STREAM, 10, 12)) == []


def test_fill_is_not_read_before_its_gap_is_closed(driver: Driver) -> None:
    driver.commit(STREAM, 20)
    driver.jump(STREAM, [7] * 10, [8] * 5)
    driver.fill(STREAM, 5)
    assert ids_read(driver, read_action(STREAM, 21, aside=True)) == []
    driver.fill(STREAM, 5)
    assert ids_read(driver, read_action(STREAM, 18)) == list(range(18, 36))


# --- views and indexes ----------------------------------------------------------------------------


def test_views_outlive_what_they_show(driver: Driver) -> None:
    """A reader may still hold a record when it is cut off and its file is removed."""
    wanted = driver.model.streams[STREAM].runs[20]
    views = driver.store.read(read_action(STREAM, 20))
    driver.truncate(STREAM, 99)
    driver.append(STREAM, [3] * 30)
    driver.store.sync()
    driver.store.close()
    assert views == [wanted]


@pytest.mark.usefixtures("small_files")
def test_indexes_and_open_files_are_bounded(driver: Driver, tmp_path: Path) -> None:
    for _ in range(60):
        driver.append(STREAM, [500] * 5)
        driver.store.sync()
    store = driver.store = Store(tmp_path / "data", RealFiles())
    for _ in range(2):
        check_reads(store, driver.model)
        runs = store._logs[STREAM].runs
        indexed = [each for each in runs if each.is_sealed and each.index is not None]
        assert len(runs) > len(indexed) <= reader.INDEXES_COUNT_MAX
        assert len(store._pool._maps) <= pool.MAPS_COUNT_MAX
    for entry_id in range(1, 320, 37):
        assert ids_read(driver, read_action(STREAM, entry_id, entry_id + 1)) == [entry_id]


def test_index_has_a_point_for_about_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MIN", MIB)  # one file holds it all
    driver = Driver(Store(tmp_path / "data", RealFiles()))
    driver.create(STREAM)
    for _ in range(200):
        driver.append(STREAM, [1_000] * 3)
    driver.store.sync()

    def points(each: Extent) -> int:
        assert each.index is not None
        return len(each.index._ids)

    (grown,) = driver.store._logs[STREAM].runs
    wanted = (grown.end - grown.offset) // extent.INDEX_STEP_BYTES
    assert wanted - 2 <= points(grown) <= wanted + 1
    driver.store = Store(tmp_path / "data", RealFiles())
    (scanned,) = driver.store._logs[STREAM].runs
    assert wanted - 2 <= points(scanned) <= wanted + 1
    check_reads(driver.store, driver.model)


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 5, 13, 20, 30, 44, HEADER_BYTES, HEADER_BYTES + 99])
def test_damaged_record_is_refused_wherever_it_is_hit(driver: Driver, place: int) -> None:
    size = size_of(100)
    flip(segments(driver)[0], RECORDS_START + 9 * size + place)
    with pytest.raises(CorruptionError) as caught:
        driver.store.read(read_action(STREAM, 10))
    assert caught.value.path == str(segments(driver)[0])
    assert caught.value.offset == RECORDS_START + 9 * size
    assert ids_read(driver, read_action(STREAM, 8)) == [8, 9]
    hides_what_follows = place in (13, 20)  # the length, the id
    if not hides_what_follows:
        assert ids_read(driver, read_action(STREAM, 12, 15)) == [12, 13, 14]


@pytest.mark.parametrize("place", [0, 4, 11])
def test_damaged_chain_is_not_taken_for_another_history(driver: Driver, place: int) -> None:
    chain = driver.model.streams[STREAM].history.chain_at(9)
    flip(segments(driver)[0], RECORDS_START + 9 * size_of(100) + place)
    with pytest.raises(CorruptionError, match="bad crc"):
        driver.store.read(read_action(STREAM, 10, 12, after=chain))


def test_record_that_is_not_where_it_should_be_is_refused(driver: Driver) -> None:
    """Its bytes are good, but it is another entry."""
    path, size = segments(driver)[0], size_of(100)
    with path.open("r+b") as file:
        file.seek(RECORDS_START + 4 * size)
        other = file.read(size)
        file.seek(RECORDS_START + 9 * size)
        file.write(other)
    with pytest.raises(CorruptionError):
        driver.store.read(read_action(STREAM, 10))
    assert ids_read(driver, read_action(STREAM, 8)) == [8, 9]


def test_history_of_someone_else_is_refused(driver: Driver) -> None:
    """Every record is good, and so is the chain; but it does not end as it should."""
    others = b"".join(records_of(ORIGIN, [100] * 20))
    with segments(driver)[0].open("r+b") as file:
        file.seek(RECORDS_START)
        file.write(others)
    with pytest.raises(CorruptionError, match="other records behind entry 20"):
        driver.store.read(read_action(STREAM, 15))


@pytest.mark.usefixtures("small_files")
def test_history_of_someone_else_in_a_sealed_segment_is_refused(driver: Driver) -> None:
    for _ in range(10):
        driver.append(STREAM, [500] * 5)
        driver.store.sync()
    first = driver.store._logs[STREAM].runs[0]
    assert first.is_sealed
    others = records_of(ORIGIN, [100] * 20 + [500] * (first.last.entry_id - 20))
    with first.segment.path.open("r+b") as file:
        file.seek(RECORDS_START)
        file.write(b"".join(others))
    first.index = None
    with pytest.raises(CorruptionError):
        driver.store.read(read_action(STREAM, first.last.entry_id - 1, first.last.entry_id))


@pytest.mark.usefixtures("small_files")
def test_read_ends_before_a_segment_that_begins_with_damage(driver: Driver) -> None:
    for _ in range(10):
        driver.append(STREAM, [500] * 5)
    driver.store.sync()
    first, second = driver.store._logs[STREAM].runs[:2]
    wanted = list(range(15, first.last.entry_id + 1))
    flip(second.segment.path, RECORDS_START + 60)
    assert ids_read(driver, read_action(STREAM, 15)) == wanted
    with pytest.raises(CorruptionError):
        driver.store.read(read_action(STREAM, second.first_id))
    driver.store._pool._maps.clear()
    second.segment.path.unlink()
    assert ids_read(driver, read_action(STREAM, 15)) == wanted


@pytest.mark.usefixtures("small_files")
def test_sealed_segment_is_checked_at_first_sight(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening does not read it, so finding an entry in it does, up to that entry."""
    monkeypatch.setattr(recovery, "COMMITTED_LAG_ENTRIES_MAX", 10)
    for _ in range(10):
        driver.append(STREAM, [500] * 5)
        driver.store.sync()
    driver.commit(STREAM, 99)
    driver.promise(STREAM)
    driver.store.sync()
    driver.store.close()
    flip(segments(driver)[0], RECORDS_START + 9 * size_of(100) + 60)
    store = driver.store = Store(tmp_path / "data", RealFiles())
    assert store.findings == ()
    assert ids_read(driver, read_action(STREAM, 9, 10)) == [9]
    with pytest.raises(CorruptionError):
        store.read(read_action(STREAM, 20))
    assert ids_read(driver, read_action(STREAM, 65, 67)) == [65, 66]


@pytest.mark.parametrize("damage", ["header", "removed", "cut", "empty"])
def test_file_that_is_not_the_segment_is_refused(
    driver: Driver, tmp_path: Path, damage: str
) -> None:
    path = segments(driver)[0]
    data = path.read_bytes()
    path.unlink()
    if damage == "header":
        path.write_bytes(data[:40] + b"x" + data[41:])
    elif damage == "cut":
        path.write_bytes(data[: RECORDS_START + 100])
    elif damage == "empty":
        path.write_bytes(b"")
    with pytest.raises(CorruptionError):
        driver.store.read(read_action(STREAM, 1))
    with pytest.raises(CorruptionError):
        driver.store.read(read_action(STREAM, 1))


def test_damage_in_the_way_of_a_truncation_ends_the_store(driver: Driver) -> None:
    """Where to cut is not known; the next opening finds out what is left."""
    flip(segments(driver)[0], RECORDS_START + 3 * size_of(100) + 14)
    with pytest.raises(CorruptionError):
        driver.truncate(STREAM, 5)


def test_batch_is_checked_before_it_is_believed() -> None:
    """The model's own helpers refuse bad records."""
    with pytest.raises(CorruptionError):
        batch_of([b"x" * 100])


class OpeningFiles(SimulatedFiles):
    """Notes what is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def open(self, path: Path) -> SimulatedFile:
        self.opened.append(path.name)
        return super().open(path)


def test_file_that_was_written_stays_open_until_it_is_synced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A descriptor opened later might not be told that the write has failed."""
    monkeypatch.setattr(pool, "WRITERS_COUNT_MAX", 1)
    files = OpeningFiles()
    files.make_directory(Path("/base"))
    one = pool.Pool(files, Spare(Path("/spare"), files))
    segments = [Segment(Path(f"/base/{number}"), 1, number, 1, 1 << 14) for number in (1, 2, 3)]
    for each in segments:
        one.create(each)

    def write(segment: Segment) -> None:
        one.add(segment, b"x", ORIGIN)
        one.write(segment)

    write(segments[0])
    files.opened.clear()
    one.create(Segment(Path("/base/4"), 1, 4, 1, 1 << 14))
    write(segments[0])
    assert files.opened == [], "it is still open"
    write(segments[1])  # one more may not wait for a sync, so the first is synced
    one.sync()
    write(segments[2])
    one.sync()
    write(segments[0])
    assert files.opened == ["2", "3", "1"]
