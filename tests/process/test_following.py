"""A writer whose stream's members change: it goes on with the new ones, and no put fails.

There is no command for that yet, so the test is for a moment the topology manager: it claims
`/cluster` in a node's name, and puts the entry. A real manager takes over and completes the change.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

import walle
from tests.clusters import DevNodes, wait_until
from tests.wire.peer import Peer
from walle.core.cluster import encode_members
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import STREAM_CLUSTER
from walle.messages import (
    PROTOCOL_VERSION,
    ROLE_NODE,
    Describe,
    Hello,
    Release,
    StreamInfo,
    Welcome,
)
from walle.record import Encoder

if TYPE_CHECKING:
    from pathlib import Path

STREAM = "/moving"

pytestmark = pytest.mark.slow


def move(nodes: DevNodes, version: int, *members: str) -> None:
    """Moves the stream, and waits until that is done, with this version."""
    told = asyncio.run(status(nodes))
    identities = bytes.fromhex(told["cluster"]), bytes.fromhex(told["identity"])
    hello = Hello(PROTOCOL_VERSION, ROLE_NODE, identities[0], "n1", identities[1])
    with Peer(nodes.addresses[1], is_greeting=False) as peer:
        assert isinstance(peer.ask(hello), Welcome)
        info = peer.insist(Describe(STREAM))
        assert isinstance(info, StreamInfo)
        old = tuple(member.node_id for member in info.members)
        topology = StreamTopology(version - 1, tuple(sorted(members)), old)
        change = encode_members(info.stream_id, topology)
        wait_until(lambda: is_put(nodes, peer, change), f"it moves to {members}")
    wait_until(lambda: shown(nodes)["version"] == version, f"it is on {members}", 60)


def is_put(nodes: DevNodes, peer: Peer, change: bytes) -> bool:
    """Puts an entry of `/cluster`, if it is not there; whether it is. A real manager may claim in
    between: what becomes of the put then is known once the stream is claimed again."""
    cluster = peer.insist(Describe("/cluster"))
    assert isinstance(cluster, StreamInfo)
    claimed = peer.claim(cluster)
    encoder = Encoder(claimed.writer, claimed.tail)
    encoder.add(change, 0)
    batch = encoder.take()
    is_done = change in asyncio.run(read_all(nodes, "/cluster"))
    if not is_done:
        is_done = peer.put(claimed, 1, claimed.tail, batch).code == Code.OK
    peer.insist(Release(STREAM_CLUSTER, claimed.version, claimed.writer, claimed.tail, relay=1))
    return is_done


async def status(nodes: DevNodes) -> Any:
    async with walle.connect(nodes.addresses) as client:
        return await client.node_status(nodes.addresses[0])


def shown(nodes: DevNodes) -> Any:
    return json.loads(nodes.cli("stream", "show", STREAM, "--json"))


async def load(nodes: DevNodes, stop: asyncio.Event) -> list[bytes]:
    """Puts until it is told to stop; returns what was put, all of it acknowledged."""
    done: list[bytes] = []
    async with (
        walle.connect(nodes.addresses) as client,
        client.claim(STREAM, address="load", lease_ms=4_000) as writer,
    ):
        while not stop.is_set():
            data = [b"%d" % number for number in range(len(done), len(done) + 10)]
            await asyncio.gather(*map(writer.put, data))
            done += data
        assert writer.is_exclusive
    return done


async def read_all(nodes: DevNodes, stream: str, node: str | None = None) -> list[bytes]:
    async with walle.connect(nodes.addresses) as client:
        return [entry.data async for entry in client.read(stream, node=node)]


def test_writer_follows_its_stream_from_node_to_node(tmp_path: Path) -> None:
    with DevNodes(tmp_path, count=5, apart=True) as nodes:
        nodes.cli("stream", "create", STREAM, "--members", "n1,n2,n3")

        async def work() -> list[bytes]:
            stop = asyncio.Event()
            loading = asyncio.create_task(load(nodes, stop))
            await asyncio.sleep(0.5)
            for version, moved in ((3, ("n1", "n2", "n4")), (5, ("n3", "n4", "n5"))):
                await asyncio.to_thread(move, nodes, version, *moved)
                assert not loading.done()
            await asyncio.to_thread(nodes.kill, "n1", "n2")
            await asyncio.sleep(1)
            stop.set()
            return await loading

        done = asyncio.run(work())
        assert [each["id"] for each in shown(nodes)["members"]] == ["n3", "n4", "n5"]
        wait_until(
            lambda: all(
                member["committed_id"] == len(done) and not member["gaps"]
                for member in shown(nodes)["members"]
            ),
            "all are whole",
            60,
        )
        for name in ("n3", "n4", "n5"):
            assert asyncio.run(read_all(nodes, STREAM, name)) == done
