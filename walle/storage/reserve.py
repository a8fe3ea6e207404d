"""A reserve on the disk, for what must go on when it is full: claims, journals, `/cluster`.

    data/reserve    RESERVE_FILE_BYTES of zeros

It is free space, and a file. Once less than the reserve is free, nothing may be stored that can be
refused. If even that is used up, for others write to the same disk, the file is given up, so that
journals and `/cluster` go on; it is made anew when there is space. Only if that does not help is
the lack of space an error.

A quota may run out of which nobody tells what is left. Nothing is free then until the file could be
made anew.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, TypeVar

from walle.limits import DISK_RESUME_BYTES, RESERVE_FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from walle.storage.vfs import File, Files

NAME = "reserve"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")


class Reserve:
    """The files of a data directory, with a reserve of `reserve_bytes`. Implements `Files`.

    looks: how often it was looked at; what is told here changes by that alone.
    has_space: whether entries may be stored.
    left_bytes: how much was free when that was last looked at.
    """

    def __init__(self, directory: Path, files: Files, reserve_bytes: int) -> None:
        self.reserve_bytes = reserve_bytes
        self.resume_bytes = reserve_bytes + DISK_RESUME_BYTES
        self._directory = directory
        self._path = directory / NAME
        self._files = files
        self._is_kept = self._is_whole()
        self._is_quota_used_up = False
        self.looks = 1
        self.left_bytes = files.free_bytes(directory)
        self.has_space = self.left_bytes >= reserve_bytes
        self.names = files.names
        self.open = files.open
        self.map = files.map
        self.can_see = files.can_see
        self.read = files.read
        self.follow = files.follow
        self.refresh = files.refresh
        self.size_of = files.size_of
        self.rename = files.rename
        self.remove = files.remove
        self.sync = files.sync
        self.sync_directory = files.sync_directory

    @property
    def has_reserve(self) -> bool:
        """Whether what claims need may be stored: the file is not given up for that."""
        return self.has_space or self._is_kept

    def look(self) -> None:
        """Looks how much is free; to be called often, for others use the same disk.

        After a lack of space, more than the reserve must be free: else it would come and go.
        """
        self.looks += 1
        self.left_bytes = self._files.free_bytes(self._directory)
        if not self._is_kept and self.left_bytes >= self.resume_bytes:
            self._make()
        if self._is_quota_used_up:
            self.left_bytes = 0
        wanted_bytes = self.reserve_bytes if self.has_space else self.resume_bytes
        self.has_space = self.left_bytes >= wanted_bytes

    def _make(self) -> None:
        """Makes the file anew, if there is room for it."""
        try:
            self._files.create(self._path, RESERVE_FILE_BYTES).close()
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            self._is_quota_used_up = error.errno == errno.EDQUOT
        else:
            self._is_kept, self._is_quota_used_up = True, False

    def free_bytes(self, directory: Path) -> int:
        """How much room there is beside the reserve."""
        if self._is_quota_used_up:
            return 0
        return max(self._files.free_bytes(directory) - self.reserve_bytes, 0)

    def create(self, path: Path, size: int) -> File:
        """As `Files.create`; gives up the reserve file if it must."""
        return self._insist(lambda: self._files.create(path, size))

    def make_directory(self, path: Path) -> None:
        """As `Files.make_directory`; gives up the reserve file if it must."""
        self._insist(lambda: self._files.make_directory(path))

    def _insist(self, make: Callable[[], T]) -> T:
        while True:
            try:
                made = make()
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                self._is_quota_used_up |= error.errno == errno.EDQUOT
                if not self._is_kept:
                    text = "no space is left, not even in reserve; free some on the disk"
                    raise OSError(error.errno, text, error.filename) from None
            else:
                self.look()
                return made
            self._files.remove(self._path)
            self._is_kept = False

    def _is_whole(self) -> bool:
        """Whether the file is there; one that was not made to its end is removed. Nothing is ever
        written to it or synced: only its space matters."""
        if NAME not in self._files.names(self._directory):
            return False
        if self._files.size_of(self._path) == RESERVE_FILE_BYTES:
            return True
        self._files.remove(self._path)
        return False
