"""Learning of a claim that this member missed: it asks a majority who the writer is.

Puts of a writer that is newer than the promised one wait for the answer. docs/protocol.md, "Put".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from walle.errors import Code
from walle.limits import ADOPTION_COUNT_MAX, EARLY_BYTES_MAX
from walle.messages import AskWriter, AskWriterReply

if TYPE_CHECKING:
    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.core.member import Member
    from walle.ids import Position, WriterId
    from walle.messages import Put
    from walle.record import Batch

ASK_MS = 2_000


class Waiting(NamedTuple):
    """A put, or a heartbeat, that waits for the answer."""

    sender: Address
    request_id: int
    put: Put
    batch: Batch | None

    @property
    def size(self) -> int:
        return self.batch.payload.size if self.batch is not None else 0


class Adoption:
    """One question is under way at a time."""

    def __init__(self, context: Context, member: Member) -> None:
        self._context = context
        self._member = member
        self._is_asking = False
        self._waiting: list[Waiting] = []
        self._contradiction: tuple[WriterId, Position] | None = None
        self._alarmed: tuple[WriterId, Position] | None = None

    def wait(self, sender: Address, request_id: int, put: Put, batch: Batch | None) -> bool:
        """Lets the put wait for the answer; False when there is no room for it."""
        kept = batch.detach() if batch is not None else None
        waiting = Waiting(sender, request_id, put, kept)
        early_bytes = self._context.early_bytes + waiting.size
        if early_bytes > EARLY_BYTES_MAX or len(self._waiting) >= ADOPTION_COUNT_MAX:
            return False
        self._context.early_bytes = early_bytes
        self._waiting.append(waiting)
        self.ask()
        return True

    def contradicted(self, writer: WriterId, told: Position) -> Code:
        """The promised writer puts what contradicts the committed history.

        That is as it should be if a newer one has committed: the member has learned its commit
        point from others, and the old one does not know yet. Only if a majority knows of no newer
        writer is data lost: then an operator hears of it, and the writer when it repeats its put.
        """
        if self._alarmed == (writer, told):
            return Code.DIVERGED
        self._contradiction = (writer, told)
        self.ask()
        return Code.BUSY

    def ask(self) -> None:
        """Asks who the writer is."""
        if self._is_asking:
            return
        self._is_asking = True
        self._context.calls.ask_majority(
            self._member.topology,
            AskWriter(self._member.stream_id, self._member.topology.version),
            lambda answers: self._adopt(max(answers.values(), key=lambda each: each.promised)),
            until_ns=self._context.after_ms(ASK_MS),
            on_end=lambda: self._adopt(None),
        )

    def answer(self, sender: Address, request_id: int, ask: AskWriter) -> None:
        """Whom this member has promised and how far it is: for adoption, status, reads."""
        member = self._member
        reply = AskWriterReply(
            member.stream_id,
            member.admit_version(ask.version),
            member.topology.version,
            member.promise.writer,
            member.promise.address,
            member.promise.lease_ms,
            member.lease.remaining_ms(self._context.now_ns),
            member.accepted,
            member.history.tail,
            member.history.committed,
            int(member.is_damaged),
        )
        member.answer(sender, request_id, reply)

    def _adopt(self, answer: AskWriterReply | None) -> None:
        """Adopts the highest promise of a majority, then goes on with the puts that waited."""
        member = self._member
        if answer is not None and answer.promised > member.promise.writer:
            member.set_promise(answer.promised, answer.address, answer.lease_ms)
        self._is_asking = False
        contradiction, self._contradiction = self._contradiction, None
        if answer is not None and contradiction is not None:
            writer, told = contradiction
            if writer == member.promise.writer:
                self._alarmed = contradiction
                member.diverged(told)
        waiting, self._waiting = self._waiting, []
        self._context.early_bytes -= sum(each.size for each in waiting)
        for each in waiting:
            member.put(*each, may_wait=False)
