"""Trimming streams, on request and by their retention: the manager's side.

    what is to go ─► asked of the members ─► the first record to stay, which tells the chain of
                                             the entry before ─► entry of `/cluster` ─► told to all

docs/protocol.md, "Trim". Nothing of it is durable but that entry: a new manager looks after
retention from then on, and whoever asked the old one in vain repeats the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core.change import TELL_MS, tell
from walle.core.cluster import Refusal, encode_trim
from walle.errors import Code
from walle.messages import AskOldest, Failure, Read, ReadReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.calls import Call
    from walle.core.cluster import ClusterState, StreamRecord
    from walle.core.context import Context
    from walle.ids import Position
    from walle.messages import Message, StreamInfo, TrimStream
    from walle.record import Batch

ASK_MS = 3_000
RETENTION_MS = 10_000
"""The pause between two rounds over all streams."""
SLACK = 0.1
"""By which part of itself a bound is exceeded before retention trims: each trim is an entry of
`/cluster`, and a few bytes less would free no file."""
NO_BOUND = (1 << 64) - 1


class Trimming:
    """put: puts an entry of `/cluster` that changes the stream of that name, and calls its last
    argument with the stream when the entry is applied, or with why that will not be.
    """

    def __init__(
        self,
        context: Context,
        cluster: ClusterState,
        put: Callable[[str, bytes, Callable[[StreamInfo | Failure], None]], None],
    ) -> None:
        self._context = context
        self._cluster = cluster
        self._put = put
        self._call: Call | None = None

    def trim(self, request: TrimStream, answer: Callable[[StreamInfo | Failure], None]) -> None:
        """Trims a stream as far as is asked, but not beyond its last committed entry."""
        record = self._cluster.plan_trim(request.name)
        if isinstance(record, Refusal):
            answer(Failure(*record))
            return
        if bool(request.entry_id) == bool(request.before_us):
            text = "a trim takes either the first entry that is to stay, or a time"
            answer(Failure(Code.BAD_REQUEST, text))
            return
        stream_id, name = record.stream_id, record.name

        def on_end() -> None:
            text = f"no member of {name} could tell where to trim it"
            answer(Failure(Code.UNAVAILABLE, text))

        self._ask(
            record,
            Read(stream_id, request.entry_id, 1, 0, linearizable=1, local=0)
            if request.entry_id
            else AskOldest(stream_id, request.before_us, NO_BOUND),
            lambda batch: self._trim_before(name, batch, answer),
            on_end,
        )

    def _ask(
        self,
        record: StreamRecord,
        question: Read | AskOldest,
        on_found: Callable[[Batch | None], None],
        on_end: Callable[[], None],
    ) -> Call:
        """Asks the members for the first record that is to stay: committed, and proved. None:
        there is nothing to trim. Where the one asked for is not committed yet, it is the last that
        is."""

        def on_reply(_node: str, reply: Message, batch: Batch | None) -> None:
            if not isinstance(reply, ReadReply):
                return
            first_id, committed_id = reply.first_entry_id, reply.committed.entry_id
            start = question.start if isinstance(question, Read) else first_id
            if batch is None and first_id <= start <= committed_id:
                return  # it could not be read there
            call.finish()
            if isinstance(question, Read) and first_id <= committed_id < start:
                last = question._replace(start=committed_id, linearizable=0)
                self._ask(record, last, on_found, on_end)
            else:
                on_found(batch)

        call = self._context.calls.ask(
            record.topology.members,
            question,
            on_reply,
            until_ns=self._context.after_ms(ASK_MS),
            on_end=on_end,
        )
        return call

    def _trim_before(
        self,
        name: str,
        batch: Batch | None,
        answer: Callable[[StreamInfo | Failure], None],
    ) -> None:
        """Lets the stream begin with the batch's first record, if it does not begin later."""
        record = self._cluster.plan_trim(name)  # again: it may have changed meanwhile
        if isinstance(record, Refusal):
            answer(Failure(*record))
            return
        if batch is None or batch.first_id <= record.topology.first_entry_id:
            answer(self._cluster.info(record))
            return
        self.put(record, batch.before, answer)

    def put(
        self,
        record: StreamRecord,
        before: Position,
        answer: Callable[[StreamInfo | Failure], None],
    ) -> None:
        """Lets the stream begin behind that position, which is committed."""
        stream_id, name = record.stream_id, record.name

        def on_applied(result: StreamInfo | Failure) -> None:
            if not isinstance(result, Failure):
                until_ns = self._context.after_ms(TELL_MS)
                tell(self._context, self._cluster.streams[stream_id], lambda *_: None, until_ns)
                self._context.outbox.note(f"{name} begins behind entry {before} now")
            answer(result)

        self._put(name, encode_trim(stream_id, before), on_applied)

    # --- retention --------------------------------------------------------------------------------

    def start(self) -> None:
        """Looks after all streams that have a bound, one after the other, again and again."""
        self._context.timers.set("retention", self._context.after_ms(RETENTION_MS), self._begin)

    def stop(self) -> None:
        """This node is no longer the manager."""
        self._context.timers.cancel("retention")
        if self._call is not None:
            self._call.finish()

    def _begin(self) -> None:
        self._go_on(
            [
                record.name
                for record in self._cluster.streams.values()
                if record.settings.retention_max_bytes or record.settings.retention_max_age_ms
            ]
        )

    def _go_on(self, names: list[str]) -> None:
        """Trims the last of these streams if it exceeds its bounds, then the others."""
        while names:
            record = self._cluster.plan_trim(names.pop())
            if not isinstance(record, Refusal):
                self._keep_bounds(record, lambda: self._go_on(names))
                return
        self.start()

    def _keep_bounds(self, record: StreamRecord, then: Callable[[], None]) -> None:
        def on_exceeded(batch: Batch | None) -> None:
            if batch is None or batch.first_id <= record.topology.first_entry_id:
                then()
            else:
                self._call = self._ask(record, self._oldest(record, 0), on_found, then)

        def on_found(batch: Batch | None) -> None:
            self._trim_before(record.name, batch, lambda _result: then())

        self._call = self._ask(record, self._oldest(record, SLACK), on_exceeded, then)

    def _oldest(self, record: StreamRecord, slack: float) -> AskOldest:
        """What is the oldest entry within the stream's bounds, each longer by that part?"""
        bytes_max = int(record.settings.retention_max_bytes * (1 + slack)) or NO_BOUND
        age_us = int(record.settings.retention_max_age_ms * 1_000 * (1 + slack))
        before_us = self._context.wall_us - age_us if age_us else 0
        return AskOldest(record.stream_id, max(before_us, 0), min(bytes_max, NO_BOUND))
