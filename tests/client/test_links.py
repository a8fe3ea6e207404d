"""The writers of one client, on a real cluster."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import psutil
import pytest

import walle

if TYPE_CHECKING:
    from tests.clusters import DevNodes

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
