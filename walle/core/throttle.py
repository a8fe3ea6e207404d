"""How much one node backfills at a time: what all its members share.

Members that want to fetch take turns, in the order in which they asked, so many at a time; a turn
begins only as far as the rate allows. So live writes keep most of the disk and of the network,
however many streams have gaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.limits import BACKFILL_TURNS_MAX, NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.context import Context

RATE_WINDOW_NS = 2 * NS_PER_S


class Rate:
    """Bytes a second, over the last few seconds."""

    def __init__(self) -> None:
        self._begun_ns = 0
        self._former = self._present = 0

    def add(self, now_ns: int, size: int) -> None:
        """So many bytes have come."""
        self._turn_over(now_ns)
        self._present += size

    def per_second(self, now_ns: int) -> int:
        """Over the present window and the one before it."""
        self._turn_over(now_ns)
        elapsed_ns = RATE_WINDOW_NS + now_ns - self._begun_ns
        return (self._former + self._present) * NS_PER_S // elapsed_ns

    def _turn_over(self, now_ns: int) -> None:
        windows = (now_ns - self._begun_ns) // RATE_WINDOW_NS
        if windows:
            self._former = self._present if windows == 1 else 0
            self._present = 0
            self._begun_ns += windows * RATE_WINDOW_NS


class Throttle:
    """Turns to fetch.

    bytes_per_second: what all of them together fetch at the most; 0: as fast as it goes.
    """

    def __init__(self, context: Context, bytes_per_second: int) -> None:
        self._context = context
        self._bytes_per_second = bytes_per_second
        self._waiting: dict[int, Callable[[], None]] = {}
        self._turns: set[int] = set()
        self._free_ns = 0
        self._is_going_on = False

    def ask(self, stream_id: int, then: Callable[[], None]) -> None:
        """Calls `then` once it is the stream's turn, which lasts until `end`."""
        self._waiting[stream_id] = then
        self._go_on()

    def end(self, stream_id: int, size: int) -> None:
        """The stream's turn is over; it has brought `size` bytes."""
        self._turns.discard(stream_id)
        if self._bytes_per_second:
            cost_ns = size * NS_PER_S // self._bytes_per_second
            self._free_ns = max(self._free_ns, self._context.now_ns) + cost_ns
        self._go_on()

    def _go_on(self) -> None:
        if self._is_going_on:
            return  # a turn that ends at once: thousands of streams may have left while they waited
        self._is_going_on = True
        while self._waiting and len(self._turns) < BACKFILL_TURNS_MAX:
            if self._context.now_ns < self._free_ns:
                self._context.timers.set("backfill turn", self._free_ns, self._go_on)
                break
            stream_id = next(iter(self._waiting))
            then = self._waiting.pop(stream_id)
            self._turns.add(stream_id)
            then()
        self._is_going_on = False
