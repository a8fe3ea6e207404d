"""A node that belongs to one program: its child process, with a client of it.

    async with walle.embedded("data") as client:
        async with client.claim("/orders", address="me") as writer:
            await writer.put(b"order 1 created")

It is an ordinary node, with its settings in `node.yaml`, its log in `node.log`, and its cluster of
one member, to which other nodes can be added while it runs.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from walle.client.client import connect
from walle.client.members import TIMEOUT_S
from walle.config import parse_address, parse_tls
from walle.errors import ConfigError, Unavailable, WalleError
from walle.node_log import NodeLog

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

    from walle.client.client import Client
    from walle.tls import Tls

CONFIG = "node.yaml"
LOG = "node.log"
LOOK_S = 0.1
STOP_S = 30.0


@asynccontextmanager
async def embedded(
    path: str | os.PathLike[str],
    *,
    node: str = "n1",
    listen: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> AsyncIterator[Client]:
    """Runs a node in the directory for the length of the block; gives a client of its cluster.

    The first time, the node forms a cluster of its own. It stops with the block, and also when this
    process dies; what was put is there the next time.

    Args:
        path: the directory; made if it is not there. Its `node.yaml` is written once, and may then
            be changed as any node's settings.
        node: the node's id.
        listen: host:port; None: a free port of 127.0.0.1, the same one each time.
        timeout_s: how long the node may take to answer.

    Raises:
        ConfigError: the directory has another node's settings, or the node cannot run with them.
        Unavailable: the node has ended, or does not answer in time.
    """
    directory = Path(path)
    address, tls = _configure(directory, node, listen)
    log = NodeLog(directory / LOG)
    process = await _start(directory, log)
    try:
        await _wait_ready(process, address, tls, log, timeout_s)
        async with connect(address, tls=tls, timeout_s=timeout_s) as client:
            yield client
    finally:
        await _stop(process)


def _configure(directory: Path, node: str, listen: str | None) -> tuple[str, Tls | None]:
    """Writes the settings, if there are none; returns how to connect with the node."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / CONFIG
    if not path.exists():
        address = listen or f"127.0.0.1:{_free_port()}"
        parse_address("listen", address)
        settings = {
            "node": node,
            "listen": address,
            "data": "data",
            "initial_cluster": {node: address},
        }
        temporary = path.with_suffix(".new")
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False))
        temporary.rename(path)
        return address, None
    try:
        found = yaml.safe_load(path.read_bytes())
        owner, address = found["node"], found["listen"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(str(path), "is no node's settings; see configs/node.yaml") from error
    if owner != node:
        raise ConfigError(str(path), f"belongs to node {owner}, not to {node}")
    if listen is not None and listen != address:
        raise ConfigError(str(path), f"says listen: {address}, not {listen}; change one of them")
    parse_address(f"{path}: listen", address)
    tls = parse_tls(f"{path}: tls", found["tls"], directory=directory) if "tls" in found else None
    return address, tls


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _start(directory: Path, log: NodeLog) -> Process:
    with log.path.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "walle", "node"),
            *("--config", str(directory / CONFIG), "--parent", str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # an interrupt from the terminal is for the parent to handle
        )


async def _wait_ready(
    process: Process, address: str, tls: Tls | None, log: NodeLog, timeout_s: float
) -> None:
    """Waits until the node answers: this one, not another that has the directory already."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while process.returncode is None:
                with suppress(WalleError):
                    async with connect(address, tls=tls, timeout_s=LOOK_S) as client:
                        status = await client.node_status(address)
                        if status["pid"] == process.pid:
                            return
                await asyncio.sleep(LOOK_S)
    if process.returncode is None:
        raise Unavailable(f"the node at {address} does not answer; its log: {log.path}")
    why = log.last_words() or f"status {process.returncode}"
    raise Unavailable(f"the node has ended: {why}; its log: {log.path}")


async def _stop(process: Process) -> None:
    """Ends the node in good order; at once when it does not."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
