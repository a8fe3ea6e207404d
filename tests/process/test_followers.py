"""Many who follow one stream: each gets every entry once, in order, whatever the others do."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import walle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.clusters import DevNodes

APART, TOGETHER, SLOW, KILLED = 50, 20, 5, 10
ENTRIES = 2_000


class Follower:
    """Follows a stream to its end, and keeps the data."""

    def __init__(self, client: walle.Client, stream: str) -> None:
        self._client = client
        self._stream = stream
        self.pause_s = 0.0
        self.found: list[bytes] = []

    async def follow(self) -> None:
        async for entries in self._client.read_batches(self._stream, start=1, follow=True):
            expected = range(len(self.found) + 1, len(self.found) + len(entries) + 1)
            assert [entry.entry_id for entry in entries] == list(expected)
            self.found += [entry.data for entry in entries]
            if len(self.found) == ENTRIES:
                return
            await asyncio.sleep(self.pause_s)


async def put_all(client: walle.Client, stream: str, data: list[bytes]) -> AsyncIterator[int]:
    """Puts these, in batches of all sizes; yields how many were put so far."""
    chance = random.Random(2)
    async with client.claim(stream, address="me") as writer:
        for count, each in enumerate(data, 1):
            writer.put(each)
            await writer.drain()
            if chance.random() < 0.2:
                await asyncio.sleep(chance.choice([0, 0, 0.002]))
            yield count


def test_every_follower_gets_every_entry(nodes: DevNodes, stream: str) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            *apart, together = [
                await stack.enter_async_context(walle.connect(nodes.addresses))
                for _ in range(APART + 1)
            ]
            followers = [Follower(each, stream) for each in [*apart, *[together] * TOGETHER]]
            for follower in followers[:SLOW]:
                follower.pause_s = 0.02
            tasks = [asyncio.create_task(each.follow()) for each in followers]
            async for count in put_all(together, stream, data):
                if count % (ENTRIES // KILLED) == 0:  # one more ends, in the middle
                    killed = SLOW + count // (ENTRIES // KILLED) - 1
                    tasks[killed].cancel()
                    await apart[killed].close()
            async with asyncio.timeout(60):
                ended = await asyncio.gather(*tasks, return_exceptions=True)
        for number, (follower, error) in enumerate(zip(followers, ended, strict=True)):
            if SLOW <= number < SLOW + KILLED:
                assert isinstance(error, asyncio.CancelledError)
                assert follower.found == data[: len(follower.found)]
            else:
                assert error is None
                assert follower.found == data

    chance = random.Random(1)
    data = [chance.randbytes(chance.choice([10, 1_000, 20_000])) for _ in range(ENTRIES)]
    asyncio.run(run())
