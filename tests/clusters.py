"""Real clusters for tests: real supervisors with their processes, on free loopback ports.

    with DevNodes(tmp_path) as nodes:          # n1, n2, n3 by `walle dev`, ready
        nodes.kill("n2")                       # the whole node, with SIGKILL
        nodes.start("n2")
        nodes.run_node("n4", join=nodes.addresses)

Whatever a test does, its processes end with it, by pid; a process that is left behind fails it.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import psutil
import yaml

from walle.messages import Describe, StreamInfo

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import walle

READY_S = 30.0
STOP_S = 15.0
ROLES = ("network", "consensus", "storage")
SPARE_PORTS = 4
"""Behind those of `walle dev`, for nodes that join."""


_held: dict[int, list[socket.socket]] = {}


def free_ports(count: int) -> int:
    """The first of `count` consecutive loopback ports that nobody listens on.

    They are held until they are released, or this process ends: bound, so that no other test finds
    them free and no connection begins there, but not listened on, so that a node may.
    """
    # Tests that run at the same time begin to look at different places.
    first = 20_000 + os.getpid() * 37 % 20_000
    for port in range(first, 60_000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for index, each in enumerate(sockets):
                each.bind(("127.0.0.1", port + index))
                # Only now: a port that is bound with it from the start is shared with other tests.
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            for each in sockets:
                each.close()
        else:
            _held[port] = sockets
            return port
    raise RuntimeError("no free ports")


def release_ports(first: int) -> None:
    """Others may have these ports from now on; so they may if this is said twice."""
    for each in _held.pop(first, ()):
        each.close()


def wait_until(condition: Any, what: str, timeout_s: float = 30.0) -> Any:
    """Looks again and again until `condition()` is true; returns what it returned. It looks once
    more after the time is up: the machine may have stood still for all of it."""
    until_s = time.monotonic() + timeout_s
    is_last = False
    while not is_last:
        is_last = time.monotonic() >= until_s
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not in {timeout_s} s: {what}")


async def wait_trimmed(client: walle.Client, stream: str, first_id: int) -> None:
    """Waits until every node that runs knows that the stream begins there: a trim is answered once
    the manager knows."""
    members = (await client.describe(stream)).members
    async with asyncio.timeout(30):
        for member in members:
            while True:
                told = await client.node_status(member.address)
                info, _ = await client.ask(Describe(stream), StreamInfo, addresses=[member.address])
                firsts = {s["first_entry_id"] for s in told["streams"] if s["name"] == stream}
                if firsts | {info.first_entry_id} == {first_id}:
                    break
                await asyncio.sleep(0.02)


async def wait_released(client: walle.Client, stream: str) -> None:
    """A majority has been told when the writer's block ends; the third member, which may be asked
    for its view as well, is being told. The lease must last longer than this waits."""
    async with asyncio.timeout(30):
        while True:
            if not (await client.writer_status(stream)).remaining_lease_ms:
                return
            await asyncio.sleep(0.01)


class DevNodes:
    """A cluster run by `walle dev`; each node may be run by a `walle dev --only` of its own.

    apart: whether each node gets a `walle dev --only` of its own from the start.
    errors: a file for what `walle dev` says of dead nodes; else it goes where the tests' own goes.
    """

    def __init__(
        self, directory: Path, count: int = 3, *, apart: bool = False, errors: Path | None = None
    ) -> None:
        self.directory = directory / "nodes"
        self.port = free_ports(count + SPARE_PORTS)
        self.names = [f"n{index + 1}" for index in range(count)]
        self._apart = apart
        self._errors = errors
        self._processes: list[subprocess.Popen[bytes]] = []
        self._commands: list[subprocess.Popen[bytes]] = []
        self._seen: set[psutil.Process] = set()

    @property
    def addresses(self) -> list[str]:
        return [f"127.0.0.1:{self.port + index}" for index in range(len(self.names))]

    @property
    def connect(self) -> str:
        return ",".join(self.addresses)

    def __enter__(self) -> Self:
        try:
            if self._apart:
                waiting = [self._launch("--only", name.removeprefix("n")) for name in self.names]
                for process in waiting:
                    self._wait_ready(process)
            else:
                self._wait_ready(self._launch())
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is not None:
            print(self.logs())  # noqa: T201 - shown with the failure
        self.stop()
        release_ports(self.port)

    def _launch(self, *options: str) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "walle", "dev", "--nodes", str(len(self.names))),
            *("--data", str(self.directory), "--port", str(self.port), *options),
        ]
        if self._errors is None:
            process = subprocess.Popen(command, stdout=subprocess.PIPE)
        else:
            with self._errors.open("ab") as errors:
                process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        self._processes.append(process)
        return process

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        poll = select.poll()  # select() knows no descriptors above 1023
        poll.register(process.stdout, select.POLLIN)
        line = process.stdout.readline() if poll.poll(READY_S * 1000) else b""
        assert line.startswith(b"ready"), f"the cluster is not ready: {line!r}\n{self.logs()}"
        self._seen.update(self._descendants())

    def logs(self) -> str:
        """All nodes' logs."""
        texts = [f"--- {path.name}\n{path.read_text()}" for path in self.directory.glob("*.log")]
        return "\n".join(texts)

    # --- looking ----------------------------------------------------------------------------------

    def run(self, *arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Runs a command that finds this cluster; returns its status and what it printed."""
        return subprocess.run(
            [sys.executable, "-m", "walle", *arguments],
            env=self._environment,
            input=data,
            capture_output=True,
            timeout=120,
            check=False,
        )

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "WALLE_CONNECT": self.connect}

    def popen(
        self, *arguments: str, stdin: int | None = None, stdout: int | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a command that finds this cluster. It ends with the cluster at the latest."""
        process = subprocess.Popen(
            [sys.executable, "-m", "walle", *arguments],
            env=self._environment,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
        self._commands.append(process)
        return process

    def end_of(self, process: subprocess.Popen[bytes]) -> tuple[int, str]:
        """Waits until a started command ends by itself; its status and what it said of errors."""
        with process:
            assert process.stderr is not None
            text = process.stderr.read().decode()
            return process.wait(30), text

    def cli(self, *arguments: str, data: bytes | None = None) -> bytes:
        """Runs a command that must succeed; returns what it printed."""
        done = self.run(*arguments, data=data)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def status(self) -> Any:
        """What `walle status --json` prints."""
        return json.loads(self.cli("status", "--json"))

    def node_status(self, name: str) -> Any:
        """The node's part of the status."""
        return next(each for each in self.status()["nodes"] if each["id"] == name)

    def supervisor(self, name: str) -> int | None:
        """The pid of the node's supervisor, found by its title; None if there is none."""
        for process in self._descendants():
            title = _title(process)
            if title == f"walle {name} supervisor":
                return process.pid
        return None

    def tree(self, name: str) -> list[int]:
        """The pids of the node's processes: the supervisor first, then its children."""
        pid = self.supervisor(name)
        if pid is None:
            return []
        return [pid, *(child.pid for child in psutil.Process(pid).children())]

    def child(self, name: str, role: str) -> int:
        """The pid of one of the node's processes."""
        for pid in self.tree(name):
            if _title(psutil.Process(pid)) == f"walle {name} {role}":
                return pid
        raise AssertionError(f"{name} has no {role} process")

    def _descendants(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for process in self._processes:
            if process.poll() is None:
                itself = psutil.Process(process.pid)
                found += [itself, *itself.children(recursive=True)]
        return found

    def spare_address(self, index: int = 0) -> str:
        """Where a node may listen that joins."""
        return f"127.0.0.1:{self.port + len(self.names) + index}"

    # --- doing ------------------------------------------------------------------------------------

    def kill(self, *names: str) -> None:
        """Kills whole nodes with SIGKILL, all at the same moment as far as that goes."""
        pids = [pid for name in names for pid in self.tree(name)]
        self._seen.update(self._descendants())
        for pid in pids:
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, pids)), f"{names} are gone")

    def kill_dev(self) -> None:
        """Kills `walle dev` itself with SIGKILL."""
        for process in self._processes:
            process.kill()

    def signal(self, pids: Iterable[int], number: signal.Signals) -> None:
        """Sends a signal to processes of this cluster."""
        for pid in pids:
            os.kill(pid, number)

    def start(self, *names: str) -> None:
        """Starts nodes that were killed, each by a `walle dev --only`; waits until ready."""
        launched = [self._launch("--only", name.removeprefix("n")) for name in names]
        for process in launched:
            self._wait_ready(process)

    def run_node(self, name: str, **settings: Any) -> subprocess.Popen[bytes]:
        """Runs a node by `walle node --config`, with these settings and a data directory of its
        own. It logs beside the others, and ends with the cluster at the latest."""
        own = {"node": name, "listen": self.spare_address(), "data": name}
        path = self.directory / f"{name}.yaml"
        path.write_text(yaml.safe_dump(own | settings))
        with (self.directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "walle", "node", "--config", str(path)], stderr=log
            )
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """Stops everything in good order; nothing may be left behind."""
        for command in self._commands:
            with command:
                command.kill()
        self._commands.clear()
        self._seen.update(self._descendants())
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        # By when they began: another process may have the id by now.
        left = [each for each in self._seen if each.is_running() and is_alive(each.pid)]
        for each in left:
            each.kill()
        self._processes.clear()
        assert not left, f"processes were left behind: {left}"


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
