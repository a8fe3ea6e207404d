"""Many entries by one put, on a real cluster."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import walle
from walle.limits import PUT_MANY_BYTES_MAX

if TYPE_CHECKING:
    from tests.clusters import DevNodes

pytestmark = pytest.mark.slow


def test_many_entries_are_put_at_once(nodes: DevNodes, stream: str) -> None:
    """Small ones, a megabyte, and more than one frame holds; between others."""

    async def work() -> None:
        large = os.urandom(1 << 20)
        groups: list[list[bytes | bytearray | memoryview]] = [
            [b"%d" % number for number in range(40_000)],
            [memoryview(large), b"", large[:100_000], bytearray(large)],
            [b"x" * 1_000] * 3_000,
        ]
        expected: list[bytes | bytearray | memoryview] = []
        async with walle.connect(nodes.connect) as client:
            async with client.claim(stream, address="me") as writer:
                for group in groups:
                    before = await writer.put(b"before")
                    put = writer.put_many(each for each in group)
                    after = writer.put(b"after")
                    assert (await put).entry_id == before.entry_id + len(group)
                    assert (await after).entry_id == before.entry_id + len(group) + 1
                    expected += [b"before", *group, b"after"]
                    await writer.drain()
                assert writer.committed == writer.tail
            found = [entry.data async for entry in client.read(stream)]
            assert found == expected

    asyncio.run(work())


def test_threads_put_more_than_can_be_in_flight(nodes: DevNodes, stream: str) -> None:
    """Each waits by itself; nobody hears of `Busy`, and nobody's entries come apart."""
    large = bytearray(PUT_MANY_BYTES_MAX // 16)

    def put_all(writer: walle.sync.Writer) -> None:
        for _ in range(4):
            put = writer.put_many([b"first", *[large] * 15])
            small = writer.put(memoryview(b"small"))
            assert small.result().entry_id > 0
            assert put.result().entry_id >= 16

    with walle.sync.connect(nodes.connect) as client:
        with client.claim(stream, address="me") as writer, ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(put_all, writer) for _ in range(4)]:
                done.result()
            assert writer.committed.entry_id == 4 * 4 * 17
        found = [len(entry.data) for entry in client.read(stream)]
    large_size = len(large)
    firsts = [index for index in range(len(found)) if found[index : index + 2] == [5, large_size]]
    assert len(firsts) == 16
    assert all(found[index + 1 : index + 16] == [large_size] * 15 for index in firsts)
