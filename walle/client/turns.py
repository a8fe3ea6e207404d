"""Whose turn it is to send: the writers of a client together have few batches in flight.

If more were, they would wait somewhere for a processor or a disk. So it is the entries that wait,
here, where those that come meanwhile join them: batches are larger when they go, and durable soon
after they went. A writer that waits tells its commit point in its turn, too.
"""

from __future__ import annotations

import asyncio
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Protocol

from walle.client.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Callable

TURNS = 16
"""So many batches are in flight before a writer has to wait for its turn. With fewer, many streams
keep the nodes busy with rounds of little work; with more, entries wait longer."""
ONE_EACH = 8
"""With so many in flight, no writer has more than one: its batches would only get smaller."""
COUNTED_S = 0.01
"""For so long a batch counts. Whatever takes longer waits for something else than its turn: for a
slow disk, a far node, one that cannot be reached. That is no reason for others to wait."""


class Sender(Protocol):
    """A writer, as it waits for its turn."""

    def send_batch(self) -> None:
        """Its turn has come: sends a batch, if it has one, and takes the turn by that."""


class Turns:
    """Who waits for a turn, and which turns are taken. First come, first served, one batch each.

    on_free: called when `serve` may have something to do.
    """

    def __init__(self, on_free: Callable[[], None]) -> None:
        self._in_flight = 0
        self._on_free = on_free
        self._waiting: dict[Sender, None] = {}
        self._counted_until_s: dict[int, float] = {}  # in the order of taking
        self._new_turn = count().__next__
        self._timer = Timer(on_free)

    def wait(self, sender: Sender) -> None:
        """The sender is to have a turn, behind those who wait already."""
        self._waiting[sender] = None
        self._on_free()

    def leave(self, sender: Sender) -> None:
        """It does not wait any more."""
        self._waiting.pop(sender, None)

    def take(self) -> int:
        """A batch is sent; returns what to give back once it is not in flight any more."""
        turn = self._new_turn()
        self._in_flight += 1
        self._counted_until_s[turn] = asyncio.get_running_loop().time() + COUNTED_S
        return turn

    def give_back(self, turn: int) -> None:
        self._in_flight -= 1
        self._counted_until_s.pop(turn, None)
        if self._waiting:
            self._on_free()

    @property
    def is_busy(self) -> bool:
        """Whether one batch each is enough, as so many are in flight, whether they count or not."""
        return self._in_flight >= ONE_EACH

    @property
    def is_contended(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    @property
    def is_free(self) -> bool:
        """Whether somebody waits who need not."""
        return bool(self._waiting) and len(self._counted_until_s) < TURNS

    def serve(self) -> None:
        """Lets those send whose turn has come."""
        if not self._waiting:
            return
        self._forget_old()
        while self.is_free:
            sender = next(iter(self._waiting))
            del self._waiting[sender]
            sender.send_batch()
        if self._waiting and self._timer.due_s == inf:
            self._timer.set(next(iter(self._counted_until_s.values())))

    def _forget_old(self) -> None:
        now_s = asyncio.get_running_loop().time()
        while self._counted_until_s:
            turn, until_s = next(iter(self._counted_until_s.items()))
            if until_s > now_s:
                break
            del self._counted_until_s[turn]
