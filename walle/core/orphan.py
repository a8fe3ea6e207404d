"""Committing what a vanished writer left.

When a stream has had no writer for a lease and a little more, and this member's tail is above its
commit point, the member claims the stream as `_internal:<node>`, commits and releases at once: so
readers see everything that was acknowledged. It does the same when a change of members waits for a
commit point. An idle stream is never claimed otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core.claim import Claim, Claimed
from walle.limits import LEASE_MS_MIN, NS_PER_MS
from walle.messages import Put, Release

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.context import Context
    from walle.core.member import Member
    from walle.messages import Message

INTERNAL_PREFIX = "_internal:"
CLAIM_MS = 5_000
TELL_MS = 2_000


class Orphan:
    """Watches one member's uncommitted suffix."""

    def __init__(self, context: Context, member: Member) -> None:
        self._context = context
        self._member = member
        self._key = ("orphan", member.stream_id)
        self._is_claiming = False

    def watch(self) -> None:
        """To be called when the suffix, the lease or what is asked for may have changed."""
        timers = self._context.timers
        if not timers.is_set(self._key) and self._is_needed and not self._is_claiming:
            timers.set(self._key, self._due_ns(), self._check)

    @property
    def _is_needed(self) -> bool:
        member = self._member
        is_open = member.history.suffix_count > 0 or member.joining.is_waiting
        return member.is_named and is_open

    def _due_ns(self) -> int:
        wait_ms = LEASE_MS_MIN + self._context.jitter_ms(2 * LEASE_MS_MIN)
        return max(self._silent_since_ns, self._context.now_ns) + int(wait_ms * NS_PER_MS)

    @property
    def _silent_since_ns(self) -> int:
        """Since when nobody has a lease, or may be about to get one by a claim."""
        member = self._member
        lease = member.lease
        return max(lease.until_ns, lease.awaited_until_ns, member.last_put_ns)

    def _check(self) -> None:
        """Claims if nobody has renewed a lease since the alarm was set.

        It does not insist: whoever is in the way will commit the suffix, or leave it to be watched
        anew. A claim that begins again could take the stream from one that has just returned.
        """
        member = self._member
        quiet_until_ns = self._silent_since_ns + LEASE_MS_MIN * NS_PER_MS
        if not self._is_needed:
            return
        if self._context.now_ns < quiet_until_ns:
            self.watch()
            return
        self._is_claiming = True
        Claim(
            self._context,
            stream_id=member.stream_id,
            topology=lambda: member.topology,
            above=member.promise.writer,
            address=f"{INTERNAL_PREFIX}{self._context.node_id}",
            lease_ms=LEASE_MS_MIN,
            until_ns=self._context.after_ms(CLAIM_MS),
            force=False,
            retry=False,
            on_stale=member.on_stale,
            on_claimed=self._commit,
            on_failed=lambda _text: self._rest(),
        ).start()

    def _commit(self, claimed: Claimed) -> None:
        """Tells the members the commit point, then ends the lease."""
        stream_id = self._member.stream_id
        heartbeat = Put(
            stream_id,
            claimed.version,
            claimed.writer,
            transmission=1,
            committed=claimed.tail,
            relay=0,
            mark=self._member.joining.mark,
        )
        release = Release(
            stream_id, claimed.version, claimed.writer, committed=claimed.tail, relay=0
        )
        self._tell(heartbeat, lambda: self._tell(release, self._rest))

    def _tell(self, message: Message, then: Callable[[], None]) -> None:
        self._context.calls.ask_majority(
            self._member.topology,
            message,
            lambda _answers: then(),
            until_ns=self._context.after_ms(TELL_MS),
            on_end=self._rest,
        )

    def _rest(self) -> None:
        self._is_claiming = False
        self.watch()
