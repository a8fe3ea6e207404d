"""One node's three processes as objects in this process, which do a batch's work step by step.

The network process's transport is a stand-in; rings, arena, core, store and disk are the real ones.
So what a step takes can be counted, or compared with another, without the system's scheduling.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.unit.making import THREE, W1
from tests.unit.process.stages import Room, Writing
from walle import frame
from walle.config import NodeConfig
from walle.core import effects
from walle.core.effects import Promise
from walle.ids import CLUSTER_STREAM_NAME, NO_IDENTITY, ORIGIN, STREAM_CLUSTER
from walle.limits import FETCH_BYTES_MAX
from walle.messages import PROTOCOL_VERSION, ROLE_CLIENT, Hello, NodeRecord, Put, Read
from walle.process import consensus, storage
from walle.process.consensus import Consensus
from walle.process.loop import now_ns
from walle.process.network import Network
from walle.process.storage import Storage
from walle.process.turns import TurnSelector
from walle.record import Encoder
from walle.ring.region import Region
from walle.storage.store import Store
from walle.storage.vfs import RealFiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from walle.client.session import Session as ClientSession
    from walle.process.network import Session
    from walle.record import Batch

STREAM = 7
IDENTITIES = {f"n{number}": bytes([number]) * 16 for number in (1, 2, 3)}
ADDRESSES = {node: f"127.0.0.1:{10 + number}" for number, node in enumerate(IDENTITIES)}
LEASE_MS = 60_000
HELLO = frame.encode_head(Hello(PROTOCOL_VERSION, ROLE_CLIENT, NO_IDENTITY, "", NO_IDENTITY), 1)


class Transport:
    """In place of a connection's. sent: what was written to it."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self._socket = socket.socket()

    def get_extra_info(self, name: str) -> Any:
        return {"socket": self._socket, "sslcontext": True}.get(name)

    def set_write_buffer_limits(self, **_limits: int) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self._socket.close()

    abort = close


def feed(session: Session | ClientSession, data: bytes) -> None:
    """The session receives that."""
    left = memoryview(data)
    while left:
        room = session.get_buffer(-1)
        size = min(len(room), len(left))
        room[:size] = left[:size]
        left = left[size:]
        session.buffer_updated(size)


def make_directory(directory: Path) -> None:
    """A data directory whose node is a member of a stream that W1 has claimed."""
    store = Store(directory, RealFiles())
    nodes = tuple(NodeRecord(node, ADDRESSES[node], IDENTITIES[node]) for node in IDENTITIES)
    for action in (
        effects.SetCluster(b"c" * 16, nodes),
        effects.SetTopology(STREAM_CLUSTER, CLUSTER_STREAM_NAME, THREE),
        effects.SetTopology(STREAM, "/s", THREE),
        effects.SetPromise(STREAM, Promise(W1, "writer", LEASE_MS, 0)),
    ):
        store.execute(action)
    store.sync()
    store.finish()


class OneNode:
    """n1, and a writer that has connected with it.

    steps: what is done for a batch, in order. Each does one pass of a process's work.
    """

    def __init__(self, directory: Path) -> None:
        make_directory(directory)
        self.region = Region()
        loop: Any = Writing()
        room: Any = Room()
        self.store = Store(directory, RealFiles())
        self.storage = Storage(loop, self.region, self.store, room, scrub_bytes_per_second=0)
        self.storage.do_work()
        config = NodeConfig("n1", ADDRESSES["n1"], directory, {"n1": ADDRESSES["n1"]})
        self.consensus = Consensus(loop, self.region, config, IDENTITIES["n1"])
        self.consensus.start()
        self.network = Network(self.region, TurnSelector())
        self.region.outgoing.consume()  # whom to connect with, which is left out here
        self.region.outgoing.release()
        self.transport = Transport()
        self._session = self._connect(self.transport)
        self._followers: list[tuple[Session, Transport]] = []
        self._encoder = Encoder(W1, ORIGIN)
        self._transmission = 0
        self._frame = HELLO
        self.steps: dict[str, Callable[[], object]] = {
            "network receives": self._receive,
            "consensus": self.consensus.do_work,
            "storage": self.storage.do_work,
            "network sends": self._send,
        }
        self.run()

    def put(self, count: int, data_bytes: int) -> Batch:
        """A frame with so many equal entries comes next."""
        committed = self._encoder.tail
        self._encoder.add_all([bytes(data_bytes)] * count, 0)
        batch = self._encoder.take()
        self._transmission += 1
        message = Put(STREAM, 1, W1, self._transmission, committed, relay=0, mark=0)
        head = frame.encode_head(message, 0, batch.payload.size)
        self._frame = head + batch.payload.view()
        return batch

    def run(self) -> None:
        """All steps."""
        for step in self.steps.values():
            step()

    def _connect(self, transport: Any) -> Session:
        session = self.network._accept()
        session.connection_made(transport)
        return session

    def add_followers(self, count: int) -> None:
        """So many connect."""
        for _ in range(count):
            transport = Transport()
            self._followers.append((self._connect(transport), transport))
            feed(self._followers[-1][0], HELLO)
        self.network.publish()
        self.consensus.do_work()
        self._send()

    def follow(self) -> None:
        """They all wait for what is not committed yet."""
        start = self._encoder.tail.entry_id + 1
        read = Read(STREAM, start, FETCH_BYTES_MAX, 10_000, linearizable=0, local=0)
        for number, (session, transport) in enumerate(self._followers):
            transport.sent.clear()
            feed(session, frame.encode_head(read, number))
        self.network.publish()
        self.consensus.do_work()

    def answers(self) -> list[list[bytes]]:
        """What each of them was sent since then."""
        return [transport.sent for _, transport in self._followers]

    def _receive(self) -> None:
        feed(self._session, self._frame)
        self.network.publish()

    def _send(self) -> None:
        self.network._take(self.region.outgoing, self.region.consensus_bell)
        self.network._take(self.region.durable, self.region.storage_bell)

    def close(self) -> None:
        for transport in (self.transport, *(each for _, each in self._followers)):
            transport.close()
        self.store.close()
        self.region.close()


@contextmanager
def one_node(directory: Path) -> Iterator[OneNode]:
    """For the length of the block. Its clock stands still, so that no timer is due in a step."""
    still_ns = now_ns()
    with (
        patch.object(consensus, "now_ns", lambda: still_ns),
        patch.object(storage, "now_ns", lambda: still_ns),
    ):
        node = OneNode(directory)
        try:
            yield node
        finally:
            node.close()
