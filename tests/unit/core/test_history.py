"""A history against a naive model: the entries held, one by one, in a dictionary.

Only chains matter here, so batches carry made-up ones: a counter, as if no two histories ever had
an equal chain.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from walle.core import history as history_module
from walle.core.history import CHAINS_KEPT, History, Run
from walle.errors import InvariantError
from walle.ids import ORIGIN, IdRange, Position
from walle.limits import COMMITTED_LAG_ENTRIES_MAX
from walle.record import Batch, Bytes

if TYPE_CHECKING:
    from collections.abc import Iterable

FEW = st.integers(1, 4)
CHAINS_KEPT_HERE = 3


def chained(before: Position, chains: Iterable[int]) -> Batch:
    """A batch of entries with those chains."""
    return Batch(before.entry_id + 1, before.chain, array("Q", chains), None, Bytes(b""))


def groups(ids: Iterable[int]) -> list[IdRange]:
    """The ids as ranges."""
    ranges: list[IdRange] = []
    for each in sorted(ids):
        if ranges and ranges[-1].end == each:
            ranges[-1] = ranges[-1]._replace(end=each + 1)
        else:
            ranges.append(IdRange(each, each + 1))
    return ranges


def ranges_of(runs: Iterable[Run]) -> list[IdRange]:
    return [IdRange(run.start, run.end) for run in runs]


class HistoryMachine(RuleBasedStateMachine):
    """held: the chain of each entry that is proved or in the live run; below: the chain under the
    first entry of each run; aside: the ids of each aside run."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = patch.object(history_module, "CHAINS_KEPT", CHAINS_KEPT_HERE)
        self.patch.start()
        self.count = 1_000

    def teardown(self) -> None:
        self.patch.stop()

    @initialize(first_id=st.sampled_from([1, 11]), is_damaged=st.booleans())
    def create(self, first_id: int, is_damaged: bool) -> None:
        """is_damaged: recovery has found records above the tail."""
        self.origin = Position(first_id - 1, first_id - 1)
        self.history = History(self.origin, committed=self.origin, base=self.origin)
        self.held: dict[int, int] = {}
        self.below = {first_id: self.origin.chain}
        self.aside: list[set[int]] = []
        if is_damaged:
            self.aside.append({first_id + 2, first_id + 3})
            last = Position(first_id + 3, 1)
            self.history.aside.append(Run(first_id + 2, 1, last))
        self.fill: dict[int, int] = {}
        self.committed_id = self.origin.entry_id

    def new_chains(self, count: int) -> list[int]:
        self.count += count
        return list(range(self.count - count, self.count))

    def chain(self, entry_id: int) -> int:
        """The chain after an entry that is held or lies below one."""
        return self.held[entry_id] if entry_id in self.held else self.below[entry_id + 1]

    def position(self, entry_id: int) -> Position:
        return Position(entry_id, self.chain(entry_id))

    @property
    def tail_id(self) -> int:
        return max(self.held, default=self.origin.entry_id)

    @property
    def live_ids(self) -> range:
        """The live run's entries, and the one below."""
        ranges = groups(self.held)
        return range(ranges[-1].start - 1 if ranges else self.tail_id, self.tail_id + 1)

    @property
    def lowest_gap(self) -> IdRange | None:
        return next(iter(self.gaps()), None)

    def gaps(self) -> list[IdRange]:
        missing = set(range(self.origin.entry_id + 1, self.tail_id + 1)) - set(self.held)
        return groups(missing)

    # --- the live run -----------------------------------------------------------------------------

    @rule(count=FEW, data=st.data())
    def append(self, count: int, data: st.DataObject) -> None:
        """New entries, behind some that are held already."""
        low = max(self.live_ids.start, self.history.base.entry_id)
        before = data.draw(st.integers(low, self.tail_id), label="before")
        again = [self.held[each] for each in range(before + 1, self.tail_id + 1)]
        new = self.new_chains(count)
        self.history.append(chained(self.position(before), again + new), len(again))
        self.held |= dict(enumerate(new, start=self.tail_id + 1))

    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        to = data.draw(st.integers(self.committed_id, self.tail_id), label="to")
        self.history.truncate(self.position(to))
        self.held = {each: chain for each, chain in self.held.items() if each <= to}

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        to = data.draw(st.integers(self.committed_id, self.tail_id), label="to")
        self.history.commit(self.position(to))
        self.committed_id = to

    @rule()
    def drop_covered_aside(self) -> None:
        self.history.drop_covered_aside()
        origin_id = self.origin.entry_id
        self.aside = [
            run
            for run in self.aside
            if max(run) > self.committed_id
            or any(each > origin_id and each not in self.held for each in run)
        ]

    @rule(skip=st.integers(0, 2), gap=FEW, count=FEW, data=st.data())
    def jump(self, skip: int, gap: int, count: int, data: st.DataObject) -> None:
        start = self.committed_id + 1 + gap
        skip = min(skip, start - 1)
        below, *skipped = self.new_chains(skip + 1)
        chains = self.new_chains(count)
        committed = data.draw(st.integers(start, start + count - 1), label="committed")
        batch = chained(Position(start - skip - 1, below), [*skipped, *chains])
        suffix = {each for each in self.held if each > self.committed_id}
        if suffix:
            self.aside.append(suffix)
        self.held = {each: chain for each, chain in self.held.items() if each not in suffix}
        self.held |= dict(enumerate(chains, start=start))
        self.below[start] = [below, *skipped][-1]
        self.committed_id = committed
        self.history.jump(batch, skip, self.position(committed))

    # --- gaps -------------------------------------------------------------------------------------

    @precondition(lambda self: self.lowest_gap and len(self.fill) < len(range(*self.lowest_gap)))
    @rule(data=st.data(), meets=st.booleans())
    def add_fill(self, data: st.DataObject, meets: bool) -> None:
        gap = self.lowest_gap
        assert gap is not None
        left = gap.end - gap.start - len(self.fill)
        chains = self.new_chains(data.draw(st.integers(1, left), label="count"))
        if len(chains) == left and meets:
            chains[-1] = self.below[gap.end]
        before = self.history.fill_position()
        assert before is not None
        self.history.add_fill(chained(before, chains))
        self.fill |= dict(enumerate(chains, start=before.entry_id + 1))

    @precondition(lambda self: self.fill)
    @rule()
    def end_fill(self) -> None:
        """It has met the run above and closes the gap, or it is dropped."""
        gap = self.lowest_gap
        assert gap is not None
        if self.fill.get(gap.end - 1) == self.below[gap.end]:
            self.history.close_gap()
            self.held |= self.fill
            self.aside = [run for run in self.aside if min(run) >= gap.end]
        else:
            self.history.fill = None
        self.fill = {}

    @precondition(lambda self: any(each < self.committed_id for each in self.held))
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        """Any part of a run; what it makes the lowest gap has no fill yet."""
        runs = [each for each in groups(self.held) if each.start < self.committed_id]
        run = data.draw(st.sampled_from(runs), label="run")
        end_max = min(run.end, self.committed_id)
        start = data.draw(st.integers(run.start, end_max - 1), label="start")
        end = data.draw(st.integers(start + 1, end_max), label="end")
        if self.fill and start < min(self.fill):
            self.history.fill = None
            self.fill = {}
        after, last = self.position(start - 1), self.position(end - 1)
        self.history.cut(after, last)
        self.below[end] = last.chain
        for entry_id in range(start, end):
            del self.held[entry_id]

    # --- the beginning ----------------------------------------------------------------------------

    @rule(data=st.data(), ahead=st.integers(0, 3), is_held=st.booleans())
    def trim(self, data: st.DataObject, ahead: int, is_held: bool) -> None:
        """Up to an entry that is committed here, held or in a gap; or to one that is further on,
        and that the live run holds or contradicts."""
        to = data.draw(st.integers(self.origin.entry_id, self.committed_id), label="to") + ahead
        is_known = to in self.held or to + 1 in self.below
        if is_known and (is_held or to <= self.committed_id):
            self.origin = self.position(to)
        else:
            self.origin = Position(to, *self.new_chains(1))
        self.history.trim(self.origin)
        if to > self.committed_id and not (is_known and is_held):
            self.held.clear()
        self.committed_id = max(self.committed_id, to)
        self.held = {each: chain for each, chain in self.held.items() if each > to}
        self.below[to + 1] = self.origin.chain
        self.fill = {each: chain for each, chain in self.fill.items() if each > to}
        is_in_gap = self.tail_id > to and to + 1 not in self.held
        self.aside = [run for run in self.aside if min(run) > to or (is_in_gap and max(run) > to)]

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def runs_gaps_and_positions_are_those_of_the_model(self) -> None:
        history = self.history
        assert ranges_of(history.runs) == groups(self.held)
        for run in history.runs:
            assert run.before == Position(run.start - 1, self.chain(run.start - 1))
            assert run.last == self.position(run.end - 1)
        assert ranges_of(history.aside) == [IdRange(min(run), max(run) + 1) for run in self.aside]
        assert history.gaps() == self.gaps()
        assert history.tail == self.position(self.tail_id)
        assert history.committed == self.position(self.committed_id)
        assert history.suffix_count == self.tail_id - self.committed_id

    @invariant()
    def lowest_gap_and_fill_are_those_of_the_model(self) -> None:
        gap, found = self.lowest_gap, self.history.lowest_gap()
        if gap is None:
            assert found is None
            assert self.history.fill_position() is None
            return
        assert found is not None
        assert found[0] == self.position(gap.start - 1)
        assert found[1].before == Position(gap.end - 1, self.below[gap.end])
        last_id = max(self.fill, default=gap.start - 1)
        chain = self.fill[last_id] if self.fill else found[0].chain
        assert self.history.fill_position() == Position(last_id, chain)

    @invariant()
    def chains_are_remembered_from_the_commit_point_on(self) -> None:
        base_id = self.history.base.entry_id
        assert self.live_ids.start <= base_id <= self.committed_id
        assert self.committed_id - base_id <= 2 * CHAINS_KEPT_HERE
        for entry_id in range(self.origin.entry_id - 1, self.tail_id + 3):
            is_known = base_id <= entry_id <= self.tail_id
            expected = self.chain(entry_id) if is_known else None
            assert self.history.chain_at(entry_id) == expected
            assert not self.history.holds(Position(entry_id, 1))
            assert not is_known or self.history.holds(self.position(entry_id))

    @invariant()
    def run_with_finds_each_entry_and_no_other(self) -> None:
        for entry_id in range(self.origin.entry_id, self.tail_id + 2):
            run = self.history.run_with(entry_id)
            assert (run is not None) == (entry_id in self.held)
            assert run is None or run.start <= entry_id < run.end

    @rule(data=st.data(), other=st.integers(0, 3))
    def match_batch_that_leaves_the_live_run_somewhere(
        self, data: st.DataObject, other: int
    ) -> None:
        """The first ones are held, the others are another writer's."""
        base_id = self.history.base.entry_id
        before = data.draw(st.integers(self.live_ids.start, self.tail_id), label="before")
        common = data.draw(st.integers(before, self.tail_id), label="common")
        chains = [self.held[each] for each in range(before + 1, common + 1)]
        chains += self.new_chains(other or (not chains))
        expected = common - before if common >= base_id else 0
        assert self.history.matching(chained(self.position(before), chains)) == expected


TestHistory = HistoryMachine.TestCase
TestHistory.settings = settings(max_examples=120, stateful_step_count=25)


def committed_to(last_id: int, tail_id: int) -> History:
    """Entries 1 up to `tail_id`, whose chains are 10 times their ids."""
    history = History()
    history.append(chained(ORIGIN, [10 * each for each in range(1, tail_id + 1)]), 0)
    history.commit(Position(last_id, 10 * last_id))
    return history


def test_chains_are_kept_for_as_far_as_the_durable_commit_point_may_lag() -> None:
    """Otherwise a restarted member could not recognize what it holds."""
    assert CHAINS_KEPT >= COMMITTED_LAG_ENTRIES_MAX


def test_chains_of_what_was_committed_long_ago_are_forgotten_in_large_steps() -> None:
    with patch.object(history_module, "CHAINS_KEPT", CHAINS_KEPT_HERE):
        assert committed_to(2 * CHAINS_KEPT_HERE, 9).base == ORIGIN
        history = committed_to(2 * CHAINS_KEPT_HERE + 1, 9)
    assert history.base == Position(4, 40)
    assert list(history.chains) == [50, 60, 70, 80, 90]


def test_batch_of_unknown_descent_matches_nothing() -> None:
    history = committed_to(2, 4)
    assert history.matching(chained(Position(1, 7), [8, 9])) == 0
    assert history.matching(chained(Position(6, 60), [70])) == 0


@pytest.mark.parametrize("before", [Position(3, 30), Position(4, 41), Position(5, 50)])
def test_append_elsewhere_than_on_the_tail_is_a_bug(before: Position) -> None:
    with pytest.raises(InvariantError, match="appends build on the tail"):
        committed_to(2, 4).append(chained(before, [77]), 0)


@pytest.mark.parametrize("to", [Position(1, 10), Position(3, 31), Position(5, 50)])
def test_truncating_what_is_committed_or_not_held_is_a_bug(to: Position) -> None:
    with pytest.raises(InvariantError, match="keeps what is committed"):
        committed_to(2, 4).truncate(to)


@pytest.mark.parametrize("to", [Position(1, 10), Position(3, 31), Position(5, 50)])
def test_committing_backwards_or_what_is_not_held_is_a_bug(to: Position) -> None:
    with pytest.raises(InvariantError, match="the commit point advances"):
        committed_to(2, 4).commit(to)


@pytest.mark.parametrize(
    ("batch", "skip", "committed"),
    [
        (chained(Position(2, 20), [30]), 0, Position(3, 30)),  # leaves no gap
        (chained(Position(5, 50), [60]), 0, Position(6, 61)),  # another entry
        (chained(Position(5, 50), [60]), 0, Position(7, 70)),  # not in the batch
        (chained(Position(5, 50), [60, 70]), 1, Position(6, 60)),  # skipped
    ],
)
def test_jump_without_a_gap_or_to_what_is_not_there_is_a_bug(
    batch: Batch, skip: int, committed: Position
) -> None:
    with pytest.raises(InvariantError, match="a jump leaves a gap"):
        committed_to(2, 4).jump(batch, skip, committed)


def with_gap() -> History:
    """Entries 1, 2 and 6; 3 to 5 are missing."""
    history = committed_to(2, 2)
    history.jump(chained(Position(5, 50), [60]), 0, Position(6, 60))
    return history


def test_fill_that_does_not_build_on_what_is_below_is_a_bug() -> None:
    with pytest.raises(InvariantError, match="backfill builds on what is below"):
        with_gap().add_fill(chained(Position(2, 21), [30]))


@pytest.mark.parametrize("fill", [(), (30, 40), (30, 40, 51)])
def test_closing_a_gap_that_is_not_filled_is_a_bug(fill: tuple[int, ...]) -> None:
    history = with_gap()
    if fill:
        history.add_fill(chained(Position(2, 20), fill))
    with pytest.raises(InvariantError, match=r"a gap is closed by a fill|a fill meets the run"):
        history.close_gap()


@pytest.mark.parametrize(
    ("after", "last"),
    [
        (Position(2, 20), Position(2, 20)),  # nothing
        (Position(2, 20), Position(5, 50)),  # the commit point
        (Position(2, 20), Position(6, 60)),  # the suffix
        (Position(2, 20), Position(3, 31)),  # another entry
        (Position(0, 1), Position(3, 30)),  # another history
    ],
)
def test_cutting_what_is_not_committed_or_not_held_is_a_bug(
    after: Position, last: Position
) -> None:
    with pytest.raises(InvariantError, match="what is cut out of a run is committed"):
        committed_to(5, 6).cut(after, last)


def test_cutting_below_the_fill_is_a_bug() -> None:
    """It would be in another gap than the lowest."""
    history = with_gap()
    history.add_fill(chained(Position(2, 20), [30]))
    with pytest.raises(InvariantError, match="lies above the fill"):
        history.cut(Position(0, 0), Position(1, 10))


def test_aside_run_above_the_gap_survives_its_closing() -> None:
    """Only what began in the gap is proved to be in or out."""
    history = with_gap()
    history.append(chained(Position(6, 60), [71, 81]), 0)
    history.jump(chained(Position(8, 80), [90]), 0, Position(9, 90))
    assert ranges_of(history.aside) == [IdRange(7, 9)]
    history.add_fill(chained(Position(2, 20), [30, 40, 50]))
    history.close_gap()
    assert ranges_of(history.aside) == [IdRange(7, 9)]
    history.add_fill(chained(Position(6, 60), [70, 80]))
    history.close_gap()
    assert history.aside == []
    assert ranges_of(history.runs) == [IdRange(1, 10)]
