"""How much opening reads: of what was sealed long ago, nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.storage.checks import DIRECTORY
from walle.core import effects
from walle.core.topology import StreamTopology
from walle.ids import ORIGIN, WriterId
from walle.limits import COMMITTED_LAG_ENTRIES_MAX
from walle.record import Encoder
from walle.storage.store import Store
from walle.testing.files import SimulatedFiles

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("small_files")

STREAM = 5
BATCH = 100
SEGMENT_BYTES_MAX = 32 * 1024
"""Of small files."""


class CountingFiles(SimulatedFiles):
    """Counts the bytes of the segments that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def read(self, path: Path, start: int, end: int) -> memoryview:
        view = super().read(path, start, end)
        if path.suffix == ".segment":
            self.size += len(view)
        return view


def make(entries_count: int) -> CountingFiles:
    """A directory of a stream with so many entries, all committed."""
    files = CountingFiles()
    store = Store(DIRECTORY, files)
    writer = WriterId(1_000, 7)
    store.execute(effects.SetTopology(STREAM, "/history", StreamTopology(1, ("n1", "n2", "n3"))))
    encoder = Encoder(writer, ORIGIN)
    for _ in range(entries_count // BATCH):
        for number in range(BATCH):
            encoder.add(b"entry", number)
        batch = encoder.take()
        store.execute(effects.Append(STREAM, batch, 0, writer))
        store.execute(effects.Commit(STREAM, batch.last))
        store.sync()
    store.finish()
    return files


def looked_at(files: CountingFiles, *, reads_all: bool = False) -> int:
    """How many bytes of segments opening reads."""
    files.size = 0
    Store(DIRECTORY, files, reads_all=reads_all).close()
    return files.size


def test_opening_reads_no_more_of_a_longer_history() -> None:
    """The newest entries' chains are read, as many whatever lies below; give or take a segment."""
    short, long = make(2 * COMMITTED_LAG_ENTRIES_MAX), make(8 * COMMITTED_LAG_ENTRIES_MAX)
    assert looked_at(long) <= looked_at(short) + SEGMENT_BYTES_MAX
    assert looked_at(long, reads_all=True) > 3 * looked_at(short, reads_all=True)
