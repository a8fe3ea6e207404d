"""The network process's selector: it tells when a turn of the event loop is over.

In a turn, asyncio calls back for all that was ready when it looked last. Then it asks its selector
what is ready next, and here that is the end of the turn.
"""

from __future__ import annotations

import os
import select
import selectors
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class TurnSelector(selectors.EpollSelector):
    """at_end: is called at the end of each turn; it schedules nothing, for the loop may sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.at_end: Callable[[], None] = lambda: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.at_end()
        return super().select(timeout)

    def wait_for_edges(self, fd: int) -> None:
        """Of that descriptor, which is registered, each event is told once, as a bell needs it."""
        with select.epoll.fromfd(os.dup(self.fileno())) as same:
            same.modify(fd, select.EPOLLIN | select.EPOLLET)
