"""A node that belongs to one program: it lives with the block, or with the process at most."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
import yaml

import walle
from tests.clusters import wait_until

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys, time, walle
with walle.sync.embedded(sys.argv[1]) as client:
    client.create_stream("/s")
    with client.claim("/s", address="me") as writer:
        writer.put(b"of a program").result()
        print("durable", flush=True)
        time.sleep(60)
"""


def nodes_of(parent: int) -> list[psutil.Process]:
    return psutil.Process(parent).children(recursive=True)


async def history(client: walle.Client) -> list[bytes]:
    return [entry.data async for entry in client.read("/s")]


def test_what_was_put_is_there_the_next_time(tmp_path: Path) -> None:
    async def work() -> None:
        async with walle.embedded(tmp_path / "node") as client:
            await client.create_stream("/s")
            async with client.claim("/s", address="me") as writer:
                await writer.put(b"one")
                with writer.exclusive():
                    pass
            assert len(nodes_of(psutil.Process().pid)) == 4
        assert nodes_of(psutil.Process().pid) == []
        async with walle.embedded(tmp_path / "node") as client:
            assert await history(client) == [b"one"]

    asyncio.run(work())


def test_blocking_client(tmp_path: Path) -> None:
    with walle.sync.embedded(tmp_path) as client:
        client.create_stream("/s")
        with client.claim("/s", address="me") as writer:
            assert writer.put(b"one").result().entry_id == 1
        assert [entry.data for entry in client.read("/s")] == [b"one"]


def test_node_stops_in_good_order_when_its_program_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"durable\n"
        left = nodes_of(program.pid)
        program.kill()
    wait_until(lambda: not any(each.is_running() for each in left), "the node has ended")
    assert "node n1 stops" in (tmp_path / "node.log").read_text()

    async def look() -> None:
        async with walle.embedded(tmp_path) as client:
            assert await history(client) == [b"of a program"]

    asyncio.run(look())


def test_node_that_was_killed_is_told_of_where_it_is_needed(tmp_path: Path) -> None:
    async def work() -> None:
        async with walle.embedded(tmp_path) as client:
            await client.create_stream("/s")
            for each in nodes_of(psutil.Process().pid):
                each.send_signal(signal.SIGKILL)
            with pytest.raises(walle.Unavailable):
                await client.create_stream("/t", timeout_s=1)

    asyncio.run(work())


def test_directory_that_is_in_use(tmp_path: Path) -> None:
    async def work() -> None:
        async with walle.embedded(tmp_path):
            with pytest.raises(walle.Unavailable, match=r"is in use by another process.*node\.log"):
                async with walle.embedded(tmp_path):
                    pass

    asyncio.run(work())


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    async def start(node: str = "n1", listen: str | None = None) -> None:
        async with walle.embedded(tmp_path, node=node, listen=listen):
            pass

    with pytest.raises(walle.ConfigError, match="host:port"):
        asyncio.run(start(listen="nowhere"))
    asyncio.run(start())
    address = yaml.safe_load((tmp_path / "node.yaml").read_text())["listen"]
    with pytest.raises(walle.ConfigError, match="belongs to node n1, not to n2"):
        asyncio.run(start("n2"))
    with pytest.raises(walle.ConfigError, match=rf"says listen: {address}, not 127\.0\.0\.1:1;"):
        asyncio.run(start(listen="127.0.0.1:1"))
    (tmp_path / "node.yaml").write_text("- no settings\n")
    with pytest.raises(walle.ConfigError, match=r"node\.yaml: is no node's settings"):
        asyncio.run(start())


def test_parent_that_is_not_the_parent(tmp_path: Path) -> None:
    asyncio.run(_make(tmp_path))
    command = [sys.executable, "-m", "walle", "node", "--config", str(tmp_path / "node.yaml")]
    done = subprocess.run([*command, "--parent", "1"], capture_output=True, check=False, text=True)
    assert done.returncode == 2
    assert "1 is not the process that started this one" in done.stderr


async def _make(path: Path) -> None:
    async with walle.embedded(path):
        pass
