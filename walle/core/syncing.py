"""Step 4 of a claim at a member: make the chosen history its own, `accepted` unchanged.

The member keeps what it shares with the chosen history, drops what conflicts with it or reaches
beyond it, and fetches the rest from the member that was chosen. docs/protocol.md, "ClaimWriter".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from walle.core.question import fetch_one
from walle.errors import Code
from walle.ids import STREAM_CLUSTER
from walle.limits import ENTRY_ID_MAX, FETCH_BYTES_MAX
from walle.messages import Fetch, FetchReply, Sync, SyncReply

if TYPE_CHECKING:
    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.core.member import Member
    from walle.messages import Message
    from walle.record import Batch

FETCH_MS = 2_000


class UnderWay(NamedTuple):
    """The Sync that is being carried out, and who is to hear of it."""

    sender: Address
    request_id: int
    sync: Sync


class Syncing:
    """The Syncs of one member. One is under way at a time; a newer one replaces it."""

    def __init__(self, context: Context, member: Member) -> None:
        self._context = context
        self._member = member
        self._under_way: UnderWay | None = None

    def sync(self, sender: Address, request_id: int, message: Sync) -> None:
        """Begins, or answers why not. A repetition of what is under way replaces it."""
        code = self._admit(message)
        if code is not Code.OK:
            self._reply(sender, request_id, code)
            return
        again = self._is_under_way(message)
        self._under_way = UnderWay(sender, request_id, message)
        if not again:
            self._begin(message)

    def cancel(self) -> None:
        """Another writer is promised."""
        self._under_way = None

    def _begin(self, message: Sync) -> None:
        member, base = self._member, message.base
        history = member.history
        is_held = base.entry_id >= history.committed.entry_id and history.holds(base)
        if history.tail == message.tail:
            self._fetch(message)  # a repetition: nothing is lacking any more
        elif is_held:
            member.truncate(base)
            if message.jump:
                member.advance(base)
            self._fetch(message)
        elif not message.jump or base.entry_id <= history.committed.entry_id:
            self._end(message, Code.CONFLICT)
        elif not self._has_room:
            self._end(message, Code.NO_SPACE)
        else:
            fetch_one(
                member,
                base,
                lambda batch: self._jump(message, batch),
                on_end=lambda: self._end(message, Code.CONFLICT),
            )

    def _admit(self, message: Sync) -> Code:
        code = self._member.admit_writer(message.version, message.writer)
        if max(message.base, message.tail).entry_id > ENTRY_ID_MAX:
            return Code.BAD_REQUEST
        if code is Code.OK and self._member.accepted >= message.writer:
            return Code.NOT_PROMISED  # already stamped: its tail is the writer's now
        return code

    @property
    def _has_room(self) -> bool:
        """Whether records may be fetched, on a full disk into the reserve."""
        return self._context.has_reserve or self._member.stream_id == STREAM_CLUSTER

    def _is_under_way(self, message: Sync) -> bool:
        return self._under_way is not None and self._under_way.sync == message

    def _is_still_wanted(self, message: Sync) -> bool:
        """Makes the checks again: anything may have come while records were fetched."""
        if not self._is_under_way(message):
            return False
        code = self._admit(message)
        if code is not Code.OK:
            self._end(message, code)
        return code is Code.OK

    def _jump(self, message: Sync, batch: Batch) -> None:
        if self._is_still_wanted(message):
            self._member.jump_to(message.base, batch, None)
            self._fetch(message)

    def _fetch(self, message: Sync) -> None:
        """Fetches the next records of the chosen history; done when the tail is the wanted one."""
        member, tail = self._member, self._member.history.tail
        if tail == message.tail:
            member.doubtful_id = 0
            self._end(message, Code.OK)
            return
        if tail.entry_id >= message.tail.entry_id:
            self._end(message, Code.CONFLICT)
            return
        if not self._has_room:
            self._end(message, Code.NO_SPACE)
            return

        def on_reply(_node: str, reply: Message, batch: Batch | None) -> None:
            call.finish()
            if not self._is_still_wanted(message):
                return
            if (
                not isinstance(reply, FetchReply)
                or batch is None
                or batch.before != member.history.tail
                or batch.last_id > message.tail.entry_id
            ):
                self._end(message, Code.CONFLICT)
                return
            member.append(batch, 0, None)
            self._fetch(message)

        question = Fetch(
            member.stream_id,
            tail.entry_id + 1,
            message.tail.entry_id + 1,
            1,
            tail.chain,
            FETCH_BYTES_MAX,
        )
        call = self._context.calls.ask(
            [message.source],
            question,
            on_reply,
            until_ns=self._context.after_ms(FETCH_MS),
            on_end=lambda: self._end(message, Code.CONFLICT),
        )

    def _end(self, message: Sync, code: Code) -> None:
        if self._under_way is not None and self._under_way.sync == message:
            sender, request_id, _ = self._under_way
            self._under_way = None
            self._reply(sender, request_id, code)

    def _reply(self, to: Address, request_id: int, code: Code) -> None:
        member = self._member
        reply = SyncReply(
            member.stream_id,
            code,
            member.topology.version,
            member.promise.writer,
            member.history.tail,
        )
        member.answer(to, request_id, reply)
