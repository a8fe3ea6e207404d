"""The bell: by which one process wakes another that sleeps in its event loop.

An eventfd (eventfd(2)), inherited over fork. It is rung only when a ring says that the other side
sleeps: a system call and a wake-up cost more than what a busy process does per batch.
"""

from __future__ import annotations

import os


class Bell:
    """Rings are not counted: any number before a `clear` is one wake-up.

    fd: becomes readable when the bell is rung, until it is cleared. Who waits for it by an
        edge-triggered epoll need not clear it: each ring is an event, whatever the counter holds.
    """

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        """Wakes whoever waits for `fd`."""
        try:
            os.eventfd_write(self.fd, 1)
        except BlockingIOError:
            return  # a counter at its end, which is where the write would block, has been rung

    def clear(self) -> None:
        """Makes `fd` unreadable. The sleeper calls it before it looks for its work, never after."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return  # it is silent

    def close(self) -> None:
        """Closes this process's descriptor."""
        os.close(self.fd)
