"""How a connection's socket is set up, at both of its ends.

A peer that loses its power says no goodbye, and a network that is cut says nothing at all. TCP by
itself would wait for minutes, or, where nothing is on the way, for ever.
"""

from __future__ import annotations

import socket

from walle.limits import (
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE_MS,
    KEEPALIVE_INTERVAL_MS,
    UNACKNOWLEDGED_MS_MAX,
)

_TCP_OPTIONS = (
    ("TCP_NODELAY", 1),
    # Where nothing is on the way, the other side is asked; where something is, it must be
    # acknowledged in time. Other systems than Linux lack some of these.
    ("TCP_KEEPIDLE", KEEPALIVE_IDLE_MS // 1000),
    ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_MS // 1000),
    ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS_MAX),
)


def set_up(sock: socket.socket) -> None:
    """For a connection that is made: what is sent goes at once, and a peer that is gone is found
    out in about 10 s."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS:
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
