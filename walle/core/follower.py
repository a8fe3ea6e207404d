"""Following `/cluster`: applying its committed entries, in order, to what this node knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core.question import SharedQuestion
from walle.errors import InvariantError
from walle.ids import ORIGIN, STREAM_CLUSTER, Position
from walle.limits import FETCH_BYTES_MAX, QUESTIONS_COUNT_MAX
from walle.messages import Read, ReadReply
from walle.record import decode_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.cluster import ClusterState, StreamRecord
    from walle.core.context import Context
    from walle.core.member import Member
    from walle.core.news import News
    from walle.messages import Message
    from walle.record import Batch

ASK_MS = 2_000
FRESH_MS = 5_000
PAUSE_MS = 100
POLL_MS = 1_000
"""How often a node that is no member of `/cluster` looks whether there is anything new. What it
finds out of date in between makes it look at once."""


class Follower:
    """Reads `/cluster` at this node's own member; at another one, when that cannot serve it, or
    when this node is no member of it.

    on_stream: called for each stream that the entries create.
    on_applied: called when entries have been applied.
    """

    def __init__(
        self,
        context: Context,
        members: dict[int, Member],
        cluster: ClusterState,
        news: News,
        *,
        on_stream: Callable[[StreamRecord], None],
        on_applied: Callable[[], None],
    ) -> None:
        self._context = context
        self._members = members
        self._cluster = cluster
        self._news = news
        self._on_stream = on_stream
        self._on_applied = on_applied
        self._applied = ORIGIN
        self._begins_at = 0
        self._is_reading = False
        self._turn = 0
        self._fresh: SharedQuestion[int | None] = SharedQuestion(self._ask_how_far)
        self._waiting: list[tuple[int, Callable[[bool], None]]] = []
        self._questions = 0

    @property
    def _member(self) -> Member | None:
        """This node's own."""
        member = self._members.get(STREAM_CLUSTER)
        return member if member is not None and member.is_named else None

    def _others(self) -> list[str]:
        """The members of `/cluster` on other nodes."""
        everyone = self._cluster.streams[STREAM_CLUSTER].topology.everyone
        return [node for node in everyone if node != self._context.node_id]

    def follow(self) -> None:
        """Applies what is committed and not yet applied."""
        member = self._member
        is_behind = member is None or member.history.committed.entry_id > self._applied.entry_id
        if self._is_reading or not is_behind:
            return
        self._is_reading = True

        def on_reply(_node: str, reply: Message, batch: Batch | None) -> None:
            call.finish()
            if isinstance(reply, ReadReply) and batch is not None:
                self._apply(batch)  # what it tells of `/cluster` itself must not begin a second one
            self._is_reading = False
            if isinstance(reply, ReadReply) and batch is not None:
                self.follow()
            elif isinstance(reply, ReadReply) and reply.first_entry_id > start:
                self._begin_at(reply.first_entry_id)
            elif isinstance(reply, ReadReply) and member is None and not self._waiting:
                self._follow_after(POLL_MS)
            else:
                on_end()

        def on_end() -> None:
            self._is_reading = False
            self._turn += 1
            self._follow_after(PAUSE_MS)

        start = self._applied.entry_id + 1
        sources = [self._context.node_id, *member.others] if member else self._sources()
        call = self._context.calls.ask(
            [sources[self._turn % len(sources)]],
            Read(STREAM_CLUSTER, start, FETCH_BYTES_MAX, 0, 0, 0),
            on_reply,
            until_ns=self._context.after_ms(ASK_MS),
            on_end=on_end,
        )

    def _sources(self) -> list[str]:
        """Whom to read from, one after the other: members, as far as this node knows; if those are
        none any more, somebody among all nodes is."""
        everyone = [*self._others(), *sorted(self._cluster.nodes)]
        return [node for node in dict.fromkeys(everyone) if node != self._context.node_id]

    def _follow_after(self, ms: int) -> None:
        self._context.timers.set("follow", self._context.after_ms(ms), self.follow)

    def _begin_at(self, entry_id: int) -> None:
        """What would come next was trimmed. `/cluster` begins there, with a snapshot that tells it;
        what this node knows stays as it is until that is complete."""
        self._applied, self._begins_at = Position(entry_id - 1, 0), entry_id
        self.follow()

    def _apply(self, batch: Batch) -> None:
        if batch.before != self._applied and batch.first_id != self._begins_at:
            raise InvariantError(f"/cluster: {batch.before} follows {self._applied}")
        for entry in decode_all(batch):
            self._applied = Position(entry.entry_id, entry.chain)
            record = self._cluster.apply(entry.entry_id, entry.data)
            if record is not None:
                self._on_stream(record)
        self._on_applied()
        applied_id = self._cluster.applied_id
        ready = [then for entry_id, then in self._waiting if entry_id <= applied_id]
        self._waiting = [each for each in self._waiting if each[0] > applied_id]
        for then in ready:
            then(True)

    def catch_up(self) -> None:
        """Something newer than this node's topology was seen: asks how far `/cluster` is."""
        if not self._context.timers.is_set("catch up"):
            self._context.timers.set("catch up", self._context.after_ms(PAUSE_MS), lambda: None)
            if self._member is not None:
                self._news.ask_about(self._member.others, [STREAM_CLUSTER])
            else:
                self.when_fresh(lambda: None, lambda: None)

    def when_fresh(self, then: Callable[[], None], or_else: Callable[[], None]) -> None:
        """Calls `then` once all is applied that was committed before now; `or_else` when that
        cannot be told at the moment."""
        if self._questions >= QUESTIONS_COUNT_MAX:
            or_else()
            return
        self._questions += 1

        def end(is_fresh: bool) -> None:
            self._questions -= 1
            (then if is_fresh else or_else)()

        def on_answer(committed_id: int | None) -> None:
            if committed_id is None or committed_id <= self._cluster.applied_id:
                end(committed_id is not None)
            else:
                self._waiting.append((committed_id, end))
                self.follow()

        self._fresh.ask(on_answer)

    def _ask_how_far(self, then: Callable[[int | None], None]) -> None:
        """The commit point by a majority's word; None when there is no majority."""

        def on_reply(_node: str, reply: Message, _batch: Batch | None) -> None:
            if isinstance(reply, ReadReply):
                call.finish()
                then(reply.committed.entry_id)

        question = Read(STREAM_CLUSTER, self._applied.entry_id + 1, 0, 0, linearizable=1, local=0)
        call = self._context.calls.ask(
            [self._context.node_id] if self._member is not None else self._others(),
            question,
            on_reply,
            until_ns=self._context.after_ms(FRESH_MS),
            on_end=lambda: then(None),
        )
