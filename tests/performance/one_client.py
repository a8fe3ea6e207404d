"""A client by itself: its writers, its links and their sessions, among nodes that hold at once
whatever they are sent. So what it does for a batch can be counted."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.performance.one_node import Transport, feed
from tests.unit.making import W1
from walle import frame
from walle.client.client import Client
from walle.client.session import Session
from walle.client.writer import Writer
from walle.core.connection import Connection
from walle.ids import NO_IDENTITY, NO_WRITER, ORIGIN
from walle.messages import (
    PROTOCOL_VERSION,
    ClaimReply,
    Hello,
    NodeAddress,
    Put,
    PutReply,
    Release,
    ReleaseReply,
    StreamInfo,
    Welcome,
)
from walle.record import Bytes, check

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from walle.ids import Position
    from walle.messages import Message

NODES = ("n1", "n2", "n3")
MEMBERS = tuple(NodeAddress(node, f"{node}:1") for node in NODES)
LEASE_MS = 60_000


class Node:
    """It answers when it is told to.

    puts: how many frames with entries it has answered.
    """

    def __init__(self, name: str) -> None:
        self.puts = 0
        self.transport = Transport()
        self.session = Session(f"{name}:1")
        self.session.connection_made(self.transport)  # type: ignore[arg-type]
        self.session.welcome = Welcome(PROTOCOL_VERSION, NO_IDENTITY, name, NO_IDENTITY)
        feed(self.session, frame.encode_head(self.session.welcome, 0))
        self._connection = Connection(is_node=True)
        hello = Hello(PROTOCOL_VERSION, 0, NO_IDENTITY, "", NO_IDENTITY)
        list(self._connection.frames(memoryview(frame.encode_head(hello, 0))))
        self._held: dict[int, Position] = {}

    def answers(self) -> bytes:
        """To all that it was sent."""
        received = memoryview(b"".join(self.transport.sent))
        self.transport.sent.clear()
        answers = []
        for each in self._connection.frames(received):
            request_id, message = each.message()
            if each.records:
                self.puts += 1
                batch = check(Bytes(bytes(each.records)), where="test")
                self._held[request_id] = batch.last
            answers.append(frame.encode_head(self._answer(request_id, message), request_id))
        return b"".join(answers)

    def _answer(self, request_id: int, message: Message) -> Message:
        if isinstance(message, Release):
            return ReleaseReply(message.stream_id, 0, 1, NO_WRITER)
        assert isinstance(message, Put)
        held = self._held.get(request_id, ORIGIN)
        return PutReply(
            message.stream_id, 0, 1, W1, message.transmission, held, message.committed, ""
        )


class OneClient:
    """writers: each of a stream of its own."""

    def __init__(self, client: Client, nodes: dict[str, Node]) -> None:
        self.nodes = nodes
        self.writers: list[Writer] = []
        self._client = client

    def end_turn(self) -> None:
        """What is to be sent in this turn of the event loop is sent."""
        self._client.links._end_turn()

    def answers(self) -> dict[Session, bytes]:
        """Of the nodes, to all that they were sent."""
        return {node.session: node.answers() for node in self.nodes.values()}

    def receive(self, answers: dict[Session, bytes]) -> None:
        """They have come."""
        for session, answer in answers.items():
            feed(session, answer)


@asynccontextmanager
async def one_client(streams: int) -> AsyncIterator[OneClient]:
    nodes = {f"{name}:1": Node(name) for name in NODES}
    client = Client(list(nodes))

    async def open_session(address: str) -> Session:
        return nodes[address].session

    client.links.open_session = open_session
    made = OneClient(client, nodes)

    async def answering() -> None:
        while True:
            made.receive(made.answers())
            await asyncio.sleep(0)

    background = asyncio.create_task(answering())
    for number in range(1, streams + 1):
        info = StreamInfo(number, f"/{number}", 1, MEMBERS, (), 1)
        writer = Writer(client, info, ClaimReply(number, 1, W1, ORIGIN), LEASE_MS)
        await writer.start()
        made.writers.append(writer)
    background.cancel()
    await asyncio.sleep(0)
    yield made
    background = asyncio.create_task(answering())
    for writer in made.writers:
        await writer.close()
    background.cancel()
    for node in nodes.values():
        node.session.connection_lost(None)
    await client.close()
