"""Requests for the topology manager, at whatever node they come: handled there, or handed on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.errors import Code
from walle.ids import NO_WRITER, STREAM_CLUSTER
from walle.limits import QUESTIONS_COUNT_MAX
from walle.messages import Failure, WriterStatus, WriterStatusReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.cluster import ClusterState
    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.core.manager import Manager, Request
    from walle.core.member import Member
    from walle.messages import Message
    from walle.record import Batch

CHANGE_MS = 4_000
"""Less than clients wait for an answer: they are to hear why there is none."""
ASK_MS = 1_000


class Forwarding:
    """manager: this node's own, if it has one."""

    def __init__(
        self,
        context: Context,
        cluster: ClusterState,
        members: dict[int, Member],
        manager: Callable[[], Manager | None],
    ) -> None:
        self._context = context
        self._cluster = cluster
        self._members = members
        self._manager = manager
        self._count = 0

    def change(self, sender: Address, request_id: int, request: Request) -> None:
        """Handled by the manager, wherever it is."""
        own = self._manager()
        if own is not None and own.is_acting:
            own.change(request, lambda answer: self._context.send(sender, answer, request_id))
            return
        if self._count >= QUESTIONS_COUNT_MAX:
            text = f"{QUESTIONS_COUNT_MAX} requests to create or change streams wait here already"
            self._context.send(sender, Failure(Code.BUSY, text), request_id)
            return
        self._count += 1

        def end(answer: Message) -> None:
            self._count -= 1
            self._context.send(sender, answer, request_id)

        def on_found(manager: str | None) -> None:
            if manager is not None:
                self._hand_on(manager, request, end)
            else:
                text = "the cluster has no topology manager at the moment"
                end(Failure(Code.BUSY, text))

        self._find_manager(on_found)

    def _hand_on(self, manager: str, request: Request, end: Callable[[Message], None]) -> None:
        def on_reply(_node: str, reply: Message, _batch: Batch | None) -> None:
            call.finish()
            end(reply)

        call = self._context.calls.ask(
            [manager],
            request,
            on_reply,
            until_ns=self._context.after_ms(CHANGE_MS),
            on_end=lambda: end(
                Failure(
                    Code.BUSY, call.why_busy or f"the topology manager {manager} does not answer"
                )
            ),
        )

    def _find_manager(self, then: Callable[[str | None], None]) -> None:
        """Which other node is the manager: as this one knows, if it is a member of `/cluster`, else
        by a member's word. The manager claims under its node's id."""
        member = self._members.get(STREAM_CLUSTER)
        if member is not None and member.is_named:
            is_held = member.lease.promised_until_ns > self._context.now_ns
            then(self._other_node(member.promise.address) if is_held else None)
            return
        record = self._cluster.streams.get(STREAM_CLUSTER)
        if record is None:
            then(None)
            return

        def on_reply(_node: str, reply: Message, _batch: Batch | None) -> None:
            is_held = isinstance(reply, WriterStatusReply) and reply.remaining_lease_ms > 0
            manager = self._other_node(reply.address) if is_held else None
            if manager is not None:
                call.finish()
                then(manager)

        call = self._context.calls.ask(
            record.topology.everyone,
            WriterStatus(STREAM_CLUSTER, local=1, known=NO_WRITER, wait_ms=0),
            on_reply,
            until_ns=self._context.after_ms(ASK_MS),
            on_end=lambda: then(None),
        )

    def _other_node(self, address: str) -> str | None:
        is_other = address in self._cluster.nodes and address != self._context.node_id
        return address if is_other else None
