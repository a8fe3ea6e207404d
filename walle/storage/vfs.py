"""The few file operations that storage needs, and the real ones. Nothing else touches the disk.

A simulated disk implements `Files` and `File` as well. What each operation promises after a crash
is said here, and docs/storage.md builds on nothing more:

    an operation on data (`write`)           durable after `Files.sync` of the file returned
    an operation on names (`create`,         durable after `Files.sync_directory` of the directory
    `rename`, `remove`, `make_directory`)    the name is in; `rename` is atomic within one

Before that, any part of it may or may not be durable, in any order. An operation that fails raises
`OSError`, and the caller must not go on: whether it took effect is not known, and a repeated sync
would report success for data that is lost. But a `create` that finds no space leaves nothing.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from typing import TYPE_CHECKING, Any, Protocol, cast

from walle.limits import KIB, MIB
from walle.native import records_follow, sync_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from walle.native import FilePlace

BUFFERS_COUNT_MAX: int = os.sysconf("SC_IOV_MAX")
FILE_MODE = 0o600
DIRECTORY_MODE = 0o700
READ_BYTES_MIN = 4096
"""What one error of a device takes with it, at most."""
MADV_POPULATE_READ = 22
DIRECT_BYTES_MIN = 128 * KIB
"""Less goes through the page cache always: two more writes would cost more than the cache does."""
BLOCK_BYTES = 4096
"""What goes past the page cache is whole blocks, in memory as in the file."""
SEEN_BYTES = 64 * KIB
"""How much of a map is brought into memory at once, to find out whether that can be done."""


class File(Protocol):
    """A file open for writing."""

    def write(
        self, buffers: Sequence[bytes | memoryview], offset: int, *, is_cached: bool = True
    ) -> None:
        """Writes the buffers, one behind the other, from byte `offset` on. All, or OSError, which
        names the file.

        is_cached: whether they are soon read, so that they should stay in memory.
        """

    def reload(self, ahead_bytes: int) -> None:
        """What was synced is read from the device from now on, not from memory, if that can be.
        About `ahead_bytes` from the start are being read in the background."""

    def close(self) -> None:
        """What was not synced may be lost, and nobody would be told."""


class Files(Protocol):
    """A file system."""

    def names(self, directory: Path) -> list[str]:
        """What a directory holds, in no order; nothing if there is no such directory."""

    def make_directory(self, path: Path) -> None:
        """Makes it, unless it is there; its parent is."""

    def create(self, path: Path, size: int) -> File:
        """A new file of that many zeros, its space reserved: writing into it cannot run out of
        space, nor does it change the size. OSError with ENOSPC or EDQUOT: there is no room."""

    def open(self, path: Path) -> File:
        """A file that is there, for writing."""

    def map(self, path: Path) -> memoryview:
        """All of a file, for reading. It shows what is written later, and outlives `remove`."""

    def can_see(self, view: memoryview, start: int, end: int) -> bool:
        """Whether these bytes of a map, or of a part of one that begins with it, can be looked at.

        If the device cannot read them, or somebody has made the file shorter, doing so would end
        the process by SIGBUS. What could be seen once is not asked of the device again.
        """

    def read(self, path: Path, start: int, end: int) -> memoryview:
        """A copy of these bytes of a file, or of those that it has. What the device cannot read is
        zeros, which pass no check."""

    def follow(self, path: Path, place: FilePlace, *, end: int, last_id: int) -> FilePlace:
        """As `walle.native.records_follow`, of a file: for whoever reads much, at little cost."""

    def refresh(self, path: Path, start: int, end: int) -> None:
        """Lets the next `read` of these bytes show what is on the device, not what is in memory, if
        that can be. They are being read in the background."""

    def size_of(self, path: Path) -> int:
        """Bytes of a file."""

    def rename(self, source: Path, target: Path) -> None:
        """Gives a file another name, perhaps in another directory. Before both are synced it may
        be found under either name, under both or under none."""

    def remove(self, path: Path) -> None:
        """Removes a file, if it is there: somebody may have done so already."""

    def sync(self, files: Sequence[File]) -> None:
        """Makes what was written to these files durable, with as much of the metadata as reading
        it takes. OSError names the first file that failed."""

    def sync_directory(self, path: Path) -> None:
        """Makes the names in the directory durable."""

    def free_bytes(self, directory: Path) -> int:
        """How much room there is for new files."""


# Private, so that each process has one of its own.
_ALIGNED = memoryview(mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class RealFile:
    """A file of the operating system."""

    __slots__ = ("fd", "path")

    def __init__(self, path: Path, flags: int) -> None:
        self.path = path
        self.fd = os.open(path, flags | os.O_CLOEXEC, FILE_MODE)

    def write(
        self, buffers: Sequence[bytes | memoryview], offset: int, *, is_cached: bool = True
    ) -> None:
        try:
            if is_cached or sum(map(len, buffers)) < DIRECT_BYTES_MIN:
                self._write(buffers, offset)
            else:
                self._write_past_cache(buffers, offset)
        except OSError as error:
            error.filename = str(self.path)
            raise

    def _write_past_cache(self, buffers: Sequence[bytes | memoryview], offset: int) -> None:
        # What is copied begins in its first block where it does in the file.
        head = end = offset % BLOCK_BYTES
        start = offset - head
        for buffer in buffers:
            rest = memoryview(buffer)
            while rest:
                size = min(len(rest), len(_ALIGNED) - end)
                _ALIGNED[end : end + size] = rest[:size]
                end += size
                rest = rest[size:]
                if end == len(_ALIGNED):
                    self._write_aligned(start, head, end)
                    start += end
                    head = end = 0
        self._write_aligned(start, head, end)

    def _write_aligned(self, start: int, head: int, end: int) -> None:
        """Writes _ALIGNED[head:end] to where they lie behind `start`. The blocks of which it is a
        part only go through the cache: other writes put the rest there."""
        whole = -(-head // BLOCK_BYTES) * BLOCK_BYTES
        if head < whole:
            whole = min(whole, end)
            self._write([_ALIGNED[head:whole]], start + head)
        whole += self._write_direct(_ALIGNED[whole : end - end % BLOCK_BYTES], start + whole)
        if whole < end:
            self._write([_ALIGNED[whole:end]], start + whole)

    def _write_direct(self, blocks: memoryview, offset: int) -> int:
        """Writes past the cache as much as the file system allows; returns how much that was."""
        if not blocks:
            return 0
        try:
            fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_DIRECT)
            return os.pwrite(self.fd, blocks, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:  # there is no such way, or its blocks are larger
                raise
            return 0
        finally:
            fcntl.fcntl(self.fd, fcntl.F_SETFL, 0)

    def _write(self, buffers: Sequence[bytes | memoryview], offset: int) -> None:
        end = offset + sum(map(len, buffers))
        while True:
            size = os.pwritev(self.fd, buffers[:BUFFERS_COUNT_MAX], offset)
            offset += size
            if offset == end:
                return
            buffers = _rest(buffers, size)

    def reload(self, ahead_bytes: int) -> None:
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(self.fd, 0, ahead_bytes, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        os.close(self.fd)


def _rest(buffers: Iterable[bytes | memoryview], size: int) -> list[memoryview]:
    """What is left of the buffers behind their first `size` bytes."""
    rest = []
    for buffer in buffers:
        if size < len(buffer):
            rest.append(memoryview(buffer)[size:])
        size = max(0, size - len(buffer))
    return rest


def _size(file: RealFile) -> int:
    return os.fstat(file.fd).st_size


def _read_into(file: RealFile, data: memoryview, start: int) -> int:
    """Reads what is at byte `start` of the file; returns how much of `data` it has filled.

    data: zeros.
    """
    done = 0
    while done < len(data):
        try:
            count = os.preadv(file.fd, [data[done:]], start + done)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            count = READ_BYTES_MIN - (start + done) % READ_BYTES_MIN
        if not count:  # it has become shorter meanwhile
            break
        done += count
    return min(done, len(data))


class _Map(mmap.mmap):
    """seen: the blocks of SEEN_BYTES of it that could be brought into memory."""

    seen: set[int]


class RealFiles:
    """The operating system's file system."""

    def names(self, directory: Path) -> list[str]:
        try:
            return os.listdir(directory)  # noqa: PTH208 - Path.iterdir makes a path of each name
        except FileNotFoundError:
            return []

    def make_directory(self, path: Path) -> None:
        path.mkdir(DIRECTORY_MODE, exist_ok=True)

    def create(self, path: Path, size: int) -> RealFile:
        file = RealFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.posix_fallocate(file.fd, 0, size)
        except OSError as error:
            file.close()
            path.unlink()
            error.filename = str(path)
            raise
        return file

    def open(self, path: Path) -> RealFile:
        return RealFile(path, os.O_RDWR)

    def map(self, path: Path) -> memoryview:
        file = RealFile(path, os.O_RDONLY)
        try:
            if _size(file) == 0:
                return memoryview(b"")
            mapped = _Map(file.fd, 0, access=mmap.ACCESS_READ)
            mapped.seen = set()
            return memoryview(mapped)
        finally:
            file.close()

    def can_see(self, view: memoryview, start: int, end: int) -> bool:
        mapped = cast("_Map", view.obj)
        if start < end and mapped.size() < end:
            return False
        for block in range(start // SEEN_BYTES, -(-end // SEEN_BYTES)):
            if block not in mapped.seen:
                size = min(SEEN_BYTES, len(mapped) - block * SEEN_BYTES)
                try:
                    mapped.madvise(MADV_POPULATE_READ, block * SEEN_BYTES, size)
                except OSError as error:
                    if error.errno == errno.EFAULT:
                        return False
                    if error.errno != errno.EINVAL:  # a system older than 5.14 cannot tell
                        raise
                mapped.seen.add(block)
        return True

    def read(self, path: Path, start: int, end: int) -> memoryview:
        file = RealFile(path, os.O_RDONLY)
        try:
            data = memoryview(bytearray(max(0, min(end, _size(file)) - start)))
            return data[: _read_into(file, data, start)]
        finally:
            file.close()

    def follow(self, path: Path, place: FilePlace, *, end: int, last_id: int) -> FilePlace:
        file = RealFile(path, os.O_RDONLY)
        try:
            return records_follow(file.fd, place, end=end, last_id=last_id)
        finally:
            file.close()

    def refresh(self, path: Path, start: int, end: int) -> None:
        if start >= end:
            return  # to the system, no bytes would be all that follow
        file = RealFile(path, os.O_RDONLY)
        try:
            for advice in (os.POSIX_FADV_DONTNEED, os.POSIX_FADV_WILLNEED):
                os.posix_fadvise(file.fd, start, end - start, advice)
        finally:
            file.close()

    def size_of(self, path: Path) -> int:
        return path.stat().st_size

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync(self, files: Sequence[File]) -> None:
        ours: Any = files
        errors = sync_files([file.fd for file in ours])
        for file, error in zip(ours, errors, strict=True):
            if error:
                raise OSError(error, f"sync failed: {os.strerror(error)}", str(file.path))

    def sync_directory(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, directory: Path) -> int:
        found = os.statvfs(directory)
        return found.f_bavail * found.f_frsize
