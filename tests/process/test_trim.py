"""Trims and retention on real nodes: under load, with a node down, and with the manager killed."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import walle
from tests.clusters import DevNodes, wait_until
from walle.core.trimming import SLACK

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

STREAM = "/trims"

pytestmark = pytest.mark.slow


async def fill(
    nodes: DevNodes, count: int, size: int = 1_000, stream: str = STREAM
) -> walle.Position:
    """Puts that many entries; returns the last one's position."""
    async with (
        walle.connect(nodes.addresses) as client,
        client.claim(stream, address="load") as writer,
    ):
        for number in range(count):
            await writer.drain()
            put = writer.put(b"%d:" % number + b"x" * size)
        return await put


async def entries(nodes: DevNodes, node: str, start: int) -> dict[int, bytes]:
    async with walle.connect(nodes.addresses) as client:
        read = client.read(STREAM, start=start, node=node)
        return {entry.entry_id: entry.data async for entry in read}


def members(nodes: DevNodes, stream: str = STREAM) -> Any:
    return json.loads(nodes.cli("stream", "show", stream, "--json"))["members"]


def first_id(nodes: DevNodes, stream: str = STREAM) -> int:
    found: int = json.loads(nodes.cli("stream", "show", stream, "--json"))["first_entry_id"]
    return found


def file_names(nodes: DevNodes, name: str, stream_id: int) -> list[str]:
    """Of one stream's files on a node."""
    directory = nodes.directory / name / "streams" / f"{stream_id:016x}"
    return [path.name for path in directory.iterdir()]


def is_whole(nodes: DevNodes, committed_id: int) -> bool:
    return all(
        member["up"] and member["committed_id"] == committed_id and not member["gaps"]
        for member in members(nodes)
    )


def test_trims_under_load_while_a_node_is_down_and_comes_back_behind(tmp_path: Path) -> None:
    """No put fails, no lease lapses by a trim, and the node that was away catches up with what is
    left; a follower that is too slow is told where to go on."""
    with DevNodes(tmp_path, apart=True) as nodes:
        nodes.cli("stream", "create", STREAM)
        asyncio.run(fill(nodes, 500))
        nodes.kill("n3")
        asyncio.run(load_and_trim(nodes))
        nodes.start("n3")
        wait_until(lambda: len(members(nodes)) == 3, "all members are told of")
        committed_id = max(each["committed_id"] for each in members(nodes)[:2])
        wait_until(lambda: is_whole(nodes, committed_id), "n3 is whole again", 60)
        start = first_id(nodes)
        assert start > 2_000
        history = asyncio.run(entries(nodes, "n1", start))
        assert sorted(history) == list(range(start, committed_id + 1))
        for name in ("n2", "n3"):
            assert asyncio.run(entries(nodes, name, start)) == history, f"{name} differs"
        nodes.kill(*nodes.names)
        nodes.start(*nodes.names)
        for name in nodes.names:
            assert asyncio.run(entries(nodes, name, start)) == history, f"{name} differs"


async def load_and_trim(nodes: DevNodes) -> None:
    async with walle.connect(nodes.addresses) as client:
        slow = client.read(STREAM, start=1, follow=True)
        assert (await anext(slow)).entry_id == 1
        async with client.claim(STREAM, address="load", lease_ms=4_000) as writer:
            loading = asyncio.create_task(put_for_ever(writer))
            for to in range(600, 3_000, 200):
                while writer.committed.entry_id <= to:
                    assert not loading.done()
                    await asyncio.sleep(0.01)
                with writer.exclusive():
                    info = await client.trim_stream(STREAM, to=to)
                assert (info.first_entry_id, info.version) == (to, 1)
            loading.cancel()
            with suppress(asyncio.CancelledError):
                await loading
        with pytest.raises(walle.Trimmed) as error:
            await drain(slow)
        assert error.value.first_entry_id == 2_800
        again = client.read(STREAM, start=error.value.first_entry_id, follow=True)
        assert (await anext(again)).entry_id == 2_800
        await again.aclose()


async def drain(entries: AsyncGenerator[walle.Entry, None]) -> None:
    """Reads for ever."""
    async for _ in entries:
        pass


async def put_for_ever(writer: walle.Writer) -> None:
    """Puts, many at a time; one that fails ends it."""
    while True:
        await asyncio.gather(*(writer.put(b"x" * 1_000) for _ in range(20)))


def test_retention_by_size_frees_files_and_goes_on_when_the_manager_dies(tmp_path: Path) -> None:
    with DevNodes(tmp_path, apart=True) as nodes:
        nodes.cli("stream", "create", "/other")
        nodes.cli("stream", "create", STREAM, "--max-bytes", "1MiB")
        stream_id = json.loads(nodes.cli("stream", "show", STREAM, "--json"))["id"]
        size = 1_056
        for _ in range(2):
            last = asyncio.run(fill(nodes, 8_000, size - 56))
            boss = json.loads(nodes.cli("stream", "show", "/cluster", "--json"))["writer"]
            nodes.kill(boss["address"])
            wait_until(lambda last=last: first_id(nodes) > last.entry_id - 1_100, "trimmed", 60)
            kept = last.entry_id + 1 - first_id(nodes)
            # It may have been trimmed last when it was a little shorter, which is within bounds.
            assert 0.9 * (1 << 20) < kept * size <= (1 + SLACK) * (1 << 20)
            nodes.start(boss["address"])
            wait_until(lambda last=last: is_whole(nodes, last.entry_id), "all are whole", 60)
        for name in nodes.names:
            wait_until(
                lambda name=name: len(file_names(nodes, name, stream_id)) <= 2,
                f"{name} has removed its files",
            )
        asyncio.run(fill(nodes, 50, stream="/other"))
        assert first_id(nodes, "/other") == 1


def test_retention_by_age(tmp_path: Path) -> None:
    with DevNodes(tmp_path, count=1) as nodes:
        nodes.cli("stream", "create", STREAM)
        last = asyncio.run(fill(nodes, 100))
        nodes.cli("stream", "set", STREAM, "--max-age", "1h")
        asyncio.run(fill(nodes, 10))
        nodes.cli("stream", "set", STREAM, "--max-age", "1s")
        wait_until(lambda: first_id(nodes) == last.entry_id + 10, "only the last one is left", 60)
        assert len(asyncio.run(entries(nodes, "n1", last.entry_id + 10))) == 1
