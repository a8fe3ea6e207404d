"""The network process on real sockets: who gets a place, who is given up, what ends it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.making import W1, entries
from walle import frame
from walle.errors import Code, InvariantError
from walle.ids import NO_IDENTITY, ORIGIN
from walle.limits import FRAME_BYTES_MAX, FRAME_RECORDS_COUNT_MAX, KEEPALIVE_COUNT
from walle.messages import (
    PROTOCOL_VERSION,
    ROLE_CLIENT,
    ROLE_NODE,
    Failure,
    Hello,
    Put,
    ReadReply,
    Status,
)
from walle.process import mail, network
from walle.process.network import Network
from walle.process.turns import TurnSelector
from walle.ring.region import Region

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from walle.record import Batch

SOON_S = 30.0
CLIENT = Hello(PROTOCOL_VERSION, ROLE_CLIENT, NO_IDENTITY, "", NO_IDENTITY)
NODE = Hello(PROTOCOL_VERSION, ROLE_NODE, NO_IDENTITY, "n2", NO_IDENTITY)


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region()
    yield made
    made.close()


class Serving:
    """A network process's work, within the test's own process."""

    def __init__(self, region: Region, address: tuple[str, int]) -> None:
        self.region = region
        loop: Any = asyncio.get_running_loop()
        self.network = Network(region, loop._selector)
        self.address = address
        self.stop = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, hello: Hello | None) -> asyncio.StreamReader:
        """Connects, and says that."""
        reader, writer = await asyncio.open_connection(*self.address)
        self._writers.append(writer)
        if hello is not None:
            self.write(frame.encode_head(hello, 1))
        return reader

    def write(self, data: bytes) -> None:
        """On the connection that was made last."""
        self._writers[-1].write(data)

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def arrived(self, count: int) -> list[memoryview]:
        """So many frames, as consensus gets them; they are given back at once."""
        found: list[memoryview] = []
        async with asyncio.timeout(SOON_S):
            while len(found) < count:
                for view in self.region.requests.consume():
                    if view[0] == mail.ARRIVED:
                        copy = memoryview(bytes(view))
                        found.append(mail.unpack_arrived(copy, self.region.arena)[1])
                if self.region.requests.release():
                    self.region.network_bell.ring()
                await asyncio.sleep(0.005)
        assert len(found) == count
        return found


def run_turns(test: Coroutine[Any, Any, None]) -> None:
    """Runs the test in an event loop as the network process has it."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(TurnSelector())) as runner:
        runner.run(test)


@asynccontextmanager
async def serving(region: Region) -> AsyncIterator[Serving]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    served = Serving(region, listener.getsockname())
    task = asyncio.create_task(served.network.run(listener, served.stop))
    try:
        yield served
    finally:
        served.close()
        served.stop.set()
        await task
        await asyncio.sleep(0.01)


async def eventually(condition: Callable[[], Any]) -> Any:
    """What the condition gives once that is true."""
    async with asyncio.timeout(SOON_S):
        while True:
            found = condition()
            if found:
                return found
            await asyncio.sleep(0.005)


async def failure_of(reader: asyncio.StreamReader) -> Failure:
    """What it was told before the connection was closed."""
    async with asyncio.timeout(SOON_S):
        _, message = frame.decode_head(await reader.read())
    assert isinstance(message, Failure)
    return message


# --- the same to many -----------------------------------------------------------------------------


def test_each_session_gets_the_same_records_with_its_own_requests_id(region: Region) -> None:
    async def run() -> None:
        async with serving(region) as served:
            readers = [await served.connect(CLIENT) for _ in range(3)]
            await served.arrived(3)
            sessions = sorted(served.network._sessions)
            records = bytes(entries(5, ORIGIN).payload.view())
            reply = ReadReply(2, 1, ORIGIN)
            head = frame.encode_head(reply, 0, len(records))
            recipients = [(session, 10 + index) for index, session in enumerate(sessions)]
            parts = mail.pack_mail_to_many([(999, 1), *recipients], head, [records])
            assert region.durable.try_write(*parts)
            region.durable.publish()
            region.network_bell.ring()
            async with asyncio.timeout(SOON_S):
                found = [await each.readexactly(len(head) + len(records)) for each in readers]
            assert [frame.decode_head(each[: len(head)]) for each in found] == [
                (request_id, reply) for _, request_id in recipients
            ]
            assert {each[len(head) :] for each in found} == {records}

    run_turns(run())


# --- places ---------------------------------------------------------------------------------------


def test_clients_do_not_take_the_places_of_nodes(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "SESSIONS_COUNT_MAX", 3)

    async def run() -> None:
        async with serving(region) as served:
            for _ in range(3):
                await served.connect(CLIENT)
            await served.arrived(3)
            assert (await failure_of(await served.connect(CLIENT))).code == Code.BUSY
            await served.connect(NODE)
            (head,) = await served.arrived(1)
            assert frame.decode_head(head)[1] == NODE

    run_turns(run())


def test_a_place_is_free_again_when_a_client_has_gone(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "SESSIONS_COUNT_MAX", 1)

    async def run() -> None:
        async with serving(region) as served:
            await served.connect(CLIENT)
            await served.arrived(1)
            served.close()
            await eventually(lambda: not served.network._clients)
            await served.connect(CLIENT)
            await served.arrived(1)

    run_turns(run())


def test_who_connects_and_says_nothing_makes_room_for_who_says_hello(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "HANDSHAKES_COUNT_MAX", 2)

    async def run() -> None:
        async with serving(region) as served:
            silent = [await served.connect(None) for _ in range(2)]
            await served.connect(NODE)
            await served.arrived(1)
            assert (await failure_of(silent[0])).code == Code.BUSY

    run_turns(run())


def test_a_node_that_connects_again_gets_the_place_of_the_oldest(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "NODE_SESSIONS_COUNT_MAX", 2)

    async def run() -> None:
        async with serving(region) as served:
            first = await served.connect(NODE)
            await served.arrived(1)
            for _ in range(2):
                await served.connect(NODE)
                await served.arrived(1)
            assert (await failure_of(first)).code == Code.BUSY

    run_turns(run())


# --- frames ---------------------------------------------------------------------------------------


def put_of(batch: Batch) -> bytes:
    put = Put(2, 1, W1, 1, ORIGIN, 1)
    return frame.encode_head(put, 2, batch.payload.size) + bytes(batch.payload.view())


def test_a_frame_of_too_many_records_is_refused(region: Region) -> None:
    async def run() -> None:
        async with serving(region) as served:
            reader = await served.connect(CLIENT)
            served.write(put_of(entries(FRAME_RECORDS_COUNT_MAX + 1, data=b"")))
            failure = await failure_of(reader)
            assert failure.code == Code.BAD_REQUEST
            assert f"{FRAME_RECORDS_COUNT_MAX + 1} records" in failure.text

    run_turns(run())


def test_frames_that_find_no_room_are_passed_on_once_there_is_some(region: Region) -> None:
    """Nobody rings the bell but whoever makes room: no answers are on their way."""
    batch = entries(FRAME_RECORDS_COUNT_MAX, data=b"")
    assert batch.payload.size < FRAME_BYTES_MAX

    async def run() -> None:
        async with serving(region) as served:
            await served.connect(CLIENT)
            await served.arrived(1)
            for _ in range(24):
                served.write(put_of(batch))
            await eventually(lambda: served.network._backlog)
            await asyncio.sleep(0.1)
            await served.arrived(24)

    run_turns(run())


def test_frames_of_all_sessions_become_visible_at_the_end_of_a_turn(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So consensus is woken once for all of them, or for so many that none of them waits long."""
    monkeypatch.setattr(network, "UNPUBLISHED_COUNT_MAX", 3)
    data = frame.encode_head(Status(0), 1)

    async def run() -> None:
        async with serving(region) as served:
            for _ in range(4):
                await served.connect(CLIENT)
            await served.arrived(4)
            visible = []
            for session in served.network._sessions.values():  # as asyncio does in one turn
                session.get_buffer(-1)[: len(data)] = data
                session.buffer_updated(len(data))
                visible.append(len(region.requests.consume()))
            assert visible == [0, 0, 3, 0]
            await served.arrived(1)

    run_turns(run())


# --- what is given up -----------------------------------------------------------------------------


def test_both_ends_look_whether_the_other_is_there(region: Region) -> None:
    async def run() -> None:
        async with serving(region) as served:
            listener = socket.create_server(("127.0.0.1", 0))
            host, port = listener.getsockname()
            peers = mail.Peers(b"hello", (mail.Peer(1, "n2", f"{host}:{port}"),))
            assert region.outgoing.try_write(*mail.pack_peers(peers))
            region.outgoing.publish()
            region.network_bell.ring()
            await served.connect(CLIENT)
            await served.arrived(1)
            made: Any = await eventually(
                lambda: [link.session for link in served.network._links.values() if link.session]
            )
            for session in (*made, *served.network._clients):
                assert session.transport is not None
                sock = session.transport.get_extra_info("socket")
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                options = [
                    (socket.TCP_NODELAY, 1),
                    (socket.TCP_KEEPIDLE, 5),
                    (socket.TCP_KEEPINTVL, 2),
                    (socket.TCP_KEEPCNT, KEEPALIVE_COUNT),
                    (socket.TCP_USER_TIMEOUT, 10_000),
                ]
                for option, value in options:
                    assert sock.getsockopt(socket.IPPROTO_TCP, option) == value
            listener.close()

    run_turns(run())


def test_connections_that_are_to_stay_are_not_made_anew(region: Region) -> None:
    """Others join, leave and move all the time."""

    async def run() -> None:
        async with serving(region) as served:
            listener = socket.create_server(("127.0.0.1", 0))
            address = "{}:{}".format(*listener.getsockname())
            network = served.network
            stays = mail.Peer(1, "n2", address)
            moves, moved = mail.Peer(2, "n3", address), mail.Peer(2, "n3", "127.0.0.1:1")

            async def sessions(count: int) -> dict[int, Any]:
                await eventually(
                    lambda: (
                        sum(link.session is not None for link in network._links.values()) == count
                    )
                )
                return {number: link.session for number, link in network._links.items()}

            network._connect(mail.Peers(b"hello", (stays, moves)))
            before = await sessions(2)
            network._connect(mail.Peers(b"hello", (stays, moved, mail.Peer(3, "n4", address))))
            after = await sessions(2)
            assert after[1] is before[1]
            assert before[1].transport.is_closing() is False
            assert before[2].transport.is_closing()
            network._connect(mail.Peers(b"another hello", (stays,)))
            assert (await sessions(1))[1] is not before[1]
            assert before[1].transport.is_closing()
            listener.close()

    run_turns(run())


def test_a_connection_that_does_not_come_about_is_tried_again(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "CONNECT_MS_MAX", 20)
    attempts = asyncio.Queue[int]()

    async def never(*_: Any, **__: Any) -> None:
        attempts.put_nowait(1)
        await asyncio.Event().wait()

    async def run() -> None:
        async with serving(region) as served:
            monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", never)
            served.network._connect(mail.Peers(b"", (mail.Peer(1, "n2", "127.0.0.1:1"),)))
            async with asyncio.timeout(SOON_S):
                for _ in range(3):
                    await attempts.get()

    run_turns(run())


# --- the end --------------------------------------------------------------------------------------


def test_an_error_in_a_callback_ends_the_process(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio would log it and go on with what is left."""

    def fail(*_: Any) -> None:
        raise InvariantError("cannot be")

    async def run() -> None:
        async with serving(region) as served:
            monkeypatch.setattr(served.network, "pass_on", fail)
            await served.connect(CLIENT)
            async with asyncio.timeout(SOON_S):
                await served.stop.wait()

    with pytest.raises(InvariantError, match="cannot be"):
        run_turns(run())


def test_an_error_in_a_task_ends_the_process(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with serving(region) as served:
            served.network._connect(mail.Peers(b"", (mail.Peer(1, "n2", "no port"),)))
            async with asyncio.timeout(SOON_S):
                await served.stop.wait()

    with pytest.raises(ValueError, match="invalid literal"):
        run_turns(run())
