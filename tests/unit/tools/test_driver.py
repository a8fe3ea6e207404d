"""The load on peers: what is put and what is counted, on a server that answers each byte."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tools.peers.driver import Connection, Driver
from tools.peers.nats import NatsConnection
from tools.peers.postgres import PostgresConnection
from tools.peers.zookeeper import ZooKeeperConnection
from walle.bench.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT = Workload(seconds=0.3, warm_up_s=0.05, size_bytes=10)
REFUSED = 0


class OneByte(Connection):
    """A put is a byte, and so is its answer: 0 says no."""

    def __init__(self, port: int) -> None:
        super().__init__("127.0.0.1", port)
        self.put_count = self._ended_id = 0
        self.refuse_every = 0

    def put(self, data: bytes) -> int:
        assert len(data) == SHORT.size_bytes
        self.put_count += 1
        is_refused = self.refuse_every and self.put_count % self.refuse_every == 0
        self.write(bytes((REFUSED if is_refused else 1,)))
        return self.put_count

    def take(self, received: bytearray) -> tuple[list[tuple[int, bool]], int]:
        first = self._ended_id + 1
        self._ended_id += len(received)
        return [(first + index, byte != REFUSED) for index, byte in enumerate(received)], len(
            received
        )


class Turns(OneByte):
    capacity = 1


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65_536):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for each in threads:
        each.join()


def drive(connections: list[OneByte], workload: Workload) -> dict[str, float]:
    try:
        return Driver(connections, workload).run(dict)
    finally:
        for each in connections:
            each.close()


@pytest.mark.parametrize("kind", [OneByte, Turns])
def test_a_closed_loop_keeps_puts_in_flight(echo: int, kind: type[OneByte]) -> None:
    workload = SHORT._replace(in_flight=4, seconds=2)  # in which the server gets a processor
    found = drive([kind(echo) for _ in range(4)], workload)
    assert found["entries_per_s"] > 0
    assert found["bad_count"] == 0


@pytest.mark.parametrize("kind", [OneByte, Turns])
def test_an_open_loop_puts_what_is_due(echo: int, kind: type[OneByte]) -> None:
    found = drive([kind(echo) for _ in range(4)], SHORT._replace(rate=1_000))
    assert found["bad_count"] == 0


def test_what_is_refused_is_counted(echo: int) -> None:
    connection = OneByte(echo)
    connection.refuse_every = 10
    found = drive([connection], SHORT._replace(rate=1_000, warm_up_s=0, seconds=2))
    assert found["bad_count"] == connection.put_count // 10 > 0


def test_an_end_of_the_connection_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        connection = OneByte(listener.getsockname()[1])
        accepted, _ = listener.accept()
        accepted.close()
        with pytest.raises(ConnectionError, match="closed"):
            drive([connection], SHORT)


@pytest.mark.parametrize(
    ("kind", "answers", "ended"),
    [
        (
            NatsConnection,
            b'PING\r\nMSG _INBOX.x.7 1 11\r\n{"seq":123}\r\nMSG _INBOX.x.8 1 11\r\n{"error":1}\r\n',
            [(7, True), (8, False)],
        ),
        (
            ZooKeeperConnection,
            b"\0\0\0\x10" + b"\0\0\0\x05" + bytes(8) + bytes(4) + b"\0\0\0\x10" + b"\0\0\0\x06"
            b"\0\0\0\0\0\0\0\0" + b"\xff\xff\xff\xf0",
            [(5, True), (6, False)],
        ),
        (
            PostgresConnection,
            b"2\0\0\0\x04C\0\0\0\x0fINSERT 0 1\0Z\0\0\0\x05I" + b"E\0\0\0\x06x\0Z\0\0\0\x05I",
            [(9, True), (9, False)],
        ),
    ],
)
def test_answers_are_found_however_they_are_cut(
    kind: type[Connection], answers: bytes, ended: list[tuple[int, bool]]
) -> None:
    for step in (1, 3, 7, len(answers)):
        connection = kind.__new__(kind)
        vars(connection).update(_inbox=b"_INBOX.x.", _id=9, _has_failed=False, _unsent=bytearray())
        received, found = bytearray(), []
        for start in range(0, len(answers), step):
            received += answers[start : start + step]
            more, used = connection.take(received)
            found += more
            del received[:used]
        assert found == ended
        assert not received
