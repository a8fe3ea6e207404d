"""A client's connection finds out by itself that its node is gone."""

from __future__ import annotations

import asyncio
import socket

from walle import limits
from walle.client.session import Session


def test_a_clients_connection_looks_whether_the_node_is_there() -> None:
    async def run() -> list[int]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: Session("a node"), *listener.getsockname()
            )
            sock = transport.get_extra_info("socket")
            found = [sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)]
            found += [
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (
                    socket.TCP_NODELAY,
                    socket.TCP_KEEPIDLE,
                    socket.TCP_KEEPINTVL,
                    socket.TCP_KEEPCNT,
                    socket.TCP_USER_TIMEOUT,
                )
            ]
            transport.abort()
            await asyncio.sleep(0)
            return found

    assert asyncio.run(run()) == [1, 1, 5, 2, 3, 10_000]


def test_a_peer_is_given_up_in_about_the_same_time_whether_or_not_something_is_on_the_way() -> None:
    silent_ms = limits.KEEPALIVE_IDLE_MS + limits.KEEPALIVE_COUNT * limits.KEEPALIVE_INTERVAL_MS
    assert abs(silent_ms - limits.UNACKNOWLEDGED_MS_MAX) <= limits.KEEPALIVE_INTERVAL_MS
