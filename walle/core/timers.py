"""Named alarms on the caller's clock."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

NEVER = 1 << 63


class Timers:
    """At most one alarm a key; setting it again replaces it. Times are ns on the caller's clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Hashable]] = []
        self._alarms: dict[Hashable, tuple[int, int, Callable[[], None]]] = {}
        self._count = 0

    def set(self, key: Hashable, at_ns: int, action: Callable[[], None]) -> None:
        """Calls `action` once, at `at_ns`."""
        self._count += 1
        self._alarms[key] = (at_ns, self._count, action)
        heapq.heappush(self._heap, (at_ns, self._count, key))

    def set_if_unset(self, key: Hashable, at_ns: int, action: Callable[[], None]) -> None:
        """As `set`, but leaves an alarm of that key alone."""
        if key not in self._alarms:
            self.set(key, at_ns, action)

    def cancel(self, key: Hashable) -> None:
        self._alarms.pop(key, None)

    def is_set(self, key: Hashable) -> bool:
        return key in self._alarms

    def next_ns(self) -> int:
        """When the next alarm is due; NEVER when none is set."""
        while self._heap:
            at_ns, count, key = self._heap[0]
            alarm = self._alarms.get(key)
            if alarm is not None and alarm[1] == count:
                return at_ns
            heapq.heappop(self._heap)  # replaced or cancelled
        return NEVER

    def run_due(self, now_ns: int) -> None:
        """Runs what is due, in order of time. What an action sets for now runs in the next call."""
        due = []
        while self.next_ns() <= now_ns:
            _, _, key = heapq.heappop(self._heap)
            due.append(self._alarms.pop(key)[2])
        for action in due:
            action()
