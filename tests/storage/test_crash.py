"""A crash at every operation of a round, and of the recovery after it; and random damage.

A round's journal frame is one, so afterwards the store is as before the round or as behind it, in
all streams; entries may have come to the tail that the journal needs no word about.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.storage.model import (
    CLUSTER_ID,
    Driver,
    Model,
    Stream,
    batch_of,
    by_position,
    essence,
    read_action,
    read_bytes,
    records_of,
)
from walle.core import effects
from walle.errors import CorruptionError
from walle.storage.store import Store
from walle.testing.files import Crash, SimulatedFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from walle.core.history import History, Run
    from walle.core.member import State

DIRECTORY = Path("/data")
STREAMS = (1, 2, 3)

pytestmark = pytest.mark.usefixtures("small_files")


class Base:
    """A synced store with random contents, of which any number of copies can be opened."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        files = SimulatedFiles()
        driver = Driver(Store(DIRECTORY, files))
        driver.do(effects.SetCluster(CLUSTER_ID, ()))
        for stream_id in STREAMS:
            driver.create(stream_id)
        chance = random.Random(seed)
        for _ in range(chance.randint(0, 60)):
            driver.do_random(chance, chance.choice(STREAMS))
            if chance.random() < 0.2:
                driver.store.sync()
        while driver.store.is_dirty:
            driver.store.sync()
        driver.store.close()
        self.driver = driver
        self.files = files
        self.model = driver.model

    def open(self) -> tuple[SimulatedFiles, Driver]:
        files = copy.deepcopy(self.files)
        driver = Driver(Store(DIRECTORY, files), self.model.copy())
        driver.truth, driver.known = copy.deepcopy((self.driver.truth, self.driver.known))
        driver._ts = self.driver._ts
        recovered = driver.store.recovered()
        for state in recovered.states:
            driver.model.streams[state.stream_id].history.committed = state.history.committed
        return files, driver

    def round(self, driver: Driver) -> None:
        """The same random round each time."""
        chance = random.Random(self.seed + 1)
        for _ in range(chance.randint(1, 12)):
            driver.do_random(chance, chance.choice(STREAMS))
        driver.store.sync()

    def crashes(self) -> Iterator[tuple[SimulatedFiles, Driver]]:
        """The round, crashed at its first operation, at its second, and so on."""
        at = 0
        while True:
            at += 1
            files, driver = self.open()
            files.crash_at = files.steps + at
            try:
                self.round(driver)
            except Crash:
                files.crash_at = None
                yield files, driver
            else:
                return


def is_within(run: Run, history: History) -> bool:
    held = history.run_with(run.start)
    return held is not None and run.end <= held.end


def same_parts(state: State, stream: Stream) -> bool:
    """Whether all but the history is the same."""
    return (state.name, state.topology, state.promise, state.accepted) == (
        stream.name,
        stream.topology,
        stream.promise,
        stream.accepted,
    )


def is_as_before(state: State, before: Stream, known: set[object]) -> bool:
    """As though the round had not been, but for entries at the tail or in the fill."""
    found, wanted = state.history, before.history
    has_closed_gap = found.gaps() != wanted.gaps()
    return (
        same_parts(state, before)
        and all(is_within(run, found) for run in wanted.runs)
        and len(found.runs) <= len(wanted.runs)
        and found.tail.entry_id >= wanted.tail.entry_id
        and (found.tail in known or found.tail == wanted.tail)
        and (found.aside == wanted.aside or has_closed_gap)
        and (wanted.fill is None or has_closed_gap or found.fill is not None)
    )


def is_as_behind(state: State, before: Stream, behind: Stream) -> bool:
    """As the round wanted it; where entries were merely appended, perhaps a part of them."""
    found, wanted = state.history, behind.history
    if not same_parts(state, behind):
        return False
    exact = (found.runs, found.aside, found.fill) == (wanted.runs, wanted.aside, wanted.fill)
    # Whatever the journal tells of a stream is durable before it, so only a stream of which it
    # tells nothing new may be behind.
    may_lag = before.accepted == behind.accepted and [run.start for run in before.history.runs] == [
        run.start for run in wanted.runs
    ]
    return exact or (
        may_lag
        and all(is_within(run, found) for run in before.history.runs)
        and before.history.tail.entry_id <= found.tail.entry_id <= wanted.tail.entry_id
    )


def check_crashed(files: SimulatedFiles, before: Model, driver: Driver, *, is_torn: bool) -> Store:
    """Reopens the disk and checks what is there."""
    store = Store(DIRECTORY, files)
    states = {state.stream_id: state for state in store.recovered().states}
    assert states.keys() == before.streams.keys()
    as_before = all(
        is_as_before(state, before.streams[each], set(driver.known.get(each, {})))
        for each, state in states.items()
    )
    as_behind = all(
        is_as_behind(state, before.streams[each], driver.model.streams[each])
        for each, state in states.items()
    )
    assert as_before or as_behind
    for stream_id, state in states.items():
        assert is_torn or state.doubtful_id == 0
        history, gap = state.history, state.history.lowest_gap()
        assert history.committed.entry_id <= history.tail.entry_id
        assert history.fill is None or (gap is not None and history.fill.end < gap[1].start)
        check_readable(store, stream_id, state.history, driver)
    return store


def check_readable(store: Store, stream_id: int, history: History, driver: Driver) -> None:
    known = driver.known.get(stream_id, {})
    for run in [*history.runs, *history.aside]:
        action = read_action(stream_id, run.start, run.end, after=run.prev_chain, aside=True)
        records = by_position(read_bytes(store, action))
        assert len(records) == run.end - run.start
        assert all(known[position] == record for position, record in records.items())
        assert run.last in records


def check_goes_on(files: SimulatedFiles, store: Store, driver: Driver) -> None:
    """After a recovery the store takes entries, and holds them over another loss of power."""
    tails = {}
    for stream_id, log in list(store._logs.items()):
        batch = by_position(b"".join(records_of(log.tail, [10] * 30, driver.new_writer())))
        driver.known.setdefault(stream_id, {}).update(batch)
        tails[stream_id] = list(batch)[-1]
        for record in batch.values():
            store.execute(effects.Append(stream_id, batch_of([record]), 0, None))
    store.sync()
    files.lose_power(random.Random(1))
    again = Store(DIRECTORY, files)
    for state in again.recovered().states:
        assert state.history.tail == tails[state.stream_id]
        check_only_good_reads(again, state.stream_id, state.history, driver)
        newest = read_action(state.stream_id, state.history.tail.entry_id - 29)
        assert len(by_position(read_bytes(again, newest))) == 30


@pytest.mark.parametrize("seed", range(40))
def test_process_that_dies_in_a_round_leaves_all_or_nothing(seed: int) -> None:
    base = Base(seed)
    for files, driver in base.crashes():
        store = check_crashed(files, base.model, driver, is_torn=False)
        check_goes_on(files, store, driver)


@pytest.mark.parametrize("seed", range(40))
def test_loss_of_power_in_a_round_leaves_all_or_nothing(seed: int) -> None:
    base = Base(seed)
    for chance_seed, (files, driver) in enumerate(base.crashes()):
        files.lose_power(random.Random(seed * 1_000 + chance_seed))
        store = check_crashed(files, base.model, driver, is_torn=True)
        check_goes_on(files, store, driver)


@pytest.mark.parametrize("seed", range(15))
def test_crash_in_recovery_is_as_though_it_had_not_begun(seed: int) -> None:
    base = Base(seed)
    for number, (files, _) in enumerate(base.crashes()):
        files.lose_power(random.Random(number))
        whole = copy.deepcopy(files)
        wanted = essence(Store(DIRECTORY, whole).recovered())
        at = 0
        while True:
            at += 1
            cut = copy.deepcopy(files)
            cut.crash_at = cut.steps + at
            try:
                Store(DIRECTORY, cut)
            except Crash:
                cut.lose_power(random.Random(at))
                assert essence(Store(DIRECTORY, cut).recovered()) == wanted
            else:
                break


@pytest.mark.parametrize("seed", range(20))
def test_crash_while_the_first_journal_is_made(seed: int) -> None:
    at = 0
    while True:
        at += 1
        files = SimulatedFiles()
        files.crash_at = at
        try:
            Store(DIRECTORY, files)
        except Crash:
            files.lose_power(random.Random(seed))
            assert Store(DIRECTORY, files).recovered().states == ()
        else:
            break


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(150))
def test_random_damage_is_neither_served_nor_fatal(seed: int) -> None:
    """Whatever happens to segments, promises survive, reads are right, and entries are taken."""
    base = Base(seed)
    chance = random.Random(seed)
    paths = sorted(path for path in base.files.names_now if path.suffix == ".segment")
    for path in chance.sample(paths, min(len(paths), chance.randint(1, 3))):
        inode = base.files.names_now[path]
        assert inode is not None
        start = chance.randrange(len(inode.data.rstrip(b"\0")))
        size = chance.choice([1, 8, 512, 4_096])
        match chance.choice(["flip", "flip", "zeros", "noise", "cut", "remove"]):
            case "flip":
                new = bytes([inode.data[start] ^ 1 << chance.randrange(8)])
            case "zeros":
                new = bytes(size)
            case "noise":
                new = chance.randbytes(size)
            case "cut":
                inode.data, new = inode.data[:start], b""
            case _:
                del base.files.names_now[path]
                new = b""
        inode.data[start : start + len(new)] = new[: len(inode.data) - start]
        inode.durable = bytearray(inode.data)
    store = Store(DIRECTORY, base.files)
    for state in store.recovered().states:
        assert same_parts(state, base.model.streams[state.stream_id])
        assert state.history.committed.entry_id <= state.history.tail.entry_id
        check_only_good_reads(store, state.stream_id, state.history, base.driver)
    check_goes_on(base.files, store, base.driver)


def check_only_good_reads(store: Store, stream_id: int, history: History, driver: Driver) -> None:
    """A read returns what was written, or refuses: sealed segments are looked at only then."""
    known = driver.known.get(stream_id, {})
    for run in [*history.runs, *history.aside]:
        for start in range(run.start, run.end, 3):
            action = read_action(stream_id, start, start + 4, aside=True)
            try:
                records = by_position(read_bytes(store, action))
            except CorruptionError:
                continue
            assert records
            assert all(known[position] == record for position, record in records.items())
