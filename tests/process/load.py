"""A load on a real cluster while something is done to it, and whether anything of it was lost."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, TypeVar

import walle
from tests.clusters import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.clusters import DevNodes

STREAM = "/loaded"
LEASE_MS = 4_000
"""Longer than a machine stands still: whoever is silent for longer may lose the stream."""
PAUSE_S_MAX = 1.0
"""Between two acknowledgements, whatever is done to a minority of the members."""

LOOK_S = 0.02
STEPS = 4
"""From process to process and to the disk. Each of a put's steps may wait for the machine."""

L = TypeVar("L", bound="Load")


class Machine:
    """What keeps everybody waiting, whatever nodes do: a thread sleeps and syncs a file, again and
    again.

    stall_s: by how much that took longer than the sleep, at most.
    """

    def __init__(self, path: Path) -> None:
        self.stall_s = 0.0
        self._path = path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        with self._path.open("wb") as file:
            while not self._ended.is_set():
                begun_s = time.monotonic()
                time.sleep(LOOK_S)
                os.pwrite(file.fileno(), b"x", 0)
                os.fdatasync(file.fileno())
                self.stall_s = max(self.stall_s, time.monotonic() - begun_s - LOOK_S)


class Load:
    """A writer that puts numbered entries all the while, and what came of them.

    latencies_s: how long each put took that is acknowledged.
    longest_pause_s: between two acknowledgements, whoever is to blame.
    """

    def __init__(self, writer: walle.Writer, machine: Machine) -> None:
        self.writer = writer
        self._machine = machine
        self.acknowledged: dict[int, bytes] = {}
        self.latencies_s: list[float] = []
        self.longest_pause_s = 0.0

    async def run(self) -> None:
        """Puts for ever. A put that fails ends it."""
        last_s = time.monotonic()
        count = 0
        while True:
            data = b"entry %d" % count
            begun_s = time.monotonic()
            position = await self.writer.put(data)
            now_s = time.monotonic()
            self.latencies_s.append(now_s - begun_s)
            self.longest_pause_s = max(self.longest_pause_s, now_s - last_s)
            last_s = now_s
            self.acknowledged[position.entry_id] = data
            count += 1
            await asyncio.sleep(0.001)

    @property
    def pause_s(self) -> float:
        """The longest pause, but for what the machine can be blamed for."""
        return self.longest_pause_s - STEPS * self._machine.stall_s

    def wait_for_more(self, count: int = 100) -> None:
        """Waits, in another thread, until so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= wanted, f"{count} puts go on", 60.0)


@asynccontextmanager
async def loaded(nodes: DevNodes, kind: type[L]) -> AsyncIterator[L]:
    """A load on the stream for the length of the block; checks that no put failed."""
    with Machine(nodes.directory / "machine") as machine:
        async with (
            walle.connect(nodes.addresses) as client,
            client.claim(STREAM, address="load", lease_ms=LEASE_MS) as writer,
        ):
            load = kind(writer, machine)
            task = asyncio.create_task(load.run())
            await asyncio.sleep(0.2)
            try:
                yield load
                await asyncio.sleep(0.2)
                if task.done():
                    task.result()
            finally:
                task.cancel()


def run_under_load(nodes: DevNodes, disturb: Callable[[L], None], kind: type[L]) -> L:
    """Disturbs the cluster, from another thread, while it is being written to."""

    async def run() -> L:
        async with loaded(nodes, kind) as load:
            await asyncio.to_thread(disturb, load)
        return load

    return asyncio.run(run())


def check_history(nodes: DevNodes, load: Load) -> None:
    """Every acknowledged entry is there, in its place, at every member once its gaps are closed."""

    def whole() -> bool:
        stream = next(each for each in nodes.status()["streams"] if each["name"] == STREAM)
        return all(
            member["gaps"] == [] and member["committed_id"] == stream["committed_id"]
            for member in stream["members"]
        )

    async def read(node: str) -> dict[int, bytes]:
        async with walle.connect(nodes.addresses) as client:
            return {entry.entry_id: entry.data async for entry in client.read(STREAM, node=node)}

    wait_until(whole, "all members are whole")
    histories = [asyncio.run(read(name)) for name in nodes.names]
    assert all(history == histories[0] for history in histories), "the members differ"
    for entry_id, data in load.acknowledged.items():
        assert histories[0].get(entry_id) == data, f"entry {entry_id} was acknowledged and is lost"
