"""`dump`: which entries come, and what a directory made of them holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.segments.replicas import (
    NAME,
    STREAM,
    all_kinds,
    bytes_of,
    long_run,
    make,
    opened,
    spoil,
)
from walle.errors import ConfigError
from walle.ids import IdRange
from walle.record import decode_all
from walle.segments.diff import find_differences
from walle.segments.dump import Dump, copy_entries
from walle.segments.replica import Replica
from walle.segments.verify import verify_replica
from walle.testing.files import SimulatedFiles

EVERYTHING = IdRange(1, 1 << 40)
TARGET = Path("/target")


def dumped(files: SimulatedFiles, wanted: IdRange = EVERYTHING) -> tuple[list[int], list[IdRange]]:
    """The ids of the entries that come, and the missing ranges."""
    dump = Dump(opened(files), STREAM, wanted)
    ids = [entry.entry_id for batch in dump.batches() for entry in decode_all(batch)]
    return ids, dump.missing


def test_all_entries_come_in_order() -> None:
    files, driver = make(long_run)
    dump = Dump(opened(files), STREAM, EVERYTHING)
    records = b"".join(bytes(batch.payload.view()) for batch in dump.batches())
    assert records == b"".join(driver.model.streams[STREAM].runs.values())
    assert dump.missing == []


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [(1, 2, 1, 1), (100, 200, 100, 199), (361, 400, 361, 361), (90, 1 << 40, 90, 361)],
)
def test_part_of_the_entries_comes(start: int, end: int, first: int, last: int) -> None:
    files, _ = make(long_run)
    assert dumped(files, IdRange(start, end)) == (list(range(first, last + 1)), [])


def test_nothing_comes_from_behind_the_tail() -> None:
    files, _ = make(long_run)
    assert dumped(files, IdRange(362, 400)) == ([], [])


def test_gap_is_told_as_missing() -> None:
    files, _ = make(all_kinds)
    assert dumped(files) == ([1, 2, *range(7, 12)], [(3, 7)])
    assert dumped(files, IdRange(4, 6)) == ([], [(4, 6)])
    assert dumped(files, IdRange(4, 8)) == ([7], [(4, 7)])


def test_damage_is_told_as_missing_and_what_lies_behind_it_comes() -> None:
    files, _ = make(long_run)
    spoil(files, 100, 101, 250)
    ids, missing = dumped(files)
    assert missing == [(100, 102), (250, 251)]
    assert ids == [each for each in range(1, 362) if each not in (100, 101, 250)]


# --- another directory ----------------------------------------------------------------------------


def copy_to(files: SimulatedFiles, wanted: IdRange = EVERYTHING) -> Replica:
    copied = SimulatedFiles()
    for _ in copy_entries(Dump(opened(files), STREAM, wanted), TARGET, copied):
        pass
    return Replica(TARGET, copied)


@pytest.mark.parametrize("name", ["long run", "all kinds"])
def test_copy_of_a_stream_agrees_with_it(name: str) -> None:
    files, driver = make({"long run": long_run, "all kinds": all_kinds}[name])
    before = bytes_of(files)
    replica = copy_to(files)
    assert [each.damage for each in verify_replica(replica) if each.damage] == []
    assert list(find_differences(opened(files), replica)) == []
    history = replica.recover(STREAM).state.history
    wanted = driver.model.streams[STREAM].history
    assert (history.runs, history.committed) == (wanted.runs, wanted.committed)
    assert bytes_of(files) == before


def test_copy_of_a_part_begins_and_ends_there() -> None:
    files, driver = make(long_run)
    replica = copy_to(files, IdRange(100, 200))
    state = replica.recover(STREAM).state
    (run,) = state.history.runs
    assert (run.start, run.end) == (100, 200)
    assert state.topology.first_entry_id == 100
    assert state.history.committed == run.last
    dump = Dump(replica, STREAM, EVERYTHING)
    records = b"".join(bytes(batch.payload.view()) for batch in dump.batches())
    runs = driver.model.streams[STREAM].runs
    assert records == b"".join(runs[each] for each in range(100, 200))


def test_copy_of_the_suffix_alone_is_not_committed_further() -> None:
    files, _ = make(long_run)
    state = copy_to(files, IdRange(361, 362)).recover(STREAM).state
    assert state.history.committed.entry_id == 360
    assert state.history.tail.entry_id == 361


def test_copy_of_nothing_makes_no_directory() -> None:
    files, _ = make(long_run)
    copied = SimulatedFiles()
    with pytest.raises(ConfigError, match=rf"{NAME}: has no entries in \[400, 362\) here"):
        list(copy_entries(Dump(opened(files), STREAM, IdRange(400, 500)), TARGET, copied))
    assert copied.names_now == {}


def test_copy_goes_to_a_new_directory_only(tmp_path: Path) -> None:
    files, _ = make(long_run)
    with pytest.raises(ConfigError, match="is there already"):
        list(copy_entries(Dump(opened(files), STREAM, EVERYTHING), tmp_path, SimulatedFiles()))
