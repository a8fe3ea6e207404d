"""NATS JetStream: publishes to a stream of three replicas, by its text protocol."""

from __future__ import annotations

import json
import secrets
from socket import create_connection
from typing import TYPE_CHECKING, Any

from tools.peers.driver import Connection
from tools.peers.servers import HOST, Servers, free_ports, program, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

HELLO = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
STREAM = {
    "name": "LOG",
    "subjects": ["log"],
    "storage": "file",
    "retention": "limits",
    "num_replicas": 3,
}


class NatsConnection(Connection):
    """Each put has an inbox of its own, for its acknowledgement."""

    def __init__(self, port: int) -> None:
        super().__init__(HOST, port)
        self._inbox = b"_INBOX.%s." % secrets.token_hex(6).encode()
        self._id = 0
        self.socket.sendall(HELLO + b"SUB " + self._inbox + b"* 1\r\nPING\r\n")
        greeting = b""
        while b"PONG\r\n" not in greeting:
            greeting += self.read_exactly(1)

    def put(self, data: bytes) -> int:
        self._id += 1
        head = b"PUB log %s%d %d\r\n" % (self._inbox, self._id, len(data))
        self.write(head + data + b"\r\n")
        return self._id

    def take(self, received: bytearray) -> tuple[list[tuple[int, bool]], int]:
        ended: list[tuple[int, bool]] = []
        used = 0
        while (line_end := received.find(b"\r\n", used)) >= 0:
            words = bytes(received[used:line_end]).split()
            end = line_end + 2
            if words[0] in (b"MSG", b"HMSG"):
                end += int(words[-1]) + 2
                if end > len(received):
                    break
                answer = received[line_end + 2 : end - 2]
                is_durable = b'"seq":' in answer and b'"error"' not in answer
                ended.append((int(words[1][len(self._inbox) :]), is_durable))
            elif words[0] == b"PING":
                self.write(b"PONG\r\n")
            elif words[0] == b"-ERR":
                raise ConnectionError(f"NATS: {received[used:line_end].decode()}")
            used = end
        return ended, used


class Nats(Servers):
    name = "NATS JetStream"
    durability = (
        "3 replicas; its files have the attribute S (chattr), so that every write is synchronous: "
        "by default it syncs every two minutes"
    )

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._ports: list[int] = []
        self._leader = 0

    def start(self) -> None:
        server = program("nats-server", "nats-server")
        ports = free_ports(6)
        self._ports, routes = ports[:3], ports[3:]
        others = ", ".join(f'"nats://{HOST}:{port}"' for port in routes)
        for index, port in enumerate(self._ports):
            store = self.directory / f"n{index}"
            store.mkdir()
            run("chattr", "+S", str(store))
            config = store.with_suffix(".conf")
            config.write_text(
                f'server_name: n{index}\nlisten: "{HOST}:{port}"\n'
                f'jetstream {{ store_dir: "{store}" }}\n'
                f'cluster {{ name: peers, listen: "{HOST}:{routes[index]}", routes: [{others}] }}\n'
            )
            self.launch(f"n{index}", [server, "-c", str(config)])
        wait_for("NATS JetStream", lambda: "config" in self._ask("CREATE", STREAM))
        self._leader = wait_for("NATS JetStream", self._find_leader)

    def _find_leader(self) -> int | None:
        cluster = self._ask("INFO", {})["cluster"]
        if not all(each["current"] for each in cluster["replicas"]):
            return None
        return self._ports[int(cluster["leader"].removeprefix("n"))]

    def _ask(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        body = json.dumps(request).encode() if request else b""
        with create_connection((HOST, self._ports[0]), timeout=5) as asking:
            subject = f"$JS.API.STREAM.{what}.LOG"
            head = f"SUB answer 1\r\nPUB {subject} answer {len(body)}\r\n"
            asking.sendall(HELLO + head.encode() + body + b"\r\n")
            lines = asking.makefile("rb")
            for line in lines:
                if line.startswith(b"MSG "):
                    answer: dict[str, Any] = json.loads(lines.read(int(line.split()[-1])))
                    return answer
                if line.startswith(b"HMSG "):
                    break
        raise OSError("NATS JetStream does not answer")

    def connect(self) -> NatsConnection:
        return NatsConnection(self._leader)
