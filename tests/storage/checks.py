"""What must hold of a store that was opened after a crash, or after damage."""

from __future__ import annotations

import copy
import ctypes
import mmap
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.storage.model import (
    Driver,
    Model,
    Stream,
    batch_of,
    by_position,
    read_action,
    read_bytes,
    records_of,
)
from walle.core import effects
from walle.errors import CorruptionError
from walle.storage.store import Store

if TYPE_CHECKING:
    from walle.core.history import History, Run
    from walle.core.member import State
    from walle.testing.files import SimulatedFiles

DIRECTORY = Path("/data")


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
    # Whatever the journal tells of a stream's entries is durable before it, so only a stream of
    # which it tells nothing new, but perhaps that it begins later, may be behind.
    former = copy.deepcopy(before.history)
    former.trim(wanted.origin)
    starts = [run.start for run in former.runs]
    if not starts and wanted.origin != before.history.origin:
        starts = [wanted.origin.entry_id + 1]
    may_lag = before.accepted == behind.accepted and starts == [run.start for run in wanted.runs]
    return exact or (
        may_lag
        and all(is_within(run, found) for run in former.runs)
        and former.tail.entry_id <= found.tail.entry_id <= wanted.tail.entry_id
    )


def check_crashed(files: SimulatedFiles, before: Model, driver: Driver) -> Store:
    """Reopens the disk after a loss of power, and checks what is there.

    before: what was acknowledged. What the driver's model holds may have been under way.
    """
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
        assert state.doubtful_id == 0
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
            assert records or run in history.aside, "what is damaged of that is passed over"
            assert all(known[position] == record for position, record in records.items())


def needs_direct_writes(directory: Path) -> None:
    """Skips the test where the file system has no way past the page cache. One in memory may take
    such writes all the same, and one that journals data lets them go through the cache."""
    path = directory / "direct"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
        try:
            os.posix_fallocate(fd, 0, mmap.PAGESIZE)
            os.pwrite(fd, mmap.mmap(-1, mmap.PAGESIZE), 0)
        finally:
            os.close(fd)
        has_none = is_in_memory(path, 0)
    except OSError as error:
        pytest.skip(f"no direct writes in {directory}: {error.strerror}")
    if has_none:
        pytest.skip(f"direct writes in {directory} go through the cache")


def is_in_memory(path: Path, offset: int) -> bool:
    """Whether the page cache holds what is there in the file. A read that does not want to wait
    would not tell: it begins to read ahead, and a fast disk is done before it looks."""
    found = ctypes.c_ubyte()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        first = ctypes.c_char.from_buffer(memory, offset // mmap.PAGESIZE * mmap.PAGESIZE)
        failed = ctypes.CDLL(None).mincore(ctypes.byref(first), 1, ctypes.byref(found))
        del first  # else the map cannot be closed
    assert not failed
    return bool(found.value & 1)
