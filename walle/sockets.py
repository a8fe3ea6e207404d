"""How a connection's socket is set up, at both of its ends.

A peer that loses its power says no goodbye, and a network that is cut says nothing at all. TCP by
itself would wait for minutes, or, where nothing is on the way, for ever.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from walle.limits import (
    KEEPALIVE_COUNT,
    KEEPALIVE_IDLE_MS,
    KEEPALIVE_INTERVAL_MS,
    UNACKNOWLEDGED_MS_MAX,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence
    from mmap import mmap

_TCP_OPTIONS = (
    ("TCP_NODELAY", 1),
    # Where nothing is on the way, the other side is asked; where something is, it must be
    # acknowledged in time. Other systems than Linux lack some of these.
    ("TCP_KEEPIDLE", KEEPALIVE_IDLE_MS // 1000),
    ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_MS // 1000),
    ("TCP_KEEPCNT", KEEPALIVE_COUNT),
    ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MS_MAX),
)

_CAN_GATHER = hasattr(os, "writev")


def set_up(sock: socket.socket) -> None:
    """For a connection that is made: what is sent goes at once, and a peer that is gone is found
    out in about 10 s."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS:
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def send(
    transport: asyncio.WriteTransport, parts: Sequence[bytes | bytearray | memoryview | mmap]
) -> bool:
    """Writes the parts as one; they need not be kept afterwards. Returns whether the system took
    all of them at once.

    What the system takes at once is not copied before: parts may be large. Writing one after the
    other would have the receiver woken for each. (Under TLS what is sent is made anew anyway.)
    """
    sent = 0
    is_free = not transport.get_write_buffer_size()
    if is_free and _CAN_GATHER and transport.get_extra_info("sslcontext") is None:
        try:
            sent = os.writev(transport.get_extra_info("socket").fileno(), parts)
        except OSError:
            sent = 0  # no room; or an error, which the transport meets as well
    if sent == sum(map(len, parts)):
        return True
    unsent = []
    for part in parts:
        if sent < len(part):
            unsent.append(memoryview(part)[sent:])
        sent = max(sent - len(part), 0)
    transport.write(b"".join(unsent))
    return False
