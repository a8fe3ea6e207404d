"""Who a stream's writer is: asked of a majority, and watched until it changes.

This is how followers find their leader. docs/protocol.md, "WriterStatus".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from walle.core import quorum
from walle.core.question import SharedQuestion
from walle.errors import Code
from walle.limits import WATCHES_MAX
from walle.messages import AskWriter, Failure, WriterStatus, WriterStatusReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.core.member import Member

ASK_MS = 2_000


class Watch:
    """One WriterStatus that is not answered yet.

    is_asking: whether its answer is under way; otherwise it waits for a change.
    """

    def __init__(
        self, key: tuple[str, int, int], sender: Address, request_id: int, ask: WriterStatus
    ) -> None:
        self.key = key
        self.sender = sender
        self.request_id = request_id
        self.ask = ask
        self.until_ns = 0
        self.is_asking = False


class Watching:
    """Those who ask for one stream's writer at one member."""

    def __init__(self, context: Context, member: Member) -> None:
        self._context = context
        self._member = member
        self._majority: SharedQuestion[WriterStatusReply | None] = SharedQuestion(
            self._ask_majority
        )
        self._watches: dict[tuple[str, int, int], Watch] = {}
        self._count = 0

    def status(self, sender: Address, request_id: int, ask: WriterStatus) -> None:
        """Answers who the writer is; while it is the known one, waits for that to change."""
        if len(self._watches) >= WATCHES_MAX:
            text = f"{WATCHES_MAX} requests for {self._member.name}'s writer wait here already"
            self._context.send(sender, Failure(Code.BUSY, text), request_id)
            return
        self._count += 1
        watch = Watch(("watch", self._member.stream_id, self._count), sender, request_id, ask)
        watch.until_ns = self._context.after_ms(ask.wait_ms)
        self._watches[watch.key] = watch
        self._context.sessions.add(sender, watch.key, lambda: self._end(watch))
        self._look(watch)

    def on_change(self) -> None:
        """The member has promised another writer."""
        promised = self._member.promise.writer
        for watch in [*self._watches.values()]:
            if not watch.is_asking and watch.ask.known != promised:
                self._look(watch)

    def refuse_all(self, failure: Failure) -> None:
        """Nobody is answered here any more: who waits must ask another member."""
        for watch in [*self._watches.values()]:
            self._end(watch)
            self._context.send(watch.sender, failure, watch.request_id)

    def _look(self, watch: Watch) -> None:
        watch.is_asking = True
        if watch.ask.local:
            self._on_answer(watch, self._own_view())
        else:
            self._majority.ask(lambda reply: self._on_answer(watch, reply))

    def _on_answer(self, watch: Watch, reply: WriterStatusReply | None) -> None:
        if watch.key not in self._watches:
            return
        watch.is_asking = False
        if reply is None:
            text = f"no majority of {self._member.name}'s members answered"
            self._context.send(watch.sender, Failure(Code.UNAVAILABLE, text), watch.request_id)
            self._end(watch)
        elif reply.writer != watch.ask.known or self._context.now_ns >= watch.until_ns:
            self._context.send(watch.sender, reply, watch.request_id)
            self._end(watch)
        else:
            self._context.timers.set(watch.key, watch.until_ns, lambda: self._look(watch))

    def _end(self, watch: Watch) -> None:
        self._watches.pop(watch.key, None)
        self._context.timers.cancel(watch.key)
        self._context.sessions.discard(watch.sender, watch.key)

    # --- the answer -------------------------------------------------------------------------------

    def _own_view(self) -> WriterStatusReply:
        member = self._member
        promise = member.promise
        return WriterStatusReply(
            member.stream_id,
            member.topology.version,
            promise.writer,
            promise.address,
            promise.lease_ms,
            member.lease.remaining_ms(self._context.now_ns),
            int(member.accepted == promise.writer),
        )

    def _ask_majority(self, then: Callable[[WriterStatusReply | None], None]) -> None:
        member = self._member

        def on_majority(answers: dict[str, Any]) -> None:
            highest = max(answers.values(), key=lambda each: each.promised)
            stamped = [node for node, each in answers.items() if each.accepted == highest.promised]
            then(
                WriterStatusReply(
                    member.stream_id,
                    member.topology.version,
                    highest.promised,
                    highest.address,
                    highest.lease_ms,
                    max(each.remaining_lease_ms for each in answers.values()),
                    int(quorum.is_majority(member.topology, stamped)),
                )
            )

        self._context.calls.ask_majority(
            member.topology,
            AskWriter(member.stream_id, member.topology.version),
            on_majority,
            until_ns=self._context.after_ms(ASK_MS),
            on_end=lambda: then(None),
        )
