"""ZooKeeper: setData by its own protocol, on some nodes in turn."""

from __future__ import annotations

import struct
from pathlib import Path
from socket import create_connection

from tools.peers.driver import Connection
from tools.peers.servers import HOST, Servers, free_ports, install, program, wait_for

JARS = Path("/usr/share/java")
NODES_COUNT = 64
CREATE, SET_DATA = 1, 5
ALREADY_THERE = -110
SESSION_MS = 10_000
INT = struct.Struct(">i")
REPLY = struct.Struct(">iiqi")
"""Size, id, transaction, error."""


class ZooKeeperConnection(Connection):
    def __init__(self, port: int) -> None:
        super().__init__(HOST, port)
        hello = struct.pack(">iqiqi", 0, 0, SESSION_MS, 0, 16) + bytes(16)
        self.socket.sendall(INT.pack(len(hello)) + hello)
        (size,) = INT.unpack(self.read_exactly(4))
        self.read_exactly(size)
        self._id = 0
        for index in range(NODES_COUNT):
            self._create(b"/bench%02d" % index)

    def _create(self, path: bytes) -> None:
        self._id += 1
        everybody = struct.pack(">ii", 1, 31) + _text(b"world") + _text(b"anyone")
        body = struct.pack(">ii", self._id, CREATE) + _text(path) + _text(b"") + everybody
        body += INT.pack(0)
        self.socket.sendall(INT.pack(len(body)) + body)
        (size,) = INT.unpack(self.read_exactly(4))
        (error,) = INT.unpack(self.read_exactly(size)[12:16])
        if error not in (0, ALREADY_THERE):
            raise ConnectionError(f"ZooKeeper: error {error}")

    def put(self, data: bytes) -> int:
        self._id += 1
        path = b"/bench%02d" % (self._id % NODES_COUNT)
        body = struct.pack(">ii", self._id, SET_DATA) + _text(path) + _text(data) + INT.pack(-1)
        self.write(INT.pack(len(body)) + body)
        return self._id

    def take(self, received: bytearray) -> tuple[list[tuple[int, bool]], int]:
        ended = []
        used = 0
        while len(received) - used >= REPLY.size:
            size, put_id, _, error = REPLY.unpack_from(received, used)
            if used + 4 + size > len(received):
                break
            if put_id > 0:
                ended.append((put_id, not error))
            used += 4 + size
        return ended, used


def _text(text: bytes) -> bytes:
    return INT.pack(len(text)) + text


class ZooKeeper(Servers):
    name = "ZooKeeper"
    durability = "default settings: each server syncs its log before it acknowledges to the leader"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._ports: list[int] = []
        self._leader = 0

    def start(self) -> None:
        java = program("java", "default-jre-headless")
        if not (JARS / "zookeeper.jar").exists():
            install("libzookeeper-java")
        ports = free_ports(9)
        self._ports = ports[:3]
        servers = "".join(
            f"server.{index + 1}={HOST}:{ports[3 + index]}:{ports[6 + index]}\n"
            for index in range(3)
        )
        for index, port in enumerate(self._ports):
            home = self.directory / f"n{index}"
            home.mkdir()
            (home / "myid").write_text(f"{index + 1}\n")
            config = home.with_suffix(".cfg")
            config.write_text(
                f"tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={home}\nclientPort={port}\n"
                f"clientPortAddress={HOST}\nadmin.enableServer=false\n"
                f"4lw.commands.whitelist=srvr\n{servers}"
            )
            main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
            self.launch(f"n{index}", [java, "-Xmx1g", "-cp", f"{JARS}/*", main, str(config)])
        self._leader = wait_for("ZooKeeper", self._find_leader)
        wait_for("ZooKeeper", self._can_connect)

    def _can_connect(self) -> bool:
        self.connect().close()
        return True

    def _find_leader(self) -> int | None:
        modes = []
        for port in self._ports:
            with create_connection((HOST, port), timeout=2) as asking:
                asking.sendall(b"srvr")
                modes.append(asking.makefile("rb").read())
        leaders = [
            port for port, mode in zip(self._ports, modes, strict=True) if b"Mode: leader" in mode
        ]
        followers = sum(b"Mode: follower" in mode for mode in modes)
        return leaders[0] if leaders and followers == 2 else None

    def connect(self) -> ZooKeeperConnection:
        return ZooKeeperConnection(self._leader)
