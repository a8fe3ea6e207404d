"""A file system in memory that can lose power: a verified fake of `walle.storage.vfs`.

What was not synced is lost sector by sector at random, and so are names. An operation can be told
to fail, as though the process or the machine had died in it. A sync that is told to fail does what
the real one may do: the pages count as written from then on, and show what the disk does not have.
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from walle.ids import Position
from walle.native import FilePlace
from walle.record import scan
from walle.testing.violation import require

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from pathlib import Path

    from walle.storage.vfs import File

SECTOR_BYTES = 512


class Crash(Exception):
    """The machine died here."""


@dataclass(eq=False)
class Inode:
    """A file's bytes: as processes see them, and as they are on the platter."""

    data: bytearray
    durable: bytearray
    dirty: set[int] = field(default_factory=set)

    def write(self, data: bytes, offset: int) -> None:
        self.data[offset : offset + len(data)] = data
        self.dirty |= set(range(offset // SECTOR_BYTES, -(-(offset + len(data)) // SECTOR_BYTES)))

    def persist(self, sector: int) -> None:
        self.durable[_place(sector)] = self.data[_place(sector)]

    def is_changed(self, sector: int) -> bool:
        """Whether the platter has something else there."""
        return self.data[_place(sector)] != self.durable[_place(sector)]

    def drop_clean_pages(self) -> None:
        """What is not dirty is read from the platter again."""
        kept = {sector: self.data[_place(sector)] for sector in self.dirty}
        self.data[:] = self.durable
        for sector, data in kept.items():
            self.data[_place(sector)] = data


def _place(sector: int) -> slice:
    return slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)


def change_name(
    names: dict[Path, Inode | None], path: Path, inode: Inode | None, is_there: bool
) -> None:
    """Makes the name lead to that file, None being a directory, or takes it away."""
    if is_there:
        names[path] = inode
    else:
        names.pop(path, None)


class SimulatedFile:
    def __init__(self, disk: SimulatedFiles, inode: Inode) -> None:
        self.disk = disk
        self.inode = inode

    def write(
        self,
        buffers: Sequence[bytes | memoryview],
        offset: int,
        *,
        is_cached: bool = True,  # noqa: ARG002
    ) -> None:
        data = b"".join(buffers)
        require(
            offset + len(data) <= len(self.inode.data), "nothing is written beyond what is reserved"
        )
        if self.disk.is_last_step():
            # A write that is interrupted has done a part of its work.
            self.inode.write(data[: len(data) // 2], offset)
        self.disk.step()
        self.inode.write(data, offset)

    def reload(self, _ahead_bytes: int) -> None:
        self.inode.drop_clean_pages()

    def close(self) -> None:
        pass


class SimulatedFiles:
    """Names and inodes.

    crash_at: the number of the operation that dies; None: none does.
    is_failing: whether syncs fail.
    left_bytes: what files may still be made of; None: as much as they like.
    """

    def __init__(self) -> None:
        self.names_now: dict[Path, Inode | None] = {}  # None: a directory
        self.names_durable: dict[Path, Inode | None] = {}
        self.changes: list[tuple[Path, Inode | None, bool]] = []
        self.steps = 0
        self.crash_at: int | None = None
        self.is_failing = False
        self.left_bytes: int | None = None

    def is_last_step(self) -> bool:
        return self.crash_at == self.steps + 1

    def step(self) -> None:
        """One more operation."""
        self.steps += 1
        if self.crash_at is not None and self.steps >= self.crash_at:
            raise Crash(self.steps)

    def lose_power(self, random: random.Random) -> None:
        """What was not synced survives or not, by chance; then the machine starts again."""
        mode = random.choice(["all", "none", "some", "some"])
        for path, inode, is_there in self.changes:
            if mode == "all" or (mode == "some" and random.random() < 0.5):
                change_name(self.names_durable, path, inode, is_there)
        for _, inode in sorted(self.names_durable.items()):
            if inode is None:
                continue
            for sector in sorted(inode.dirty):
                if mode == "all" or (mode == "some" and random.random() < 0.5):
                    inode.persist(sector)
            inode.dirty.clear()
            inode.data = bytearray(inode.durable)
        self.names_now = {
            path: inode
            for path, inode in self.names_durable.items()
            if all(parent in self.names_durable for parent in list(path.parents)[:-1])
        }
        self.names_durable = dict(self.names_now)
        self.changes.clear()
        self.crash_at = None
        self.is_failing = False

    def _record(self, *changes: tuple[Path, Inode | None, bool]) -> None:
        for change in changes:
            change_name(self.names_now, *change)
        self.changes += changes

    def _inode(self, path: Path) -> Inode:
        inode = self.names_now.get(path)
        if inode is None:
            raise FileNotFoundError(2, "no such file", str(path))
        return inode

    # --- Files ------------------------------------------------------------------------------------

    def names(self, directory: Path) -> list[str]:
        prefix = str(directory / "_")[:-1]  # text is compared much faster than paths are
        names = [
            str(path)[len(prefix) :] for path in self.names_now if str(path).startswith(prefix)
        ]
        return [name for name in names if "/" not in name]

    def make_directory(self, path: Path) -> None:
        self.step()
        if path not in self.names_now:
            self._record((path, None, True))

    def create(self, path: Path, size: int) -> SimulatedFile:
        self.step()
        if path in self.names_now:
            raise FileExistsError(17, "file exists", str(path))
        if self.left_bytes is not None:
            if size > self.left_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            self.left_bytes -= size
        inode = Inode(bytearray(size), bytearray(size))
        self._record((path, inode, True))
        return SimulatedFile(self, inode)

    def open(self, path: Path) -> SimulatedFile:
        return SimulatedFile(self, self._inode(path))

    def map(self, path: Path) -> memoryview:
        return memoryview(self._inode(path).data).toreadonly()

    def can_see(self, view: memoryview, start: int, end: int) -> bool:  # noqa: ARG002
        return True

    def read(self, path: Path, start: int, end: int) -> memoryview:
        return memoryview(bytes(self._inode(path).data[start:end]))

    def follow(self, path: Path, place: FilePlace, *, end: int, last_id: int) -> FilePlace:
        found = scan(
            self.read(path, place.offset, end),
            after=Position(place.entry_id, place.chain),
            count_max=max(last_id - place.entry_id, 0),
        )
        return FilePlace(place.offset + found.size, *found.last) if found.count else place

    def refresh(self, path: Path, start: int, end: int) -> None:  # noqa: ARG002
        self._inode(path).drop_clean_pages()

    def size_of(self, path: Path) -> int:
        return len(self._inode(path).data)

    def rename(self, source: Path, target: Path) -> None:
        self.step()
        inode = self._inode(source)
        self._record((target, inode, True), (source, inode, False))

    def remove(self, path: Path) -> None:
        self.step()
        inode = self.names_now.get(path)
        if inode is None:
            return
        if self.left_bytes is not None:
            self.left_bytes += len(inode.data)
        self._record((path, inode, False))

    def sync(self, files: Sequence[File]) -> None:
        for file in cast("Sequence[SimulatedFile]", files):
            self.step()
            if self.is_failing:
                file.inode.dirty.clear()
                raise OSError(errno.EIO, "sync failed")
            for sector in file.inode.dirty:
                file.inode.persist(sector)
            file.inode.dirty.clear()

    def sync_directory(self, path: Path) -> None:
        self.step()
        for change in [each for each in self.changes if each[0].parent == path]:
            change_name(self.names_durable, *change)
            self.changes.remove(change)

    def free_bytes(self, _directory: Path) -> int:
        return sys.maxsize if self.left_bytes is None else self.left_bytes
