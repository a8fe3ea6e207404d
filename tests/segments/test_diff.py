"""`diff`: what two replicas may differ in, and what is an alarm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.segments.replicas import NAME, STREAM, all_kinds, copied, long_run, make, opened, segment
from tests.storage.checks import DIRECTORY
from tests.storage.model import Driver, batch_of, records_of
from walle.core import effects
from walle.ids import ORIGIN, IdRange
from walle.segments.diff import HELD, MISSING, Difference, _without, find_differences
from walle.storage.store import Store

if TYPE_CHECKING:
    from walle.testing.files import SimulatedFiles


def compare(one: SimulatedFiles, other: SimulatedFiles) -> list[tuple[object, ...]]:
    """The differences; the other way round they must be the same, swapped."""
    found = list(find_differences(opened(one), opened(other)))
    swapped = find_differences(opened(other), opened(one))
    assert sorted(map(str, found)) == sorted(
        str(each._replace(first=each.second, second=each.first)) for each in swapped
    )
    assert all(isinstance(each, Difference) for each in found)
    return [tuple(each) for each in found]


def more(files: SimulatedFiles, driver: Driver, *actions: effects.Action) -> SimulatedFiles:
    """A copy of the disk on which the node has done more."""
    other = copied(files)
    store = Store(DIRECTORY, other)
    for action in actions:
        store.execute(action)
    store.sync()
    store.finish()
    return other


@pytest.mark.parametrize("name", ["long run", "all kinds"])
def test_copies_agree(name: str) -> None:
    files, _ = make({"long run": long_run, "all kinds": all_kinds}[name])
    assert compare(files, copied(files)) == []


def test_same_entries_in_other_files_agree() -> None:
    files, driver = make(long_run)
    stream = driver.model.streams[STREAM]

    def at_once(driver: Driver) -> None:
        driver.do(effects.SetPromise(STREAM, stream.promise))
        batch = batch_of(stream.runs.values())
        driver.do(effects.Append(STREAM, batch, 0, stream.accepted))

    other, _ = make(at_once)
    assert compare(files, other) == []


def test_entries_that_only_one_holds_are_told() -> None:
    files, driver = make(long_run)
    batch = batch_of(records_of(driver.model.streams[STREAM].history.tail, [5] * 3))
    other = more(files, driver, effects.Append(STREAM, batch, 0, None))
    assert compare(files, other) == [(NAME, "entries [362, 365)", MISSING, HELD, False)]


def test_gap_of_one_is_told() -> None:
    files, _ = make(all_kinds)

    def without_gap(driver: Driver) -> None:
        all_kinds(driver)
        driver.fill(STREAM, 99)

    other, _ = make(without_gap)
    assert compare(files, other) == [(NAME, "entries [3, 7)", MISSING, HELD, False)]


def test_small_state_is_told() -> None:
    files, driver = make(long_run)
    stream = driver.model.streams[STREAM]
    promise = stream.promise._replace(writer=driver.new_writer())
    topology = stream.topology._replace(version=2, members=("n1", "n2", "n4"))
    other = more(
        files,
        driver,
        effects.SetPromise(STREAM, promise),
        effects.SetTopology(STREAM, NAME, topology),
    )
    assert compare(files, other) == [
        (NAME, "version", 1, 2, False),
        (NAME, "members", "n1, n2, n3", "n1, n2, n4", False),
        (NAME, "promised", str(stream.promise.writer), str(promise.writer), False),
    ]


def test_commit_points_are_not_compared() -> None:
    files, driver = make(long_run)
    tail = driver.model.streams[STREAM].history.tail
    other = more(
        files,
        driver,
        effects.Commit(STREAM, tail),
        effects.SetPromise(STREAM, driver.model.streams[STREAM].promise),
    )
    assert opened(other).recover(STREAM).state.history.committed == tail
    assert compare(files, other) == []


@pytest.mark.parametrize("parted_id", [1, 2, 57, 99, 100])
@pytest.mark.parametrize("committed_id", [0, 56, 100])
def test_first_entry_of_parted_histories_is_told(parted_id: int, committed_id: int) -> None:
    """An alarm, if both call it committed."""

    def parted(driver: Driver) -> None:
        common = records_of(ORIGIN, [50] * (parted_id - 1))
        if common:
            driver.do(effects.Append(STREAM, batch_of(common), 0, None))
        driver.append(STREAM, [60 if is_other else 61] * (101 - parted_id))
        driver.commit(STREAM, committed_id)
        driver.promise(STREAM)

    is_other = False
    files, _ = make(parted)
    is_other = True
    other, _ = make(parted)
    ((name, what, first, second, is_alarm),) = compare(files, other)
    assert name == NAME
    assert is_alarm == (parted_id <= committed_id)
    kind = "committed" if is_alarm else "uncommitted"
    assert what == f"chain from {kind} entry {parted_id} on"
    assert first != second


def test_stream_that_only_one_has_is_told() -> None:
    files, _ = make(long_run)
    other, _ = make(lambda driver: driver.create(6))
    found = compare(files, other)
    assert ("/stream/6", "stream", MISSING, HELD, False) in found


def test_another_cluster_is_told() -> None:
    files, _ = make(all_kinds)
    other = more(files, Driver.__new__(Driver), effects.SetCluster(b"another cluster!", ()))
    ((name, what, first, second, _),) = compare(files, other)
    assert (name, what) == ("", "cluster")
    assert first != second


def test_damage_shows_as_what_a_node_would_make_of_it() -> None:
    """The journal still tells of the entries of a missing file; a tail that is gone is known."""
    files, _ = make(long_run)
    other = copied(files)
    number = max(each for each in range(1, 20) if segment(each) in files.names_now)
    del other.names_now[segment(number)]
    whats = [what for _, what, *_ in compare(files, other)]
    assert "doubt up to entry" in whats
    assert any(str(what).startswith("entries [") for what in whats)


@pytest.mark.parametrize(
    ("ranges", "others", "wanted"),
    [
        ([(1, 5)], [], [(1, 5)]),
        ([(1, 5)], [(1, 5)], []),
        ([(1, 5)], [(2, 3)], [(1, 2), (3, 5)]),
        ([(1, 5)], [(0, 2), (4, 9)], [(2, 4)]),
        ([(1, 5), (7, 9)], [(4, 8)], [(1, 4), (8, 9)]),
        ([(1, 9)], [(2, 3), (3, 4), (8, 12)], [(1, 2), (4, 8)]),
        ([], [(1, 5)], []),
    ],
)
def test_difference_of_ranges(
    ranges: list[tuple[int, int]], others: list[tuple[int, int]], wanted: list[tuple[int, int]]
) -> None:
    found = _without([IdRange(*each) for each in ranges], [IdRange(*each) for each in others])
    assert list(found) == wanted
