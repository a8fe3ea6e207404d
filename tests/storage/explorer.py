"""All that a loss of power may leave of a directory, at every moment of a workload.

Between any two operations on files, each sector that was not synced may have come to the platter
or not, and so may each name. Where these are few, every subset is tried; else none, all, each one
alone, all but each one, and some at random.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, NamedTuple

from walle.testing.files import Inode, SimulatedFile, SimulatedFiles, change_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

EXHAUSTIVE_COUNT = 6
"""Up to so many sectors and names every subset is tried."""
RANDOM_COUNT = 8
"""So many subsets at random are tried of more."""


class Sector(NamedTuple):
    """A sector that may be lost."""

    inode: Inode
    number: int


class Name(NamedTuple):
    """A change of a name that may be lost, by its place in the order of changes."""

    place: int


class Explorer(SimulatedFiles):
    """A file system that shows what it may become to `visit`, before each of its operations.

    visit: is given a file system of its own each time; None: nobody looks.
    count: how many it was shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self.visit: Callable[[SimulatedFiles], None] | None = None
        self.count = 0

    def step(self) -> None:
        super().step()
        self.explore()

    def explore(self) -> None:
        """Shows what there may be now."""
        visit, self.visit = self.visit, None
        if visit is not None:
            for image in images(self):
                self.count += 1
                visit(image)
        self.visit = visit

    def create(self, path: Path, size: int) -> SimulatedFile:
        return HalvingFile(self, super().create(path, size).inode)

    def open(self, path: Path) -> SimulatedFile:
        return HalvingFile(self, super().open(path).inode)


class HalvingFile(SimulatedFile):
    """Writes in two steps, as a process may die in the middle."""

    def write(
        self, buffers: Sequence[bytes | memoryview], offset: int, *, is_cached: bool = True
    ) -> None:
        data = b"".join(buffers)
        half = len(data) // 2
        super().write([data[:half]], offset, is_cached=is_cached)
        super().write([data[half:]], offset + half, is_cached=is_cached)


def images(files: SimulatedFiles) -> Iterator[SimulatedFiles]:
    """What a loss of power may leave of the files, each with inodes of its own."""
    units: list[Sector | Name] = [Name(place) for place in range(len(files.changes))]
    inodes = [*files.names_durable.values(), *[inode for _, inode, _ in files.changes]]
    for inode in dict.fromkeys(inodes):
        if inode is not None:
            changed = filter(inode.is_changed, sorted(inode.dirty))
            units += [Sector(inode, number) for number in changed]
    for kept in subsets(units, random.Random(files.steps)):
        yield image(files, set(kept))


def subsets(units: list[Sector | Name], chance: random.Random) -> Iterator[Sequence[Sector | Name]]:
    """Those of them that come to the disk."""
    if len(units) <= EXHAUSTIVE_COUNT:
        for count in range(len(units) + 1):
            yield from itertools.combinations(units, count)
        return
    yield from ([], units)
    for place, unit in enumerate(units):
        yield [unit]
        yield units[:place] + units[place + 1 :]
    for _ in range(RANDOM_COUNT):
        yield [unit for unit in units if chance.random() < 0.5]


def image(files: SimulatedFiles, kept: set[Sector | Name]) -> SimulatedFiles:
    """The file system with only those of its pending changes."""
    found = SimulatedFiles()
    names = dict(files.names_durable)
    for place, change in enumerate(files.changes):
        if Name(place) in kept:
            change_name(names, *change)
    copies: dict[Inode, Inode] = {}
    for inode in names.values():
        if inode is not None and inode not in copies:
            copy = Inode(bytearray(inode.data), bytearray(inode.durable))
            for number in inode.dirty:
                if Sector(inode, number) in kept:
                    copy.persist(number)
            copy.data[:] = copy.durable
            copies[inode] = copy
    found.names_now = {
        path: None if inode is None else copies[inode]
        for path, inode in names.items()
        if all(parent in names for parent in list(path.parents)[:-1])
    }
    found.names_durable = dict(found.names_now)
    return found
