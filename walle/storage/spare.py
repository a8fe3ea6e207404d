"""Spare files: those of trimmed segments, kept for the next segments of their size.

    data/spare/<number, 8 digits>.segment

Appending to a file whose blocks were written before costs less than to one whose space was merely
reserved: no sync has to write which blocks hold data. A spare file still holds the records of its
former life; docs/storage.md says why those cannot come back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.limits import SPARE_BYTES_MAX, SPARE_COUNT_MAX
from walle.storage.segment import SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

    from walle.storage.vfs import Files


class Spare:
    """A bounded number of spare files. Those of a former process were removed by recovery."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._files = files
        self._sizes: dict[Path, int] = {}
        self._number = 0

    def keep(self, path: Path, size: int) -> None:
        """Takes in a file that is needed no more, for the oldest ones if there are too many:
        nobody may ask for their sizes any more. It need not become durable."""
        while len(self._sizes) >= SPARE_COUNT_MAX or self.size + size > SPARE_BYTES_MAX:
            oldest = next(iter(self._sizes))
            self._files.remove(oldest)
            del self._sizes[oldest]
        self._number += 1
        spare = self._directory / f"{self._number:08d}{SUFFIX}"
        try:
            self._files.rename(path, spare)
        except FileNotFoundError:
            return  # somebody has removed it
        if self._files.size_of(spare) == size:
            self._sizes[spare] = size
        else:  # somebody has made it shorter: its space is not reserved any more
            self._files.remove(spare)

    def take(self, path: Path, size: int) -> bool:
        """Gives a spare file of that size this path; False: there is none. Durable once the
        directory of `path` is synced."""
        spare = next((each for each, found in self._sizes.items() if found == size), None)
        if spare is None:
            return False
        self._files.rename(spare, path)
        del self._sizes[spare]
        return True

    def clear(self) -> None:
        """Removes all of them."""
        for path in self._sizes:
            self._files.remove(path)
        self._sizes.clear()

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(self._sizes.values())
