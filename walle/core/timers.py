"""Named alarms on the caller's clock."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

NEVER = 1 << 63
REPLACED_MAX = 1_024
"""How many alarms that were replaced or cancelled are left lying about until their time."""


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
        if len(self._heap) > 2 * len(self._alarms) + REPLACED_MAX:
            self._heap = [(at, count, each) for each, (at, count, _) in self._alarms.items()]
            heapq.heapify(self._heap)

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
        """Runs what is due, in order of time, unless what ran before it has cancelled or replaced
        it. What an action sets for now runs in the next call."""
        due = []
        while self.next_ns() <= now_ns:
            _, count, key = heapq.heappop(self._heap)
            due.append((key, count))
        for key, count in due:
            alarm = self._alarms.get(key)
            if alarm is not None and alarm[1] == count:
                del self._alarms[key]
                alarm[2]()
