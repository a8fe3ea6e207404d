"""All nodes killed at one moment, under load, again and again: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

import walle
from tests.clusters import DevNodes

if TYPE_CHECKING:
    from pathlib import Path

STREAM = "/crash"
ROUNDS = 20
IN_FLIGHT_MAX = 500


class Killed(Exception):
    """The cluster is gone; ends the writer's block."""


class Journal:
    """What the client knows of its puts: their data by entry id, and which were acknowledged."""

    def __init__(self) -> None:
        self.put: list[tuple[int, bytes]] = []
        self.acknowledged: dict[int, bytes] = {}

    def check(self, entries: dict[int, bytes]) -> None:
        """Compares with what the stream holds, by entry id."""
        for entry_id, data in self.acknowledged.items():
            assert entries.get(entry_id) == data, f"entry {entry_id} was acknowledged and is lost"
        places = {data: entry_id for entry_id, data in entries.items()}
        assert len(places) == len(entries), "an entry is there twice"
        for entry_id, data in self.put:
            assert places.get(data, entry_id) == entry_id, f"entry {entry_id} moved"
        known = {data for _, data in self.put}
        assert not set(places) - known, "the stream holds what was never put"


async def load(nodes: DevNodes, journal: Journal, number: int, moments: random.Random) -> None:
    """Puts as fast as it can, until all nodes are killed at a random moment."""
    async with walle.connect(nodes.addresses) as client:
        try:
            async with client.claim(STREAM, address=f"round-{number}", lease_ms=300) as writer:
                await put_until_killed(nodes, writer, journal, number, moments)
        except Killed:
            pass


async def put_until_killed(
    nodes: DevNodes, writer: walle.Writer, journal: Journal, number: int, moments: random.Random
) -> None:
    in_flight = 0

    def on_done(put: asyncio.Future[walle.Position], data: bytes) -> None:
        nonlocal in_flight
        in_flight -= 1
        if not put.cancelled() and put.exception() is None:
            journal.acknowledged[put.result().entry_id] = data

    async def kill() -> None:
        await asyncio.sleep(moments.uniform(0.02, 0.5))
        await asyncio.to_thread(nodes.kill, *nodes.names)

    killing = asyncio.create_task(kill())
    count = 0
    while not killing.done():
        if in_flight >= IN_FLIGHT_MAX:
            await asyncio.sleep(0.001)
            continue
        size = moments.choice((10, 100, 1_000, 5_000))
        data = b"%d:%d:" % (number, count) + moments.randbytes(size)
        try:
            put = writer.put(data)
        except walle.WriterLost:  # the machine has stood still for longer than the lease
            break
        journal.put.append((writer.tail.entry_id, data))
        put.add_done_callback(lambda put, data=data: on_done(put, data))  # type: ignore[misc]
        in_flight += 1
        count += 1
        if count % 20 == 0:
            await asyncio.sleep(0)
    await killing
    raise Killed


async def read_all(nodes: DevNodes, node: str | None = None) -> dict[int, bytes]:
    async with walle.connect(nodes.addresses) as client:
        return {entry.entry_id: entry.data async for entry in client.read(STREAM, node=node)}


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_when_all_nodes_are_killed(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - to repeat a failure
    moments = random.Random(seed)
    journal = Journal()
    with DevNodes(tmp_path, apart=True) as nodes:
        nodes.cli("stream", "create", STREAM)
        for number in range(ROUNDS):
            asyncio.run(load(nodes, journal, number, moments))
            nodes.start(*nodes.names)
            journal.check(asyncio.run(read_all(nodes)))
        entries = asyncio.run(read_all(nodes))
        for name in nodes.names:
            assert asyncio.run(read_all(nodes, name)) == entries, f"{name} differs"
    assert len(journal.acknowledged) > 20 * ROUNDS, "the load was no load"
