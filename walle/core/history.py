"""What one member holds of a stream: runs, gaps, the tail, the commit point; pure bookkeeping.

        first_entry_id                                committed       tail
              |   run       gap        run      gap       | live run    |
              [###########)       [##########)       [####|=============]
                           [--fill-)                       uncommitted suffix
                             [aside)

The *live run* ends at the tail; it begins at or before the commit point, so the uncommitted
suffix is always one run. The *fill* is what backfill has put into the lowest gap; it counts as
held only once it has met the run above. An *aside run* is a former suffix that a jump overtook.

The object mirrors what storage will hold once it has carried out the actions ordered so far.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from walle.errors import InvariantError, invariant
from walle.ids import ORIGIN, IdRange, Position
from walle.limits import COMMITTED_LAG_ENTRIES_MAX

if TYPE_CHECKING:
    from walle.record import Batch

CHAINS_KEPT = 2 * COMMITTED_LAG_ENTRIES_MAX
"""How many chains below the commit point are remembered, to recognize repeated puts."""


@dataclass(slots=True)
class Run:
    """Consecutive entries [start, last.entry_id], whose first builds on chain prev_chain."""

    start: int
    prev_chain: int
    last: Position

    @property
    def end(self) -> int:
        return self.last.entry_id + 1

    @property
    def before(self) -> Position:
        return Position(self.start - 1, self.prev_chain)


@dataclass(slots=True)
class History:
    """Runs are sorted and apart from each other; the last one is the live run.

    origin: the position before the first entry that is not trimmed.
    base, chains: the chains of the entries after `base` up to the tail; at least those from the
        commit point on.
    """

    origin: Position = ORIGIN
    runs: list[Run] = field(default_factory=list)
    aside: list[Run] = field(default_factory=list)
    fill: Run | None = None
    committed: Position = ORIGIN
    base: Position = ORIGIN
    chains: array[int] = field(default_factory=lambda: array("Q"))

    @property
    def tail(self) -> Position:
        return self.runs[-1].last if self.runs else self.origin

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing, not even what is not proved, and knows of no commit point."""
        is_at_origin = self.committed == self.origin
        return is_at_origin and not (self.runs or self.aside or self.fill)

    @property
    def suffix_count(self) -> int:
        """Entries in (committed, tail]."""
        return self.tail.entry_id - self.committed.entry_id

    def chain_at(self, entry_id: int) -> int | None:
        """The chain after an entry of the live run; None when it is not held or not remembered."""
        base, chains = self.base, self.chains
        index = entry_id - base.entry_id - 1
        if 0 <= index < len(chains):
            return chains[index]
        return base.chain if index == -1 else None

    def chains_from(self, entry_id: int, count_max: int) -> bytes:
        """The chains of that entry, which is held and remembered, and of those behind it: 8 bytes
        each, about count_max of them."""
        index = entry_id - self.base.entry_id - 1
        page = self.chains[max(index, 0) : max(index, 0) + count_max]
        if index < 0:
            page.insert(0, self.base.chain)
        return page.tobytes()

    def holds(self, position: Position) -> bool:
        """Whether that entry, with that chain, is in the live run."""
        return self.chain_at(position.entry_id) == position.chain

    def matching(self, batch: Batch) -> int:
        """How many of the batch's first entries the live run holds with the same chain.

        An equal chain at one id means equal histories up to it, so a binary search will do.
        Returns 0 when the batch neither begins in nor builds on what is remembered of the run.
        """
        low = max(batch.first_id - 1, self.base.entry_id)
        high = min(batch.last_id, self.tail.entry_id)
        if low > high or self.chain_at(low) != batch.chain_at(low):
            return 0
        while low < high:
            middle = (low + high + 1) // 2
            if self.chain_at(middle) == batch.chain_at(middle):
                low = middle
            else:
                high = middle - 1
        return low - batch.first_id + 1

    # --- changes; each mirrors one action of `effects` --------------------------------------------

    def append(self, batch: Batch, skip: int) -> None:
        """Appends the batch but its first `skip` records to the live run."""
        runs, chains, start = self.runs, batch.chains, batch.first_id + skip
        tail = runs[-1].last if runs else self.origin
        prev_chain = chains[skip - 1] if skip else batch.prev_chain
        if (start - 1, prev_chain) != tail:
            raise InvariantError(f"appends build on the tail: start={start}, tail={tail}")
        self.chains.extend(chains[skip:] if skip else chains)
        if runs:
            runs[-1].last = batch.last
        else:
            runs.append(Run(start, prev_chain, batch.last))

    def truncate(self, tail: Position) -> None:
        """Drops what follows `tail`, which the live run holds, at or behind the commit point."""
        invariant(
            tail.entry_id >= self.committed.entry_id and self.holds(tail),
            "a truncation keeps what is committed",
            tail=tail,
            committed=self.committed,
        )
        del self.chains[tail.entry_id - self.base.entry_id :]
        self._end_live_run(tail)

    def commit(self, committed: Position) -> None:
        """Advances the commit point to an entry of the live run."""
        if committed.entry_id < self.committed.entry_id or not self.holds(committed):
            raise InvariantError(
                f"the commit point advances within the live run: {committed}, {self.committed}"
            )
        self.committed = committed
        surplus = committed.entry_id - self.base.entry_id - CHAINS_KEPT
        if surplus > CHAINS_KEPT:  # in large steps, so that the cost per entry is nothing
            self.base = Position(self.base.entry_id + surplus, self.chains[surplus - 1])
            del self.chains[:surplus]

    def jump(self, batch: Batch, skip: int, committed: Position) -> None:
        """Starts a new live run with the batch but its first `skip` records.

        The batch holds `committed`, which is behind the old commit point; what the old live run
        holds behind the old commit point becomes an aside run.
        """
        start = batch.first_id + skip
        invariant(
            self.committed.entry_id + 1 < start <= committed.entry_id <= batch.last_id
            and batch.chain_at(committed.entry_id) == committed.chain,
            "a jump leaves a gap and goes to an entry of the batch",
            start=start,
            committed=committed,
            before=self.committed,
        )
        before = Position(start - 1, batch.chain_at(start - 1))
        old, tail = self.committed, self.tail
        if tail.entry_id > old.entry_id:
            self.aside.append(Run(old.entry_id + 1, old.chain, tail))
            self._end_live_run(old)
        self.runs.append(Run(start, before.chain, batch.last))
        self.base = before
        self.chains = array("Q", batch.chains[skip:])
        self.committed = committed

    def trim(self, origin: Position) -> None:
        """The stream begins behind `origin`, which is committed: what lies below is forgotten.

        A commit point below it moves there. What the live run holds then stays if it holds that
        entry; if not, it is too short, or has parted from the committed history below it. An aside
        run that began below is of use only as far as it reaches into a gap right behind `origin`.
        """
        self.origin = origin
        if self.committed.entry_id < origin.entry_id:
            if not self.holds(origin):
                self.runs.clear()
                del self.chains[:]
            self.committed = origin
        if self.base.entry_id < origin.entry_id:
            del self.chains[: origin.entry_id - self.base.entry_id]
            self.base = origin
        self.runs = [above for run in self.runs if (above := _above(run, origin)) is not None]
        if self.fill is not None:
            self.fill = _above(self.fill, origin)
        is_next_missing = bool(self.runs) and self.runs[0].start > origin.entry_id + 1
        self.aside = [
            run
            for run in self.aside
            if run.start > origin.entry_id
            or (is_next_missing and run.last.entry_id > origin.entry_id)
        ]

    def drop_covered_aside(self) -> None:
        """Storage is told the commit point: drops the aside runs that lie up to there and within a
        run. Recovery finds such above the tail, which then grows over them: what of them was
        committed is held."""
        if self.aside:
            self.aside = [run for run in self.aside if not self._covers(run)]

    def _covers(self, aside: Run) -> bool:
        start, last_id = max(aside.start, self.origin.entry_id + 1), aside.last.entry_id
        run = self.run_with(last_id) if last_id <= self.committed.entry_id else None
        return run is not None and run.start <= start

    def _end_live_run(self, tail: Position) -> None:
        if self.runs and self.runs[-1].start <= tail.entry_id:
            self.runs[-1].last = tail
        elif self.runs:
            self.runs.pop()

    # --- gaps -------------------------------------------------------------------------------------

    def gaps(self) -> list[IdRange]:
        """What is missing of [first_entry_id, committed], lowest first. The fill does not count."""
        gaps = []
        start = self.origin.entry_id + 1
        for run in self.runs:
            if run.start > start:
                gaps.append(IdRange(start, run.start))
            start = run.end
        return gaps

    def lowest_gap(self) -> tuple[Position, Run] | None:
        """The position below the lowest gap, and the run above it."""
        below = self.origin
        for run in self.runs:
            if run.start > below.entry_id + 1:
                return below, run
            below = run.last
        return None

    def fill_position(self) -> Position | None:
        """The position that the next backfilled entry must build on; None: no gap."""
        gap = self.lowest_gap()
        if gap is None:
            return None
        return self.fill.last if self.fill is not None else gap[0]

    def add_fill(self, batch: Batch) -> None:
        """Appends to the fill."""
        invariant(batch.before == self.fill_position(), "backfill builds on what is below")
        if self.fill is None:
            self.fill = Run(batch.first_id, batch.prev_chain, batch.last)
        else:
            self.fill.last = batch.last

    def close_gap(self) -> None:
        """Joins the fill, which meets the run above, to its neighbours.

        The aside runs that began below its end go: each entry of theirs that was committed is now
        held, and the others are proved to lie outside the committed history.
        """
        gap = self.lowest_gap()
        invariant(gap is not None and self.fill is not None, "a gap is closed by a fill")
        assert gap is not None and self.fill is not None  # noqa: S101, PT018 - for the type checker
        _, above = gap
        invariant(self.fill.last == above.before, "a fill meets the run above", fill=self.fill)
        index = self.runs.index(above)
        self.fill.last = above.last
        self.runs[index] = self.fill
        if index and self.runs[index - 1].end == self.fill.start:
            self.runs[index - 1].last = above.last
            del self.runs[index]
        self.fill = None
        self.aside = [run for run in self.aside if run.start >= above.start]

    def cut(self, after: Position, last: Position) -> None:
        """Makes a gap of the entries behind `after`, up to `last`, which lie in one run.

        They are below the commit point, so the live run still holds that, and above the fill, which
        so remains in the lowest gap.
        """
        run = self.run_with(last.entry_id)
        invariant(
            run is not None
            and run.start - 1 <= after.entry_id < last.entry_id < self.committed.entry_id
            and (after == run.before or after.entry_id >= run.start)
            and self.chain_at(last.entry_id) in (None, last.chain)
            and (self.fill is None or self.fill.start <= after.entry_id),
            "what is cut out of a run is committed, and lies above the fill",
            after=after,
            last=last,
        )
        assert run is not None  # noqa: S101 - for the type checker
        parts = [
            Run(run.start, run.prev_chain, after),
            Run(last.entry_id + 1, last.chain, run.last),
        ]
        index = self.runs.index(run)
        self.runs[index : index + 1] = [part for part in parts if part.start < part.end]
        if self.base.entry_id < last.entry_id:  # it was the live run
            del self.chains[: last.entry_id - self.base.entry_id]
            self.base = last

    def run_with(self, entry_id: int) -> Run | None:
        """The proved or live run that holds `entry_id`."""
        for run in reversed(self.runs):
            if run.start <= entry_id:
                return run if entry_id < run.end else None
        return None


def _above(run: Run, origin: Position) -> Run | None:
    """What of the run lies behind `origin`; None: nothing."""
    if run.last.entry_id <= origin.entry_id:
        return None
    return run if run.start > origin.entry_id else Run(origin.entry_id + 1, origin.chain, run.last)
