"""Server processes on loopback with their data in one directory, and what they need installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import psutil

from walle.native import set_parent_death_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from tools.peers.driver import Connection

HOST = "127.0.0.1"
READY_S = 60.0
STOP_S = 10.0

T = TypeVar("T")


class Servers:
    """A peer's three servers. They end with the block, by pid, and with this process.

    durability: what an acknowledgement means, with the settings used here.
    connections_max: how many connections share the load; 1: one pipelines it all.
    """

    name = ""
    durability = ""
    connections_max = 1
    stop_signal = signal.SIGKILL  # the data are thrown away

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Starts them; returns when they take writes."""
        raise NotImplementedError

    def connect(self) -> Connection:
        """A connection that puts."""
        raise NotImplementedError

    def launch(
        self,
        name: str,
        command: Sequence[str],
        *,
        user: str | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Starts a server, with its output in a file."""
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(  # noqa: S603 - what is measured
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    user=user,
                    cwd=cwd or self.directory,
                    process_group=0,
                    preexec_fn=partial(set_parent_death_signal, signal.SIGKILL),  # noqa: PLW1509
                )
            )

    def pids(self) -> Mapping[str, int]:
        """All processes of the servers that run now."""
        running = [psutil.Process(each.pid) for each in self._processes]
        every = [each for top in running for each in (top, *top.children(recursive=True))]
        return {f"{self.name} {each.pid}": each.pid for each in every}

    def stop(self) -> None:
        for process in self._processes:
            process.send_signal(self.stop_signal)
        for process in self._processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(what: str, look: Callable[[], T | None]) -> T:
    """Looks until something is found, and returns it."""
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s:
        try:
            found = look()
        except (OSError, ValueError, LookupError):  # not there yet
            found = None
        if found:
            return found
        time.sleep(0.1)
    raise RuntimeError(f"{what}: not ready in {READY_S:.0f} s")


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports: list[int] = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def program(name: str, package: str) -> str:
    """A program's path; its Debian package is installed if it is not there."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    if not shutil.which(name, path=path):
        install(package)
    found = shutil.which(name, path=path)
    if found is None:
        raise RuntimeError(f"{package} was installed, but there is no {name}")
    return found


def install(package: str) -> None:
    """Installs a Debian package without starting its services."""
    command = ["apt-get", "install", "-y", "--no-install-recommends", package]
    if os.geteuid():
        raise RuntimeError(f"missing; install it by: sudo {' '.join(command)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    subprocess.run(command, env=environment, stdout=sys.stderr, check=True)  # noqa: S603


def run(*command: str, user: str | None = None, cwd: Path | None = None) -> str:
    """A command's output; it must succeed."""
    done = subprocess.run(  # noqa: S603
        command, capture_output=True, text=True, check=False, user=user, cwd=cwd, timeout=READY_S
    )
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr[-500:]}")
    return done.stdout.strip()
