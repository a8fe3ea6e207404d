"""How members without a writer's word learn how far their streams are: they ask each other."""

from __future__ import annotations

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
    stays quiet."""

    def __init__(self, context: Context, members: dict[int, Member]) -> None:
        self._context = context
        self._members = members
        self._due: dict[int, tuple[int, int]] = {}  # stream: (due ns, the wait after that, ms)

    def ask(self) -> None:
        """Asks for the streams that are due, and again after a while."""
        context = self._context
        streams_by_node: dict[str, list[int]] = {}
        for stream_id, member in self._members.items():
            if not member.is_named:
                continue
            due_ns, wait_ms = self._due.get(stream_id, (0, ASK_MS_MIN))
            if due_ns and context.now_ns - member.last_put_ns < ASK_MS_MIN * NS_PER_MS:
                self._due[stream_id] = (context.after_ms(ASK_MS_MIN), ASK_MS_MIN)
            elif context.now_ns >= due_ns:
                self._due[stream_id] = (context.after_ms(wait_ms), min(2 * wait_ms, ASK_MS_MAX))
                for node in member.others:
                    streams_by_node.setdefault(node, []).append(stream_id)
        for node, stream_ids in streams_by_node.items():
            for start in range(0, len(stream_ids), STREAMS_AT_ONCE):
                self.ask_about([node], stream_ids[start : start + STREAMS_AT_ONCE])
        context.timers.set("news", context.after_ms(ASK_MS_MIN), self.ask)

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
                    self._due[stream_id] = (self._context.after_ms(ASK_MS_MIN), ASK_MS_MIN)
                member.learn_committed(committed)

    def answer(self, sender: Address, request_id: int, ask: AskCommitted) -> None:
        """Tells how far this node's members are."""
        known = tuple(
            StreamCommitted(stream_id, self._members[stream_id].history.committed)
            for stream_id in ask.streams
            if stream_id in self._members
        )
        self._context.send(sender, AskCommittedReply(known), request_id)
