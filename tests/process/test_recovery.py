"""A majority is lost for good: what is left goes on, and says what is gone."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

import walle
from tests.clusters import DevNodes, wait_until

if TYPE_CHECKING:
    from pathlib import Path


async def put(client: walle.Client, stream: str, *data: bytes) -> None:
    async with client.claim(stream, address="me", force=True) as writer:
        for each in [writer.put(each) for each in data]:
            await each


async def history(client: walle.Client, stream: str) -> list[bytes]:
    return [entry.data async for entry in client.read(stream)]


def committed_id(nodes: DevNodes, name: str) -> int | None:
    """How much of the stream that node knows to be committed: a majority may be the others."""
    stream = next(each for each in nodes.status()["streams"] if each["name"] == "/s")
    found: int | None = next(
        each["committed_id"] for each in stream["members"] if each["id"] == name
    )
    return found


def test_stream_goes_on_with_what_is_left(tmp_path: Path) -> None:
    with DevNodes(tmp_path, count=5) as nodes:
        nodes.cli("stream", "create", "/s", "--members", "n1,n2,n3")

        async def before() -> None:
            async with walle.connect(nodes.addresses) as client:
                await put(client, "/s", b"one", b"two")

        asyncio.run(before())
        wait_until(lambda: committed_id(nodes, "n1") == 2, "n1 has them, too")
        done = nodes.run("stream", "recover-unsafe", "/s", "--yes")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"a majority of the members of /s answers" in done.stderr
        nodes.kill("n2", "n3")
        with nodes.popen(
            *("read", "/s", "--raw", "--node", "n1", "--follow"), stdout=subprocess.PIPE
        ) as reading:
            assert reading.stdout is not None
            assert [reading.stdout.readline() for _ in range(2)] == [b"one\n", b"two\n"]
            reading.terminate()
        done = nodes.run("stream", "recover-unsafe", "/s", data=b"n\n")
        assert done.returncode == 1
        assert b"of n1, n2, n3, these answer:\n  n1: committed" in done.stdout
        assert b"n1: committed 2, tail 2, lacks no entry" in done.stdout
        done = nodes.run("stream", "recover-unsafe", "/s", "--yes")
        assert done.returncode == 0, done.stderr
        assert b"/s is on n1" in done.stdout
        assert nodes.run("stream", "recover-unsafe", "/s", "--yes").returncode == 1, "not again"

        async def after() -> None:
            async with walle.connect(nodes.addresses) as client:
                await put(client, "/s", b"three")
                await client.set_members("/s", ["n1", "n4", "n5"])
                async with asyncio.timeout(30):
                    async for _ in client.follow_change("/s"):
                        pass
                await put(client, "/s", b"four")
                assert await history(client, "/s") == [b"one", b"two", b"three", b"four"]
                nodes.start("n2", "n3")  # they were not dead: they learn that they are out
                assert await history(client, "/s") == [b"one", b"two", b"three", b"four"]
                held = {each["id"] for each in nodes.status()["streams"][-1]["members"]}
                assert held == {"n1", "n4", "n5"}

        asyncio.run(after())


def test_cluster_goes_on_with_one_node(tmp_path: Path) -> None:
    with DevNodes(tmp_path, apart=True) as nodes:
        nodes.cli("stream", "create", "/s")

        async def before() -> None:
            async with walle.connect(nodes.addresses) as client:
                await put(client, "/s", b"one")

        asyncio.run(before())
        wait_until(lambda: committed_id(nodes, "n1") == 1, "n1 has it, too")
        data = str(nodes.directory / "n1")
        done = nodes.run("stream", "recover-unsafe", "/cluster", "--data", data, "--yes")
        assert done.returncode == 78
        assert b"is in use by another process" in done.stderr
        nodes.kill("n1", "n2", "n3")
        done = nodes.run("stream", "recover-unsafe", "/cluster", "--data", data, data=b"n\n")
        assert done.returncode == 1
        assert b"/cluster of n1, n2, n3, as n1 has it:" in done.stdout
        done = nodes.run("stream", "recover-unsafe", "/cluster", "--data", data, "--yes")
        assert done.returncode == 0, done.stderr
        nodes.start("n1")
        assert nodes.run("stream", "recover-unsafe", "/s", "--yes").returncode == 0

        async def after() -> None:
            async with walle.connect(nodes.addresses) as client:
                await put(client, "/s", b"two")
                await client.create_stream("/t", members=["n1"])
                assert await history(client, "/s") == [b"one", b"two"]
                nodes.start("n2")  # it follows the cluster, without being a member of it

                def is_told() -> bool:
                    streams = {each["name"]: each for each in nodes.status()["streams"]}
                    return [each["id"] for each in streams["/cluster"]["members"]] == ["n1"]

                await asyncio.to_thread(wait_until, is_told, "/cluster is on n1 alone")
                await client.set_members("/s", ["n1", "n2"])
                async with asyncio.timeout(30):
                    async for _ in client.follow_change("/s"):
                        pass
                assert await history(client, "/s") == [b"one", b"two"]

        asyncio.run(after())


def test_cluster_needs_a_directory_of_a_member(tmp_path: Path) -> None:
    with DevNodes(tmp_path, count=1) as nodes:
        done = nodes.run("stream", "recover-unsafe", "/cluster")
        assert done.returncode == 2
        assert b"--data goes with /cluster" in done.stderr
        done = nodes.run("stream", "recover-unsafe", "/cluster", "--data", str(tmp_path), "--yes")
        assert done.returncode == 78
        assert b"is no node's data directory" in done.stderr
