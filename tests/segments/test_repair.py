"""`repair`: damage becomes gaps, gaps are filled, promises stay."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.segments.replicas import (
    STREAM,
    all_kinds,
    bytes_of,
    copied,
    flip,
    long_run,
    make,
    opened,
    segment,
    spoil,
)
from tests.storage.checks import DIRECTORY
from tests.storage.model import Driver, batch_of, read_action, read_bytes
from walle.core import effects
from walle.errors import ConfigError, CorruptionError
from walle.segments.diff import find_differences
from walle.segments.repair import Repair
from walle.segments.verify import verify_replica
from walle.storage.journal import BLOCK_BYTES
from walle.storage.store import Store

if TYPE_CHECKING:
    from walle.ids import IdRange
    from walle.testing.files import SimulatedFiles


def repair(
    files: SimulatedFiles, *sources: SimulatedFiles, is_writing: bool = True
) -> tuple[list[str], list[str]]:
    """What was found and done, and what is left."""
    repairing = Repair(
        DIRECTORY, files, [opened(source) for source in sources], is_writing=is_writing
    )
    told = [*repairing.findings, *repairing.fill()]
    repairing.finish()
    return told, repairing.left()


def is_good(files: SimulatedFiles) -> bool:
    return not any(checked.damage for checked in verify_replica(opened(files)))


def gaps_of(files: SimulatedFiles) -> list[IdRange]:
    return opened(files).recover(STREAM).state.history.gaps()


def check_whole(files: SimulatedFiles, driver: Driver) -> None:
    """A store that opens the directory has everything, as it was put, and the promise."""
    store = Store(DIRECTORY, files)
    (state,) = store.recovered().states
    stream = driver.model.streams[STREAM]
    assert state.promise == stream.promise
    assert state.accepted == stream.accepted
    assert state.history.gaps() == []
    assert read_bytes(store, read_action(STREAM, 1)) == b"".join(stream.runs.values())


@pytest.mark.parametrize("is_writing", [False, True])
def test_nothing_is_left_to_do_where_all_is_well(is_writing: bool) -> None:
    files, driver = make(long_run)
    assert repair(files, is_writing=is_writing) == ([], [])
    check_whole(files, driver)


def test_dry_run_changes_nothing() -> None:
    files, _ = make(long_run)
    source = copied(files)
    spoil(files, 100)
    before, steps = bytes_of(files), files.steps
    told, left = repair(files, source, is_writing=False)
    assert (bytes_of(files), files.steps) == (before, steps)
    assert left == []
    assert repair(files, source) == (told, left)


def test_damage_becomes_the_smallest_gaps() -> None:
    files, driver = make(long_run)
    spoil(files, 100, 250)
    told, left = repair(files)
    assert [text for text in told if "entries [100, 101) are damaged or missing in file" in text]
    assert left == ["stream /stream/5: entries [100, 101), [250, 251) are missing"]
    assert is_good(files)
    assert gaps_of(files) == [(100, 101), (250, 251)]
    assert opened(files).recover(STREAM).state.promise == driver.model.streams[STREAM].promise


def test_gaps_are_filled_from_another_replica() -> None:
    files, driver = make(long_run)
    source = copied(files)
    before = bytes_of(source)
    spoil(files, 100, 101, 250)
    del files.names_now[segment(1)]
    told, left = repair(files, source)
    assert sum(text.endswith("is filled") for text in told) == 3
    assert left == []
    assert bytes_of(source) == before
    assert is_good(files)
    assert list(find_differences(opened(files), opened(source))) == []
    check_whole(files, driver)


def test_each_replica_gives_what_it_has() -> None:
    files, driver = make(long_run)
    one, other = copied(files), copied(files)
    del files.names_now[segment(2)]
    spoil(one, 60, 200)
    spoil(other, 100)
    told, left = repair(files, one, other)
    assert left == []
    assert any(text.endswith("is filled") for text in told)
    check_whole(files, driver)


def test_gap_stays_where_no_replica_has_the_entries() -> None:
    files, _ = make(long_run)
    source = copied(files)
    spoil(files, 100, 250)
    spoil(source, 100)
    told, left = repair(files, source)
    assert any("no source has entry 100 behind 99:" in text for text in told)
    assert left == ["stream /stream/5: entries [100, 101), [250, 251) are missing"]
    assert is_good(files)


def test_fill_that_is_under_way_goes_on() -> None:
    files, driver = make(all_kinds)
    truth = driver.truth[STREAM]
    other, _ = make(lambda twin: fill_all(twin, truth))
    told, left = repair(files, other)
    assert told == ["stream /stream/5: the gap [3, 7) is filled"]
    assert left == []
    assert is_good(files)


def fill_all(driver: Driver, truth: dict[int, bytes]) -> None:
    all_kinds(driver)
    driver.fill(STREAM, 99)


def test_aside_run_of_another_replica_may_be_the_only_copy() -> None:
    """A replica that jumped over entries that turned out to be committed gives them."""
    files, driver = make(long_run)
    held = driver.model.streams[STREAM].runs

    def jump_over_suffix(driver: Driver) -> None:
        batch = batch_of(held[each] for each in range(1, 201))
        driver.do(effects.Append(STREAM, batch, 0, driver.new_writer()))
        above = batch_of(held[each] for each in range(301, 361))
        driver.do(effects.Jump(STREAM, above, 0, above.last, driver.new_writer()))

    source, _ = make(jump_over_suffix)
    assert opened(source).recover(STREAM).state.history.aside
    spoil(files, 100)
    assert repair(files, source)[1] == []
    check_whole(files, driver)


def test_what_does_not_meet_the_entry_above_is_dropped() -> None:
    """An aside run parted from the committed history somewhere in the gap."""
    files, driver = make(long_run)
    held = driver.model.streams[STREAM].runs

    def part(driver: Driver) -> None:
        batch = batch_of(held[each] for each in range(1, 100))
        driver.do(effects.Append(STREAM, batch, 0, driver.new_writer()))
        driver.append(STREAM, [150] * 20)
        above = batch_of(held[each] for each in range(301, 361))
        driver.do(effects.Jump(STREAM, above, 0, above.last, driver.new_writer()))

    source, _ = make(part)
    spoil(files, 99, 100, 101)
    told, left = repair(files, source)
    assert any("of [99, 102) does not meet entry 102" in text for text in told)
    assert left == ["stream /stream/5: entries [99, 102) are missing"]
    assert opened(files).recover(STREAM).state.history.fill is None


def test_doubt_is_left_to_the_cluster() -> None:
    files, driver = make(long_run)
    source = copied(files)
    spoil(files, 361)
    _, left = repair(files, source)
    assert left == ["stream /stream/5: the tail is in doubt up to entry 361"]
    assert opened(files).recover(STREAM).state.promise == driver.model.streams[STREAM].promise


def test_one_damaged_copy_of_a_frame_is_written_anew() -> None:
    files, driver = make(long_run)
    flip(files, next(path for path in files.names_now if path.suffix == ".journal"), BLOCK_BYTES)
    assert not is_good(files)
    assert repair(files) == ([], [])
    assert is_good(files)
    check_whole(files, driver)


@pytest.mark.parametrize("is_writing", [False, True])
def test_damaged_journal_is_refused_and_left_alone(is_writing: bool) -> None:
    files, _ = make(long_run)
    source = copied(files)
    flip(files, next(path for path in files.names_now if path.suffix == ".journal"), 0)
    before = bytes_of(files)
    with pytest.raises(CorruptionError, match="put a new node with an empty data directory"):
        repair(files, source, is_writing=is_writing)
    assert bytes_of(files) == before


def test_replica_of_another_cluster_is_refused() -> None:
    files, _ = make(long_run)
    other, _ = make(lambda driver: driver.do(effects.SetCluster(b"another cluster!", ())))
    with pytest.raises(ConfigError, match="name a replica of the same cluster"):
        repair(files, other)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_was_damaged_is_mended_from_a_good_replica(seed: int) -> None:
    chance = random.Random(seed)
    files, driver = make(long_run)
    source = copied(files)
    spoil(files, *chance.sample(range(1, 360), chance.randint(1, 30)))
    for number in chance.sample([1, 2], chance.randint(0, 2)):
        del files.names_now[segment(number)]
    assert repair(files, source)[1] == []
    assert is_good(files)
    assert list(find_differences(opened(files), opened(source))) == []
    check_whole(files, driver)
