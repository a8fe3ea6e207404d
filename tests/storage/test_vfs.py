"""The real files and the simulated ones do the same; and what only the real ones do."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.storage.checks import is_in_memory, needs_direct_writes
from walle.ids import ORIGIN, WriterId
from walle.limits import MIB
from walle.native import FilePlace
from walle.record import Encoder
from walle.storage import vfs
from walle.storage.vfs import BUFFERS_COUNT_MAX, DIRECT_BYTES_MIN, RealFile, RealFiles
from walle.testing.files import Crash, SimulatedFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.storage.vfs import Files


@pytest.fixture(params=["real", "simulated"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files, Path]:
    """A file system and an empty directory of it."""
    if request.param == "real":
        return RealFiles(), tmp_path
    files = SimulatedFiles()
    files.make_directory(Path("/base"))
    return files, Path("/base")


def test_new_file_is_zeros_of_the_size_asked_for(place: tuple[Files, Path]) -> None:
    files, base = place
    file = files.create(base / "a", 10_000)
    assert bytes(files.map(base / "a")) == bytes(10_000)
    files.sync([file])
    file.close()


def test_create_refuses_a_name_that_is_taken(place: tuple[Files, Path]) -> None:
    files, base = place
    files.create(base / "a", 100).close()
    with pytest.raises(FileExistsError):
        files.create(base / "a", 100)


def test_map_shows_what_is_written_later(place: tuple[Files, Path]) -> None:
    files, base = place
    file = files.create(base / "a", 8_192)
    view = files.map(base / "a")
    file.write([b"one", memoryview(b"two"), b"three"], 4_000)
    assert bytes(view[4_000:4_011]) == b"onetwothree"
    assert view.readonly
    files.sync([file])
    file.reload(8_192)
    assert bytes(files.map(base / "a")[4_000:4_011]) == b"onetwothree"
    file.close()


def test_names_rename_and_remove(place: tuple[Files, Path]) -> None:
    files, base = place
    assert files.names(base / "none") == []
    files.make_directory(base / "sub")
    files.make_directory(base / "sub")
    for name in "ab":
        files.create(base / "sub" / name, 10).close()
    files.rename(base / "sub" / "a", base / "sub" / "c")
    assert sorted(files.names(base / "sub")) == ["b", "c"]
    files.remove(base / "sub" / "b")
    files.sync_directory(base / "sub")
    assert files.names(base / "sub") == ["c"]
    with pytest.raises(FileNotFoundError):
        files.open(base / "sub" / "b")
    with pytest.raises(FileNotFoundError):
        files.map(base / "sub" / "b")


def test_map_outlives_the_file(place: tuple[Files, Path]) -> None:
    files, base = place
    file = files.create(base / "a", 4_096)
    file.write([b"data"], 0)
    view = files.map(base / "a")[:4]
    file.close()
    files.remove(base / "a")
    assert bytes(view) == b"data"


def test_open_file_can_be_written_and_synced(place: tuple[Files, Path]) -> None:
    files, base = place
    files.create(base / "a", 4_096).close()
    file = files.open(base / "a")
    file.write([b"again"], 8)
    files.sync([file])
    files.sync([])
    assert bytes(files.map(base / "a")[8:13]) == b"again"
    file.close()


def test_read_gives_what_the_file_has_of_it(place: tuple[Files, Path]) -> None:
    files, base = place
    file = files.create(base / "a", 10_000)
    file.write([b"data"], 5_000)
    files.sync([file])
    assert files.size_of(base / "a") == 10_000
    for _ in ("as it is in memory", "as it is on the device"):
        assert bytes(files.read(base / "a", 4_998, 5_004)) == b"\0\0data"
        assert bytes(files.read(base / "a", 9_998, 20_000)) == b"\0\0"
        assert bytes(files.read(base / "a", 20_000, 30_000)) == b""
        files.refresh(base / "a", 0, 20_000)
    file.write([b"more"], 5_000)
    files.refresh(base / "a", 0, 10_000)
    assert bytes(files.read(base / "a", 5_000, 5_004)) == b"more", "what is not synced is kept"
    file.close()
    files.remove(base / "a")
    for look in (
        files.size_of,
        lambda path: files.read(path, 0, 1),
        lambda path: files.follow(path, FilePlace(0, 0, 0), end=1, last_id=1),
        files.map,
    ):
        with pytest.raises(FileNotFoundError):
            look(base / "a")
    files.remove(base / "a")


def test_records_are_followed(place: tuple[Files, Path]) -> None:
    files, base = place
    encoder = Encoder(WriterId(1, 2), ORIGIN)
    encoder.add_all([b"data"] * 5, 0)
    batch = encoder.take()
    positions = [batch.position_at(entry_id) for entry_id in range(6)]
    records = bytes(batch.payload.view())
    file = files.create(base / "a", 8_192)
    file.write([records], 4_000)
    files.sync([file])
    file.close()
    places = [FilePlace(4_000 + 56 * count, *positions[count]) for count in range(6)]
    for start, last_id in [(0, 9), (0, 5), (0, 3), (3, 3), (3, 2), (5, 9)]:
        found = files.follow(base / "a", places[start], end=8_192, last_id=last_id)
        assert found == places[max(start, min(last_id, 5))]
    assert files.follow(base / "a", places[0], end=4_120, last_id=9) == places[2]


def test_map_that_is_whole_can_be_seen(place: tuple[Files, Path]) -> None:
    files, base = place
    files.create(base / "a", 10_000).close()
    view = files.map(base / "a")
    for start, end in [(0, 10_000), (1, 9_999), (4_096, 4_097), (5_000, 5_000), (9_000, 8_000)]:
        assert files.can_see(view, start, end)


# --- the real ones --------------------------------------------------------------------------------


def test_more_buffers_than_the_system_takes_at_once_are_written(tmp_path: Path) -> None:
    file = RealFiles().create(tmp_path / "a", 100_000)
    parts = [bytes([number % 256]) * 3 for number in range(2 * BUFFERS_COUNT_MAX + 5)]
    file.write(parts, 7)
    wanted = b"".join(parts)
    assert (tmp_path / "a").read_bytes()[7 : 7 + len(wanted)] == wanted
    file.close()


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 7, 100])
def test_write_goes_on_where_the_system_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    real = os.pwritev

    def pwritev(fd: int, buffers: list[bytes], offset: int) -> int:
        return real(fd, [b"".join(buffers)[:at_once]], offset)

    file = RealFiles().create(tmp_path / "a", 100)
    monkeypatch.setattr(os, "pwritev", pwritev)
    file.write([b"abc", b"", b"defg", memoryview(b"hijklm")], 10)
    assert (tmp_path / "a").read_bytes()[9:24] == b"\0abcdefghijklm\0"
    file.close()


def parts_of(data: bytes, chance: random.Random) -> list[bytes | memoryview]:
    """The data as buffers of any size."""
    parts: list[bytes | memoryview] = []
    start = 0
    while start < len(data):
        end = start + chance.choice([1, 100, 4_096, 70_000, 2 * MIB])
        parts.append(memoryview(data)[start:end])
        start = end
    return parts


@pytest.mark.parametrize("seed", range(20))
def test_what_goes_past_the_cache_lies_where_it_belongs(
    place: tuple[Files, Path], seed: int
) -> None:
    files, base = place
    chance = random.Random(seed)
    file = files.create(base / "a", 12 * MIB)
    wanted = bytearray()
    while len(wanted) < 8 * MIB:
        size = chance.choice([1, 4_096, 5_000, DIRECT_BYTES_MIN, 300_000, MIB, 3 * MIB])
        data = chance.randbytes(max(1, size + chance.randrange(-9, 9)))
        file.write(parts_of(data, chance), len(wanted), is_cached=chance.random() < 0.3)
        wanted += data
        if chance.random() < 0.3:
            start = chance.randrange(len(wanted))
            assert files.read(base / "a", start, len(wanted)) == wanted[start:]
    files.sync([file])
    file.reload(0)
    assert files.map(base / "a")[: len(wanted)] == wanted
    file.close()


@pytest.mark.parametrize("is_cached", [True, False])
def test_what_is_not_read_soon_takes_no_memory(tmp_path: Path, is_cached: bool) -> None:
    needs_direct_writes(tmp_path)
    file = RealFiles().create(tmp_path / "a", MIB)
    file.write([bytes(DIRECT_BYTES_MIN)], 1, is_cached=is_cached)
    RealFiles().sync([file])
    assert is_in_memory(tmp_path / "a", DIRECT_BYTES_MIN // 2) == is_cached
    assert is_in_memory(tmp_path / "a", 0), "the rest of this block is written otherwise"
    file.close()


def refuse_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file system that has no way past the cache."""

    def refuse(_fd: int, _command: int, flags: int) -> int:
        if flags:
            raise OSError(errno.EINVAL, "no such way")
        return 0

    monkeypatch.setattr(fcntl, "fcntl", refuse)


def refuse_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a device with larger blocks."""

    def refuse(_fd: int, _data: memoryview, _offset: int) -> int:
        raise OSError(errno.EINVAL, "not whole blocks")

    monkeypatch.setattr(os, "pwrite", refuse)


def stop_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a system that writes two blocks at once and no more."""
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:8_192], offset))


@pytest.mark.parametrize("hinder", [refuse_direct, refuse_blocks, stop_early])
def test_what_does_not_get_past_the_cache_goes_through_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    hinder: Callable[[pytest.MonkeyPatch], None],
) -> None:
    hinder(monkeypatch)
    data = random.Random(1).randbytes(2 * MIB + 17)
    file = RealFiles().create(tmp_path / "a", 3 * MIB)
    file.write([data], 5, is_cached=False)
    assert (tmp_path / "a").read_bytes()[5 : 5 + len(data)] == data
    file.close()


@pytest.mark.parametrize(("function", "is_cached"), [("pwrite", False), ("pwritev", True)])
def test_failed_write_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, is_cached: bool
) -> None:
    def fail(_fd: int, _data: object, _offset: int) -> int:
        raise OSError(errno.EIO, "the device is gone")

    file = RealFiles().create(tmp_path / "a", 3 * MIB)
    with monkeypatch.context() as failing:
        failing.setattr(os, function, fail)
        with pytest.raises(OSError, match="the device is gone") as caught:
            file.write([bytes(MIB)], 5, is_cached=is_cached)
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == str(tmp_path / "a")
    file.write([b"later"], 5)
    assert (tmp_path / "a").read_bytes()[5:10] == b"later"
    file.close()


def test_empty_file_has_an_empty_map(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert len(RealFiles().map(tmp_path / "a")) == 0


def test_map_of_what_was_cut_off_cannot_be_seen(tmp_path: Path) -> None:
    files = RealFiles()
    files.create(tmp_path / "a", 64 * 1024).close()
    view = files.map(tmp_path / "a")
    assert files.can_see(view[:30_000], 0, 30_000)
    os.truncate(tmp_path / "a", 20_000)
    assert files.can_see(view, 0, 20_000)
    assert not files.can_see(view, 16_384, 64 * 1024)
    assert not files.can_see(view, 40_000, 40_001)
    os.truncate(tmp_path / "a", 64 * 1024)
    assert files.can_see(view, 0, 64 * 1024)


def test_map_of_what_the_device_cannot_read_cannot_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked once for each block that can be read, and again for one that cannot."""
    asked: list[tuple[int, int]] = []

    class Failing(vfs._Map):
        def madvise(self, _advice: int, start: int = 0, size: int = 0) -> None:
            asked.append((start, size))
            if start <= 100_000 < start + size:
                raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))

    files = RealFiles()
    files.create(tmp_path / "a", 200_000).close()
    monkeypatch.setattr(vfs, "_Map", Failing)
    view = files.map(tmp_path / "a")
    first, bad = (0, 65_536), (65_536, 65_536)
    third, last = (131_072, 65_536), (196_608, 3_392)
    assert files.can_see(view, 10, 20)
    assert asked == [first]
    for _ in range(2):
        assert not files.can_see(view, 0, 150_000)
    assert files.can_see(view, 140_000, 200_000)
    assert files.can_see(view, 131_072, 200_000)
    assert asked == [first, bad, bad, third, last]


@pytest.mark.parametrize(("error", "is_known"), [(errno.EINVAL, True), (errno.EIO, False)])
def test_system_that_cannot_tell_what_can_be_seen_is_not_believed_to_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, is_known: bool
) -> None:
    files = RealFiles()
    files.create(tmp_path / "a", 64 * 1024).close()

    class Old(vfs._Map):
        def madvise(self, *_args: int) -> None:
            raise OSError(error, os.strerror(error))

    monkeypatch.setattr(vfs, "_Map", Old)
    view = files.map(tmp_path / "a")
    if is_known:
        assert files.can_see(view, 0, 10)
    else:
        with pytest.raises(OSError, match="Input/output error"):
            files.can_see(view, 0, 10)


@pytest.mark.parametrize("error", [errno.EIO, errno.EINVAL])
def test_what_the_device_cannot_read_is_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """One block of it; any other error is one of the program."""
    (tmp_path / "a").write_bytes(b"x" * 20_000)
    preadv = os.preadv

    def failing(fd: int, buffers: list[memoryview], offset: int) -> int:
        if 8_192 <= offset < 12_288:
            raise OSError(error, os.strerror(error))
        size = 8_192 - offset if offset < 8_192 else 20_000
        return preadv(fd, [buffers[0][:size]], offset)

    monkeypatch.setattr(os, "preadv", failing)
    if error == errno.EINVAL:
        with pytest.raises(OSError, match="Invalid argument"):
            RealFiles().read(tmp_path / "a", 100, 20_000)
        return
    data = bytes(RealFiles().read(tmp_path / "a", 100, 20_000))
    assert data == b"x" * 8_092 + bytes(4_096) + b"x" * 7_712
    assert bytes(RealFiles().read(tmp_path / "a", 9_000, 11_000)) == bytes(2_000)


def test_failed_sync_names_the_file(tmp_path: Path) -> None:
    files = RealFiles()
    good = files.create(tmp_path / "good", 10)
    bad = RealFile(tmp_path / "good", os.O_RDONLY)
    bad.path = tmp_path / "bad"
    os.close(bad.fd)
    reading, writing = os.pipe()
    bad.fd = writing  # a pipe cannot be synced
    with pytest.raises(OSError, match="sync failed") as caught:
        files.sync([good, bad])
    assert caught.value.errno == errno.EINVAL
    assert caught.value.filename == str(tmp_path / "bad")
    for fd in (reading, writing):
        os.close(fd)
    good.close()


def test_file_that_finds_no_room_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="no space"):
        RealFiles().create(tmp_path / "a", 10)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- the simulated ones ---------------------------------------------------------------------------


def test_loss_of_power_keeps_what_was_synced() -> None:
    for seed in range(50):
        files = SimulatedFiles()
        base = Path("/base")
        files.make_directory(base)
        files.sync_directory(Path("/"))
        file = files.create(base / "a", 4_096)
        file.write([b"kept"], 0)
        files.sync([file])
        files.sync_directory(base)
        file.write([b"unsure"], 1_024)
        files.create(base / "b", 10)
        files.lose_power(random.Random(seed))
        view = files.map(base / "a")
        assert bytes(view[:4]) == b"kept"
        assert bytes(view[1_024:1_030]) in (b"unsure", bytes(6))
        assert set(files.names(base)) in ({"a"}, {"a", "b"})


def test_simulated_operation_fails_when_told() -> None:
    files = SimulatedFiles()
    files.make_directory(Path("/base"))
    files.crash_at = files.steps + 2
    file = files.create(Path("/base/a"), 100)
    with pytest.raises(Crash):
        file.write([b"12345678"], 0)
    assert bytes(files.map(Path("/base/a"))[:8]) == b"1234\0\0\0\0"


def test_simulated_sync_that_failed_has_written_nothing_though_it_looks_so() -> None:
    files = SimulatedFiles()
    file = files.create(Path("/a"), 1_024)
    files.is_failing = True
    file.write([b"data"], 0)
    with pytest.raises(OSError, match="sync failed"):
        files.sync([file])
    files.is_failing = False
    files.sync([file])  # the pages count as written
    assert bytes(files.map(Path("/a"))[:4]) == b"data"
    file.reload(0)
    assert bytes(files.map(Path("/a"))[:4]) == bytes(4)


def test_simulated_disk_is_full_when_told() -> None:
    files = SimulatedFiles()
    files.left_bytes = 1_000
    files.create(Path("/a"), 600).close()
    with pytest.raises(OSError, match="No space left"):
        files.create(Path("/b"), 600)
    files.remove(Path("/a"))
    files.create(Path("/b"), 600).close()
