"""The reserve on the disk: when there is space, and what happens when there is none at all."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mounts import mounted_image, mounted_memory
from tests.storage.model import Driver
from walle.limits import KIB, MIB, RESERVE_FILE_BYTES, SEGMENT_BYTES_MIN
from walle.storage import reserve as reserve_module
from walle.storage import segment
from walle.storage.journal import BYTES_MIN as JOURNAL_BYTES
from walle.storage.notes import BLOCK_BYTES
from walle.storage.reserve import NAME, Reserve
from walle.storage.store import Store
from walle.storage.vfs import RealFiles
from walle.testing.files import SimulatedFile, SimulatedFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = Path("/base")
RESERVE_BYTES = 1_000
RESUME_BYTES = 300
FILE_BYTES = 200


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve_module, "DISK_RESUME_BYTES", RESUME_BYTES)
    monkeypatch.setattr(reserve_module, "RESERVE_FILE_BYTES", FILE_BYTES)


class Disk:
    """A simulated disk, and the reserve on it."""

    def __init__(self, left_bytes: int, reserve_bytes: int = RESERVE_BYTES) -> None:
        self.files = SimulatedFiles()
        self.files.make_directory(BASE)
        self.files.left_bytes = left_bytes
        self.start(reserve_bytes)

    def start(self, reserve_bytes: int = RESERVE_BYTES) -> None:
        self.reserve = Reserve(BASE, self.files, reserve_bytes)

    def look(self, left_bytes: int | None = None) -> tuple[bool, bool]:
        """Whether there is space, and whether there is a reserve; others left so much."""
        if left_bytes is not None:
            self.files.left_bytes = left_bytes
        self.reserve.look()
        return self.reserve.has_space, self.reserve.has_reserve

    def has_file(self) -> bool:
        return NAME in self.files.names(BASE)


# --- space ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_small")
def test_space_ends_with_less_than_the_reserve_and_begins_with_more() -> None:
    disk = Disk(RESERVE_BYTES)
    assert disk.look() == (True, True)
    assert disk.look(RESERVE_BYTES - 1)[0] is False
    assert disk.look(RESERVE_BYTES + RESUME_BYTES - 1)[0] is False
    assert disk.look(RESERVE_BYTES + RESUME_BYTES)[0] is True
    assert disk.look(RESERVE_BYTES)[0] is True
    assert disk.reserve.left_bytes == RESERVE_BYTES


@pytest.mark.usefixtures("_small")
def test_file_that_fills_the_disk_is_noticed_at_once() -> None:
    disk = Disk(RESERVE_BYTES + 50)
    disk.reserve.create(BASE / "a", 51).close()
    assert not disk.reserve.has_space


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize(("left_bytes", "room"), [(RESERVE_BYTES + 7, 7), (RESERVE_BYTES - 7, 0)])
def test_room_is_what_lies_above_the_reserve(left_bytes: int, room: int) -> None:
    assert Disk(left_bytes).reserve.free_bytes(BASE) == room


# --- the file -------------------------------------------------------------------------------------


@pytest.fixture
def full(_small: None) -> Disk:
    """A disk that others have filled up behind the node's back, but for 10 bytes."""
    disk = Disk(RESERVE_BYTES + RESUME_BYTES)
    assert disk.look() == (True, True)
    assert disk.has_file()
    assert disk.look(10) == (False, True)
    return disk


def test_reserve_file_is_given_up_when_nothing_else_helps(full: Disk) -> None:
    full.reserve.create(BASE / "a", 10).close()
    assert full.has_file()
    full.reserve.create(BASE / "b", FILE_BYTES).close()
    assert not full.has_file()
    assert full.look() == (False, False)


def test_file_is_made_anew_once_there_is_space_again(full: Disk) -> None:
    full.reserve.create(BASE / "a", FILE_BYTES).close()
    assert full.look(RESERVE_BYTES + RESUME_BYTES - 1) == (False, False)
    assert full.look(RESERVE_BYTES + RESUME_BYTES) == (True, True)
    assert full.has_file()
    assert full.look()[0], "the file itself does not fill the disk"


def test_what_the_reserve_cannot_help_with_is_an_error_that_says_so(full: Disk) -> None:
    with pytest.raises(OSError, match="not even in reserve; free some on the disk") as caught:
        full.reserve.create(BASE / "a", FILE_BYTES + 11)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(BASE / "a")


def test_other_errors_are_not_for_the_reserve(full: Disk) -> None:
    full.reserve.create(BASE / "a", 1).close()
    with pytest.raises(FileExistsError):
        full.reserve.create(BASE / "a", 1)
    assert full.has_file()


def test_directory_is_made_with_the_reserves_help(
    full: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_directory(path: Path) -> None:
        if full.has_file():
            raise OSError(errno.ENOSPC, "no space", str(path))
        SimulatedFiles.make_directory(full.files, path)

    monkeypatch.setattr(full.files, "make_directory", make_directory)
    full.reserve.make_directory(BASE / "sub")
    assert not full.has_file()
    assert "sub" in full.files.names(BASE)


def test_reserve_file_outlives_the_node(full: Disk) -> None:
    full.start()
    assert full.look() == (False, True)
    full.reserve.create(BASE / "a", FILE_BYTES).close()
    full.start()
    assert full.look() == (False, False)


def test_reserve_file_that_was_not_finished_is_none(full: Disk) -> None:
    full.files.remove(BASE / NAME)
    full.files.create(BASE / NAME, FILE_BYTES - 1).close()
    full.start()
    assert not full.has_file()
    assert full.look() == (False, False)


# --- quotas ---------------------------------------------------------------------------------------


class QuotaFiles(SimulatedFiles):
    """Files of whoever may have `left_bytes` more, though the disk has room for `disk_bytes`."""

    disk_bytes = 1 << 40

    def create(self, path: Path, size: int) -> SimulatedFile:
        try:
            return super().create(path, size)
        except OSError as error:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path)) from error

    def free_bytes(self, _directory: Path) -> int:
        return self.disk_bytes


def limited(left_bytes: int, reserve_bytes: int = RESERVE_BYTES) -> Disk:
    disk = Disk(left_bytes, reserve_bytes)
    disk.files = QuotaFiles()
    disk.files.make_directory(BASE)
    disk.files.left_bytes = left_bytes
    disk.start(reserve_bytes)
    return disk


@pytest.mark.usefixtures("_small")
def test_quota_that_is_used_up_is_a_full_disk_until_there_is_room_for_the_reserve() -> None:
    disk = limited(FILE_BYTES + 10)
    assert disk.look() == (True, True)
    assert disk.has_file()
    assert disk.reserve.free_bytes(BASE) > 0
    disk.reserve.create(BASE / "a", 11).close()
    assert not disk.has_file()
    for left_bytes in (None, FILE_BYTES - 1):
        assert disk.look(left_bytes) == (False, False)
        assert disk.reserve.left_bytes == disk.reserve.free_bytes(BASE) == 0
    disk.start()
    assert disk.look() == (False, False)
    assert disk.look(FILE_BYTES) == (True, True)
    assert disk.has_file()
    assert disk.reserve.free_bytes(BASE) > 0


@pytest.mark.usefixtures("_small")
def test_quota_counts_though_the_disk_has_no_room_for_the_reserve_file_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = limited(FILE_BYTES + 10)
    assert disk.look() == (True, True)
    monkeypatch.setattr(QuotaFiles, "disk_bytes", RESERVE_BYTES + RESUME_BYTES - 1)
    assert disk.look() == (True, True)
    disk.reserve.create(BASE / "a", 11).close()
    assert disk.look() == (False, False)


@pytest.mark.usefixtures("_small")
def test_quota_that_the_reserve_cannot_help_with_is_an_error_that_says_so() -> None:
    disk = limited(FILE_BYTES)
    disk.look()
    with pytest.raises(OSError, match="not even in reserve") as caught:
        disk.reserve.create(BASE / "a", FILE_BYTES + 1)
    assert caught.value.errno == errno.EDQUOT


def test_segment_for_which_a_quota_has_no_room_is_a_small_one() -> None:
    disk = limited(64 * MIB, 32 * MIB)
    driver = Driver(Store(BASE / "data", disk.reserve))
    driver.create(5)
    disk.reserve.look()
    append(driver, 100)
    first = SEGMENT_BYTES_MIN + 5 * BLOCK_BYTES
    assert sizes(driver) == [first, 4 * first, 16 * first, 64 * first]
    disk.files.left_bytes = MIB
    append(driver, 100)
    assert max(sizes(driver)) == 64 * first
    assert SEGMENT_BYTES_MIN in sizes(driver), "it begins small again"
    assert not disk.reserve.has_space


# --- the store ------------------------------------------------------------------------------------


def sizes(driver: Driver) -> list[int]:
    return sorted(segment.size for segment in driver.store._logs[5].segments())


def append(driver: Driver, count: int) -> None:
    for _ in range(count):
        driver.append(5, [40 * KIB])
        driver.store.sync()


def test_segments_are_no_larger_than_the_disk_has_room_for() -> None:
    disk = Disk(64 * MIB, reserve_bytes=32 * MIB)
    driver = Driver(Store(BASE / "data", disk.reserve))
    driver.create(5)
    append(driver, 10)
    first = SEGMENT_BYTES_MIN + 5 * BLOCK_BYTES
    assert sizes(driver) == [first, 4 * first, 16 * first]
    disk.files.left_bytes = 32 * MIB + 5 * SEGMENT_BYTES_MIN
    append(driver, 45)
    *small, last, second, largest = sizes(driver)
    assert (last, second, largest) == (5 * SEGMENT_BYTES_MIN, 4 * first, 16 * first)
    assert set(small) == {SEGMENT_BYTES_MIN, first}
    assert len(small) > 3
    disk.reserve.look()
    assert not disk.reserve.has_space


def test_member_that_jumps_again_and_again_reserves_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has left of large segments would stay reserved until they are trimmed."""
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MAX", MIB)
    disk = Disk(64 * MIB, reserve_bytes=32 * MIB)
    driver = Driver(Store(BASE / "data", disk.reserve))
    driver.create(5)
    append(driver, 30)
    driver.commit(5, 30)
    assert driver.store._logs[5].runs[-1].segment.size == MIB
    before = sum(sizes(driver))
    for _ in range(20):
        driver.jump(5, [10], [10])
        driver.store.sync()
    assert driver.store._logs[5].runs[-1].segment.size == SEGMENT_BYTES_MIN
    assert sum(sizes(driver)) < before + 2 * MIB
    append(driver, 30)
    assert driver.store._logs[5].runs[-1].segment.size == MIB, "it grows again"


def test_journals_go_on_when_the_disk_is_full_to_the_last_byte() -> None:
    disk = Disk(300 * MIB, reserve_bytes=100 * MIB)
    driver = Driver(Store(BASE / "data", disk.reserve))
    driver.create(5)
    driver.store.sync()
    disk.reserve.look()
    disk.files.left_bytes = 0
    for _ in range(JOURNAL_BYTES // 4096 + 2):
        driver.promise(5)
        driver.store.sync()
    assert disk.look() == (False, False)
    driver.store.close()
    driver.store = Store(BASE / "data", disk.reserve)  # opening takes a fresh journal
    assert driver.store.findings == ()


# --- real disks -----------------------------------------------------------------------------------


@pytest.fixture(params=[mounted_memory, mounted_image], ids=["memory", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    with request.param(tmp_path / "disk", 64 * MIB) as path:
        yield path


def test_real_file_that_finds_no_space_leaves_nothing(small_disk: Path) -> None:
    files = RealFiles()
    before = files.free_bytes(small_disk)
    with pytest.raises(OSError, match="No space left") as caught:
        files.create(small_disk / "a", before + 8 * MIB)  # some is kept for root, who tests
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(small_disk / "a")
    assert "a" not in files.names(small_disk)
    assert files.free_bytes(small_disk) >= before


def test_real_disk_that_is_full_has_the_reserve(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reserve_module, "DISK_RESUME_BYTES", 8 * MIB)
    files = RealFiles()
    reserve = Reserve(small_disk, files, 16 * MIB)
    reserve.look()
    room = reserve.free_bytes(small_disk)
    assert files.free_bytes(small_disk) == room + 16 * MIB
    fill(small_disk / "ballast")
    reserve.look()
    assert (reserve.has_space, reserve.has_reserve) == (False, True)
    reserve.create(small_disk / "a", RESERVE_FILE_BYTES // 2).close()
    reserve.look()
    assert (reserve.has_space, reserve.has_reserve) == (False, False)
    (small_disk / "ballast").unlink()
    reserve.look()
    assert (reserve.has_space, reserve.has_reserve) == (True, True)
    assert (small_disk / NAME).stat().st_blocks * 512 >= RESERVE_FILE_BYTES


def fill(path: Path) -> None:
    """Makes a file of all the space that there is."""
    with path.open("wb") as file, suppress(OSError):
        while True:
            file.write(bytes(MIB))
            file.flush()
