"""Serving readers at one member. docs/protocol.md, "Reading".

Only committed entries leave, in order, without holes. What lies in a gap of this member is asked
of another one and passed on. A linearizable read first asks a majority for their tails, and waits
until this member has committed up to the highest: it then has every entry that was acknowledged
before the read began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core import effects
from walle.core.effects import Send
from walle.errors import Code
from walle.limits import FETCH_BYTES_MAX, READS_WAITING_MAX
from walle.messages import AskWriter, AskWriterReply, Failure, Read, ReadReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.core.member import Member
    from walle.messages import Message
    from walle.record import Batch

READ_MS = 10_000
LINEARIZE_MS = 2_000
LINEARIZE_PAUSE_MS = 100
ENTRIES_AT_ONCE_MAX = 1 << 20


class Reading:
    """The readers of one member."""

    def __init__(self, context: Context, member: Member) -> None:
        self._context = context
        self._member = member
        self._waiting: dict[int, tuple[int, Callable[[], None]]] = {}
        self._next_key = 0

    def read(self, sender: Address, request_id: int, read: Read) -> None:
        """Answers a Read: at once, or when what it waits for is committed."""
        if len(self._waiting) >= READS_WAITING_MAX:
            text = f"{READS_WAITING_MAX} reads wait at {self._context.node_id} already"
            self._context.send(sender, Failure(Code.BUSY, text), request_id)
        elif read.linearizable:
            deadline_ns = self._context.after_ms(max(read.wait_ms, READ_MS))
            self._linearize(sender, request_id, read, deadline_ns)
        else:
            self._read_when_committed(sender, request_id, read)

    def on_commit(self) -> None:
        """The commit point has moved: serves whoever waited for it."""
        committed_id = self._member.history.committed.entry_id
        ready = [key for key, (entry_id, _) in self._waiting.items() if entry_id <= committed_id]
        for key in ready:
            self._context.timers.cancel(("read", self._member.stream_id, key))
            self._waiting.pop(key)[1]()

    def _wait(
        self, entry_id: int, until_ns: int, then: Callable[[], None], or_else: Callable[[], None]
    ) -> None:
        """Calls `then` once `entry_id` is committed, or `or_else` at `until_ns`."""
        key = self._next_key = self._next_key + 1

        def give_up() -> None:
            del self._waiting[key]
            or_else()

        self._waiting[key] = (entry_id, then)
        self._context.timers.set(("read", self._member.stream_id, key), until_ns, give_up)

    # --- the answer -------------------------------------------------------------------------------

    def _read_when_committed(self, sender: Address, request_id: int, read: Read) -> None:
        history = self._member.history
        if read.wait_ms and read.start > history.committed.entry_id:
            self._wait(
                read.start,
                self._context.after_ms(read.wait_ms),
                lambda: self._answer(sender, request_id, read),
                lambda: self._answer(sender, request_id, read),
            )
        else:
            self._answer(sender, request_id, read)

    def _reply(self) -> ReadReply:
        history = self._member.history
        return ReadReply(self._member.stream_id, history.origin.entry_id + 1, history.committed)

    def _answer(self, sender: Address, request_id: int, read: Read) -> None:
        history = self._member.history
        first_id = history.origin.entry_id + 1
        if read.start < first_id:
            text = f"{self._member.name} begins at entry {first_id}; {read.start} was trimmed"
            self._context.send(sender, Failure(Code.TRIMMED, text), request_id)
        elif read.start > history.committed.entry_id or not read.bytes_max:
            self._context.send(sender, self._reply(), request_id)
        elif (run := history.run_with(read.start)) is not None:
            self._context.outbox.order(
                effects.ReadRecords(
                    self._member.stream_id,
                    read.start,
                    min(run.end, history.committed.entry_id + 1, read.start + ENTRIES_AT_ONCE_MAX),
                    min(read.bytes_max, FETCH_BYTES_MAX),
                    after=None,
                    aside=False,
                    send=Send(sender, request_id, self._reply()),
                )
            )
        elif read.local:
            gap = next(gap for gap in history.gaps() if gap.start <= read.start < gap.end)
            text = (
                f"{self._context.node_id} does not hold entries {gap} of {self._member.name} yet; "
                "read them from the stream's other members, or wait until its gap is closed"
            )
            self._context.send(sender, Failure(Code.GAP, text), request_id)
        else:
            self._read_elsewhere(sender, request_id, read)

    def _read_elsewhere(self, sender: Address, request_id: int, read: Read) -> None:
        """What lies in a gap here is asked of the other members, and passed on."""

        def on_reply(_node: str, reply: Message, batch: Batch | None) -> None:
            if isinstance(reply, ReadReply) and batch is not None and batch.first_id == read.start:
                call.finish()
                self._context.outbox.send(sender, self._reply(), request_id, batch)

        def on_end() -> None:
            text = f"no member that answers holds entry {read.start} of {self._member.name}"
            self._context.send(sender, Failure(Code.UNAVAILABLE, text), request_id)

        question = read._replace(linearizable=0, local=1, wait_ms=0)
        call = self._context.calls.ask(
            self._member.others,
            question,
            on_reply,
            until_ns=self._context.after_ms(READ_MS),
            on_end=on_end,
        )

    # --- linearizable -----------------------------------------------------------------------------

    def _linearize(self, sender: Address, request_id: int, read: Read, deadline_ns: int) -> None:
        """Asks a majority for their tails, waits until they are committed here, then reads.

        If that does not come soon, a newer claim may have dropped the tail: the question is put
        again, until the deadline.
        """
        member = self._member
        if self._context.now_ns >= deadline_ns:
            text = f"the tail of {member.name} did not settle in time: no writer, or no majority"
            self._context.send(sender, Failure(Code.UNAVAILABLE, text), request_id)
            return

        def again() -> None:
            self._linearize(sender, request_id, read, deadline_ns)

        def on_majority(answers: dict[str, AskWriterReply]) -> None:
            tail_id = max(answer.tail.entry_id for answer in answers.values())
            read_on = read._replace(linearizable=0)
            if tail_id <= member.history.committed.entry_id:
                self._read_when_committed(sender, request_id, read_on)
            else:
                self._wait(
                    tail_id,
                    min(self._context.after_ms(LINEARIZE_MS), deadline_ns),
                    lambda: self._read_when_committed(sender, request_id, read_on),
                    again,
                )

        self._context.calls.ask_majority(
            member.topology,
            AskWriter(member.stream_id, member.topology.version),
            on_majority,
            until_ns=min(self._context.after_ms(LINEARIZE_MS), deadline_ns),
            on_end=lambda: self._context.timers.set(
                ("linearize", member.stream_id, sender, request_id),
                self._context.after_ms(LINEARIZE_PAUSE_MS),
                again,
            ),
        )
