"""What one node does on behalf of writers elsewhere: claims, relayed puts, relayed releases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core.claim import Claim
from walle.core.relay import Relay
from walle.errors import Code
from walle.ids import NO_WRITER, ORIGIN
from walle.limits import ADDRESS_BYTES_MAX, CLAIMS_COUNT_MAX
from walle.messages import ClaimReply, Failure, PutReply, ReleaseReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle import messages
    from walle.core.claim import Claimed
    from walle.core.cluster import ClusterState, StreamRecord
    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.core.member import Member
    from walle.messages import Put, Release
    from walle.record import Batch

RELEASE_MS = 2_000


class Writers:
    """A stream has one relay at most: that of the writer which this node's member has promised.

    on_stale: called when an answer shows that this node's topology is outdated.
    """

    def __init__(
        self,
        context: Context,
        cluster: ClusterState,
        members: dict[int, Member],
        on_stale: Callable[[], None],
    ) -> None:
        self._context = context
        self._cluster = cluster
        self._members = members
        self._on_stale = on_stale
        self._relays: dict[int, Relay] = {}
        self._claims: set[int] = set()
        self._claims_begun = 0
        self._releasing: set[int] = set()

    def on_change(self, member: Member) -> None:
        """The member's promise may have changed: the relay of another writer ends."""
        relay = self._relays.get(member.stream_id)
        if relay is not None and relay.writer != member.promise.writer:
            relay.stop()

    # --- claims -----------------------------------------------------------------------------------

    def claim(
        self, sender: Address, request_id: int, request: messages.Claim, record: StreamRecord
    ) -> None:
        """Coordinates a claim; it ends with the session that asked for it."""
        refusal = self._refusal(request, record)
        if refusal is not None:
            self._context.send(sender, refusal, request_id)
            return
        stream_id = record.stream_id
        member = self._members.get(stream_id)
        self._claims_begun += 1
        number = self._claims_begun
        key = ("claim", number)

        def on_claimed(claimed: Claimed) -> None:
            end(ClaimReply(stream_id, claimed.version, claimed.writer, claimed.tail))

        def on_failed(why: str) -> None:
            end(Failure(Code.UNAVAILABLE, f"{record.name} was not claimed: {why}"))

        def end(answer: ClaimReply | Failure) -> None:
            self._claims.discard(number)
            self._context.sessions.discard(sender, key)
            self._context.send(sender, answer, request_id)

        def cancel() -> None:
            self._claims.discard(number)
            claim.cancel()

        claim = Claim(
            self._context,
            stream_id=stream_id,
            topology=lambda: self._cluster.topology_of(stream_id),
            above=member.promise.writer if member is not None else NO_WRITER,
            address=request.address,
            lease_ms=request.lease_ms,
            until_ns=self._context.after_ms(request.wait_ms),
            force=bool(request.force),
            on_stale=self._on_stale,
            on_claimed=on_claimed,
            on_failed=on_failed,
        )
        self._claims.add(number)
        self._context.sessions.add(sender, key, cancel)
        claim.start()

    def _refusal(self, request: messages.Claim, record: StreamRecord) -> Failure | None:
        shortest, longest = record.settings.lease_bounds_ms
        if not shortest <= request.lease_ms <= longest:
            text = f"a lease of {request.lease_ms} ms; {record.name} allows {shortest} to {longest}"
            return Failure(Code.BAD_REQUEST, text)
        if len(request.address.encode()) > ADDRESS_BYTES_MAX:
            text = f"a writer's address has at most {ADDRESS_BYTES_MAX} bytes"
            return Failure(Code.BAD_REQUEST, text)
        if len(self._claims) >= CLAIMS_COUNT_MAX:
            text = f"{CLAIMS_COUNT_MAX} claims are under way at {self._context.node_id} already"
            return Failure(Code.BUSY, text)
        return None

    # --- relayed puts -----------------------------------------------------------------------------

    def relay(
        self, sender: Address, request_id: int, put: Put, batch: Batch | None, member: Member
    ) -> None:
        """Does for a thin client what a direct writer does itself."""
        if put.writer > member.promise.writer and member.admit_version(put.version) is Code.OK:
            member.adoption.ask()  # before that, nobody may be relayed under this name
            reply = PutReply(
                put.stream_id,
                Code.BUSY,
                member.topology.version,
                member.promise.writer,
                put.transmission,
                ORIGIN,
                member.history.committed,
                "",
            )
            self._context.send(sender, reply, request_id)
            return
        if (
            put.writer != member.promise.writer
            or member.admit_version(put.version) is not Code.OK
            or (batch is not None and batch.writer != put.writer)
        ):
            member.put(sender, request_id, put._replace(relay=0), batch)  # it says why not
            return
        relay = self._relays.get(put.stream_id)
        if relay is None:
            relay = self._relays[put.stream_id] = Relay(
                self._context,
                member,
                put,
                on_idle=lambda: self._end_relay(put.stream_id),
            )
        relay.put(sender, request_id, put, batch)

    def _end_relay(self, stream_id: int) -> None:
        del self._relays[stream_id]

    # --- relayed releases -------------------------------------------------------------------------

    def release(self, sender: Address, request_id: int, release: Release, member: Member) -> None:
        """Tells all members; answers once a majority has it."""
        if release.writer != member.promise.writer:
            member.release(sender, request_id, release)  # it says why not
            return
        if member.stream_id in self._releasing:
            reply = ReleaseReply(
                release.stream_id, Code.BUSY, member.topology.version, release.writer
            )
            self._context.send(sender, reply, request_id)
            return
        relay = self._relays.get(release.stream_id)
        if relay is not None and relay.writer == release.writer:
            relay.stop()
        self._releasing.add(member.stream_id)

        def end(code: Code) -> None:
            self._releasing.discard(member.stream_id)
            version = member.topology.version
            reply = ReleaseReply(release.stream_id, code, version, release.writer)
            self._context.send(sender, reply, request_id)

        self._context.calls.ask_majority(
            member.topology,
            release._replace(relay=0),
            lambda _answers: end(Code.OK),
            until_ns=self._context.after_ms(RELEASE_MS),
            on_end=lambda: end(Code.UNAVAILABLE),
        )
