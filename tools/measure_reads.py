"""How fast a stream's history is read, beside a bare socket that carries as many bytes.

A cluster of three nodes on this machine gets a stream of so many MiB. Once all of them hold it, in
turns, one client reads it from its first entry to its last, and another process sends as many bytes
of a file, which it has mapped, through a socket on loopback to this one. Nothing of that comes from
the disk.

    .venv/bin/python -m tools.measure_reads [--mib 1024] [--size 1024] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import mmap
import os
import socket
import statistics
import tempfile
import time
from collections import deque
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

import walle
from walle.dev import dev_cluster
from walle.limits import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STREAM = "/history"
PUT_BYTES = 1 * MIB
PUTS_IN_FLIGHT = 3


async def fill(addresses: Sequence[str], size: int, total: int) -> None:
    """Puts entries of random bytes; no more at once than lets all members keep up."""
    data = os.urandom(max(PUT_BYTES, size))
    entries = [data[start : start + size] for start in range(0, len(data) - size + 1, size)]
    async with walle.connect(addresses) as client:
        await client.create_stream(STREAM)
        async with client.claim(STREAM, address="measure") as writer:
            puts: deque[asyncio.Future[walle.Position]] = deque()
            for _ in range(0, total, size * len(entries)):
                puts.append(writer.put_many(entries))
                if len(puts) >= PUTS_IN_FLIGHT:
                    await puts.popleft()


async def wait_for_all(addresses: Sequence[str]) -> None:
    """Returns once every member holds all: what one lacks it fetches from the others, which costs
    them something."""
    async with walle.connect(addresses) as client:
        stream_id = (await client.describe(STREAM)).stream_id
        committed = await client.committed(STREAM)
        for address in addresses:
            while True:
                (member,) = (await client.node_status(address, only=stream_id))["streams"]
                if member["committed_id"] >= committed.entry_id and not member["gaps"]:
                    break
                await asyncio.sleep(0.1)


async def read(addresses: Sequence[str], size: int, *, by_batch: bool) -> float:
    """Reads all entries, each of `size` bytes; returns how many bytes of data a second came."""
    count = 0
    async with walle.connect(addresses) as client:
        begun_s = time.perf_counter()
        if by_batch:
            async for entries in client.read_batches(STREAM):
                count += len(entries)
        else:
            async for _ in client.read(STREAM):
                count += 1
        return count * size / (time.perf_counter() - begun_s)


def copy(path: Path, piece: int) -> float:
    """Receives a file that another process sends in pieces; returns how many bytes a second."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        sender = get_context("spawn").Process(target=send, args=(path, port, piece))
        sender.start()
        receiving, _ = listener.accept()
    buffer = bytearray(MIB)
    with receiving:
        begun_s = time.perf_counter()
        size = 0
        while count := receiving.recv_into(buffer):
            size += count
        rate = size / (time.perf_counter() - begun_s)
    sender.join()
    return rate


def send(path: Path, port: int, piece: int) -> None:
    """Sends what the page cache has of the file."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
        socket.create_connection(("127.0.0.1", port)) as sending,
    ):
        for start in range(0, len(view), piece):
            sending.sendall(view[start : start + piece])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--mib", type=int, default=1024, help="of entries in the stream")
    parser.add_argument("--size", type=int, default=1024, help="bytes of data of an entry")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where to write; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as name:
        directory = Path(name)
        with dev_cluster(directory) as addresses:
            asyncio.run(fill(addresses, options.size, options.mib * MIB))
            asyncio.run(wait_for_all(addresses))
            asyncio.run(read(addresses, options.size, by_batch=True))  # from now on it is in memory
            path = directory / "file"
            path.write_bytes(os.urandom(MIB) * options.mib)
            ways: dict[str, Callable[[], float]] = {
                "socket, pieces of 256 KiB": partial(copy, path, 256 * KIB),
                "socket, pieces of 1 MiB": partial(copy, path, MIB),
                "read_batches": lambda: asyncio.run(read(addresses, options.size, by_batch=True)),
                "read": lambda: asyncio.run(read(addresses, options.size, by_batch=False)),
            }
            rates: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(options.rounds):
                for way, measure in ways.items():
                    rates[way].append(measure())
    table = Table("way", "GB/s", "of the faster socket's, in the same round")
    bare = [max(each) for each in zip(*list(rates.values())[:2], strict=True)]
    for way, found in rates.items():
        shares = [rate / best for rate, best in zip(found, bare, strict=True)]
        table.add_row(
            way, f"{statistics.median(found) / 1e9:.2f}", f"{statistics.median(shares):.0%}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
