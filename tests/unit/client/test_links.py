"""The connections that a client's writers share, by themselves: whom each of them serves."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.making import W1
from walle.client import writer as writer_module
from walle.client.links import Link, Links
from walle.client.session import now_ns
from walle.client.writer import Writer
from walle.core.topology import StreamTopology
from walle.errors import Unavailable
from walle.ids import ORIGIN
from walle.limits import NS_PER_MS
from walle.messages import ClaimReply, NodeAddress, Release, StreamInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from walle.messages import Message


class Connection:
    """In place of a session with the node `node_id`."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.channels: dict[int, Callable[[Message], None]] = {}
        self.on_pause: Callable[[bool], None] = lambda _is_paused: None
        self.closed = asyncio.Event()
        self.sent: list[Any] = []

    def send_frames(self, parts: Sequence[Any]) -> None:
        self.sent += parts

    async def close(self) -> None:
        self.closed.set()


class Cluster:
    """Which node answers at each address, and all connections that were made."""

    def __init__(self, **nodes: str) -> None:
        self.nodes = nodes
        self.opened: list[Connection] = []

    async def open(self, address: str) -> Any:
        self.opened.append(Connection(self.nodes[address]))
        return self.opened[-1]

    def at(self, node_id: str) -> Connection:
        """The newest connection with the node."""
        return [each for each in self.opened if each.node_id == node_id][-1]


class User:
    """Notes what it is told. fails: its flush raises."""

    def __init__(self, number: int, *, fails: bool = False) -> None:
        self.number = number
        self.told: list[Any] = []
        self.fails = fails
        self.when_free: Callable[[], None] = lambda: None

    def flush(self) -> None:
        if self.fails:
            raise ValueError
        self.told.append("flush")

    def on_open(self, node: str) -> None:
        self.told.append(("open", node))

    def on_lost(self, node: str) -> None:
        self.told.append(("lost", node))

    def on_pause(self, node: str, *, is_paused: bool) -> None:
        self.told.append(("pause" if is_paused else "beat", node))

    def on_free(self) -> None:
        self.told.append("free")
        self.when_free()

    def on_reply(self, node: str, reply: Message) -> None:
        self.told.append((node, reply))

    def on_moved(self, node: str, address: str) -> None:
        self.told.append(("moved", node, address))

    async def close(self) -> None:
        self.told.append("close")


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


async def nowhere() -> dict[str, str]:
    """No node has told its address."""
    return {}


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def info(version: int, old: dict[str, str], new: dict[str, str]) -> StreamInfo:
    members, old_members = (
        tuple(NodeAddress(*each) for each in nodes.items()) for nodes in (new, old)
    )
    return StreamInfo(7, "/s", version, members, old_members, first_entry_id=1)


def test_a_node_that_takes_anothers_place_and_address_is_written_to() -> None:
    """Also once the other one is no member any more."""

    async def test() -> None:
        cluster = Cluster(a="n1", b="n2", c="n4")
        client: Any = type("Client", (), {"links": Links(cluster.open, nowhere)})()
        before = {"n1": "a", "n2": "b", "n3": "c"}
        after = {"n1": "a", "n2": "b", "n4": "c"}
        writer = Writer(client, info(1, {}, before), ClaimReply(7, 1, W1, ORIGIN), 1_000)
        writer._connect()
        await settle()
        assert not writer._pipeline._links["n3"].is_connected, "another node answers at its address"
        for version, old, new in ((2, before, after), (3, {}, after)):
            writer._info = info(version, old, new)
            writer._pipeline.adopt(StreamTopology(version, tuple(new), tuple(old)), 0)
            writer._connect()
            await settle()
            sent = cluster.at("n4").sent
            sent.clear()
            writer.put(b"entry")
            await settle()
            assert sent, f"n4 is written to at version {version}"
        release = Release(7, 3, W1, ORIGIN, relay=0)
        with pytest.raises(Unavailable):
            await writer._links["n4"].request("n3", release, 1.0)
        writer._is_closing = True
        await writer._stop()
        await client.links.close()

    run(test())


async def linked(*users: User) -> tuple[Links, Link, Connection]:
    cluster = Cluster(a="n1")
    links = Links(cluster.open, nowhere)
    link = links.link("a")
    for user in users:
        link.attach(user, "n1")
    await settle()
    return links, link, cluster.at("n1")


def test_whoever_comes_while_the_way_is_full_waits_as_well() -> None:
    async def test() -> None:
        first, second = User(1), User(2)
        links, link, connection = await linked(first)
        connection.on_pause(True)
        link.attach(second, "n1")
        assert second.told == [("open", "n1"), ("pause", "n1")]
        await links.close()

    run(test())


def test_a_way_that_is_full_again_at_once_is_free_for_nobody_else() -> None:
    async def test() -> None:
        first, second = User(1), User(2)
        links, _, connection = await linked(first, second)
        connection.on_pause(True)
        first.when_free = lambda: connection.on_pause(True)
        connection.on_pause(False)
        assert [user.told[-1] for user in (first, second)] == [("pause", "n1")] * 2
        assert "free" not in second.told
        await links.close()

    run(test())


def test_who_had_the_way_comes_last_the_next_time() -> None:
    async def test() -> None:
        users = [User(1), User(2), User(3)]
        links, _, connection = await linked(*users)
        served: list[int] = []

        def fill(user: User) -> None:
            served.append(user.number)
            connection.on_pause(True)

        for user in users:
            user.when_free = partial(fill, user)
        for _ in range(6):
            connection.on_pause(False)
        assert served == [1, 2, 3, 1, 2, 3]
        await links.close()

    run(test())


def test_all_heartbeats_go_before_anybody_fills_the_way_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a writer with little to send would lose its stream, beside many with much."""

    async def test() -> None:
        greedy = User(0)
        links, link, connection = await linked(greedy)
        client: Any = type("Client", (), {"links": links})()
        writer = Writer(client, info(1, {}, {"n1": "a"}), ClaimReply(7, 1, W1, ORIGIN), 1_000)
        writer._connect()
        await settle()
        connection.on_pause(True)
        unsent: list[int] = []

        def fill() -> None:
            unsent.append(len(link._unsent))
            connection.on_pause(True)

        greedy.when_free = fill
        later_ns = now_ns() + 1_000 * NS_PER_MS
        monkeypatch.setattr(writer_module, "now_ns", lambda: later_ns)
        connection.on_pause(False)
        assert unsent == [1]
        await links.close()

    run(test())


def test_who_still_uses_a_connection_is_closed_with_it() -> None:
    async def test() -> None:
        user = User(1)
        links, link, connection = await linked(user)
        link.attach(user, "n2")
        await links.close()
        assert user.told == [("open", "n1"), "close", ("lost", "n1")]
        assert connection.closed.is_set()

    run(test())


def test_who_fails_when_a_turn_ends_does_not_hold_up_the_others() -> None:
    async def test() -> None:
        users = [User(1), User(2, fails=True), User(3)]
        links, *_ = await linked(*users)
        errors: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        for user in users:
            links.wake(user)
        await settle()
        assert [user.told.count("flush") for user in users] == [1, 0, 1]
        assert len(errors) == 1
        await links.close()

    run(test())
