"""What is on the device counts, not what is in memory: a write may have been lost on the way."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.mounts import image_of, mounted_copy, mounted_image
from tests.storage.model import Driver, read_action, read_bytes
from walle.limits import MIB
from walle.storage.store import Store
from walle.storage.vfs import DIRECT_BYTES_MIN, RealFiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_image(tmp_path / "disk", 32 * MIB) as path:
        yield path


def lose(disk: Path, written: bytes) -> None:
    """The device has zeros where these bytes should be. The system does not know."""
    with image_of(disk).open("r+b") as image:
        place = image.read().index(written)
        image.seek(place)
        image.write(bytes(len(written)))


def test_reload_reads_from_the_device(disk: Path) -> None:
    files = RealFiles()
    file = files.create(disk / "a", MIB)
    written = os.urandom(4_096)
    file.write([written], 8_192)
    files.sync([file])
    lose(disk, written)
    assert os.pread(file.fd, 4_096, 8_192) == written
    file.reload(0)
    assert os.pread(file.fd, 4_096, 8_192) == bytes(4_096)
    file.close()


@pytest.mark.parametrize("seed", range(3))
def test_loss_of_power_leaves_what_was_synced_whichever_way_it_went(disk: Path, seed: int) -> None:
    """Also where writes each had a part of a block, and the next ones went past the cache."""
    chance = random.Random(seed)
    files = RealFiles()
    file = files.create(disk / "a", 8 * MIB)
    files.sync([file])
    files.sync_directory(disk)
    written, synced_bytes = b"", 0
    for _ in range(6):
        for _ in range(chance.randint(1, 3)):
            size = chance.choice([1, DIRECT_BYTES_MIN, 2 * DIRECT_BYTES_MIN])
            data = chance.randbytes(size + chance.randrange(5_000))
            file.write([data], len(written), is_cached=chance.random() < 0.3)
            written += data
        with mounted_copy(disk) as copy:
            assert (copy / "a").read_bytes()[:synced_bytes] == written[:synced_bytes]
        files.sync([file])
        synced_bytes = len(written)
        with mounted_copy(disk) as copy:
            assert (copy / "a").read_bytes()[:synced_bytes] == written
    file.close()


def test_opening_finds_what_the_device_has(disk: Path) -> None:
    driver = Driver(Store(disk / "data", RealFiles()))
    driver.create(5)
    driver.append(5, [100, 200, 300], is_accepted=True)
    driver.store.sync()
    last = read_bytes(driver.store, read_action(5, 3))
    lose(disk, last)
    assert read_bytes(driver.store, read_action(5, 3)) == last
    driver.store.close()
    (state,) = Store(disk / "data", RealFiles()).recovered().states
    assert state.history.tail.entry_id == 2
