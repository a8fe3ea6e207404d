"""Requests for the topology manager, at whatever node they come: handled there, or handed on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.errors import Code
from walle.ids import STREAM_CLUSTER
from walle.limits import QUESTIONS_COUNT_MAX
from walle.messages import Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.cluster import ClusterState
    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.core.manager import Manager, Request
    from walle.core.member import Member
    from walle.messages import Message
    from walle.record import Batch

CHANGE_MS = 5_000


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
        manager = self._manager_node()
        if manager is None:
            self._refuse(sender, request_id, "the cluster has no topology manager at the moment")
        elif self._count >= QUESTIONS_COUNT_MAX:
            text = f"{QUESTIONS_COUNT_MAX} requests to create or change streams wait here already"
            self._refuse(sender, request_id, text)
        else:
            self._hand_on(manager, sender, request_id, request)

    def _refuse(self, sender: Address, request_id: int, text: str) -> None:
        self._context.send(sender, Failure(Code.BUSY, text), request_id)

    def _hand_on(self, manager: str, sender: Address, request_id: int, request: Message) -> None:
        self._count += 1

        def on_reply(_node: str, reply: Message, _batch: Batch | None) -> None:
            call.finish()
            end(reply)

        def end(answer: Message) -> None:
            self._count -= 1
            self._context.send(sender, answer, request_id)

        call = self._context.calls.ask(
            [manager],
            request,
            on_reply,
            until_ns=self._context.after_ms(CHANGE_MS),
            on_end=lambda: end(
                Failure(Code.BUSY, f"the topology manager {manager} does not answer")
            ),
        )

    def _manager_node(self) -> str | None:
        """Which other node is the manager, as far as this one knows."""
        member = self._members.get(STREAM_CLUSTER)
        if member is None or member.lease.promised_until_ns <= self._context.now_ns:
            return None
        address = member.promise.address
        nodes = self._cluster.nodes.values()
        return next(
            (
                node.node_id
                for node in nodes
                if node.address == address and node.node_id != self._context.node_id
            ),
            None,
        )
