"""How members without a writer's word learn how far their streams are: they ask each other."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from walle.limits import NS_PER_MS
from walle.messages import AskCommitted, AskCommittedReply, StreamCommitted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.core.member import Member
    from walle.messages import Message

ASK_MS_MIN = 1_000
ASK_MS_MAX = 60_000
STREAMS_AT_ONCE = 4_096


class News:
    """The questions of one node, batched over streams; each stream ever more seldom, while it
    stays quiet. A stream of which nothing is due and nothing is heard costs nothing."""

    def __init__(self, context: Context, members: dict[int, Member]) -> None:
        self._context = context
        self._members = members
        self._queue: list[tuple[int, int, int]] = []  # a heap: due ns, stream, wait after that, ms
        self._due: dict[int, int] = {}  # of a stream's places in the queue, the one that counts
        self._stirred: dict[int, None] = {}

    def watch(self, stream_id: int) -> None:
        """The stream has a member here now."""
        self._plan(stream_id, self._context.now_ns, ASK_MS_MIN)

    def stir(self, stream_id: int) -> None:
        """A writer's word has come: nothing is asked before that ends."""
        self._stirred[stream_id] = None

    def ask(self) -> None:
        """Asks for the streams that are due, and again after a while."""
        context = self._context
        streams_by_node: dict[str, list[int]] = {}
        for member in self._take_due():
            for node in member.others if member.is_named else ():
                streams_by_node.setdefault(node, []).append(member.stream_id)
        for node, stream_ids in streams_by_node.items():
            for start in range(0, len(stream_ids), STREAMS_AT_ONCE):
                self.ask_about([node], stream_ids[start : start + STREAMS_AT_ONCE])
        context.timers.set("news", context.after_ms(ASK_MS_MIN), self.ask)

    def _take_due(self) -> list[Member]:
        """Those of the streams to ask for now, each of them planned for its next time."""
        now_ns = self._context.now_ns
        for stream_id in list(self._stirred):
            member = self._members.get(stream_id)
            if member is None or now_ns - member.last_put_ns >= ASK_MS_MIN * NS_PER_MS:
                del self._stirred[stream_id]
                self._plan(stream_id, now_ns, ASK_MS_MIN)
        members = []
        while self._queue and self._queue[0][0] <= now_ns:
            due_ns, stream_id, wait_ms = heapq.heappop(self._queue)
            if self._due.get(stream_id) != due_ns or stream_id in self._stirred:
                continue
            if stream_id in self._members:
                members.append(self._members[stream_id])
                wait_after_ms = min(2 * wait_ms, ASK_MS_MAX)
                self._plan(stream_id, self._context.after_ms(wait_ms), wait_after_ms)
            else:
                del self._due[stream_id]
        return members

    def _plan(self, stream_id: int, due_ns: int, wait_ms: int) -> None:
        self._due[stream_id] = due_ns
        heapq.heappush(self._queue, (due_ns, stream_id, wait_ms))

    def ask_about(self, nodes: Iterable[str], stream_ids: Iterable[int]) -> None:
        """Asks these nodes how far these streams are."""
        self._context.calls.ask(
            nodes,
            AskCommitted(tuple(stream_ids)),
            lambda _node, reply, _batch: self._on_reply(reply),
            until_ns=self._context.after_ms(ASK_MS_MIN),
        )

    def _on_reply(self, reply: Message) -> None:
        if isinstance(reply, AskCommittedReply):
            for stream_id, committed in reply.streams:
                member = self._members.get(stream_id)
                if member is None:
                    continue
                if committed.entry_id > member.history.committed.entry_id:  # it is not quiet
                    self._plan(stream_id, self._context.after_ms(ASK_MS_MIN), ASK_MS_MIN)
                member.learn_committed(committed)

    def answer(self, sender: Address, request_id: int, ask: AskCommitted) -> None:
        """Tells how far this node's members are."""
        known = tuple(
            StreamCommitted(stream_id, self._members[stream_id].history.committed)
            for stream_id in ask.streams
            if stream_id in self._members
        )
        self._context.send(sender, AskCommittedReply(known), request_id)
