"""The store on real files: actions, rounds, and the order of writes and syncs in them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from tests.storage.model import (
    CLUSTER_ID,
    WRITER,
    Driver,
    batch_of,
    check_reads,
    check_recovered,
    read_action,
    read_bytes,
    records_of,
)
from walle.core import effects
from walle.core.effects import Promise
from walle.core.node import Recovered
from walle.errors import InvariantError
from walle.ids import ORIGIN, Position
from walle.limits import ENTRY_DATA_BYTES_MAX, MIB, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN
from walle.messages import NodeRecord
from walle.record import Batch, Bytes, size_of
from walle.storage.notes import BLOCK_BYTES
from walle.storage.store import Store
from walle.storage.vfs import RealFiles
from walle.testing.files import SimulatedFile, SimulatedFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from walle.storage.vfs import File


def reopened(driver: Driver, directory: Path) -> Driver:
    """The same streams, in a store that was closed and opened again."""
    driver.store.close()
    driver.store = Store(directory, RealFiles())
    assert driver.store.findings == ()
    check_recovered(driver.store.recovered(), driver.model)
    check_reads(driver.store, driver.model)
    return driver


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    """A store with one stream, 5, of three entries."""
    driver = Driver(Store(tmp_path / "data", RealFiles()))
    driver.do(effects.SetCluster(CLUSTER_ID, (NodeRecord("n1", "h:1", b"1" * 16),)))
    driver.create(5)
    driver.append(5, [10, 20, 30], is_accepted=True)
    driver.store.sync()
    return driver


def is_dirty(driver: Driver) -> bool:
    return driver.store.is_dirty


# --- round trips ----------------------------------------------------------------------------------


def test_new_directory_holds_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", RealFiles())
    recovered = store.recovered()
    assert recovered == Recovered()
    assert not store.is_dirty
    assert store.status() == {}
    store.close()
    assert Store(tmp_path / "data", RealFiles()).recovered() == recovered


def test_what_was_recovered_is_told_once(tmp_path: Path) -> None:
    store = Store(tmp_path / "data", RealFiles())
    store.recovered()
    with pytest.raises(InvariantError):
        store.recovered()


Step: TypeAlias = "Callable[[Driver], None]"

ROUNDS: dict[str, list[Step]] = {
    "cluster": [lambda d: d.do(effects.SetCluster(b"x" * 16, ()))],
    "topology": [lambda d: d.create(9)],
    "promise": [lambda d: d.promise(5)],
    "accepted": [lambda d: d.accept(5)],
    "append": [lambda d: d.append(5, [100, 0, 7])],
    "append behind held entries": [lambda d: d.append(5, [100], skip=2)],
    "append under a newer writer": [lambda d: d.append(5, [100], is_accepted=True)],
    "truncate": [lambda d: d.truncate(5, 2)],
    "truncate all": [lambda d: d.truncate(5, 100)],
    "truncate nothing": [lambda d: d.truncate(5, 0)],
    "replace": [
        lambda d: d.truncate(5, 2),
        lambda d: d.append(5, [1, 2], is_accepted=True),
    ],
    "append and drop": [lambda d: d.append(5, [1, 2]), lambda d: d.truncate(5, 1)],
    "jump over a suffix": [lambda d: d.jump(5, [10] * 9, [4, 5])],
    "jump with a skip": [lambda d: d.jump(5, [10] * 9, [4, 5], skip=3)],
    "jump over a part of a suffix": [
        lambda d: d.commit(5, 1),
        lambda d: d.jump(5, [10] * 9, [4, 5]),
    ],
    "jump without a suffix": [
        lambda d: d.commit(5, 3),
        lambda d: d.jump(5, [10] * 9, [4, 5]),
    ],
    "fill": [lambda d: d.jump(5, [10] * 9, [4]), lambda d: d.fill(5, 4)],
    "close gap": [lambda d: d.jump(5, [10] * 9, [4]), lambda d: d.fill(5, 99)],
    "close gap in two": [
        lambda d: d.jump(5, [10] * 9, [4]),
        lambda d: d.fill(5, 4),
        lambda d: d.fill(5, 99),
    ],
    "drop fill": [
        lambda d: d.jump(5, [10] * 9, [4]),
        lambda d: d.fill(5, 4),
        lambda d: d.do(effects.DropFill(5)),
    ],
}


@pytest.mark.parametrize("is_in_rounds_of_its_own", [False, True])
@pytest.mark.parametrize("name", ROUNDS)
def test_action_survives_closing(
    driver: Driver, tmp_path: Path, name: str, is_in_rounds_of_its_own: bool
) -> None:
    for step in ROUNDS[name]:
        step(driver)
        check_reads(driver.store, driver.model)
        if is_in_rounds_of_its_own:
            driver.store.sync()
    driver.store.sync()
    check_reads(driver.store, driver.model)
    reopened(driver, tmp_path / "data")
    driver.append(5, [8, 8])
    driver.store.sync()
    reopened(driver, tmp_path / "data").store.close()


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("seed", range(12))
def test_random_actions_survive_closing(tmp_path: Path, seed: int) -> None:
    driver = Driver(Store(tmp_path / "data", RealFiles()))
    chance = random.Random(seed)
    driver.create(1)
    driver.create(2, Position(100, 1 << 63))
    for _ in range(150):
        driver.do_random(chance, chance.choice([1, 2]))
        if chance.random() < 0.3:
            driver.store.sync()
        if chance.random() < 0.05:
            driver.store.sync()
            reopened(driver, tmp_path / "data")
            for stream_id, log in driver.store._logs.items():
                driver.model.streams[stream_id].history.committed = log.committed
    driver.store.close()


def test_two_aside_runs_that_touch_stay_two(driver: Driver, tmp_path: Path) -> None:
    """The end of one may be the commit point behind which the other begins; closing the gap that
    one began in must not drop the other."""
    suffix = batch_of(records_of(driver.model.streams[5].history.tail, [9] * 7))
    driver.do(effects.Append(5, suffix, 0, None))
    # Entry 7 turns out to be committed, and is jumped to; then the same happens again.
    head = batch_of([driver.model.streams[5].runs[each] for each in range(4, 11)])
    jump = effects.Jump(5, batch_of([driver.model.streams[5].runs[10]]), 0, head.last, None)
    driver.truth[5] = {each: driver.model.streams[5].runs[each] for each in range(1, 11)}
    driver.do(jump)
    driver.append(5, [5] * 4)
    driver.jump(5, [6] * 8, [7])
    history = driver.model.streams[5].history
    assert history.aside[0].last == history.aside[1].before
    driver.store.sync()
    reopened(driver, tmp_path / "data")
    driver.fill(5, 99)
    assert len(driver.model.streams[5].history.aside) == 1
    driver.store.sync()
    reopened(driver, tmp_path / "data").store.close()


def test_store_that_has_finished_has_confirmed_its_ends(driver: Driver, tmp_path: Path) -> None:
    driver.append(5, [10])
    driver.store.sync()
    assert driver.store.has_unconfirmed
    driver.store.finish()
    again = Store(tmp_path / "data", RealFiles())
    assert not again.has_unconfirmed
    again.close()


# --- sizes ----------------------------------------------------------------------------------------


def test_entries_of_the_largest_size(driver: Driver, tmp_path: Path) -> None:
    for _ in range(3):
        driver.append(5, [ENTRY_DATA_BYTES_MAX])
        driver.store.sync()
    driver.append(5, [ENTRY_DATA_BYTES_MAX, 5, ENTRY_DATA_BYTES_MAX - 1])
    driver.store.sync()
    assert len(driver.store.read(read_action(5, 4, bytes_max=1))[0]) == size_of(MIB)
    reopened(driver, tmp_path / "data").store.close()


def test_segments_of_streams_that_are_written_to_alike_are_not_full_together() -> None:
    driver = Driver(Store(Path("/data"), SimulatedFiles()))
    streams = range(100, 120)
    for stream in streams:
        driver.create(stream)
        driver.append(stream, [1_000])
    sizes = [driver.store._logs[stream].runs[0].segment.size for stream in streams]
    assert len(set(sizes)) == 16
    assert max(sizes) < 2 * min(sizes) == 2 * SEGMENT_BYTES_MIN


@pytest.mark.usefixtures("small_files")
def test_segments_rotate_and_grow(driver: Driver, tmp_path: Path) -> None:
    for number in range(60):
        driver.append(5, [700] * 4)
        if number % 3 == 0:
            driver.store.sync()
        check_reads(driver.store, driver.model)
    driver.store.sync()
    sizes = [path.stat().st_size for path in sorted((tmp_path / "data").rglob("*.segment"))]
    assert sizes[1:3] == [40 * 1024, 40 * 1024]
    assert driver.store.status()[5] == {"files": len(sizes), "bytes": sum(sizes)}
    reopened(driver, tmp_path / "data").store.close()


def test_file_grows_by_rotation_only(driver: Driver, tmp_path: Path) -> None:
    """Space is reserved when a file is made, so a sync need not write the file's size."""
    (path,) = (tmp_path / "data").rglob("*.segment")
    size = path.stat().st_size
    for _ in range(20):
        driver.append(5, [1_000] * 10)
        driver.store.sync()
        assert path.stat().st_size == size <= SEGMENT_BYTES_MAX
    driver.store.close()


def test_more_streams_in_a_round_than_files_are_kept_open(tmp_path: Path) -> None:
    driver = Driver(Store(tmp_path / "data", RealFiles()))
    streams = range(1, 301)
    for stream_id in streams:
        driver.create(stream_id)
    for _ in range(3):
        for stream_id in streams:
            driver.append(stream_id, [100], is_accepted=stream_id % 2 == 0)
        driver.store.sync()
    check_reads(driver.store, driver.model)
    reopened(driver, tmp_path / "data").store.close()


def test_ten_thousand_streams_are_created_in_one_round(tmp_path: Path) -> None:
    driver = Driver(Store(tmp_path / "data", RealFiles()))
    for stream_id in range(1, 10_001):
        driver.create(stream_id)
    driver.store.sync()
    driver.store.close()
    recovered = Store(tmp_path / "data", RealFiles()).recovered()
    assert [state.stream_id for state in recovered.states] == list(range(1, 10_001))


# --- rounds ---------------------------------------------------------------------------------------


class TracingFile(SimulatedFile):
    """Notes each write and sync as `operation file`."""

    def write(
        self, buffers: Sequence[bytes | memoryview], offset: int, *, is_cached: bool = True
    ) -> None:
        super().write(buffers, offset, is_cached=is_cached)
        assert isinstance(self.disk, TracingFiles)
        verb = "note" if offset in (BLOCK_BYTES, 2 * BLOCK_BYTES) else "write"
        self.disk.trace.append(f"{verb} {self.disk.name_of(self)}")


class TracingFiles(SimulatedFiles):
    def __init__(self) -> None:
        super().__init__()
        self.trace: list[str] = []

    def name_of(self, file: SimulatedFile) -> str:
        found = next(path for path, inode in self.names_now.items() if inode is file.inode)
        return "journal" if found.suffix in (".journal", ".new") else found.stem.lstrip("0")

    def create(self, path: Path, size: int) -> SimulatedFile:
        return TracingFile(self, super().create(path, size).inode)

    def open(self, path: Path) -> SimulatedFile:
        return TracingFile(self, self._inode(path))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.trace.append(f"remove {path.stem.lstrip('0')}")

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.trace.append("rename")

    def sync(self, files: Sequence[File]) -> None:
        super().sync(files)
        names = sorted(self.name_of(file) for file in files if isinstance(file, SimulatedFile))
        self.trace.append(f"sync {' '.join(names)}")

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self.trace.append(f"sync {path.name}/")


TRACES: dict[str, tuple[list[Step], list[Step], list[str]]] = {
    "an append needs a write, its note and one sync": (
        [],
        [lambda d: d.append(5, [1] * 50), lambda d: d.append(5, [1])],
        ["write 1", "note 1", "sync 1"],
    ),
    "a promise needs the journal only": (
        [],
        [lambda d: d.promise(5)],
        ["write journal", "sync journal"],
    ),
    "a promise and an append do not wait for each other": (
        [],
        [lambda d: d.promise(5), lambda d: d.append(5, [1])],
        ["write 1", "write journal", "note 1", "sync 1 journal"],
    ),
    "a stamp alone needs the journal only": (
        [],
        [lambda d: d.accept(5)],
        ["write journal", "sync journal"],
    ),
    "what is accepted follows the entries": (
        [],
        [lambda d: d.append(5, [1], is_accepted=True)],
        ["write 1", "note 1", "sync 1", "write journal", "sync journal"],
    ),
    "a truncation alone needs the journal only": (
        [],
        [lambda d: d.truncate(5, 1)],
        ["write journal", "sync journal"],
    ),
    "a dropped file is removed behind the journal": (
        [],
        [lambda d: d.truncate(5, 99)],
        ["write journal", "sync journal", "remove 1"],
    ),
    "a replaced suffix is written before the old one is cut": (
        [],
        [lambda d: d.truncate(5, 1), lambda d: d.append(5, [1], is_accepted=True)],
        ["write 2", "note 2", "sync 2", "sync 0000000000000005/", "write journal", "sync journal"],
    ),
    "a jump is written before the journal tells of it": (
        [],
        [lambda d: d.jump(5, [1] * 5, [1])],
        ["write 2", "note 2", "sync 2", "sync 0000000000000005/", "write journal", "sync journal"],
    ),
    "a gap is closed behind the last of the fill": (
        [lambda d: d.jump(5, [1] * 5, [1]), lambda d: d.fill(5, 2), lambda d: d.store.sync()],
        [lambda d: d.fill(5, 99)],
        ["write 3", "note 3", "sync 3", "write journal", "sync journal", "remove 1"],
    ),
    "a stream's first entries": (
        [lambda d: d.create(6), lambda d: d.store.sync()],
        [lambda d: d.append(6, [1])],
        [
            "write 1",
            "note 1",
            "sync 1",
            "sync streams/",
            "sync 0000000000000006/",
            "write journal",
            "sync journal",
        ],
    ),
    "a commit point waits": (
        [],
        [lambda d: d.commit(5, 2)],
        [],
    ),
}


@pytest.mark.parametrize("name", TRACES)
def test_order_of_writes_and_syncs(name: str) -> None:
    before, act, wanted = TRACES[name]
    files = TracingFiles()
    driver = Driver(Store(Path("/data"), files))
    driver.create(5)
    driver.append(5, [10, 20, 30], is_accepted=True)
    driver.store.sync()
    for step in before:
        step(driver)
    files.trace.clear()
    for step in act:
        step(driver)
    assert driver.store.is_dirty == bool(wanted)
    driver.store.sync()
    assert files.trace == wanted
    assert not driver.store.is_dirty


def test_full_journal_is_replaced_in_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    files = TracingFiles()
    driver = Driver(Store(Path("/data"), files))
    driver.create(5)
    driver.append(5, [10, 20, 30])
    driver.store.sync()
    monkeypatch.setattr(driver.store._journal, "has_room", lambda _body: False)
    files.trace.clear()
    driver.promise(5)
    driver.append(5, [10])
    driver.store.sync()
    assert files.trace == [
        "write 1",
        "write journal",
        "sync journal",
        "rename",
        "sync journal/",
        "remove 1",
        "note 1",
        "sync 1",
    ]
    files.lose_power(random.Random(3))
    check_recovered(Store(Path("/data"), files).recovered(), driver.model)


# --- the commit point -----------------------------------------------------------------------------


@pytest.mark.usefixtures("small_files")
def test_commit_point_is_written_before_it_lags_too_far(driver: Driver, tmp_path: Path) -> None:
    driver.append(5, [1] * 40)
    driver.store.sync()
    driver.commit(5, 15)
    assert not is_dirty(driver)
    driver.commit(5, 1)
    assert is_dirty(driver)
    driver.store.sync()
    assert not is_dirty(driver)
    driver.store.close()
    (state,) = Store(tmp_path / "data", RealFiles()).recovered().states
    assert state.history.committed == driver.model.streams[5].history.committed


@pytest.mark.usefixtures("small_files")
def test_commit_point_is_not_written_before_its_entry_is_durable(driver: Driver) -> None:
    """Or a loss of power would look like damage."""
    driver.append(5, [1])
    driver.store.sync()
    driver.append(5, [1] * 40)
    driver.commit(5, 15)
    driver.promise(5)
    log = driver.store._logs[5]
    driver.store.sync()
    assert log.journaled == ORIGIN
    driver.promise(5)
    driver.store.sync()
    assert log.journaled == log.committed
    driver.store.close()


@pytest.mark.usefixtures("small_files")
def test_commit_point_never_lags_by_more_however_much_one_round_brings(driver: Driver) -> None:
    """The round's records are made durable first then."""
    driver.append(5, [1])
    driver.store.sync()
    driver.append(5, [1] * 40)
    driver.commit(5, 30)
    driver.store.sync()
    log = driver.store._logs[5]
    assert log.journaled == log.committed
    assert not is_dirty(driver)
    driver.store.close()


def test_commit_point_goes_with_the_next_word_to_the_journal(
    driver: Driver, tmp_path: Path
) -> None:
    driver.commit(5, 2)
    driver.promise(5)
    driver.store.sync()
    driver.store.close()
    (state,) = Store(tmp_path / "data", RealFiles()).recovered().states
    assert state.history.committed == driver.model.streams[5].history.committed


# --- misuse and failure ---------------------------------------------------------------------------


def test_entries_that_were_not_synced_are_lost_on_closing(driver: Driver, tmp_path: Path) -> None:
    before = driver.model.copy()
    driver.append(5, [1])
    driver.promise(5)
    driver.store.close()
    check_recovered(Store(tmp_path / "data", RealFiles()).recovered(), before)


@pytest.mark.parametrize(
    "action",
    [
        effects.SetPromise(6, Promise(WRITER, "", 0, 0)),
        effects.Append(
            5, Batch(2, 7, batch_of(records_of(ORIGIN, [1])).chains, None, Bytes(b"")), 0, None
        ),
        effects.Commit(5, Position(4, 0)),
        effects.Truncate(5, Position(4, 0)),
        effects.Truncate(5, Position(2, 12345)),
        effects.CloseGap(5),
        effects.Fill(5, batch_of(records_of(ORIGIN, [1]))),
        effects.Jump(5, batch_of(records_of(ORIGIN, [1] * 3)), 1, Position(2, 0), None),
        read_action(5, 1),
        "nonsense",
    ],
)
def test_action_that_cannot_be_is_a_broken_invariant(driver: Driver, action: Any) -> None:
    with pytest.raises(InvariantError):
        driver.store.execute(action)
    with pytest.raises(InvariantError):
        driver.store.sync()


class FailingFiles(RealFiles):
    """Fails to sync when told to."""

    fails = False

    def sync(self, files: Sequence[File]) -> None:
        if self.fails:
            raise OSError(5, "input/output error")
        super().sync(files)


def test_failed_sync_is_never_repeated(tmp_path: Path) -> None:
    files = FailingFiles()
    driver = Driver(Store(tmp_path / "data", files))
    driver.create(5)
    driver.append(5, [1])
    files.fails = True
    with pytest.raises(OSError, match="input/output error"):
        driver.store.sync()
    files.fails = False
    with pytest.raises(InvariantError):
        driver.store.sync()


def test_failure_to_write_ahead_of_a_read_ends_the_store(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.append(5, [1])

    def fail(*_: object, **_options: object) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr("walle.storage.vfs.RealFile.write", fail)
    with pytest.raises(OSError, match="input/output error"):
        driver.store.read(read_action(5, 1))
    monkeypatch.undo()
    with pytest.raises(InvariantError):
        driver.store.sync()


def test_reading_in_a_round_sees_its_entries(driver: Driver) -> None:
    driver.append(5, [100, 200])
    driver.truncate(5, 1)
    driver.append(5, [300, 400])
    check_reads(driver.store, driver.model)
    assert driver.store.is_dirty
    assert read_bytes(driver.store, read_action(99, 1)) == b""
    driver.store.sync()
    check_reads(driver.store, driver.model)
    driver.store.close()
