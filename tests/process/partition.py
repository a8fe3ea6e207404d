"""Clusters whose nodes can be cut off from each other, but not from clients.

The nodes are known by addresses where a thread of the test listens, and carries on what comes. The
first frame of a connection tells whether a node has made it, and which.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import walle
from tests.clusters import READY_S, DevNodes, free_ports, release_ports
from walle import frame
from walle.config import parse_address
from walle.messages import ROLE_NODE, Hello

if TYPE_CHECKING:
    from pathlib import Path

HELLO_BYTES_MAX = 4_096
CHUNK_BYTES = 1 << 16


class PartedNodes(DevNodes):
    """n1, n2 and n3, each by `walle node`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._behind = free_ports(len(self.names))
        self._listening: list[socket.socket] = []
        self._is_joined = {name: threading.Event() for name in self.names}

    def __enter__(self) -> Self:
        for name, address in zip(self.names, self.addresses, strict=True):
            self.join(name)
            listening = socket.create_server(parse_address("", address))
            self._listening.append(listening)
            threading.Thread(target=self._accept, args=(listening, name), daemon=True).start()
        self.directory.mkdir()
        known = dict(zip(self.names, self.addresses, strict=True))
        try:
            for name in self.names:
                host, port = self._place(name)
                self.run_node(name, listen=f"{host}:{port}", initial_cluster=known)
            asyncio.run(self._wait_until_ready())
        except BaseException:
            self.stop()
            raise
        return self

    def part(self, name: str) -> None:
        """From now on, what this node and the others send each other stays on its way."""
        self._is_joined[name].clear()

    def join(self, name: str) -> None:
        """It arrives."""
        self._is_joined[name].set()

    def stop(self) -> None:
        for listening in self._listening:
            with suppress(OSError):  # it was done before
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
        for name in self.names:
            self.join(name)
        super().stop()
        release_ports(self._behind)

    async def _wait_until_ready(self) -> None:
        async with walle.connect(self.addresses, timeout_s=READY_S) as client:
            await client.create_stream("/ready", timeout_s=READY_S)

    def _place(self, name: str) -> tuple[str, int]:
        """Where the node itself listens."""
        return "127.0.0.1", self._behind + self.names.index(name)

    def _accept(self, listening: socket.socket, name: str) -> None:
        with suppress(OSError):  # stopped
            while True:
                near, _ = listening.accept()
                threading.Thread(target=self._carry_on, args=(near, name), daemon=True).start()

    def _carry_on(self, near: socket.socket, name: str) -> None:
        with near, suppress(OSError), socket.create_connection(self._place(name)) as far:
            _, hello = frame.decode_head(near.recv(HELLO_BYTES_MAX, socket.MSG_PEEK))
            assert isinstance(hello, Hello)
            between = [name, hello.node_id] if hello.role == ROLE_NODE else []
            back = threading.Thread(target=self._carry, args=(far, near, between), daemon=True)
            back.start()
            self._carry(near, far, between)
            back.join()

    def _carry(self, source: socket.socket, target: socket.socket, between: list[str]) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                for name in between:
                    self._is_joined[name].wait()
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
