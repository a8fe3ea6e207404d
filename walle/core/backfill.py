"""Closing a member's gaps, lowest first, from the other members.

Records are taken forward from the chain below the gap, and must meet the chain above it before the
gap is called closed: what a peer sends is never trusted. Other members' aside runs may be the only
copies, and so may this member's own: it asks itself last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core import effects
from walle.ids import IdRange
from walle.limits import FETCH_BYTES_MAX
from walle.messages import Fetch, FetchReply

if TYPE_CHECKING:
    from walle.core.context import Context
    from walle.core.member import Member
    from walle.messages import Message
    from walle.record import Batch

FETCH_MS = 2_000
PAUSE_MS = 200


class Backfill:
    """The backfill of one member. One fetch is under way at a time."""

    def __init__(self, context: Context, member: Member) -> None:
        self._context = context
        self._member = member
        self._is_fetching = False
        self._turn = 0
        self._fruitless = 0

    def start(self) -> None:
        """Goes on with the lowest gap, if there is one and nothing is under way."""
        history = self._member.history
        position, gap = history.fill_position(), history.lowest_gap()
        if self._is_fetching or position is None or gap is None:
            return
        self._is_fetching = True
        end = gap[1].start
        sources = [*self._member.others, self._context.node_id]
        source = sources[self._turn % len(sources)]

        def on_reply(_node: str, reply: Message, batch: Batch | None) -> None:
            call.finish()
            useful = (
                isinstance(reply, FetchReply)
                and batch is not None
                and batch.before == position
                and batch.last_id < end
                and self._member.history.fill_position() == position
                and self._member.history.lowest_gap() == gap
            )
            if useful and batch is not None:
                self._add(batch)
            self._go_on(is_useful=useful)

        question = Fetch(
            self._member.stream_id, position.entry_id + 1, end, 1, position.chain, FETCH_BYTES_MAX
        )
        call = self._context.calls.ask(
            [source],
            question,
            on_reply,
            until_ns=self._context.after_ms(FETCH_MS),
            on_end=lambda: self._go_on(is_useful=False),
        )

    def _go_on(self, *, is_useful: bool) -> None:
        """The next fetch: at once, or from the next source, with a pause once all had a turn."""
        self._is_fetching = False
        if is_useful:
            self._fruitless = 0
        else:
            self._turn += 1
            self._fruitless += 1
        if self._fruitless % (len(self._member.others) + 1) == 0 and self._fruitless:
            self._context.timers.set(
                ("backfill", self._member.stream_id), self._context.after_ms(PAUSE_MS), self.start
            )
        else:
            self.start()

    def _add(self, batch: Batch) -> None:
        history, outbox = self._member.history, self._context.outbox
        stream_id = self._member.stream_id
        history.add_fill(batch)
        outbox.order(effects.Fill(stream_id, batch))
        gap = history.lowest_gap()
        if gap is None or history.fill is None or history.fill.end < gap[1].start:
            return
        if history.fill.last == gap[1].before:
            closed = IdRange(gap[0].entry_id + 1, gap[1].start)
            history.close_gap()
            outbox.order(effects.CloseGap(stream_id))
            outbox.note(f"{self._member.name}: the gap {closed} is closed")
        else:
            # It parted from the committed history somewhere: another member's aside run.
            history.fill = None
            outbox.order(effects.DropFill(stream_id))
            self._turn += 1
