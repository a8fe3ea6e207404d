"""What every object of a node's core shares: the time, the randomness, the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from walle.core.calls import Calls
from walle.core.effects import Outbox
from walle.core.sessions import Sessions
from walle.core.throttle import Throttle
from walle.core.timers import Timers
from walle.limits import NS_PER_MS

if TYPE_CHECKING:
    from walle.core.effects import Address
    from walle.messages import Message


class Random(Protocol):
    """The source of jitter and nonces; `random.Random` is one."""

    def random(self) -> float:
        """In [0, 1)."""

    def getrandbits(self, k: int, /) -> int:
        """k random bits."""


class Context:
    """The driver sets the time before each step and takes the effects after it.

    now_ns: a monotonic clock that counts suspend; for leases and alarms.
    wall_us: microseconds since 1970; for writer ids and write times only.
    has_space: whether the disk has room for entries. Without, what little claims, changes of
        members and `/cluster` need goes on.
    has_reserve: whether it has room for what claims need.
    throttle: bounds what all members together backfill.
    early_bytes: of the puts that all members together keep until they can be looked at.
    """

    def __init__(self, node_id: str, random: Random, *, backfill_bytes_per_second: int = 0) -> None:
        self.node_id = node_id
        self.random = random
        self.now_ns = 0
        self.wall_us = 0
        self.has_space = True
        self.has_reserve = True
        self.early_bytes = 0
        self.outbox = Outbox(node_id)
        self.timers = Timers()
        self.calls = Calls(self)
        self.sessions = Sessions()
        self.throttle = Throttle(self, backfill_bytes_per_second)

    def send(self, to: Address, message: Message, request_id: int = 0) -> None:
        """Sends at once; see `Outbox.send`."""
        self.outbox.send(to, message, request_id)

    def after_ms(self, ms: float) -> int:
        """The time `ms` milliseconds from now, in ns."""
        return self.now_ns + int(ms * NS_PER_MS)

    def jitter_ms(self, ms: float) -> float:
        """A random part of `ms`."""
        return self.random.random() * ms
