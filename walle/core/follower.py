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


class Follower:
    """Reads `/cluster` at this node's own member; at another one, when that cannot serve it.

    on_stream: called for each stream that the entries create.
    on_applied: called when entries have been applied.
    """

    def __init__(
        self,
        context: Context,
        member: Member,
        cluster: ClusterState,
        news: News,
        *,
        on_stream: Callable[[StreamRecord], None],
        on_applied: Callable[[], None],
    ) -> None:
        self._context = context
        self._member = member
        self._cluster = cluster
        self._news = news
        self._on_stream = on_stream
        self._on_applied = on_applied
        self._applied = ORIGIN
        self._is_reading = False
        self._turn = 0
        self._fresh: SharedQuestion[int | None] = SharedQuestion(self._ask_how_far)
        self._waiting: list[tuple[int, Callable[[bool], None]]] = []
        self._questions = 0

    def follow(self) -> None:
        """Applies what is committed and not yet applied."""
        committed_id = self._member.history.committed.entry_id
        if self._is_reading or committed_id <= self._applied.entry_id:
            return
        self._is_reading = True

        def on_reply(_node: str, reply: Message, batch: Batch | None) -> None:
            call.finish()
            self._is_reading = False
            if isinstance(reply, ReadReply) and batch is not None:
                self._apply(batch)
                self.follow()
            else:
                on_end()

        def on_end() -> None:
            self._is_reading = False
            self._turn += 1
            self._context.timers.set("follow", self._context.after_ms(PAUSE_MS), self.follow)

        sources = [self._context.node_id, *self._member.others]
        call = self._context.calls.ask(
            [sources[self._turn % len(sources)]],
            Read(STREAM_CLUSTER, self._applied.entry_id + 1, FETCH_BYTES_MAX, 0, 0, 0),
            on_reply,
            until_ns=self._context.after_ms(ASK_MS),
            on_end=on_end,
        )

    def _apply(self, batch: Batch) -> None:
        if batch.before != self._applied:
            raise InvariantError(f"/cluster: {batch.before} follows {self._applied}")
        for entry in decode_all(batch.payload.view()):
            self._applied = Position(entry.entry_id, entry.chain)
            record = self._cluster.apply(entry.entry_id, entry.data)
            if record is not None:
                self._on_stream(record)
        self._on_applied()
        applied_id = self._applied.entry_id
        ready = [then for entry_id, then in self._waiting if entry_id <= applied_id]
        self._waiting = [each for each in self._waiting if each[0] > applied_id]
        for then in ready:
            then(True)

    def catch_up(self) -> None:
        """Something newer than this node's topology was seen: asks how far `/cluster` is."""
        if not self._context.timers.is_set("catch up"):
            self._context.timers.set("catch up", self._context.after_ms(PAUSE_MS), lambda: None)
            self._news.ask_about(self._member.others, [STREAM_CLUSTER])

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
            if committed_id is None or committed_id <= self._applied.entry_id:
                end(committed_id is not None)
            else:
                self._waiting.append((committed_id, end))

        self._fresh.ask(on_answer)

    def _ask_how_far(self, then: Callable[[int | None], None]) -> None:
        """The commit point by a majority's word; None when there is no majority."""

        def on_reply(_node: str, reply: Message, _batch: Batch | None) -> None:
            call.finish()
            then(reply.committed.entry_id if isinstance(reply, ReadReply) else None)

        question = Read(STREAM_CLUSTER, self._applied.entry_id + 1, 0, 0, linearizable=1, local=0)
        call = self._context.calls.ask(
            [self._context.node_id],
            question,
            on_reply,
            until_ns=self._context.after_ms(FRESH_MS),
            on_end=lambda: then(None),
        )
