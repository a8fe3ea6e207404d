"""Readers whose member is frozen, or cut off from the others: they go on at another one."""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

import walle
from tests.clusters import DevNodes
from tests.process.partition import PartedNodes
from walle.client.reader import WAIT_MS
from walle.client.reads import READS_AHEAD
from walle.limits import FETCH_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator
    from pathlib import Path

STREAM = "/read"
SOON_S = WAIT_MS / 1000
"""A member that is well would have answered by then, be it that there is nothing."""

pytestmark = pytest.mark.slow


class Stage:
    """A cluster, and what makes a node of it useless to readers, who reach it all the same."""

    def __init__(self, nodes: DevNodes, disturb: Callable[[str], None]) -> None:
        self.nodes = nodes
        self.disturb = disturb

    async def put(self, *names: str, data: list[bytes]) -> None:
        """By a writer of its own, who knows these nodes."""
        addresses = [self.nodes.addresses[self.nodes.names.index(name)] for name in names]
        async with (
            walle.connect(addresses) as client,
            client.claim(STREAM, address="me", lease_ms=1_000) as writer,
        ):
            await writer.put_many(data)


def parted(tmp_path: Path, stack: ExitStack) -> Stage:
    nodes = stack.enter_context(PartedNodes(tmp_path))
    return Stage(nodes, nodes.part)


def frozen(tmp_path: Path, stack: ExitStack) -> Stage:
    nodes = stack.enter_context(DevNodes(tmp_path))

    def freeze(name: str) -> None:
        pids = nodes.tree(name)
        nodes.signal(pids, signal.SIGSTOP)
        stack.callback(nodes.signal, pids, signal.SIGCONT)

    return Stage(nodes, freeze)


@pytest.fixture(params=[parted, frozen])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        made = request.param(tmp_path, stack)
        made.nodes.cli("stream", "create", STREAM)
        yield made


async def take(entries: AsyncGenerator[walle.Entry, None], count: int) -> list[bytes]:
    """The data of the next so many entries."""
    return [(await anext(entries)).data for _ in range(count)]


def test_a_follower_goes_on_at_another_member(stage: Stage) -> None:
    async def run() -> None:
        async with walle.connect(stage.nodes.addresses[0]) as client:  # which n1 answers
            await stage.put("n1", data=[b"1", b"2"])
            following = client.read(STREAM, start=1, follow=True)
            assert await take(following, 2) == [b"1", b"2"]
            waiting = asyncio.create_task(take(following, 2))
            await asyncio.sleep(0.1)
            stage.disturb("n1")
            await stage.put("n2", "n3", data=[b"3", b"4"])
            async with asyncio.timeout(SOON_S):
                assert await waiting == [b"3", b"4"]
            await stage.put("n2", "n3", data=[b"5"])
            async with asyncio.timeout(SOON_S):
                assert await take(following, 1) == [b"5"]

    asyncio.run(run())


def test_a_range_is_read_at_another_member(stage: Stage) -> None:
    async def run() -> None:
        async with walle.connect(stage.nodes.addresses[0]) as client:
            await stage.put("n1", data=[b"1", b"2"])
            assert [entry.data async for entry in client.read(STREAM)] == [b"1", b"2"]
            stage.disturb("n1")
            await stage.put("n2", "n3", data=[b"3"])
            async with asyncio.timeout(SOON_S):
                assert [entry.data async for entry in client.read(STREAM)] == [b"1", b"2", b"3"]

    asyncio.run(run())


@pytest.mark.parametrize("stage", [frozen], indirect=True)
def test_history_is_read_on_at_another_member(stage: Stage) -> None:
    data = [b"%d" % number * 6_000 for number in range(100, 450)]

    async def run() -> None:
        async with walle.connect(stage.nodes.addresses[0]) as client:
            await stage.put("n1", data=data)
            reading = client.read(STREAM)
            assert await take(reading, 1) == data[:1]
            stage.disturb("n1")
            async with asyncio.timeout(SOON_S):
                assert await take(reading, len(data) - 1) == data[1:]

    assert sum(map(len, data)) > 2 * (1 + READS_AHEAD) * FETCH_BYTES_MAX, "not all is on its way"
    asyncio.run(run())
