"""Nodes that join, move and leave, by the command line: real processes, real directories."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

import walle
from tests.clusters import DevNodes, wait_until
from tests.wire.peer import Peer
from walle.messages import (
    ClusterInfo,
    Failure,
    ListNodes,
    NodeRecord,
    RegisterNode,
    RemoveNode,
    Stamp,
)
from walle.process.child import EX_CONFIG

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from walle.messages import Message

STREAM = "/on/n4"

pytestmark = pytest.mark.slow


def listed(nodes: DevNodes, *options: str) -> dict[str, Any]:
    found = json.loads(nodes.cli("node", "list", "--json", *options))
    return {each["id"]: each for each in found}


def wait_up(nodes: DevNodes, name: str, address: str | None = None) -> None:
    """Waits until the cluster knows the node, at that address, and it answers there."""

    def is_up() -> bool:
        found = listed(nodes).get(name)
        return found is not None and found["up"] and address in (None, found["address"])

    wait_until(is_up, f"{name} is up")


def end(process: subprocess.Popen[bytes]) -> int:
    """Stops a node in good order."""
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


def last_words(nodes: DevNodes, name: str) -> str:
    """What a node that could not run said of it."""
    lines = (nodes.directory / f"{name}.log").read_text().splitlines()
    return next(line for line in reversed(lines) if " CRITICAL " in line)


def wipe(nodes: DevNodes, name: str) -> None:
    shutil.rmtree(nodes.directory / name)


def on_n4(nodes: DevNodes) -> None:
    """A stream that n4 is a member of; made and written by way of n4."""
    connect = ("--connect", nodes.spare_address())
    nodes.cli("stream", "create", STREAM, "--members", "n1,n2,n4", *connect)
    nodes.cli("put", STREAM, *connect, data=b"one\ntwo\n")
    assert nodes.cli("read", STREAM, "--raw", *connect) == b"one\ntwo\n"


def test_a_node_joins_is_restarted_and_once_wiped_is_another_one(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        n4 = nodes.run_node("n4", join=nodes.addresses[:2], zone="west", capacity=7)
        wait_up(nodes, "n4")
        n4s = ("--connect", nodes.spare_address())
        wait_until(lambda: list(listed(nodes, *n4s)) == ["n1", "n2", "n3", "n4"], "n4 knows all")
        found = listed(nodes, *n4s)
        identity = json.loads((nodes.directory / "n4" / "node.json").read_text())["identity"]
        assert found["n4"] == {
            "id": "n4",
            "address": nodes.spare_address(),
            "zone": "west",
            "capacity": 7,
            "identity": identity,
            "streams": 0,
            "up": True,
        }
        on_n4(nodes)
        assert end(n4) == 0
        assert not listed(nodes)["n4"]["up"]
        nodes.cli("put", STREAM, data=b"three\n")
        n4 = nodes.run_node("n4", join=["127.0.0.1:1"], zone="west", capacity=7)
        wait_up(nodes, "n4")
        wait_until(lambda: committed(nodes, "n4") == 3, "n4 has what it missed")
        assert STREAM in nodes.node_status("n4")["streams"]
        refused = nodes.run("node", "remove", "n4")
        assert refused.returncode == 1
        assert f"n4 is a member of {STREAM}: `walle node drain n4`" in refused.stderr.decode()

        assert end(n4) == 0
        wipe(nodes, "n4")
        n4 = nodes.run_node("n4", join=nodes.addresses)
        assert n4.wait(30) == EX_CONFIG
        said = last_words(nodes, "n4")
        assert "join: " in said
        assert "its data directory was replaced" in said
        assert "`walle node remove n4`" in said
        assert committed(nodes, "n1") == 3


def committed(nodes: DevNodes, name: str) -> int | None:
    found = json.loads(nodes.cli("stream", "show", STREAM, "--json"))
    entry_id: int | None = next(
        each["committed_id"] for each in found["members"] if each["id"] == name
    )
    return entry_id


def test_a_node_moves_to_another_address(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        n4 = nodes.run_node("n4", join=nodes.addresses)
        wait_up(nodes, "n4")
        on_n4(nodes)
        assert end(n4) == 0
        moved = nodes.spare_address(1)
        nodes.run_node("n4", join=nodes.addresses, listen=moved)
        wait_up(nodes, "n4", moved)
        nodes.kill("n2")  # n4 is needed for a majority
        nodes.cli("put", STREAM, data=b"three\n")
        assert nodes.cli("read", STREAM, "--raw", "--connect", moved) == b"one\ntwo\nthree\n"


def test_an_open_writer_follows_nodes_to_their_new_addresses(tmp_path: Path) -> None:
    """With two of three members elsewhere it has no majority at the addresses it began with."""
    with DevNodes(tmp_path) as nodes:
        names = ("n4", "n5")
        first = {name: nodes.spare_address(index) for index, name in enumerate(names)}
        running = {
            name: nodes.run_node(name, join=nodes.addresses, listen=address)
            for name, address in first.items()
        }
        for name in names:
            wait_up(nodes, name)
        nodes.cli("stream", "create", STREAM, "--members", "n1,n4,n5")

        async def put_while_they_move() -> None:
            async with (
                asyncio.timeout(60),
                walle.connect(nodes.addresses) as client,
                client.claim(STREAM, address="me:1") as writer,
            ):
                await writer.put(b"before")
                for index, name in enumerate(names, len(names)):
                    assert await asyncio.to_thread(end, running[name]) == 0
                    moved = nodes.spare_address(index)
                    nodes.run_node(name, join=nodes.addresses, listen=moved)
                    await asyncio.to_thread(wait_up, nodes, name, moved)
                    assert (await writer.put(b"after")).entry_id == index

        asyncio.run(put_while_they_move())


def test_a_removed_node_stops_and_joins_again_only_as_a_new_one(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        n4 = nodes.run_node("n4", join=nodes.addresses)
        wait_up(nodes, "n4")
        before = listed(nodes)["n4"]["identity"]
        for _ in range(2):
            assert nodes.cli("node", "remove", "n4") == b"n4 is removed\n"
        assert n4.wait(30) == EX_CONFIG
        assert "n4 was removed from the cluster" in last_words(nodes, "n4")
        n4 = nodes.run_node("n4", join=nodes.addresses)
        assert n4.wait(30) == EX_CONFIG
        assert "n4 was removed from the cluster" in last_words(nodes, "n4")
        assert "n4" not in listed(nodes)
        wipe(nodes, "n4")
        nodes.run_node("n4", join=nodes.addresses)
        wait_up(nodes, "n4")
        assert listed(nodes)["n4"]["identity"] != before
        on_n4(nodes)


def test_a_node_joins_while_the_manager_fails_over(tmp_path: Path) -> None:
    with DevNodes(tmp_path, apart=True) as nodes:
        status = next(each for each in nodes.status()["streams"] if each["name"] == "/cluster")
        manager = status["writer"]["address"]
        nodes.kill(manager)
        nodes.run_node("n4", join=nodes.addresses)
        wait_up(nodes, "n4")
        nodes.start(manager)
        wait_up(nodes, manager)
        others = [name for name in nodes.names if name != manager]
        nodes.cli("stream", "create", STREAM, "--members", f"{others[0]},{manager},n4")
        assert sorted(nodes.node_status("n4")["streams"]) in ([], [STREAM])
        wait_until(lambda: nodes.node_status("n4")["streams"] == [STREAM], "n4 is a member")


# --- garbage --------------------------------------------------------------------------------------


@contextmanager
def answering(data: bytes) -> Iterator[str]:
    """Something that listens, and answers whatever it is told with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield "{}:{}".format(*server.getsockname())
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("data", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", bytes(64)])
def test_a_node_joins_though_something_else_listens_at_an_address(
    tmp_path: Path, data: bytes
) -> None:
    with answering(data) as address, DevNodes(tmp_path, count=1) as nodes:
        nodes.run_node("n4", join=[address, *nodes.addresses])
        wait_up(nodes, "n4")


@pytest.mark.parametrize(
    "node",
    [
        NodeRecord("", "h:1", b"x" * 16),
        NodeRecord("n4", "", b"x" * 16),
        NodeRecord("n4", "h:1", bytes(16)),
        NodeRecord("n1", "h:1", b"x" * 16),
        NodeRecord("\x01" * 60_000, "\x02" * 60_000, b"x" * 16, "\x03" * 60_000),
        NodeRecord("n4\n", "h:1", b"x" * 16, "\0", 0),
    ],
)
def test_a_node_that_makes_no_sense_is_refused(nodes: DevNodes, node: NodeRecord) -> None:
    with Peer(nodes.addresses[0]) as peer:
        assert isinstance(peer.insist(RegisterNode(node)), Failure)
        assert isinstance(peer.insist(RemoveNode(node.node_id + "?")), Failure)
        info = peer.ask(ListNodes())
        assert isinstance(info, ClusterInfo)
        assert [each.node_id for each in info.nodes] == nodes.names
        only_nodes: Message = Stamp(1, 1, walle.WriterId(1, 1), walle.Position(0, 0))
        assert isinstance(peer.ask(only_nodes), Failure)


# --- clients --------------------------------------------------------------------------------------


def test_a_client_lists_and_removes_nodes(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        n4 = nodes.run_node("n4", join=nodes.addresses)
        wait_up(nodes, "n4")

        async def run() -> None:
            async with walle.connect(nodes.addresses[0]) as client:
                found = await client.nodes()
                assert [each.node_id for each in found] == ["n1", "n2", "n3", "n4"]
                nodes.kill("n1", "n2", "n3")  # the client has learned where n4 is
                assert (await client.nodes()) == found
                nodes.start("n1", "n2", "n3")
                assert (await client.remove_node("n4")) == found[:3]
                with pytest.raises(walle.Refused, match="no node 'n9'"):
                    await client.remove_node("n9")

        asyncio.run(run())
        with walle.sync.connect(nodes.connect) as client:
            left = client.remove_node("n4")
            wait_until(lambda: client.nodes() == left, "the node that is asked knows")
        assert n4.wait(30) == EX_CONFIG
        text = nodes.cli("node", "list").decode()
        assert [line.split()[:3] for line in text.splitlines()[1:]] == [
            [name, address, "up"]
            for name, address in zip(nodes.names, nodes.addresses, strict=True)
        ]
