"""`verify`: what it finds, where, and what is no damage."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.segments.replicas import (
    NAME,
    STREAM,
    all_kinds,
    flip,
    long_run,
    make,
    opened,
    segment,
    spoil,
)
from tests.storage.checks import DIRECTORY
from walle.errors import CorruptionError
from walle.segments import verify
from walle.segments.verify import Damage, size_of, verify_replica
from walle.storage.journal import BLOCK_BYTES, frames_in
from walle.storage.notes import RECORDS_START
from walle.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.storage.model import Driver
    from walle.testing.files import SimulatedFiles


def damage_of(files: SimulatedFiles) -> list[Damage]:
    return [damage for checked in verify_replica(opened(files)) for damage in checked.damage]


def remarks_of(files: SimulatedFiles) -> str:
    return " | ".join(each for checked in verify_replica(opened(files)) for each in checked.remarks)


def only(files: SimulatedFiles) -> Damage:
    (damage,) = damage_of(files)
    return damage


def data_of(files: SimulatedFiles, path: Path) -> bytearray:
    inode = files.names_now[path]
    assert inode is not None
    return inode.data


@pytest.mark.parametrize("work", [long_run, all_kinds])
def test_whole_replica_is_good(work: Callable[[Driver], None]) -> None:
    files, driver = make(work)
    checked = list(verify_replica(opened(files)))
    assert [each.damage + each.remarks for each in checked] == [[]] * len(checked)
    stream = driver.model.streams[STREAM]
    held = len(stream.runs) + sum(map(len, stream.aside)) + len(stream.fill)
    assert sum(each.entries_count for each in checked) == held
    assert sum(each.size for each in checked) == size_of(opened(files))


def test_good_records_need_no_closer_look(monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = make(long_run)
    monkeypatch.setattr(verify._SegmentCheck, "_check_extent", None)
    assert sum(each.entries_count for each in verify_replica(opened(files))) == 361


# --- every byte -----------------------------------------------------------------------------------


def meaningful(files: SimulatedFiles) -> set[tuple[Path, int]]:
    """The bytes that must be as they are: of the newest journal up to its last frame, and of
    segments the head and the extents."""
    replica = opened(files)
    found: set[tuple[Path, int]] = set()
    journal = DIRECTORY / "journal" / f"{replica.loaded.number:08d}.journal"
    frames = list(frames_in(files.map(journal), replica.loaded.number))
    found |= {(journal, place) for place in range(frames[-1].end)}
    for extent in replica.recover(STREAM).log.extents():
        path = extent.segment.path
        found |= {(path, place) for place in range(RECORDS_START)}
        found |= {(path, place) for place in range(extent.offset, extent.end)}
    return found


def test_flipped_bit_is_found_at_every_byte_that_means_something() -> None:
    """At every 11th byte of every file, so that each bit of a byte has its turn; and nothing is
    said of bytes that mean nothing."""
    files, _ = make(all_kinds)
    wanted = meaningful(files)
    counts: Counter[tuple[str, bool]] = Counter()
    for path, inode in files.names_now.items():
        for place in range(0, len(inode.data) if inode is not None else 0, 11):
            flip(files, path, place)
            try:
                found = damage_of(files)
            except CorruptionError as error:
                found = [Damage(path, error.offset, error.expected, error.found)]
            flip(files, path, place)
            assert bool(found) == ((path, place) in wanted), (path, place, found)
            assert all(each.path == path for each in found)
            counts[path.suffix, bool(found)] += 1
    assert min(counts.values()) > 100
    assert len(counts) == 4


# --- what is told ---------------------------------------------------------------------------------


def test_damaged_record_is_told_by_place_and_entry() -> None:
    files, _ = make(long_run)
    spoil(files, 100)
    damage = only(files)
    assert damage.stream == NAME
    assert damage.entries == (100, 101)
    assert damage.expected.startswith("CRC32C ")
    assert "of entry 100 behind 99:" in damage.expected
    assert len(damage.found) == 8


def test_each_damaged_place_of_a_file_is_told() -> None:
    files, _ = make(long_run)
    spoil(files, 100, 101, 110, 200)
    assert [each.entries for each in damage_of(files)] == [(100, 102), (110, 111), (200, 201)]


def test_zeros_in_place_of_records_are_told() -> None:
    files, _ = make(long_run)
    data = data_of(files, segment(2))
    data[16 * 1024 :] = bytes(len(data) - 16 * 1024)
    damage = only(files)
    assert damage.found == "zeros" or len(damage.found) == 8
    assert damage.entries is not None


def test_missing_file_is_told() -> None:
    files, _ = make(long_run)
    del files.names_now[segment(2)]
    damage = only(files)
    assert (damage.path, damage.offset, damage.found) == (segment(2), 0, "no file")
    assert damage.expected.startswith("the header of file 2 of stream 5, life ")
    assert damage.entries is not None


def test_file_of_another_segment_is_told() -> None:
    files, _ = make(long_run)
    files.names_now[segment(2)] = files.names_now[segment(1)]
    damage = only(files)
    assert damage.expected.startswith("the header of file 2 ")
    assert damage.found.startswith("the header of file 1 ")


def test_shortened_file_is_told() -> None:
    files, _ = make(long_run)
    data = data_of(files, segment(2))
    size = len(data)
    del data[20_000:]
    first, second = damage_of(files)
    assert (first.expected, first.found, first.offset) == (f"{size} bytes", "20000 bytes", 20_000)
    assert second.entries is not None


def test_flipped_bit_of_a_frame_is_told_by_its_twin() -> None:
    files, _ = make(long_run)
    (path,) = (path for path in files.names_now if path.suffix == ".journal")
    flip(files, path, BLOCK_BYTES + 40)
    damage = only(files)
    assert damage.offset == BLOCK_BYTES + 40
    assert "in a copy of frame " in damage.expected
    assert int(damage.expected.split()[0], 16) ^ int(damage.found, 16) == 1


def test_damaged_note_is_told() -> None:
    files, _ = make(all_kinds)
    flip(files, segment(1), BLOCK_BYTES + 40)
    damage = only(files)
    assert damage.offset == BLOCK_BYTES
    assert damage.expected.startswith("a note of file 1 ")
    assert damage.entries is None


def test_file_without_notes_loses_its_entries() -> None:
    files, _ = make(all_kinds)
    number = max(each for each in range(1, 9) if segment(each) in files.names_now)
    data = data_of(files, segment(number))
    data[BLOCK_BYTES:RECORDS_START] = bytes(2 * BLOCK_BYTES)
    assert [each.found for each in damage_of(files)] == ["none", "other records"]


def test_commit_point_of_another_history_is_told() -> None:
    files, driver = make(long_run)
    twin, _ = make(long_run)
    assert damage_of(twin) == []
    committed = driver.model.streams[STREAM].history.committed
    replica = opened(files)
    stream = replica.streams[STREAM]
    chain = committed.chain ^ 1
    replica.streams[STREAM] = stream._replace(committed=committed._replace(chain=chain))
    (damage,) = (each for checked in verify_replica(replica) for each in checked.damage)
    assert (
        damage.expected == f"a history with the committed entry {committed.entry_id}:{chain:016x}"
    )


# --- what is no damage ----------------------------------------------------------------------------


def test_torn_append_is_no_damage() -> None:
    files, driver = make(long_run)
    store = driver.store = Store(DIRECTORY, files)
    driver.append(STREAM, [100, 100])
    store.sync()
    live = store._logs[STREAM].runs[-1]
    path = live.segment.path
    flip(files, path, live.end - 9)
    assert damage_of(files) == []
    assert f"{path} at byte" in remarks_of(files)
    assert "was never completed" in remarks_of(files)


def test_torn_frame_is_no_damage() -> None:
    files, _ = make(long_run)
    (path,) = (path for path in files.names_now if path.suffix == ".journal")
    data = data_of(files, path)
    data[-BLOCK_BYTES:] = b"x" * BLOCK_BYTES
    assert damage_of(files) == []
    assert "of a frame that was never completed" in remarks_of(files)
