"""A member's gaps: damage opens them, and they are closed, lowest first, from the other members.

Records are taken forward from the chain below the gap, and must meet the chain above it before the
gap is called closed: what a peer sends is never trusted. Other members' aside runs may be the only
copies, and so may this member's own: it asks itself, too, at first as the last. A fill that turns
out wrong came from such a run; it is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core import effects
from walle.core.throttle import Rate
from walle.ids import IdRange
from walle.limits import FETCH_BYTES_MAX, NS_PER_MS
from walle.messages import Fetch, FetchReply

if TYPE_CHECKING:
    from walle.core.context import Context
    from walle.core.member import Member
    from walle.ids import Position
    from walle.messages import Message
    from walle.record import Batch

FETCH_MS = 2_000
PAUSE_MS = 200
FULL_PAUSE_MS = 1_000
STUCK_MS_MAX = 60_000


class Backfill:
    """The backfill of one member. One fetch is under way at a time; each stream begins with another
    source, so that they share the work.

    rate: of what has come lately.
    """

    def __init__(self, context: Context, member: Member) -> None:
        self._context = context
        self._member = member
        self.rate = Rate()
        self._is_fetching = False
        self._sources = self._order_sources()
        self._turn = 0
        self._without: set[str] = set()
        self._progress_ns = 0

    def open_gap(self, after: Position, last: Position) -> None:
        """Storage has found that the entries behind `after`, up to `last`, are damaged.

        They were all in one run, below the commit point; what is not any more was reported before,
        or trimmed.
        """
        member = self._member
        after = max(after, member.history.origin)
        run = member.history.run_with(last.entry_id)
        if run is None or after.entry_id < run.start - 1:
            return
        fill = member.history.fill
        if fill is not None and after.entry_id < fill.start:
            self._drop_fill()  # it is not in the lowest gap any more
        member.order_commit()  # storage must know that the live run holds it, wherever that begins
        member.history.cut(after, last)
        member.order(effects.Cut(member.stream_id, after, last))
        gap = IdRange(after.entry_id + 1, last.entry_id + 1)
        self._context.outbox.note(f"{member.name}: entries {gap} are damaged here: a gap")
        self.start()

    def on_topology(self) -> None:
        """The members have changed."""
        self._sources = self._order_sources()
        self._turn = 0
        self._without.clear()

    def _order_sources(self) -> list[str]:
        others = self._member.others
        first = self._member.stream_id % max(1, len(others))
        return [*others[first:], *others[:first], self._context.node_id]

    def start(self) -> None:
        """Goes on with the lowest gap, if there is one and nothing is under way."""
        if self._is_fetching or not self._is_needed:
            return
        if self._context.timers.is_set(("backfill", self._member.stream_id)):
            return  # no source has what is next, or no space: it pauses, whatever else happens
        if not self._member.has_space:
            self._pause(FULL_PAUSE_MS)
            return
        self._is_fetching = True
        self._context.throttle.ask(self._member.stream_id, self._fetch)

    @property
    def _is_needed(self) -> bool:
        return self._member.history.lowest_gap() is not None and self._member.is_named

    def _fetch(self) -> None:
        """It is this stream's turn."""
        history = self._member.history
        position, gap = history.fill_position(), history.lowest_gap()
        if position is None or gap is None or not self._is_needed:  # it was closed meanwhile
            self._end_turn(0)
            return
        self._progress_ns = self._progress_ns or self._context.now_ns
        end = gap[1].start
        source = self._sources[self._turn]

        def on_reply(_node: str, reply: Message, batch: Batch | None) -> None:
            call.finish()
            present = self._member.history.lowest_gap()
            useful = (
                isinstance(reply, FetchReply)
                and batch is not None
                and batch.before == position
                and batch.last_id < end
                and self._member.history.fill_position() == position
                and present is not None
                and present[1].start == end
            )
            if useful and batch is not None:
                self._without.clear()
                self._progress_ns = self._context.now_ns
                self._add(batch)
            else:
                self._without.add(source)
            self._end_turn(batch.payload.size if batch is not None else 0)
            self._go_on(is_useful=useful)

        def on_end() -> None:
            self._end_turn(0)
            self._go_on(is_useful=False)

        question = Fetch(
            self._member.stream_id, position.entry_id + 1, end, 1, position.chain, FETCH_BYTES_MAX
        )
        call = self._context.calls.ask(
            [source],
            question,
            on_reply,
            until_ns=self._context.after_ms(FETCH_MS),
            on_end=on_end,
        )

    def _end_turn(self, size: int) -> None:
        self._is_fetching = False
        self.rate.add(self._context.now_ns, size)
        self._context.throttle.end(self._member.stream_id, size)

    def _go_on(self, *, is_useful: bool) -> None:
        """The next fetch: at once, or from the next source, with a pause once all had a turn."""
        if not is_useful:
            self._turn = (self._turn + 1) % len(self._sources)
            if self._turn == 0:
                self._end_round()
                return
        self.start()

    def _end_round(self) -> None:
        """What nobody builds on parted from the committed history: it is dropped when all say so;
        a source that does not answer is waited for, but not for ever."""
        stuck_ns = self._context.now_ns - self._progress_ns
        if self._member.history.fill is not None and (
            len(self._without) == len(self._sources) or stuck_ns > STUCK_MS_MAX * NS_PER_MS
        ):
            self._drop_fill()
        self._pause(PAUSE_MS)

    def _pause(self, ms: float) -> None:
        self._context.timers.set(
            ("backfill", self._member.stream_id), self._context.after_ms(ms), self.start
        )

    def _add(self, batch: Batch) -> None:
        member, history = self._member, self._member.history
        history.add_fill(batch)
        member.order(effects.Fill(member.stream_id, batch))
        gap = history.lowest_gap()
        if gap is None or history.fill is None or history.fill.end < gap[1].start:
            return
        if history.fill.last == gap[1].before:
            closed = IdRange(gap[0].entry_id + 1, gap[1].start)
            history.close_gap()
            member.order(effects.CloseGap(member.stream_id))
            self._context.outbox.note(f"{member.name}: the gap {closed} is closed")
        else:
            self._drop_fill()  # it parted from the committed history: another member's aside run

    def _drop_fill(self) -> None:
        """Begins anew at the gap's lower end, with the sources in another order: one that has
        what is right comes before those that have what is wrong sooner or later."""
        self._member.history.fill = None
        self._member.order(effects.DropFill(self._member.stream_id))
        self._sources.sort(key=lambda _: self._context.random.random())
        self._turn = 0
        self._without.clear()
        self._progress_ns = self._context.now_ns
