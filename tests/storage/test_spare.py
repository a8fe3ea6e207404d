"""Files that are used again: which, how many, and that their former life is over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.storage.checks import DIRECTORY, check_only_good_reads
from tests.storage.explorer import Explorer
from tests.storage.model import Driver, read_action, read_bytes
from walle.storage import segment, spare
from walle.storage.spare import Spare
from walle.storage.store import Store
from walle.testing.files import SimulatedFiles

if TYPE_CHECKING:
    from walle.storage.vfs import Files

SPARE = DIRECTORY / "spare"
SIZE = 16 * 1024


def trim(driver: Driver, stream_id: int, first_entry_id: int) -> None:
    """Drops the segments wholly below that entry."""
    history = driver.model.streams[stream_id].history
    driver.commit(stream_id, history.tail.entry_id)
    driver.trim(stream_id, first_entry_id - 1 - history.origin.entry_id)
    driver.store.sync()
    while driver.store.remove_some():
        pass


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, small_files: None) -> Explorer:
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MAX", SIZE)
    return Explorer()


@pytest.fixture
def driver(files: Explorer) -> Driver:
    """Two full segments and the beginning of a third in stream 1, nothing in stream 2."""
    driver = Driver(Store(DIRECTORY, files))
    driver.create(1)
    driver.create(2)
    driver.store.sync()
    for _ in range(10):
        driver.append(1, [900])
        driver.store.sync()
    assert [extent.first_id for extent in driver.store._logs[1].runs] == [1, 5, 9]
    return driver


def names(files: Files, stream_id: int) -> list[str]:
    directory = segment.directory_of(DIRECTORY / "streams", stream_id)
    return sorted(name.removesuffix(".segment").lstrip("0") for name in files.names(directory))


@pytest.mark.parametrize("stream_id", [1, 2])
def test_file_of_trimmed_entries_is_used_again(
    files: Explorer, driver: Driver, stream_id: int
) -> None:
    inode = files.names_now[segment.path_of(DIRECTORY / "streams", 1, 1)]
    trim(driver, 1, 6)
    assert (names(files, 1), len(files.names(SPARE))) == (["2", "3"], 1)
    count = 0
    while files.names(SPARE):
        driver.append(stream_id, [400])
        driver.store.sync()
        count += 1
    log = driver.store._logs[stream_id]
    assert files.names_now[log.runs[-1].segment.path] is inode
    driver.append(stream_id, [300])
    driver.store.sync()
    start = driver.model.streams[stream_id].history.tail.entry_id - count
    wanted = driver.model.streams[stream_id].read(read_action(stream_id, start))
    assert read_bytes(driver.store, read_action(stream_id, start)) == wanted
    driver.store.close()
    store = Store(DIRECTORY, files)
    assert store.findings == ()
    assert read_bytes(store, read_action(stream_id, start)) == wanted


@pytest.mark.parametrize("stream_id", [1, 2])
def test_former_life_never_comes_back(files: Explorer, driver: Driver, stream_id: int) -> None:
    """Whatever a loss of power leaves of appends to the file."""
    trim(driver, 1, 9)
    history = driver.model.streams[stream_id].history
    acknowledged_id = history.tail.entry_id

    def check(image: SimulatedFiles) -> None:
        store = Store(DIRECTORY, image)
        assert image.names(SPARE) == []
        for state in store.recovered().states:
            assert state.doubtful_id == 0
            check_only_good_reads(store, state.stream_id, state.history, driver)
            if state.stream_id == stream_id:
                assert acknowledged_id <= state.history.tail.entry_id <= history.tail.entry_id

    for _ in range(8):
        files.visit = check
        driver.append(stream_id, [900])  # as large as those that lie there
        driver.store.sync()
        acknowledged_id = history.tail.entry_id
        files.explore()
        files.visit = None
    assert driver.store._logs[stream_id].runs[-1].segment.number > 1
    assert files.names(SPARE) == []
    assert files.count > 100


def test_file_whose_entries_may_come_again_is_removed(files: Explorer, driver: Driver) -> None:
    driver.truncate(1, 5)
    driver.store.sync()
    assert (names(files, 1), files.names(SPARE)) == (["1", "2"], [])


def test_file_that_was_made_shorter_is_removed(files: Explorer, driver: Driver) -> None:
    """Its space is not reserved any more, and recovery would take its size for damage."""
    inode = files.names_now[segment.path_of(DIRECTORY / "streams", 1, 1)]
    assert inode is not None
    del inode.data[5_000:], inode.durable[5_000:]
    trim(driver, 1, 9)
    assert (names(files, 1), len(files.names(SPARE))) == (["3"], 1)
    for _ in range(10):
        driver.append(1, [900])
        driver.store.sync()
    assert inode not in files.names_now.values()


def test_spare_files_are_removed_when_their_space_is_needed(
    files: Explorer, driver: Driver
) -> None:
    trim(driver, 1, 9)
    assert len(files.names(SPARE)) == 2
    driver.store.drop_spare()
    assert files.names(SPARE) == []
    for _ in range(4):
        driver.append(1, [900])
        driver.store.sync()


def test_spare_files_are_removed_when_the_store_is_opened(files: Explorer, driver: Driver) -> None:
    trim(driver, 1, 9)
    assert len(files.names(SPARE)) == 2
    driver.store.close()
    Store(DIRECTORY, files)
    assert files.names(SPARE) == []


@pytest.mark.parametrize(("limit", "value"), [("SPARE_COUNT_MAX", 2), ("SPARE_BYTES_MAX", 1_050)])
def test_number_and_size_are_bounded(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(spare, limit, value)
    files = SimulatedFiles()
    one = Spare(Path("/spare"), files)
    for name, size in (("/a", 500), ("/b", 550), ("/c", 1)):
        files.create(Path(name), size)
        one.keep(Path(name), size)
    names = ["00000002.segment", "00000003.segment"]
    assert sorted(files.names(Path("/spare"))) == names, "the oldest is gone"
    assert files.names(Path("/")) == []
    assert one.size == 551
    assert not one.take(Path("/d"), 549)
    assert one.take(Path("/d"), 550)
    assert not one.take(Path("/e"), 550)
    assert one.size == 1
    files.create(Path("/c"), 1)
    one.keep(Path("/c"), 1)
    assert sorted(files.names(Path("/spare"))) == ["00000003.segment", "00000004.segment"]
