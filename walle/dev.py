"""`walle dev`: a whole cluster on one machine, each node a real supervisor with its processes."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import select
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import click
import setproctitle
import yaml

from walle.client.client import connect
from walle.config import parse_node_config
from walle.errors import ConfigError, Unavailable, WalleError
from walle.ids import CLUSTER_STREAM_NAME
from walle.native import set_parent_death_signal
from walle.node_log import NodeLog
from walle.process.child import EX_SOFTWARE
from walle.supervisor import configure_logging, describe_status, listen, run_node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from walle.config import NodeConfig

LOOK_S = 0.05
READY_S = 30.0
PORT_FREE_MIN = 17_411
PORT_FREE_MAX = 32_000
"""Those above are given to connections that are made."""


class DevCluster:
    """Nodes n1, n2, ... at consecutive ports of this machine."""

    def __init__(self, *, nodes: int, data: Path, port: int) -> None:
        self._data = data
        self._port = port
        self._count = nodes
        self._addresses = {f"n{index + 1}": f"127.0.0.1:{port + index}" for index in range(nodes)}
        self._running: dict[int, str] = {}
        self._logs: dict[str, NodeLog] = {}
        self._has_failed = False

    def run(self, only: int | None) -> int:
        """Runs the nodes, or only that one, until SIGTERM or SIGINT; returns the exit status.

        Raises:
            ConfigError: a port is taken, or the directory holds another cluster.
        """
        self._data.mkdir(parents=True, exist_ok=True)
        names = [f"n{only}"] if only is not None else list(self._addresses)
        for name in names:  # before anything is written: the remedy is another port
            _check_port(self._addresses[name])
        configs = [self._write_config(name) for name in names]
        setproctitle.setproctitle(f"walle dev {' '.join(names)}")
        for config in configs:
            self._running[self._fork(config)] = config.node
        return asyncio.run(self._watch(names))

    def _write_config(self, name: str) -> NodeConfig:
        """Writes the node's settings, so that `walle node --config` can run it as well."""
        settings = {
            "node": name,
            "listen": self._addresses[name],
            "data": name,
            "initial_cluster": self._addresses,
        }
        path = self._data / f"{name}.yaml"
        text = yaml.safe_dump(settings, sort_keys=False)
        if path.exists() and path.read_text() != text:
            raise ConfigError(
                str(path),
                "was made with other --nodes or --port; use those, or another --data directory",
            )
        try:
            path.write_text(text)
        except OSError as error:
            error.filename = str(path)  # what opens names it, what writes does not
            raise
        return parse_node_config(settings, directory=self._data)

    def _fork(self, config: NodeConfig) -> int:
        """Forks a node's supervisor, which ends in good order when this process dies."""
        parent = os.getpid()
        log_path = self._data / f"{config.node}.log"
        self._logs[config.node] = NodeLog(log_path)
        gc.freeze()  # as in `fork_child`
        pid = os.fork()
        if pid:
            return pid
        status = EX_SOFTWARE
        try:
            set_parent_death_signal(signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(0)
            log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, sys.stderr.fileno())
            configure_logging(config.node)
            status = run_node(config)
        finally:
            logging.shutdown()
            os._exit(status)

    # --- watching ---------------------------------------------------------------------------------

    async def _watch(self, names: list[str]) -> int:
        loop = asyncio.get_running_loop()
        stopping = asyncio.Event()
        ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        loop.add_signal_handler(signal.SIGCHLD, lambda: self._reap(ended, stopping))
        self._reap(ended, stopping)
        announcing = loop.create_task(self._announce(names))
        waits = [loop.create_task(stopping.wait()), loop.create_task(ended.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in (announcing, *waits):
            task.cancel()
        if ended.is_set():
            click.echo("no node is left", err=True)
            return 1
        for pid in self._running:
            os.kill(pid, signal.SIGTERM)
        await ended.wait()
        return int(self._has_failed)

    async def _announce(self, names: list[str]) -> None:
        """Prints `ready` once the cluster has a topology manager and the nodes here answer."""
        while True:
            try:
                async with connect([self._addresses[name] for name in names]) as client:
                    for name in tuple(self._running.values()):
                        await client.node_status(self._addresses[name])
                    status = await client.writer_status(CLUSTER_STREAM_NAME)
                    if status.established and status.remaining_lease_ms:
                        break
            except WalleError:
                pass
            await asyncio.sleep(LOOK_S)
        where = ",".join(self._addresses[name] for name in names)
        with suppress(BrokenPipeError):
            click.echo(f"ready at {where}, data in {self._data}")

    def _reap(self, ended: asyncio.Event, stopping: asyncio.Event) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            name = self._running.pop(pid, None)
            if name is not None and (status or not stopping.is_set()):
                self._has_failed = True
                text = self._describe_end(name, os.waitstatus_to_exitcode(status))
                with suppress(OSError):  # who was to read it may be gone
                    click.echo(text, err=True)
        ended.set()

    def _describe_end(self, name: str, status: int) -> str:
        """How a node has ended, why, and what to do."""
        again = (
            f"walle dev --only {name.removeprefix('n')} --nodes {self._count} "
            f"--data {shlex.quote(str(self._data))} --port {self._port}"
        )
        log = self._logs[name]
        why = log.last_words() if status > 0 else ""
        return (
            f"node {name} {describe_status(status)}{f' ({why})' if why else ''}\n"
            f"  its log: {log.path}\n"
            f"  to start it again: {again}"
        )


def _check_port(address: str) -> None:
    """The node would say so itself, but in its log."""
    try:
        listen(address).close()
    except ConfigError as error:
        raise ConfigError(
            "--port", f"{error.rule}; stop what listens there, or choose another --port"
        ) from error


@contextmanager
def dev_cluster(directory: Path, nodes: int = 3) -> Iterator[list[str]]:
    """Runs `walle dev` as a process of its own, on free ports; yields the nodes' addresses.

    It ends with the block, or with this process.

    Raises:
        Unavailable: it is not ready in time.
    """
    port = _free_ports(nodes)
    process = subprocess.Popen(  # noqa: S603 - this program
        [
            *(sys.executable, "-m", "walle", "dev", "--nodes", str(nodes)),
            *("--data", str(directory), "--port", str(port)),
        ],
        stdout=subprocess.PIPE,
        process_group=0,  # an interrupt from the terminal is for this process alone
        preexec_fn=partial(set_parent_death_signal, signal.SIGTERM),  # noqa: PLW1509 - no threads
    )
    try:
        poll = select.poll()
        if process.stdout is not None:
            poll.register(process.stdout, select.POLLIN)
        line = process.stdout.readline() if process.stdout and poll.poll(READY_S * 1_000) else b""
        if not line.startswith(b"ready"):
            raise Unavailable(f"the nodes are not ready; their logs are in {directory}")
        yield [f"127.0.0.1:{port + index}" for index in range(nodes)]
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _free_ports(count: int) -> int:
    """The first of `count` consecutive ports that nobody listens on. They are tried in any order:
    others who start nodes at the same moment are not to find the same."""
    firsts = range(PORT_FREE_MIN, PORT_FREE_MAX, count)
    for first in random.sample(firsts, len(firsts)):
        try:
            for index in range(count):
                with socket.socket() as each:
                    each.bind(("127.0.0.1", first + index))
        except OSError:
            continue
        return first
    raise ConfigError("port", "no ports are free")
