"""Puts on behalf of a thin client: one member does for the writer what a direct client does itself.

The relay adds nothing to the protocol: it sends the same records to all members and counts their
acknowledgements. Its answer echoes the client's own transmission number, so that a relayed put
never makes the lease younger than the client's sending.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from walle.core.pipeline import Pipeline
from walle.core.writer import NodeWriter
from walle.errors import Code
from walle.limits import PIPELINE_ENTRIES_MAX
from walle.messages import Put, PutReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.core.member import Member
    from walle.record import Batch

IDLE_LEASES = 2


class Pending(NamedTuple):
    """A relayed put that is not answered yet.

    relayed: the relay's own transmission that carried it.
    last_id: its last entry; the commit point to reach. 0 for a heartbeat.
    """

    sender: Address
    request_id: int
    put: Put
    relayed: int
    last_id: int


class Relay:
    """One thin client's writer, served by this member."""

    def __init__(
        self, context: Context, member: Member, put: Put, on_idle: Callable[[], None]
    ) -> None:
        self._context = context
        self._member = member
        self._on_idle = on_idle
        self._pending: deque[Pending] = deque()
        self.writer = put.writer
        self._key = ("relay", member.stream_id, put.writer)
        self._lease_ms = member.promise.lease_ms
        self._open(put)

    def _open(self, put: Put) -> None:
        """Begins at the client's commit point."""
        pipeline = Pipeline(
            stream_id=self._member.stream_id,
            topology=self._member.topology,
            writer=put.writer,
            lease_ms=self._lease_ms,
            tail=put.committed,
        )
        self._writer = NodeWriter(self._context, pipeline, self._on_progress)

    def put(self, sender: Address, request_id: int, put: Put, batch: Batch | None) -> None:
        """Sends the client's put to all members; answers once a majority has it."""
        self._context.timers.set(
            self._key, self._context.after_ms(IDLE_LEASES * self._lease_ms), self.stop
        )
        if put.committed.entry_id > self._writer.pipeline.tail.entry_id:
            self._writer.stop()  # the client's puts came another way meanwhile
            self._answer_all(Code.UNAVAILABLE)
            self._open(put)
        pipeline = self._writer.pipeline
        if len(self._pending) >= PIPELINE_ENTRIES_MAX or not pipeline.has_room:
            self._answer(sender, request_id, put, Code.BUSY)
            return
        if batch is not None and batch.before == pipeline.tail:
            if pipeline.blocked_by(self._context.now_ns):
                self._answer(sender, request_id, put, Code.NO_SPACE)
                return
            self._writer.put(batch.detach())
        elif batch is not None and batch.last_id > pipeline.tail.entry_id:
            self._answer(sender, request_id, put, Code.CONFLICT)
            return
        else:
            # Entries that are sent again, too: what the members acknowledged before this sending
            # must not make the client's lease younger.
            self._writer.heartbeat()
        self._pending.append(
            Pending(
                sender,
                request_id,
                put,
                pipeline.transmission,
                batch.last_id if batch is not None else 0,
            )
        )
        self._on_progress()

    def stop(self) -> None:
        """The client has gone quiet, or its time as the writer is over: whether a majority has
        what is not answered by now is not known."""
        self._end(Code.UNAVAILABLE)

    def _on_progress(self) -> None:
        pipeline = self._writer.pipeline
        if pipeline.lost is not None:
            self._end(Code.FENCED)
            return
        if pipeline.stale_version:
            self._end(Code.STALE_VERSION)
            return
        if pipeline.blocked_by(self._context.now_ns):
            self._refuse_entries()
        acknowledged = pipeline.acknowledged_transmission
        while self._pending:
            first = self._pending[0]
            if first.relayed > acknowledged or first.last_id > pipeline.committed.entry_id:
                break
            self._pending.popleft()
            self._answer(first.sender, first.request_id, first.put, Code.OK)

    def _refuse_entries(self) -> None:
        """No majority has space for entries, and heartbeats must not wait behind them. What the
        members were sent stays in flight; the client sends it again, and hears what has become of
        it."""
        pending, self._pending = self._pending, deque()
        for each in pending:
            if each.last_id > self._writer.pipeline.committed.entry_id:
                self._answer(each.sender, each.request_id, each.put, Code.NO_SPACE)
            else:
                self._pending.append(each)

    def _answer_all(self, code: Code) -> None:
        while self._pending:
            first = self._pending.popleft()
            self._answer(first.sender, first.request_id, first.put, code)

    def _end(self, code: Code) -> None:
        self._answer_all(code)
        self._writer.stop()
        self._context.timers.cancel(self._key)
        self._on_idle()

    def _answer(self, to: Address, request_id: int, put: Put, code: Code) -> None:
        pipeline = self._writer.pipeline
        lost = pipeline.lost
        reply = PutReply(
            put.stream_id,
            code,
            self._member.topology.version,
            lost.promised if lost is not None else put.writer,
            put.transmission,
            pipeline.committed,
            pipeline.committed,
            lost.address if lost is not None else "",
        )
        self._context.send(to, reply, request_id)
