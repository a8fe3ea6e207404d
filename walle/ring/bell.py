"""The bell: by which one process wakes another that sleeps in its event loop.

An eventfd (eventfd(2)), inherited over fork. It is rung only when a ring says that the other side
sleeps: a system call and a wake-up cost more than what a busy process does per batch.
"""

from __future__ import annotations

import os


class Bell:
    """Rings are not counted: any number before somebody looks is one wake-up.

    fd: is waited for by an edge-triggered epoll, to which each ring is an event, whatever the
        counter holds. So nobody has to read it.
    """

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        """Wakes whoever waits for `fd`."""
        try:
            os.eventfd_write(self.fd, 1)
        except BlockingIOError:
            return  # a counter at its end, which is where the write would block, has been rung

    def close(self) -> None:
        """Closes this process's descriptor."""
        os.close(self.fd)
