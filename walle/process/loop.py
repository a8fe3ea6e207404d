"""How a ring-driven process runs: work while there is any, then sleep until bell or alarm."""

from __future__ import annotations

import select
import signal
import time
from typing import TYPE_CHECKING, Protocol

from walle.limits import NS_PER_MS

if TYPE_CHECKING:
    from types import FrameType

    from walle.native import Buffer
    from walle.ring.bell import Bell
    from walle.ring.spsc import Ring

SLEEP_MS_MAX = 1_000
ROOM_MS = 100


def now_ns() -> int:
    """The clock of leases and alarms: monotonic, and it counts the time a machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Role(Protocol):
    """What a process does."""

    def do_work(self) -> int:
        """Does what there is to do; returns how much it was, 0 for nothing."""

    def may_sleep(self) -> bool:
        """Arms what wakes this process; False if work came in meanwhile."""

    def next_ns(self) -> int:
        """When there will be something to do, bells aside."""


class Loop:
    """Runs a role until SIGTERM."""

    def __init__(self, bell: Bell) -> None:
        self.is_stopping = False
        self._bell = bell
        # Edge-triggered: each ring wakes once, so the bell need not be cleared.
        self._epoll = select.epoll()
        self._epoll.register(bell.fd, select.EPOLLIN | select.EPOLLET)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self.is_stopping = True
        self._bell.ring()

    def run(self, role: Role) -> None:
        """Works and sleeps until the stop signal."""
        while not self.is_stopping:
            role.do_work()
            if role.may_sleep():
                self.sleep((role.next_ns() - now_ns()) / NS_PER_MS)

    def sleep(self, ms: float) -> None:
        """Sleeps until the bell rings, but so long at most."""
        if ms > 0:
            self._epoll.poll(min(ms, SLEEP_MS_MAX) / 1_000)

    def write(self, ring: Ring, consumer_bell: Bell, parts: list[Buffer]) -> None:
        """Writes one message, not yet visible; waits for room if there is none."""
        while not ring.try_write(*parts):
            if ring.publish():
                consumer_bell.ring()
            if ring.arm_producer(sum(len(part) for part in parts)):
                self.sleep(ROOM_MS)
