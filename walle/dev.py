"""`walle dev`: a whole cluster on one machine, each node a real supervisor with its processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

import click
import setproctitle
import yaml

from walle.client.client import connect
from walle.config import parse_node_config
from walle.errors import ConfigError, WalleError
from walle.ids import CLUSTER_STREAM_NAME
from walle.native import set_parent_death_signal
from walle.process.child import EX_CONFIG, EX_SOFTWARE
from walle.supervisor import Supervisor, configure_logging, describe_status

if TYPE_CHECKING:
    from pathlib import Path

    from walle.config import NodeConfig

LOOK_S = 0.05


class DevCluster:
    """Nodes n1, n2, ... at consecutive ports of this machine."""

    def __init__(self, *, nodes: int, data: Path, port: int) -> None:
        self._data = data
        self._port = port
        self._count = nodes
        self._addresses = {f"n{index + 1}": f"127.0.0.1:{port + index}" for index in range(nodes)}
        self._running: dict[int, str] = {}

    def run(self, only: int | None) -> int:
        """Runs the nodes, or only that one, until SIGTERM or SIGINT; returns the exit status."""
        self._data.mkdir(parents=True, exist_ok=True)
        names = [f"n{only}"] if only is not None else list(self._addresses)
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
        path.write_text(text)
        return parse_node_config(settings, directory=self._data)

    def _fork(self, config: NodeConfig) -> int:
        """Forks a node's supervisor, which ends in good order when this process dies."""
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        status = EX_SOFTWARE
        try:
            set_parent_death_signal(signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(0)
            log = os.open(
                self._data / f"{config.node}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
            )
            os.dup2(log, sys.stderr.fileno())
            configure_logging(config.node)
            status = Supervisor(config).run()
        except ConfigError as error:
            logging.getLogger("walle").critical("%s", error)
            status = EX_CONFIG
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
        return 0

    async def _announce(self, names: list[str]) -> None:
        """Prints `ready` once the cluster has a topology manager and the nodes here answer."""
        while True:
            try:
                async with connect([self._addresses[name] for name in names]) as client:
                    status = await client.writer_status(CLUSTER_STREAM_NAME)
                    if status.established and status.remaining_lease_ms:
                        break
            except WalleError:
                pass
            await asyncio.sleep(LOOK_S)
        where = ",".join(self._addresses[name] for name in names)
        click.echo(f"ready: {', '.join(names)} at {where}, data in {self._data}")

    def _reap(self, ended: asyncio.Event, stopping: asyncio.Event) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            name = self._running.pop(pid, None)
            if name is not None and not stopping.is_set():
                number = name.removeprefix("n")
                click.echo(
                    f"node {name} {describe_status(os.waitstatus_to_exitcode(status))}; its log is "
                    f"{self._data / name}.log; to start it again: walle dev --only {number} "
                    f"--nodes {self._count} --data {self._data} --port {self._port}",
                    err=True,
                )
        ended.set()
