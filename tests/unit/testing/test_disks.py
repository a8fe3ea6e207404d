"""The simulated disks: the model, and the real store on a simulated file system, do the same."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.unit.making import THREE, W1, W2, entries
from walle.core import effects
from walle.core.effects import Promise
from walle.ids import ORIGIN
from walle.testing.disk import Disk
from walle.testing.stored import StoredDisk
from walle.testing.violation import Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.effects import Action

STREAM = 7
CHANCES = 40
PROMISE = effects.SetPromise(STREAM, Promise(W2, "here", 100, 0))


@pytest.fixture(params=[Disk, StoredDisk])
def make(request: pytest.FixtureRequest) -> Callable[[], Disk]:
    """Makes an empty disk."""
    kind: type[Disk] = request.param
    return kind


def written(make: Callable[[], Disk], *unsynced: Action) -> Disk:
    """A disk with three entries of a stream, synced, and with what is not synced."""
    disk = make()
    disk.execute(effects.SetCluster(b"c" * 16, ()))
    disk.execute(effects.SetTopology(STREAM, "/s", THREE))
    disk.execute(effects.Append(STREAM, entries(3), 0, W1))
    disk.sync()
    for action in unsynced:
        disk.execute(action)
    return disk


def more() -> effects.Append:
    """Two entries more."""
    return effects.Append(STREAM, entries(2, after=entries(3).last), 0, None)


def test_what_was_synced_survives_and_the_rest_may(make: Callable[[], Disk]) -> None:
    tails, promises = set(), set()
    for seed in range(CHANCES):
        disk = written(make, more(), PROMISE)
        disk.crash(random.Random(seed))
        stream = disk.streams[STREAM]
        assert stream.accepted == W1
        assert sorted(stream.runs) == list(range(1, stream.history.tail.entry_id + 1))
        tails.add(stream.history.tail.entry_id)
        promises.add(stream.promise.writer == W2)
        (state,) = disk.recover().states
        assert (state.history.tail, state.promise) == (stream.history.tail, stream.promise)
    assert tails >= {3, 5}
    assert promises == {True, False}


def test_what_was_synced_is_what_a_crash_leaves_at_least(make: Callable[[], Disk]) -> None:
    disk = written(make, more())
    durable = disk.durable(STREAM)
    assert durable is not None
    assert durable.history.tail.entry_id == 3
    assert disk.streams[STREAM].history.tail.entry_id == 5
    disk.sync()
    assert durable.history.tail.entry_id == 5


def test_sync_that_fails_leaves_what_was_synced_before(make: Callable[[], Disk]) -> None:
    tails = set()
    for seed in range(CHANCES):
        disk = written(make, more())
        disk.is_failing = True
        with pytest.raises(OSError, match="sync failed"):
            disk.sync()
        disk.crash(random.Random(seed))
        tails.add(disk.streams[STREAM].history.tail.entry_id)
        assert not disk.is_failing
        disk.sync()
        disk.compare()
    assert 3 in tails
    assert tails <= {3, 4, 5}


def test_reads_see_what_is_not_synced(make: Callable[[], Disk]) -> None:
    disk = written(make, more())
    nobody = effects.Send(0, 0, None)
    read = effects.ReadRecords(STREAM, 2, 9, 1 << 20, None, aside=False, send=nobody)
    found = disk.read(read)
    assert found is not None
    assert (found.first_id, found.last_id) == (2, 5)
    assert disk.read(read._replace(start=6)) is None


def test_store_that_holds_something_else_than_was_ordered_is_found_out() -> None:
    disk = written(StoredDisk)
    disk.compare()
    disk.streams[STREAM].runs[2] = b"another record"
    with pytest.raises(Violation, match="stored otherwise than it was ordered"):
        disk.compare()


def test_store_that_forgets_a_promise_is_found_out() -> None:
    disk = written(StoredDisk, PROMISE)
    disk.sync()
    durable = disk.durable(STREAM)
    assert durable is not None
    durable.promise = Promise(durable.promise.writer._replace(ts=9), "here", 100, 0)
    with pytest.raises(Violation, match="was forgotten, or its promise"):
        disk.crash(random.Random(1))


def test_origin_is_empty(make: Callable[[], Disk]) -> None:
    disk = make()
    assert disk.recover().states == ()
    disk.execute(effects.SetTopology(STREAM, "/s", THREE))
    disk.sync()
    disk.crash(random.Random(1))
    assert disk.streams[STREAM].history.tail == ORIGIN
