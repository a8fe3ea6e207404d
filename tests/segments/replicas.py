"""Replicas on simulated disks: made by real stores, then copied and damaged."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from tests.storage.checks import DIRECTORY
from tests.storage.model import CLUSTER_ID, Driver
from walle.core import effects
from walle.segments.replica import Replica
from walle.storage.segment import path_of
from walle.storage.store import Store
from walle.testing.files import SimulatedFiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STREAM = 5
NAME = "/stream/5"


def make(work: Callable[[Driver], None]) -> tuple[SimulatedFiles, Driver]:
    """The disk of a node that has done that work on one stream, and has stopped in good order."""
    files = SimulatedFiles()
    driver = Driver(Store(DIRECTORY, files))
    driver.do(effects.SetCluster(CLUSTER_ID, ()))
    driver.create(STREAM)
    work(driver)
    driver.store.sync()
    driver.store.finish()
    return files, driver


def long_run(driver: Driver) -> None:
    """360 entries in several files, all but the last committed."""
    for _ in range(90):
        driver.append(STREAM, [150] * 4, is_accepted=True)
        driver.commit(STREAM, 4)
        driver.store.sync()
    driver.append(STREAM, [10])
    driver.promise(STREAM)


def all_kinds(driver: Driver) -> None:
    """A run, an aside run, a gap with a fill in it, a live run, a suffix."""
    for size in (300, 200, 100):
        driver.append(STREAM, [size])
        driver.store.sync()
    driver.commit(STREAM, 2)
    driver.promise(STREAM)
    driver.jump(STREAM, [60] * 4, [40] * 3)
    driver.store.sync()
    driver.append(STREAM, [100, 200], is_accepted=True)
    driver.fill(STREAM, 2)


def opened(files: SimulatedFiles) -> Replica:
    return Replica(DIRECTORY, files)


def copied(files: SimulatedFiles) -> SimulatedFiles:
    """Another disk with the same files."""
    return copy.deepcopy(files)


def segment(number: int) -> Path:
    return path_of(DIRECTORY / "streams", STREAM, number)


def flip(files: SimulatedFiles, path: Path, offset: int) -> None:
    """Flips one bit of the byte there, on the platter, too."""
    inode = files.names_now[path]
    assert inode is not None
    for data in (inode.data, inode.durable):
        data[offset] ^= 1 << offset % 8


def spoil(files: SimulatedFiles, *entry_ids: int) -> None:
    """Flips a bit in the data of each of these entries."""
    log = opened(files).recover(STREAM).log
    for entry_id in entry_ids:
        extent = next(each for each in log.runs if each.first_id <= entry_id <= each.last.entry_id)
        inode = files.names_now[extent.segment.path]
        assert inode is not None
        data, at = inode.data, extent.offset
        while int.from_bytes(data[at + 16 : at + 24], "little") != entry_id:
            at += (48 + int.from_bytes(data[at + 12 : at + 15], "little") + 7) & -8
        flip(files, extent.segment.path, at + 48)


def bytes_of(files: SimulatedFiles) -> dict[Path, bytes]:
    """All files there are."""
    return {path: bytes(inode.data) for path, inode in files.names_now.items() if inode is not None}
