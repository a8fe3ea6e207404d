"""A load on a real cluster while something is done to it, and whether anything of it was lost."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import walle
from tests.clusters import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.clusters import DevNodes

STREAM = "/loaded"
LEASE_MS = 1_000

L = TypeVar("L", bound="Load")


class Load:
    """A writer that puts numbered entries all the while, and what came of them.

    latencies_s: how long each put took that is acknowledged.
    """

    def __init__(self, writer: walle.Writer) -> None:
        self.writer = writer
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

    def wait_for_more(self, count: int = 100) -> None:
        """Waits, in another thread, until so many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= wanted, f"{count} puts go on", 60.0)


@asynccontextmanager
async def loaded(nodes: DevNodes, kind: type[L]) -> AsyncIterator[L]:
    """A load on the stream for the length of the block; checks that no put failed."""
    async with (
        walle.connect(nodes.addresses) as client,
        client.claim(STREAM, address="load", lease_ms=LEASE_MS) as writer,
    ):
        load = kind(writer)
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
