"""PySyncObj: a replicated object behind a small server, since it is a library without one.

    python -m tools.peers.pysyncobj INDEX JOURNAL SERVE_PORT RAFT_PORT,RAFT_PORT,RAFT_PORT

is one node: it takes values, each with its size before it, and answers each with a byte. By itself
PySyncObj never syncs its journal; here it is told to after each entry.
"""

from __future__ import annotations

import importlib.util
import struct
import subprocess
import sys
from pathlib import Path
from socket import create_connection, create_server, socket
from typing import TYPE_CHECKING, Any

from tools.peers.driver import Connection
from tools.peers.servers import HOST, Servers, free_ports, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
SIZE = struct.Struct(">I")
LEADER, FOLLOWER = b"L", b"F"
DONE, FAILED = b"\1", b"\0"


class PySyncObjConnection(Connection):
    """Answers come in the order of the puts."""

    def __init__(self, port: int) -> None:
        super().__init__(HOST, port)
        self._last_id = self._answered_id = 0
        if self.read_exactly(1) != LEADER:
            self.close()
            raise ConnectionError("not the leader")

    def put(self, data: bytes) -> int:
        self.write(SIZE.pack(len(data)) + data)
        self._last_id += 1
        return self._last_id

    def take(self, received: bytearray) -> tuple[list[tuple[int, bool]], int]:
        ended = []
        for answer in received:
            self._answered_id += 1
            ended.append((self._answered_id, answer == DONE[0]))
        return ended, len(received)


class PySyncObj(Servers):
    name = "PySyncObj"
    durability = "patched to sync its journal (msync) after each entry: by itself it never does"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._ports: list[int] = []
        self._leader = 0

    def start(self) -> None:
        if importlib.util.find_spec("pysyncobj") is None:
            command = [sys.executable, "-m", "pip", "install", "-q", "pysyncobj"]
            subprocess.run(command, stdout=sys.stderr, check=True)  # noqa: S603
        ports = free_ports(6)
        self._ports, others = ports[:3], ",".join(map(str, ports[3:]))
        for index, port in enumerate(self._ports):
            journal = str(self.directory / f"n{index}.journal")
            module = (sys.executable, "-m", "tools.peers.pysyncobj")
            self.launch(f"n{index}", [*module, str(index), journal, str(port), others], cwd=ROOT)
        self._leader = wait_for("PySyncObj", self._find_leader)

    def _find_leader(self) -> int | None:
        for port in self._ports:
            with create_connection((HOST, port), timeout=2) as asking:
                if asking.recv(1) == LEADER:
                    return port
        return None

    def connect(self) -> PySyncObjConnection:
        return PySyncObjConnection(self._leader)


# --- a node ---------------------------------------------------------------------------------------


def run_node(index: int, journal: str, port: int, ports: list[int]) -> None:
    """Serves one connection at a time, for ever."""
    node = _make_node(index, journal, [f"{HOST}:{each}" for each in ports])
    with create_server((HOST, port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                leads = node.isReady() and node._isLeader()
                connection.sendall(LEADER if leads else FOLLOWER)
                try:
                    _serve(connection, node.append)
                except OSError:
                    continue


def _make_node(index: int, journal: str, names: list[str]) -> Any:
    from pysyncobj import SyncObj, SyncObjConf, replicated  # noqa: PLC0415 - may not be installed
    from pysyncobj.journal import FileJournal  # noqa: PLC0415

    add = FileJournal.add

    def add_and_sync(self: Any, *entry: Any) -> None:
        add(self, *entry)
        self.flush()

    FileJournal.add = add_and_sync

    class Log(SyncObj):  # type: ignore[misc]
        @replicated  # type: ignore[untyped-decorator]
        def append(self, data: bytes) -> None:
            self.last = data

    others = names[:index] + names[index + 1 :]
    return Log(names[index], others, SyncObjConf(journalFile=journal))


def _serve(connection: socket, append: Callable[..., None]) -> None:
    received = connection.makefile("rb")
    while head := received.read(SIZE.size):

        def answer(_result: object, failure: int) -> None:
            connection.sendall(FAILED if failure else DONE)

        append(received.read(SIZE.unpack(head)[0]), callback=answer)


if __name__ == "__main__":
    run_node(
        int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), list(map(int, sys.argv[4].split(",")))
    )
