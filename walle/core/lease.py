"""Lease arithmetic, on both sides. docs/protocol.md, "Read lease".

A member measures the whole lease from the *receipt* of a put; the writer counts three quarters of
it from the *sending* of the newest put that reached a majority. So the two agree as long as the
rates of any two clocks differ by a factor of at most 4/3 over a lease; absolute time never matters.
"""

from __future__ import annotations

from walle.limits import NS_PER_MS

EXCLUSIVE_NUMERATOR = 3
EXCLUSIVE_DENOMINATOR = 4


def exclusive_until_ns(sent_ns: int, lease_ms: int) -> int:
    """Until when a writer is exclusive whose newest majority-acknowledged put was sent then."""
    return sent_ns + lease_ms * NS_PER_MS * EXCLUSIVE_NUMERATOR // EXCLUSIVE_DENOMINATOR


class OwedLeases:
    """The leases that one member has granted for a stream and may still owe.

    promised_until_ns: until when the promised writer may believe itself exclusive.
    older_until_ns: the same for *all* older writers this member ever renewed: a maximum.
    awaited_until_ns: until when the promised writer, whose claim may be under way still, may be
        expected to make itself heard. Nothing is owed to it for that.

    After a restart the member acts as though every writer it may owe a lease to renewed it when
    the process started: it cannot know better.
    """

    def __init__(self, *, now_ns: int, lease_ms: int, older_lease_ms: int) -> None:
        self._lease_ms = lease_ms
        self._older_lease_ms = older_lease_ms
        self._is_released = False
        self.awaited_until_ns = 0
        self.promised_until_ns = now_ns + lease_ms * NS_PER_MS
        self.older_until_ns = now_ns + older_lease_ms * NS_PER_MS

    def renew(self, now_ns: int) -> None:
        """The promised writer's put was received. One that its Release has overtaken, or that a
        relay still sends for it, renews nothing: the writer has stopped to be exclusive."""
        if not self._is_released:
            until_ns = now_ns + self._lease_ms * NS_PER_MS
            self.promised_until_ns = max(self.promised_until_ns, until_ns)

    def supersede(self, now_ns: int, lease_ms: int) -> int:
        """A newer writer, with that lease, is promised; what is owed to the former stays owed.

        Returns:
            The longest lease of an older writer that may still be running, in ms; to be durable
            with the promise.
        """
        older = [0]
        if self.older_until_ns > now_ns:
            older.append(self._older_lease_ms)
        if self.promised_until_ns > now_ns:
            older.append(self._lease_ms)
        self._older_lease_ms = max(older)
        self._lease_ms = lease_ms
        self.older_until_ns = max(self.older_until_ns, self.promised_until_ns)
        self.promised_until_ns = 0
        self.awaited_until_ns = now_ns + lease_ms * NS_PER_MS
        self._is_released = False
        return self._older_lease_ms

    def release(self) -> None:
        """The promised writer ended in good order. What is owed to older ones stays owed."""
        self.promised_until_ns = self.awaited_until_ns = 0
        self._is_released = True

    @property
    def until_ns(self) -> int:
        """Until when anybody may believe itself exclusive."""
        return max(self.promised_until_ns, self.older_until_ns)

    def remaining_ms(self, now_ns: int) -> int:
        """How much of any lease is left, rounded up."""
        return max(0, -(-(self.until_ns - now_ns) // NS_PER_MS))
