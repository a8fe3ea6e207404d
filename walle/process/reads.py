"""The reads that storage was asked for and has not come to yet.

Each session has a queue, and the queues are served in turn: whoever asks for much waits behind
nobody but itself. What several sessions want of a stream is in a queue of the stream's.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from walle.limits import READS_QUEUED_MAX, READS_QUEUED_SESSION_MAX

if TYPE_CHECKING:
    from walle.core.effects import ReadAction
    from walle.process.mail import Destination


class Reads:
    """Bounded, for each session and in all."""

    def __init__(self) -> None:
        self._queues: dict[Destination, deque[ReadAction]] = {}  # whose turn it is stands first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, whose: Destination, read: ReadAction) -> bool:
        """Returns whether there was room for it."""
        queue = self._queues.get(whose)
        if self._count >= READS_QUEUED_MAX or len(queue or ()) >= READS_QUEUED_SESSION_MAX:
            return False
        if queue is None:
            queue = self._queues[whose] = deque()
        queue.append(read)
        self._count += 1
        return True

    def take(self) -> ReadAction:
        """The oldest of the session whose turn it is."""
        whose = next(iter(self._queues))
        queue = self._queues.pop(whose)
        if len(queue) > 1:
            self._queues[whose] = queue
        self._count -= 1
        return queue.popleft()

    def drop(self, whose: Destination) -> None:
        """That session has ended."""
        self._count -= len(self._queues.pop(whose, ()))
