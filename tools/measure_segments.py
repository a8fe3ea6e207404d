"""Measures data directories of millions of entries: docs/storage.md has the figures.

    .venv/bin/python tools/measure_segments.py /tmp/measured
    .venv/bin/python tools/measure_segments.py /tmp/measured --entries 1000000 --data-bytes 1000

A directory is made for each number of entries, unless it is there, and is opened as a node does. Of
that it tells the time, the memory taken, the journal's snapshot, which is the index of what is
sealed, and how much of the segments was looked at; and the memory once all entries were read. Then
all files are read by `cat` and by `verify` in turns, and the best of each counts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

from walle.core import effects
from walle.core.topology import StreamTopology
from walle.ids import ORIGIN, WriterId
from walle.limits import MIB
from walle.record import Encoder, scan, size_of
from walle.segments.replica import Replica
from walle.segments.verify import verify_replica
from walle.storage import journal
from walle.storage.store import Store
from walle.storage.vfs import RealFiles

STREAM = 7
WRITER = WriterId(1_000, 7)
TURNS = 5


class CountingFiles(RealFiles):
    """Counts the bytes of segments that were read."""

    def __init__(self) -> None:
        self.size = 0

    def read(self, path: Path, start: int, end: int) -> memoryview:
        view = super().read(path, start, end)
        if path.suffix == ".segment":
            self.size += len(view)
        return view


def make(directory: Path, entries: int, data_bytes: int) -> None:
    """A directory with one stream of so many entries, all committed."""
    store = Store(directory, RealFiles())
    topology = StreamTopology(1, ("n1", "n2", "n3"))
    store.execute(effects.SetTopology(STREAM, "/measured", topology))
    encoder = Encoder(WRITER, ORIGIN)
    data = os.urandom(data_bytes)
    count_max = max(1, MIB // size_of(data_bytes))
    while (left := entries - encoder.tail.entry_id) > 0:
        for _ in range(min(left, count_max)):
            encoder.add(data, 0)
        batch = encoder.take()
        store.execute(effects.Append(STREAM, batch, 0, WRITER))
        store.execute(effects.Commit(STREAM, batch.last))
        store.sync()
    store.finish()


def memory_mib() -> float:
    """What this process has of its own, without maps of files."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(text.partition("Anonymous:")[2].split()[0]) / 1024


def measure_opening(directory: Path) -> None:
    """Prints the figures. For a process of its own: memory that was freed would blur them."""
    files, before = CountingFiles(), memory_mib()
    start = time.perf_counter()
    store = Store(directory, files)
    seconds = time.perf_counter() - start
    print(f"  opened in          {seconds * 1000:10.1f} ms")
    print(f"  looked at          {files.size / MIB:10.1f} MiB of segments")
    print(f"  memory             {memory_mib() - before:10.1f} MiB")
    (state,) = store.recovered().states
    read_all(store, state.history.tail.entry_id)
    print(f"  ... all being read {memory_mib() - before:10.1f} MiB")
    store.close()
    replica = Replica(directory, files)
    view = files.map(journal.path_of(directory / "journal", replica.loaded.number))
    snapshot = next(journal.frames_in(view, replica.loaded.number)).body
    print(f"  journal's snapshot {len(snapshot):10} bytes, {extents_of(replica)} extents")


def extents_of(replica: Replica) -> int:
    return len(replica.loaded.manifest.extents[STREAM])


def read_all(store: Store, tail_id: int) -> None:
    """Reads every entry once, so that all is indexed that ever will be."""
    start = 1
    while start <= tail_id:
        send = effects.Send(0, 0, None)
        read = effects.ReadRecords(
            STREAM, start, tail_id + 1, bytes_max=64 * MIB, after=None, aside=False, send=send
        )
        start += sum(scan(view).count for view in store.read(read))


def measure_reading(directory: Path) -> None:
    """Prints how fast `cat` and `verify` read all files: from memory, and from the device."""
    paths = [path for path in directory.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in paths)
    for where, prepare in (("memory", read_ahead), ("the device", forget)):
        rates = {"cat": 0.0, "verify": 0.0}
        for _ in range(TURNS):
            for name, work in (("cat", cat), ("verify", verify)):
                prepare(paths)
                start = time.perf_counter()
                work(directory, paths)
                seconds = time.perf_counter() - start
                rates[name] = max(rates[name], total / seconds / MIB)
        told = ", ".join(f"{name} {rate:.0f} MiB/s" for name, rate in rates.items())
        print(f"  from {where}: {told}; {rates['verify'] / rates['cat']:.2f} of it")


def read_ahead(paths: list[Path]) -> None:
    """Lets the page cache have the files."""
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(MIB):
                pass


def forget(paths: list[Path]) -> None:
    """Lets the page cache forget the files."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cat(_directory: Path, paths: list[Path]) -> None:
    command = ["cat", *map(str, paths)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)  # noqa: S603


def verify(directory: Path, _paths: list[Path]) -> None:
    for checked in verify_replica(Replica(directory, RealFiles())):
        if checked.damage:
            sys.exit(f"{checked.path} is damaged")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="where the directories are made, and stay")
    millions = [1_000_000, 3_000_000, 10_000_000]
    parser.add_argument("--entries", type=int, nargs="+", default=millions)
    parser.add_argument("--data-bytes", type=int, default=100)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    for entries in options.entries:
        directory = options.directory / f"{entries}-of-{options.data_bytes}"
        print(f"{entries} entries of {options.data_bytes} bytes")
        if not directory.exists():
            make(directory, entries, options.data_bytes)
        process = get_context("spawn").Process(target=measure_opening, args=(directory,))
        process.start()
        process.join()
        measure_reading(directory)


if __name__ == "__main__":
    main()
