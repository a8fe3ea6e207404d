"""Serving readers at one member. docs/protocol.md, "Reading".

Only committed entries leave, in order, without holes. What lies in a gap of this member is asked
of another one and passed on. A linearizable read first asks a majority for their tails, and waits
until this member has committed up to the highest: it then has every entry that was acknowledged
before the read began.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from walle.core import effects, quorum
from walle.core.effects import Recipient, Send
from walle.core.question import SharedQuestion
from walle.errors import Code
from walle.limits import (
    ENTRY_ID_MAX,
    FETCH_BYTES_MAX,
    READ_SHARED_BYTES_MAX,
    READS_WAITING_MAX,
)
from walle.messages import (
    AskWriter,
    AskWriterReply,
    Failure,
    FetchReply,
    Read,
    ReadReply,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from walle.core.calls import Call
    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.core.member import Member
    from walle.ids import IdRange
    from walle.messages import AskOldest, Fetch, Message
    from walle.record import Batch

READ_MS = 10_000
ELSEWHERE_MS = 2_000
LINEARIZE_MS = 2_000
LINEARIZE_PAUSE_MS = 100
ENTRIES_AT_ONCE_MAX = 1 << 20


class Waiting:
    """One read that is not answered yet.

    entry_id: what must be committed before it goes on; None: it waits for another member.
    call: the question that it waits for.
    """

    def __init__(self, key: int, sender: Address, request_id: int, read: Read) -> None:
        self.key = key
        self.sender = sender
        self.request_id = request_id
        self.read = read
        self.entry_id: int | None = None
        self.call: Call | None = None


class Reading:
    """The readers of one member."""

    def __init__(self, context: Context, member: Member) -> None:
        self._context = context
        self._member = member
        self._waiting: dict[int, Waiting] = {}
        self._count = 0
        self._tails: SharedQuestion[int | None] = SharedQuestion(self._ask_tails)
        self._late_call: Call | None = None
        self._key = ("reads", member.stream_id)
        self._due: list[tuple[Recipient, Read]] = []

    def read(self, sender: Address, request_id: int, read: Read) -> None:
        """Answers a Read: at once, or when what it waits for is committed."""
        if not read.linearizable and not self._must_wait(read):
            self._is_due(Recipient(sender, request_id), read)
            return
        waiting = self._begin(sender, request_id, read)
        if waiting is None:
            return
        if read.linearizable:
            self._set_deadline(waiting, max(read.wait_ms, READ_MS), self._give_up)
            self._linearize(waiting)
        else:
            self._wait_for_start(waiting)

    def on_commit(self) -> None:
        """The commit point has moved: serves whoever waited for it."""
        if not self._waiting:
            return
        committed_id = self._member.history.committed.entry_id
        for waiting in [*self._waiting.values()]:
            if waiting.entry_id is not None and waiting.entry_id <= committed_id:
                self._go_on(waiting)

    def on_full(self) -> None:
        """What is committed cannot be taken, for want of space: who waits for it must ask another
        member."""
        node, member = self._context.node_id, self._member
        held_id = member.history.committed.entry_id
        text = f"the disk of {node} is full: it lacks what follows entry {held_id} of {member.name}"
        for waiting in [*self._waiting.values()]:
            if waiting.entry_id is not None:
                self._end(waiting)
                self._context.send(waiting.sender, Failure(Code.NO_SPACE, text), waiting.request_id)

    def refuse_all(self, failure: Failure) -> None:
        """Nobody is served here any more: who waits must ask another member."""
        for waiting in [*self._waiting.values()]:
            self._end(waiting)
            self._context.send(waiting.sender, failure, waiting.request_id)
        due, self._due = self._due, []
        for recipient, _ in due:
            self._context.send(recipient.to, failure, recipient.request_id)

    # --- waiting ----------------------------------------------------------------------------------

    def _must_wait(self, read: Read) -> bool:
        return read.wait_ms > 0 and read.start > self._member.history.committed.entry_id

    def _begin(self, sender: Address, request_id: int, read: Read) -> Waiting | None:
        """Counts a read that has to wait; answers `busy` when too many do."""
        if len(self._waiting) >= READS_WAITING_MAX:
            text = f"{READS_WAITING_MAX} reads of {self._member.name} wait here already"
            self._context.send(sender, Failure(Code.BUSY, text), request_id)
            return None
        self._count += 1
        waiting = self._waiting[self._count] = Waiting(self._count, sender, request_id, read)
        self._context.sessions.add(
            sender, ("read", self._member.stream_id, waiting.key), lambda: self._end(waiting)
        )
        return waiting

    def _set_deadline(self, waiting: Waiting, ms: int, then: Callable[[Waiting], None]) -> None:
        self._context.timers.set(
            ("read", self._member.stream_id, waiting.key),
            self._context.after_ms(ms),
            lambda: then(waiting),
        )

    def _end(self, waiting: Waiting) -> None:
        """It waits no more: it will be answered, or its session has ended."""
        self._waiting.pop(waiting.key, None)
        for kind in ("read", "linearize"):
            self._context.timers.cancel((kind, self._member.stream_id, waiting.key))
        if waiting.call is not None:
            waiting.call.finish()
        self._context.sessions.discard(
            waiting.sender, ("read", self._member.stream_id, waiting.key)
        )

    def _wait_for_start(self, waiting: Waiting) -> None:
        waiting.entry_id = waiting.read.start
        self._set_deadline(waiting, waiting.read.wait_ms, self._finish)

    def _go_on(self, waiting: Waiting) -> None:
        """What it waited for is committed here."""
        if not waiting.read.linearizable:
            self._finish(waiting)
            return
        waiting.read = waiting.read._replace(linearizable=0)
        self._context.timers.cancel(("linearize", self._member.stream_id, waiting.key))
        if self._must_wait(waiting.read):
            self._wait_for_start(waiting)
        else:
            self._finish(waiting)

    def _finish(self, waiting: Waiting) -> None:
        self._end(waiting)
        self._is_due(Recipient(waiting.sender, waiting.request_id), waiting.read)

    def _give_up(self, waiting: Waiting) -> None:
        self._end(waiting)
        text = f"the tail of {self._member.name} did not settle in time: no writer, or no majority"
        self._context.send(waiting.sender, Failure(Code.UNAVAILABLE, text), waiting.request_id)

    # --- linearizable -----------------------------------------------------------------------------

    def _linearize(self, waiting: Waiting) -> None:
        """Asks a majority for their tails, and waits until they are committed here.

        If that does not come soon, a newer claim may have dropped the tail: the question is put
        again, until the deadline.
        """
        waiting.entry_id = None
        self._tails.ask(lambda tail_id: self._on_tail(waiting, tail_id))

    def _on_tail(self, waiting: Waiting, tail_id: int | None) -> None:
        if waiting.key not in self._waiting:
            return
        if tail_id is not None and tail_id <= self._member.history.committed.entry_id:
            self._go_on(waiting)
            return
        waiting.entry_id = tail_id
        self._context.timers.set(
            ("linearize", self._member.stream_id, waiting.key),
            self._context.after_ms(LINEARIZE_PAUSE_MS if tail_id is None else LINEARIZE_MS),
            lambda: self._linearize(waiting),
        )

    def _ask_tails(self, then: Callable[[int | None], None]) -> None:
        """The highest tail of a majority; None: no majority answered.

        What was acknowledged is at some member of every majority, so the one that shows least will
        do: a later answer may better it. For what one member holds is never committed while the
        disks of the others are full.
        """
        member, topology = self._member, self._member.topology
        answers: dict[str, AskWriterReply] = {}

        def tail_id() -> int | None:
            tails = {node: answer.tail.entry_id for node, answer in answers.items()}
            return quorum.majority_bound(topology, tails)

        def on_reply(node: str, reply: Message, _batch: Batch | None) -> None:
            if not isinstance(reply, AskWriterReply) or reply.code != Code.OK or reply.is_damaged:
                return
            answers[node] = reply
            wanted_id = tail_id()
            if wanted_id is None:
                return
            if self._late_call is not None and self._late_call is not call:
                self._late_call.finish()  # one question at a time has its last answers waited for
            self._late_call = call
            then(wanted_id)
            member.learn_committed(max(answer.committed for answer in answers.values()))
            if wanted_id <= member.history.committed.entry_id:
                call.finish()

        def on_end() -> None:
            if tail_id() is None:
                then(None)

        call = self._context.calls.ask(
            topology.everyone,
            AskWriter(member.stream_id, topology.version),
            on_reply,
            until_ns=self._context.after_ms(LINEARIZE_MS),
            on_end=on_end,
        )

    # --- the answer -------------------------------------------------------------------------------

    def _is_due(self, recipient: Recipient, read: Read) -> None:
        """It can be answered: a node at once, a session at the end of the step."""
        if isinstance(recipient.to, str):
            self._answer(read, [recipient])
            return
        self._due.append((recipient, read))
        self._context.outbox.at_end(self._key, self._serve)

    def _serve(self) -> None:
        """Answers the sessions. Those that want the same are answered as one: they follow the
        stream, and most of them wait for what comes next.

        This is done once for all that has arrived together: the more there is to do, the more of
        them ask in one step, and the more they get by one answer.
        """
        due, self._due = self._due, []
        asked: Counter[tuple[Read, Address]] = Counter()
        alike: dict[tuple[Read, int], list[Recipient]] = {}
        for recipient, request in due:
            if not self._context.sessions.is_open(recipient.to):
                continue
            read = request._replace(wait_ms=0, linearizable=0)
            # What one session asks for twice is sent to it twice, and counts twice.
            count = asked[read, recipient.to]
            asked[read, recipient.to] += 1
            alike.setdefault((read, count), []).append(recipient)
        for (read, _), recipients in alike.items():
            self._answer(read, recipients)

    def _reply(self) -> ReadReply:
        history = self._member.history
        return ReadReply(self._member.stream_id, history.origin.entry_id + 1, history.committed)

    def _answer(self, read: Read, to: Sequence[Recipient]) -> None:
        history = self._member.history
        first_id = history.origin.entry_id + 1
        read = read._replace(start=read.start or first_id)
        end = min(read.end or ENTRY_ID_MAX, history.committed.entry_id + 1)
        if not first_id <= read.start < end or not read.bytes_max:
            for each in to:
                self._context.send(each.to, self._reply(), each.request_id)
        elif (run := history.run_with(read.start)) is not None:
            self._context.outbox.order(
                effects.ReadRecords(
                    self._member.stream_id,
                    read.start,
                    min(run.end, end, read.start + ENTRIES_AT_ONCE_MAX),
                    min(read.bytes_max, FETCH_BYTES_MAX, READ_SHARED_BYTES_MAX // len(to)),
                    after=None,
                    aside=False,
                    send=Send(*to[0], self._reply()),
                    others=tuple(to[1:]),
                )
            )
        elif read.local:
            gap = next(gap for gap in history.gaps() if gap.start <= read.start < gap.end)
            for each in to:
                self._refuse_gap(each.to, each.request_id, gap)
        else:
            for each in to:
                self._read_elsewhere(each.to, each.request_id, read)

    def _refuse_gap(self, to: Address, request_id: int, gap: IdRange) -> None:
        text = (
            f"{self._context.node_id} does not hold entries {gap} of {self._member.name} yet; "
            "read them from the stream's other members, or wait until its gap is closed"
        )
        self._context.send(to, Failure(Code.GAP, text), request_id)

    def _read_elsewhere(self, sender: Address, request_id: int, read: Read) -> None:
        """What lies in a gap here is asked of the other members, one after the other, and passed
        on."""
        waiting = self._begin(sender, request_id, read)
        if waiting is None:
            return
        others = iter(self._member.others)
        question = read._replace(linearizable=0, local=1, wait_ms=0)

        def ask_next() -> None:
            node = next(others, None)
            if node is None:
                self._end(waiting)
                text = f"no member that answers holds entry {read.start} of {self._member.name}"
                self._context.send(sender, Failure(Code.UNAVAILABLE, text), request_id)
                return
            waiting.call = self._context.calls.ask(
                [node],
                question,
                on_reply,
                until_ns=self._context.after_ms(ELSEWHERE_MS),
                on_end=ask_next,
            )

        def on_reply(_node: str, reply: Message, batch: Batch | None) -> None:
            if isinstance(reply, ReadReply) and batch is not None and batch.first_id == read.start:
                self._end(waiting)
                self._context.outbox.send(sender, self._reply(), request_id, batch)

        ask_next()

    # --- other nodes ------------------------------------------------------------------------------

    def find_oldest(self, sender: Address, request_id: int, message: AskOldest) -> None:
        """The first record that is to stay, for the manager. With a gap nobody knows how old, or
        how many, the missing entries are."""
        history = self._member.history
        gaps = history.gaps()
        if gaps:
            self._refuse_gap(sender, request_id, gaps[0])
            return
        self._context.outbox.order(
            effects.ReadOldest(
                self._member.stream_id,
                history.committed.entry_id + 1,
                message.before_us,
                message.bytes_max,
                send=Send(sender, request_id, self._reply()),
            )
        )

    def fetch(self, sender: Address, request_id: int, message: Fetch) -> None:
        """Records for another member: from any run, aside runs too; the asking member checks."""
        self._context.outbox.order(
            effects.ReadRecords(
                self._member.stream_id,
                message.start,
                message.end,
                min(message.bytes_max, FETCH_BYTES_MAX),
                message.prev_chain if message.after else None,
                aside=True,
                send=Send(sender, request_id, FetchReply(self._member.stream_id, message.start)),
            )
        )
