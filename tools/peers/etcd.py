"""etcd: puts by gRPC, over HTTP/2 written by hand, which costs its client least."""

from __future__ import annotations

import json
import secrets
import struct
from typing import TYPE_CHECKING

from tools.peers.driver import Connection
from tools.peers.servers import HOST, Servers, free_ports, program, run, wait_for

if TYPE_CHECKING:
    from pathlib import Path

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW = 4
WINDOW_BYTES_DEFAULT = 65_535
WINDOW_BYTES_MAX = (1 << 31) - 1
FRAME_HEAD = struct.Struct(">BHBBI")
INDEXED = b"\x83\x86\xc1\xc0\xbf\xbe"
"""Header fields by their places in the table that the first request has filled."""


class EtcdConnection(Connection):
    """Each put is an HTTP/2 stream; ids are those of the streams."""

    def __init__(self, port: int) -> None:
        super().__init__(HOST, port)
        authority = f"{HOST}:{port}".encode()
        self._headers = (
            b"\x83\x86\x44"
            + _text(b"/etcdserverpb.KV/Put")
            + b"\x41"
            + _text(authority)
            + b"\x5f"
            + _text(b"application/grpc")
            + b"\x40"
            + _text(b"te")
            + _text(b"trailers")
        )
        self._stream = -1
        self._key = secrets.randbits(64)
        self._window = WINDOW_BYTES_DEFAULT
        self._held: list[tuple[bytes, int]] = []
        self._answered: set[int] = set()
        window = struct.pack(">HI", INITIAL_WINDOW, 1 << 30)
        more = struct.pack(">I", WINDOW_BYTES_MAX - WINDOW_BYTES_DEFAULT)
        self.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(SETTINGS, 0, 0, window)
            + _frame(WINDOW, 0, 0, more)
        )

    def put(self, data: bytes) -> int:
        self._stream += 2
        self._key += 1
        key = b"%024x" % self._key
        request = b"\x0a" + _number(len(key)) + key + b"\x12" + _number(len(data)) + data
        body = b"\0" + struct.pack(">I", len(request)) + request
        frames = _frame(HEADERS, END_HEADERS, self._stream, self._headers)
        self._headers = INDEXED
        self._held.append((frames + _frame(DATA, END_STREAM, self._stream, body), len(body)))
        self._release()
        return self._stream

    def _release(self) -> None:
        """Writes what the server's window has room for."""
        while self._held and self._held[0][1] <= self._window:
            frames, size = self._held.pop(0)
            self._window -= size
            self.write(frames)

    def take(self, received: bytearray) -> tuple[list[tuple[int, bool]], int]:
        ended: list[tuple[int, bool]] = []
        used = 0
        while len(received) - used >= FRAME_HEAD.size:
            high, low, kind, flags, stream = FRAME_HEAD.unpack_from(received, used)
            start = used + FRAME_HEAD.size
            end = start + (high << 16 | low)
            if end > len(received):
                break
            self._handle(kind, flags, stream, bytes(received[start:end]), ended)
            used = end
        self._release()
        return ended, used

    def _handle(
        self, kind: int, flags: int, stream: int, payload: bytes, ended: list[tuple[int, bool]]
    ) -> None:
        if kind == DATA and payload:
            self._answered.add(stream)
        elif kind == HEADERS and flags & END_STREAM:  # an error has no data before its trailers
            ended.append((stream, stream in self._answered))
            self._answered.discard(stream)
        elif kind == RESET:
            ended.append((stream, False))
        elif kind == WINDOW and not stream:
            self._window += int.from_bytes(payload, "big")
        elif kind in (SETTINGS, PING) and not flags & ACK:
            self.write(_frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == GOAWAY:
            raise ConnectionError(f"etcd ends the connection: {payload!r}")


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return FRAME_HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def _text(text: bytes) -> bytes:
    return bytes((len(text),)) + text


def _number(value: int) -> bytes:
    encoded = b""
    while value > 0x7F:
        encoded += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return encoded + bytes((value,))


class Etcd(Servers):
    name = "etcd"
    durability = "default settings: each node syncs its log before it counts towards the majority"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._ports: list[int] = []
        self._leader = 0

    def start(self) -> None:
        server = program("etcd", "etcd-server")
        ports = free_ports(6)
        self._ports, peers = ports[:3], ports[3:]
        cluster = ",".join(f"n{index}=http://{HOST}:{port}" for index, port in enumerate(peers))
        for index in range(3):
            client, peer = f"http://{HOST}:{self._ports[index]}", f"http://{HOST}:{peers[index]}"
            self.launch(
                f"n{index}",
                [
                    *(server, "--name", f"n{index}", "--data-dir", f"{self.directory}/n{index}"),
                    *("--listen-client-urls", client, "--advertise-client-urls", client),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                    *("--initial-cluster", cluster, "--log-level", "error"),
                ],
            )
        self._leader = wait_for("etcd", self._find_leader)

    def _find_leader(self) -> int | None:
        """The port of the node that all take for the leader."""
        ends = ",".join(f"http://{HOST}:{port}" for port in self._ports)
        control = program("etcdctl", "etcd-client")
        told = run("env", "ETCDCTL_API=3", control, "--endpoints", ends, *STATUS)
        nodes = [each["Status"] for each in json.loads(told)]
        if len(nodes) < 3 or len({each["leader"] for each in nodes}) > 1:
            return None
        ids = [each["header"]["member_id"] for each in nodes]
        return self._ports[ids.index(nodes[0]["leader"])]

    def connect(self) -> EtcdConnection:
        return EtcdConnection(self._leader)


STATUS = ("endpoint", "status", "-w", "json")
