"""A single flipped bit at every byte of a small data directory, and larger damage at random."""

from __future__ import annotations

import random
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.storage.checks import DIRECTORY, check_goes_on, check_only_good_reads, same_parts
from tests.storage.model import CLUSTER_ID, Driver
from walle.core import effects
from walle.errors import CorruptionError
from walle.ids import Position
from walle.storage import journal, segment
from walle.storage.store import Store
from walle.testing.files import Inode, SimulatedFiles

if TYPE_CHECKING:
    from pathlib import Path

    from tests.storage.model import Stream
    from walle.core.member import State

pytestmark = pytest.mark.usefixtures("small_files")


def quiesce(driver: Driver) -> None:
    """All is durable, and confirmed."""
    while driver.store.is_dirty or driver.store.has_unconfirmed:
        driver.store.confirm()
        driver.store.sync()


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> tuple[SimulatedFiles, Driver]:
    """A store that was idle, of two streams: one with all kinds of extents, one with a promise
    only, which nothing follows in the journal."""
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MAX", 16 * 1024)
    monkeypatch.setattr(journal, "BYTES_MIN", 1)
    monkeypatch.setattr(journal, "SNAPSHOT_SHARE", 2)
    files = SimulatedFiles()
    driver = Driver(Store(DIRECTORY, files))
    driver.do(effects.SetCluster(CLUSTER_ID, ()))
    driver.create(1)
    driver.create(2)
    for size in (300, 200, 100):
        driver.append(1, [size])
        driver.store.sync()
    driver.commit(1, 2)
    driver.promise(1)
    driver.jump(1, [60] * 4, [40] * 3)
    driver.store.sync()
    driver.append(1, [100, 200], is_accepted=True)
    driver.fill(1, 2)
    driver.store.sync()
    driver.append(1, [10, 20])
    quiesce(driver)
    driver.store.close()
    driver.store = Store(DIRECTORY, files)
    driver.promise(2)
    quiesce(driver)
    driver.store.close()
    # One that nobody could use is as good.
    files.create(DIRECTORY / "spare" / "00000001.segment", 100)
    return files, driver


def is_told(state: State, entry_id: int) -> bool:
    """Whether the member knows that this entry of a run may be missing."""
    is_in_gap = any(gap.start <= entry_id < gap.end for gap in state.history.gaps())
    return is_in_gap or entry_id <= state.doubtful_id


def check_nothing_is_forgotten(state: State, stream: Stream, known: set[Position]) -> None:
    """Promises are remembered, and entries that are not held are known to be missing."""
    assert same_parts(state, stream)
    assert state.history.committed.entry_id <= stream.history.committed.entry_id
    for entry_id in stream.runs:
        assert state.history.run_with(entry_id) or is_told(state, entry_id), entry_id
        chain = state.history.chain_at(entry_id)
        assert chain is None or Position(entry_id, chain) in known


def look(driver: Driver, names: dict[Path, Inode | None]) -> str:
    """Opens a copy of the directory; what recovery does to it does not touch its files."""
    files = SimulatedFiles()
    files.names_now = dict(names)
    files.names_durable = dict(names)
    try:
        store = Store(DIRECTORY, files)
    except CorruptionError:
        return "refused"
    verdict = "held"
    for state in store.recovered().states:
        stream = driver.model.streams[state.stream_id]
        known = set(driver.known.get(state.stream_id, {}))
        check_nothing_is_forgotten(state, stream, known)
        check_only_good_reads(store, state.stream_id, state.history, driver)
        if state.doubtful_id:
            verdict = "doubted"
        elif state.history.runs != stream.history.runs:
            verdict = "gap"
    return verdict


@pytest.mark.timeout(900)
def test_flipped_bit_is_never_served_or_forgotten(
    quiet: tuple[SimulatedFiles, Driver], capsys: pytest.CaptureFixture[str]
) -> None:
    """At every byte of every file, once all is confirmed."""
    files, driver = quiet
    inodes = {path: inode for path, inode in files.names_now.items() if inode is not None}
    counts: Counter[tuple[str, str]] = Counter()
    for path, inode in inodes.items():
        for place in range(len(inode.data)):
            flip(inode, place)
            counts[path.suffix, look(driver, files.names_now)] += 1
            flip(inode, place)
    with capsys.disabled():
        sys.stdout.write(f"\n{counts.total()} flipped bits: {dict(counts)}\n")
    assert counts.total() == sum(len(inode.data) for inode in inodes.values())
    assert counts[".journal", "refused"] == 36, "those of the header"
    assert counts[".journal", "held"] > 20_000
    assert counts[".segment", "gap"] > 600
    assert counts[".segment", "doubted"] > 600
    assert counts.keys() == {
        (".journal", "refused"),
        (".journal", "held"),
        (".segment", "held"),
        (".segment", "gap"),
        (".segment", "doubted"),
    }


def flip(inode: Inode, place: int) -> None:
    for data in (inode.data, inode.durable):
        data[place] ^= 1 << place % 8


@pytest.mark.parametrize("seed", range(150))
def test_random_damage_is_neither_served_nor_forgotten_nor_fatal(seed: int) -> None:
    """Whatever happens to segments, promises survive, reads are right, and entries are taken."""
    chance = random.Random(seed)
    files = SimulatedFiles()
    driver = Driver(Store(DIRECTORY, files))
    for stream_id in (1, 2, 3):
        driver.create(stream_id)
    for _ in range(chance.randint(0, 60)):
        driver.do_random(chance, chance.choice([1, 2, 3]))
        if chance.random() < 0.2:
            driver.store.sync()
    quiesce(driver)
    driver.store.close()
    paths = sorted(path for path in files.names_now if path.suffix == ".segment")
    for path in chance.sample(paths, min(len(paths), chance.randint(1, 3))):
        damage(files, path, chance)
    store = Store(DIRECTORY, files)
    for state in store.recovered().states:
        stream = driver.model.streams[state.stream_id]
        known = set(driver.known.get(state.stream_id, {}))
        check_nothing_is_forgotten(state, stream, known)
        assert state.history.committed.entry_id <= state.history.tail.entry_id
        check_only_good_reads(store, state.stream_id, state.history, driver)
    check_goes_on(files, store, driver)


def damage(files: SimulatedFiles, path: Path, chance: random.Random) -> None:
    """Damages a file somewhere, or loses it."""
    inode = files.names_now[path]
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
            del files.names_now[path]
            new = b""
    inode.data[start : start + len(new)] = new[: len(inode.data) - start]
    inode.durable = bytearray(inode.data)
