"""Damage that is found while the store runs: what it is, that it is cut out, and that the scrubber
finds it by itself."""

from __future__ import annotations

import copy
import errno
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.storage.model import (
    Driver,
    by_position,
    check_reads,
    check_recovered,
    read_action,
    read_bytes,
)
from walle.core import effects
from walle.errors import CorruptionError
from walle.limits import KIB, MIB
from walle.storage import segment
from walle.storage.notes import RECORDS_START
from walle.storage.store import Store
from walle.storage.vfs import RealFiles
from walle.testing.files import Inode, SimulatedFiles

if TYPE_CHECKING:
    from collections.abc import Iterable

    from walle.core.history import History
    from walle.ids import Position
    from walle.storage.extent import Extent
    from walle.storage.scrub import Suspect

STREAM = 5
DIRECTORY = Path("/data")


@pytest.fixture
def files() -> SimulatedFiles:
    return SimulatedFiles()


@pytest.fixture
def driver(files: SimulatedFiles, small_files: None) -> Driver:
    """A store with one stream of 150 entries in four segments, of which 140 are committed."""
    driver = Driver(Store(DIRECTORY, files))
    driver.create(STREAM)
    for _ in range(30):
        driver.append(STREAM, [500] * 5)
        driver.store.sync()
    driver.commit(STREAM, 140)
    driver.promise(STREAM)
    driver.store.sync()
    return driver


def runs(driver: Driver) -> list[Extent]:
    return driver.store._logs[STREAM].runs


def place_of(driver: Driver, entry_id: int) -> tuple[Path, int]:
    """The file in which an entry lies, and where; found while nothing is damaged."""
    extent = driver.store._logs[STREAM].extent_with(entry_id)
    assert extent is not None
    return extent.segment.path, driver.store._reader.locate(extent, entry_id).offset


def flip(files: SimulatedFiles, path: Path, offset: int) -> None:
    """One bit rots, on the platter."""
    inode = files.names_now[path]
    assert inode is not None
    inode.data[offset] ^= 1
    inode.durable[offset] ^= 1


def shorten(files: SimulatedFiles, path: Path, size: int) -> None:
    inode = files.names_now[path]
    assert inode is not None
    files.names_now[path] = Inode(inode.data[:size], inode.durable[:size])


def rot(driver: Driver, files: SimulatedFiles, *entry_ids: int) -> None:
    for path, offset in [place_of(driver, entry_id) for entry_id in entry_ids]:
        flip(files, path, offset + 60)


def mend(driver: Driver, entry_id: int) -> effects.Cut:
    """A read of the entry finds damage, and it is cut out, as the core would order it."""
    with pytest.raises(CorruptionError) as caught:
        driver.store.read(read_action(STREAM, entry_id))
    cut = driver.store.damage(STREAM, caught.value)
    assert cut is not None
    take(driver, cut)
    return cut


def damage(driver: Driver, entry_id: int) -> effects.Cut | None:
    """What the store makes of that entry's segment."""
    extent = driver.store._logs[STREAM].extent_with(entry_id)
    assert extent is not None
    found = CorruptionError(str(extent.segment.path), 0, expected="", found="")
    return driver.store.damage(STREAM, found)


def take(driver: Driver, cut: effects.Cut) -> None:
    """Does as the core orders it: what is trimmed is not spoken of."""
    history = driver.model.streams[cut.stream_id].history
    cut = cut._replace(after=max(cut.after, history.origin))
    if history.fill is not None and cut.after.entry_id < history.fill.start:
        driver.do(effects.DropFill(cut.stream_id))
    runs = driver.model.streams[cut.stream_id].runs
    for entry_id in range(cut.after.entry_id + 1, cut.last.entry_id + 1):
        driver.truth.setdefault(cut.stream_id, {})[entry_id] = runs[entry_id]
    driver.do(cut)
    driver.store.sync()


def scrub(store: Store, passes: int = 1) -> list[Suspect]:
    """What the scrubber stumbles over."""
    found = []
    passes += store.scrubber.passes_count
    while store.scrubber.passes_count < passes:
        suspect = store.scrubber.step()
        if suspect is not None:
            found.append(suspect)
    return found


def places(suspects: Iterable[Suspect]) -> list[tuple[str, int]]:
    return [(suspect.error.path, suspect.error.offset) for suspect in suspects]


def check_reopened(driver: Driver, files: SimulatedFiles) -> None:
    """What a restart finds is what the model holds."""
    check_reads(driver.store, driver.model)
    again = copy.deepcopy(files)
    again.lose_power(random.Random(1))
    store = Store(DIRECTORY, again)
    check_recovered(store.recovered(), driver.model)
    check_reads(store, driver.model)


def position(driver: Driver, entry_id: int) -> Position:
    record = driver.model.streams[STREAM].runs[entry_id]
    return next(iter(by_position(record)))


# --- what is damaged, and what is left ------------------------------------------------------------


@pytest.mark.parametrize("entry_ids", [(20,), (18, 20), (17, 19, 20)])
def test_good_records_below_and_above_the_damage_are_kept(
    driver: Driver, files: SimulatedFiles, entry_ids: tuple[int, ...]
) -> None:
    """What lies between several damaged ones is given up with them."""
    below, last = position(driver, entry_ids[0] - 1), position(driver, entry_ids[-1])
    rot(driver, files, *entry_ids)
    assert mend(driver, entry_ids[0]) == effects.Cut(STREAM, below, last)
    check_reopened(driver, files)


def test_first_and_last_records_of_a_segment(driver: Driver, files: SimulatedFiles) -> None:
    first, second = runs(driver)[:2]
    below, last = first.before, position(driver, 1)
    rot(driver, files, 1, second.first_id - 1)
    cut = mend(driver, 1)
    assert cut == effects.Cut(STREAM, below, first.last), "all of it: nothing proves the middle"
    rot(driver, files, second.first_id)
    last = position(driver, second.first_id)
    assert mend(driver, second.first_id) == effects.Cut(STREAM, second.before, last)
    check_reopened(driver, files)


def test_gap_is_backfilled_and_the_file_of_nothing_is_removed(
    driver: Driver, files: SimulatedFiles
) -> None:
    extent = runs(driver)[1]
    files.remove(extent.segment.path)
    driver.store._pool._maps.clear()
    cut = mend(driver, extent.first_id)
    assert (cut.after, cut.last) == (extent.before, extent.last)
    driver.fill(STREAM, 1_000)
    driver.store.sync()
    assert driver.model.streams[STREAM].history.gaps() == []
    assert scrub(driver.store) == []
    check_reopened(driver, files)


def test_live_segment_is_cut_below_the_commit_point_and_not_appended_to_any_more(
    driver: Driver, files: SimulatedFiles
) -> None:
    live = runs(driver)[-1]
    assert not live.is_sealed
    rot(driver, files, 138)
    mend(driver, 138)
    driver.append(STREAM, [500] * 3)
    driver.store.sync()
    assert runs(driver)[-1].segment is not live.segment
    assert runs(driver)[-2].last.entry_id == 150
    check_reopened(driver, files)


def test_cut_in_the_round_of_an_append(driver: Driver, files: SimulatedFiles) -> None:
    """The journal names the parts only behind their records."""
    rot(driver, files, 137)
    cut = damage(driver, 137)
    assert cut is not None
    driver.append(STREAM, [100] * 2)
    take(driver, cut)
    check_reopened(driver, files)


def test_file_that_is_another_one_is_lost_as_a_whole(driver: Driver, files: SimulatedFiles) -> None:
    extent = runs(driver)[1]
    flip(files, extent.segment.path, 40)
    driver.store._pool._maps.clear()
    cut = mend(driver, extent.first_id)
    assert (cut.after, cut.last) == (extent.before, extent.last)
    check_reopened(driver, files)


def test_good_records_of_another_history_prove_nothing(
    driver: Driver, files: SimulatedFiles
) -> None:
    extent = runs(driver)[1]
    inode = files.names_now[extent.segment.path]
    assert inode is not None
    driver.create(6, extent.before)
    driver.append(6, [500] * (extent.last.entry_id - extent.before.entry_id))
    others = b"".join(driver.model.streams[6].runs.values())
    inode.data[extent.offset : extent.end] = inode.durable[extent.offset : extent.end] = others
    extent.index = None
    cut = mend(driver, extent.last.entry_id)
    assert (cut.after, cut.last) == (extent.before, extent.last)


@pytest.mark.parametrize(("entry_id", "is_found"), [(139, True), (140, False), (145, False)])
def test_damage_at_the_commit_point_or_above_is_for_recovery(
    driver: Driver, files: SimulatedFiles, entry_id: int, is_found: bool
) -> None:
    rot(driver, files, entry_id)
    if is_found:
        assert damage(driver, entry_id)
        return
    with pytest.raises(CorruptionError, match=r"takes the commit point \(140"):
        damage(driver, entry_id)
    store = Store(DIRECTORY, files)
    (state,) = store.recovered().states
    assert (state.history.tail.entry_id, state.doubtful_id) == (entry_id - 1, 150)
    assert scrub(store) == [], "it is not there any more, so it is not found again"


def test_what_is_good_on_the_device_is_read_from_there(
    driver: Driver, files: SimulatedFiles
) -> None:
    """Memory may rot, too."""
    path, offset = place_of(driver, 20)
    inode = files.names_now[path]
    assert inode is not None
    inode.data[offset + 60] ^= 1
    with pytest.raises(CorruptionError):
        driver.store.read(read_action(STREAM, 20))
    assert damage(driver, 20) is None
    check_reads(driver.store, driver.model)
    assert driver.store.scrubber.found_count == 0


def test_damage_is_told_again_until_it_is_cut_out(driver: Driver, files: SimulatedFiles) -> None:
    rot(driver, files, 20)
    cut = damage(driver, 20)
    assert cut is not None
    assert damage(driver, 21) == cut
    assert driver.store.scrubber.found_count == 1, "it is found once"
    take(driver, cut)
    assert damage(driver, 21) is None


def test_more_damage_than_was_told_ends_the_store(driver: Driver, files: SimulatedFiles) -> None:
    """The core believes that it holds what follows."""
    path, offset = place_of(driver, 21)
    rot(driver, files, 20)
    cut = damage(driver, 20)
    assert cut is not None
    flip(files, path, offset + 60)
    with pytest.raises(CorruptionError, match="more damage than before"):
        driver.store.execute(cut)


def test_aside_run_that_is_damaged_is_passed_over(driver: Driver, files: SimulatedFiles) -> None:
    driver.jump(STREAM, [7] * 10, [8] * 5)
    driver.store.sync()
    group = driver.store._logs[STREAM].aside[0]
    flip(files, group[0].segment.path, group[0].offset + 60)
    action = read_action(STREAM, 141, after=group[0].prev_chain, aside=True)
    assert driver.store.read(action) == []
    assert scrub(driver.store) == []


def test_damage_of_what_is_trimmed_is_cut_out_without_a_word(
    driver: Driver, files: SimulatedFiles
) -> None:
    rot(driver, files, 20)
    driver.trim(STREAM, 24)
    driver.store.sync()
    runs(driver)[0].index = None  # it is made by reading from the segment's begin
    with pytest.raises(CorruptionError):
        driver.store.read(read_action(STREAM, 30))
    assert damage(driver, 30) is None
    driver.store.sync()
    check_reopened(driver, files)
    assert scrub(driver.store) == []


def test_what_is_trimmed_goes_with_the_damage_above_it(
    driver: Driver, files: SimulatedFiles
) -> None:
    rot(driver, files, 20, 30)
    driver.trim(STREAM, 24)
    driver.store.sync()
    cut = damage(driver, 30)
    assert cut is not None
    assert (cut.after.entry_id, cut.last.entry_id) == (19, 30)
    take(driver, cut)
    assert runs(driver)[0].first_id == 31
    check_reopened(driver, files)
    assert scrub(driver.store) == []


def test_file_that_somebody_has_removed_can_be_trimmed(
    driver: Driver, files: SimulatedFiles
) -> None:
    for extent in runs(driver)[:2]:
        files.remove(extent.segment.path)
    driver.trim(STREAM, 60)
    driver.store.sync()
    while driver.store.remove_some():
        pass
    assert files.names(DIRECTORY / "spare") == []
    check_reopened(driver, files)


# --- files that become shorter under a map, and devices that cannot read -------------------------


@pytest.fixture
def real(tmp_path: Path, small_files: None) -> Driver:
    driver = Driver(Store(tmp_path / "data", RealFiles()))
    driver.create(STREAM)
    for _ in range(20):
        driver.append(STREAM, [500] * 5)
    driver.commit(STREAM, 90)
    driver.store.sync()
    check_reads(driver.store, driver.model)
    return driver


@pytest.mark.parametrize("size", [0, RECORDS_START, RECORDS_START + 3_000])
def test_file_that_became_shorter_under_a_map_does_not_end_the_process(
    real: Driver, size: int
) -> None:
    extent = runs(real)[1]
    path = extent.segment.path
    with path.open("r+b") as file:
        file.truncate(size)
    cut = mend(real, extent.last.entry_id)
    assert cut.last == extent.last
    real.fill(STREAM, 1_000)
    real.store.sync()
    assert real.model.streams[STREAM].history.gaps() == []
    check_reads(real.store, real.model)


def test_sector_that_the_device_cannot_read_is_cut_out(
    real: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is no obstacle for recovery."""
    extent = runs(real)[1]
    bad = range(extent.offset + 1_024, extent.offset + 1_536)
    preadv = os.preadv

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path == extent.segment.path and offset < bad.stop and bad.start < offset + len(*buffers):
            if offset >= bad.start - bad.start % 4_096:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return preadv(fd, [buffers[0][: bad.start - bad.start % 4_096 - offset]], offset)
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    (found,) = scrub(real.store)
    cut = real.store.damage(*found)
    assert cut is not None
    assert extent.before.entry_id < cut.last.entry_id < extent.last.entry_id
    take(real, cut)
    assert scrub(real.store) == []
    real.fill(STREAM, 1_000)
    real.store.sync()
    real.store.close()
    store = Store(tmp_path / "data", RealFiles())
    check_reads(store, real.model)
    assert store.findings == ()


# --- the scrubber ---------------------------------------------------------------------------------


def test_scrubber_reads_all_that_is_committed_pass_after_pass(driver: Driver) -> None:
    scrubber = driver.store.scrubber
    for passes_count in (1, 2):
        assert scrub(driver.store) == []
        assert scrubber.passes_count == passes_count
        log = driver.store._logs[STREAM]
        assert scrubber.total_bytes == sum(each.end - each.offset for each in log.runs)
        suffix = b"".join(driver.model.streams[STREAM].runs[each] for each in range(141, 151))
        assert scrubber.done_bytes == scrubber.total_bytes - len(suffix)


def test_scrubber_has_never_done_more_than_all(tmp_path: Path) -> None:
    """Also where a stream grows while it is read."""
    driver = Driver(Store(tmp_path / "data", RealFiles()))
    driver.create(STREAM)
    scrubber = driver.store.scrubber
    for last_id in range(1, 9):
        driver.append(STREAM, [KIB])
        driver.commit(STREAM, last_id)
        driver.store.sync()
        scrubber.step()
        assert scrubber.done_bytes <= scrubber.total_bytes
    assert scrubber.done_bytes


def test_scrubber_finds_damage_in_every_stream_and_segment(
    driver: Driver, files: SimulatedFiles
) -> None:
    for stream_id in (2, 9):
        driver.create(stream_id)
        driver.append(stream_id, [100] * 20)
        driver.commit(stream_id, 20)
    driver.store.sync()
    wanted = [place_of(driver, entry_id) for entry_id in (3, 40, 80)]
    rot(driver, files, 3, 40, 80, 145)
    path = driver.store._logs[9].runs[0].segment.path
    flip(files, path, RECORDS_START + 60)
    found = scrub(driver.store)
    assert [suspect.stream_id for suspect in found] == [5, 5, 5, 9]
    assert places(found) == [(str(path), at) for path, at in [*wanted, (path, RECORDS_START)]]


@pytest.mark.parametrize("place", [0, 4, 12, 16, 40, 60])
def test_scrubber_finds_a_bit_wherever_it_is(
    driver: Driver, files: SimulatedFiles, place: int
) -> None:
    path, offset = place_of(driver, 20)
    flip(files, path, offset + place)
    assert places(scrub(driver.store)) == [(str(path), offset)]


def test_scrubber_finds_headers_and_files_that_are_not_what_they_were(
    driver: Driver, files: SimulatedFiles
) -> None:
    first, second, third = runs(driver)[:3]
    flip(files, first.segment.path, 40)
    files.remove(second.segment.path)
    shorten(files, third.segment.path, third.offset + 10)
    driver.store.close()
    wanted = [(str(each.segment.path), RECORDS_START) for each in (first, third)]
    wanted.insert(1, (str(second.segment.path), 0))
    assert places(scrub(driver.store)) == wanted


def test_scrubber_goes_on_when_what_it_reads_is_removed(driver: Driver) -> None:
    """Nothing is damaged only because it is not needed any more."""
    for _ in range(2):
        driver.store.scrubber.step()
    extent = runs(driver)[1]
    for each in runs(driver)[:3]:
        entries = each.last.entry_id - each.first_id + 1
        driver.cut(STREAM, each.first_id, entries)
    driver.store.sync()
    assert not driver.store._files.names(extent.segment.path)
    assert scrub(driver.store) == []


def test_records_larger_than_a_step_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MIN", 8 * MIB)
    driver = Driver(Store(tmp_path / "data", RealFiles()))
    driver.create(STREAM)
    driver.append(STREAM, [10, MIB, 300 * KIB, MIB, MIB, 5])
    driver.commit(STREAM, 6)
    driver.store.sync()
    assert scrub(driver.store) == []
    assert driver.store.scrubber.done_bytes == driver.store.scrubber.total_bytes > 3 * MIB


# --- anything -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.usefixtures("small_files")
def test_random_damage_is_cut_out_and_filled_or_left_to_recovery(seed: int) -> None:
    """In the end every read is right, whatever was hit."""
    chance, files = random.Random(seed), SimulatedFiles()
    driver = Driver(Store(DIRECTORY, files))
    driver.create(STREAM)
    for _ in range(chance.randint(20, 60)):
        driver.do_random(chance, STREAM)
        if chance.random() < 0.5:
            driver.store.sync()
    history = driver.model.streams[STREAM].history
    if history.fill is not None:  # nobody looks at it before its gap is closed
        driver.do(effects.DropFill(STREAM))
    while driver.store.is_dirty:
        driver.store.sync()
    for _ in range(chance.randint(1, 4)):
        hurt(files, chance)
    driver.store._pool._maps.clear()
    try:
        while (suspects := scrub(driver.store)) or history.gaps():
            for suspect in suspects:
                cut = driver.store.damage(*suspect)
                if cut is not None:
                    take(driver, cut)
            driver.fill(STREAM, 1_000)
            driver.store.sync()
        check_right(driver.store, history, driver)
    except CorruptionError:
        check_recovered_in_part(Store(DIRECTORY, files), driver)


def hurt(files: SimulatedFiles, chance: random.Random) -> None:
    """Something happens to one segment file."""
    paths = sorted(path for path in files.names_now if path.suffix == ".segment")
    if not paths:
        return
    path = chance.choice(paths)
    inode = files.names_now[path]
    assert inode is not None
    start = chance.randrange(len(inode.data))
    match chance.choice(["flip", "flip", "zeros", "shorten", "remove"]):
        case "flip":
            flip(files, path, start)
        case "zeros":
            inode.data[start : start + 512] = bytes(len(inode.data[start : start + 512]))
            inode.durable = bytearray(inode.data)
        case "shorten":
            shorten(files, path, start)
        case _:
            files.remove(path)


def check_recovered_in_part(store: Store, driver: Driver) -> None:
    """Recovery has read only what it must: the scrubber finds the rest, and nothing is found over
    and over."""
    (state,) = store.recovered().states
    while suspects := scrub(store):
        for suspect in suspects:
            cut = store.damage(*suspect)
            if cut is not None:
                state.history.fill = None
                store.execute(effects.DropFill(STREAM))
                state.history.cut(cut.after, cut.last)
                store.execute(cut)
                store.sync()
    check_right(store, state.history, driver)


def check_right(store: Store, history: History, driver: Driver) -> None:
    """All that is committed and held can be read, and is what was written."""
    known = driver.known[STREAM]
    for run in history.runs:
        for start in range(run.start, min(run.end, history.committed.entry_id + 1)):
            records = by_position(read_bytes(store, read_action(STREAM, start, start + 2)))
            assert all(known[each] == record for each, record in records.items())
