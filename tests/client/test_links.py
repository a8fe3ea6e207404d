"""The writers of one client, on a real cluster."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import psutil
import pytest

import walle
from tests.clusters import DevNodes
from walle.client import turns as turns_module
from walle.client.turns import TURNS
from walle.core.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from walle.record import Batch

pytestmark = pytest.mark.slow


def test_writers_of_a_client_share_their_connections(nodes: DevNodes, stream: str) -> None:
    streams = [f"{stream}/{number}" for number in range(20)]

    def connections() -> list[str]:
        """Of this process with the nodes."""
        found = psutil.Process().net_connections("tcp")
        remote = [":".join(map(str, each.raddr)) for each in found]
        return [address for address in remote if address in nodes.connect.split(",")]

    async def work(client: walle.Client) -> None:
        for name in streams:
            await client.create_stream(name)
        before = len(connections())
        async with AsyncExitStack() as claims:
            writers = [
                await claims.enter_async_context(client.claim(name, address="me:1"))
                for name in streams
            ]
            for turn in range(3):
                positions = await asyncio.gather(*(writer.put(b"%d" % turn) for writer in writers))
                assert [each.entry_id for each in positions] == [turn + 1] * len(streams)
            assert len(connections()) <= before + 3
            await writers.pop().close()
            assert (await writers[0].put(b"3")).entry_id == 4, "the others go on"
        for name in streams[:-1]:
            assert [entry.data async for entry in client.read(name)][:3] == [b"0", b"1", b"2"]

    async def connected() -> None:
        async with asyncio.timeout(60), walle.connect(nodes.connect) as client:
            await work(client)

    asyncio.run(connected())


async def put_each(writers: Sequence[walle.Writer], count: int) -> None:
    """Puts so many entries into each stream, one behind the other as they become durable."""

    async def put(writer: walle.Writer) -> None:
        for number in range(count):
            await writer.put(b"%d" % number)

    await asyncio.gather(*map(put, writers))


def test_many_streams_have_few_batches_in_flight(
    nodes: DevNodes, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns_module, "COUNTED_S", 60.0)
    pipelines: set[Pipeline] = set()
    seen: list[int] = []
    put = Pipeline.put

    def counted(pipeline: Pipeline, batch: Batch, now_ns: int) -> None:
        put(pipeline, batch, now_ns)
        pipelines.add(pipeline)
        seen.append(sum(each.batches_in_flight for each in pipelines))

    monkeypatch.setattr(Pipeline, "put", counted)

    async def work() -> None:
        async with (
            asyncio.timeout(60),
            walle.connect(nodes.connect) as client,
            AsyncExitStack() as claims,
        ):
            writers = []
            for number in range(5 * TURNS):
                name = f"{stream}/{number}"
                await client.create_stream(name)
                writers.append(await claims.enter_async_context(client.claim(name, address="me:1")))
            await put_each(writers, 20)

    asyncio.run(work())
    assert max(seen) == TURNS
    assert len(seen) == 20 * len(pipelines)


def test_streams_that_stand_still_hold_up_no_others(tmp_path: Path) -> None:
    async def work(nodes: DevNodes) -> None:
        async with (
            asyncio.timeout(60),
            walle.connect(nodes.connect) as client,
            AsyncExitStack() as claims,
        ):

            async def claim(name: str, *members: str) -> walle.Writer:
                await client.create_stream(name, members=members)
                return await claims.enter_async_context(
                    client.claim(name, address="me:1", lease_ms=60_000)
                )

            still = [await claim(f"/still/{number}", "n1") for number in range(3 * TURNS)]
            others = [await claim(f"/other/{number}", "n2", "n3") for number in range(3)]
            nodes.kill("n1")
            puts = [writer.put(b"meanwhile") for writer in still]
            await put_each(others, 20)
            assert not any(put.done() for put in puts)
            await asyncio.to_thread(nodes.start, "n1")
            assert [(await put).entry_id for put in puts] == [1] * len(puts)

    with DevNodes(tmp_path) as nodes:
        asyncio.run(work(nodes))
