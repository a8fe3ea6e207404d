"""A client's writer while too many of the members' disks are full."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

import walle
from tests.unit.making import W1
from walle.client import writer as writer_module
from walle.client.session import now_ns
from walle.client.writer import Writer
from walle.errors import Code
from walle.ids import ORIGIN, Position
from walle.messages import ClaimReply, NodeAddress, PutReply, StreamInfo

if TYPE_CHECKING:
    from collections.abc import Coroutine

NODES = ("n1", "n2", "n3")
MEMBERS = tuple(NodeAddress(node, f"{node}:1") for node in NODES)
INFO = StreamInfo(7, "/s", version=1, members=MEMBERS, old_members=(), first_entry_id=1)


def answer(writer: Writer, node: str, code: Code, held: Position = ORIGIN) -> None:
    """A member answers all it was sent."""
    transmission = writer._pipeline.transmission
    writer._on_message(node, PutReply(7, code, 1, W1, transmission, held, ORIGIN, ""))


async def blocked_writer() -> tuple[Writer, asyncio.Future[Position]]:
    """A writer, with one put in flight for which n1 and n2 have no space."""
    client: Any = None  # it is not connected: a test answers for the members
    writer = Writer(client, INFO, ClaimReply(7, 1, W1, ORIGIN), 1_000)
    for node in NODES:
        writer._pipeline.connected(node, now_ns())
    put = writer.put(b"in flight")
    await asyncio.sleep(0)
    answer(writer, "n3", Code.OK, writer.tail)
    answer(writer, "n1", Code.NO_SPACE)
    answer(writer, "n2", Code.NO_SPACE)
    return writer, put


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_put_is_refused_and_changes_nothing() -> None:
    async def test() -> None:
        writer, put = await blocked_writer()
        before = writer.tail
        text = "no majority of the members of /s has space .* disks of n1, n2 are full"
        with pytest.raises(walle.DiskFull, match=text):
            writer.put(b"refused")
        assert writer.tail == before
        assert not put.done()

    run(test())


def test_what_is_in_flight_becomes_durable_and_puts_are_taken_again() -> None:
    async def test() -> None:
        writer, put = await blocked_writer()
        answer(writer, "n2", Code.OK, writer.tail)
        assert await put == writer.tail
        writer.put(b"next")
        assert writer.tail.entry_id == 2

    run(test())


def test_nobody_waits_for_space_without_hearing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PIPELINE_ENTRIES_MAX", 1)

    async def test() -> None:
        writer, _ = await blocked_writer()
        assert not writer.has_room
        with pytest.raises(walle.DiskFull):
            await writer.drain()
        with pytest.raises(walle.DiskFull, match="outcome of what is in flight: unknown"):
            await writer.finish()

    run(test())
