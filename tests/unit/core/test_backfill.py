"""Closing gaps: what comes is checked, every source has its turn, this member itself the last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.core.bench import SESSION, STREAM, MemberBench, Truth
from tests.unit.making import W1, W2
from walle.core.backfill import FETCH_MS, PAUSE_MS, STUCK_MS_MAX
from walle.core.effects import CloseGap, Commit, Cut, DropFill, Fill, Forward, Send
from walle.core.history import History
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import IdRange
from walle.limits import BACKFILL_TURNS_MAX, FETCH_BYTES_MAX
from walle.messages import AskHeld, AskHeldReply, Fetch, FetchReply, Put

if TYPE_CHECKING:
    from walle.record import Batch

TRUTH = Truth(12)
OTHER = Truth(6, W2, TRUTH.at(2))
REPLY = FetchReply(STREAM, 3)


def gapped() -> MemberBench:
    """Entries 3, 4 and 5 are missing."""
    return MemberBench(TRUTH.with_gap(2, 6, 8))


def fetch(bench: MemberBench) -> Send:
    """The one question under way."""
    (asked,) = bench.asked(Fetch).values()
    return asked


def refuse(bench: MemberBench) -> str:
    """Who was asked, and has nothing."""
    asked = fetch(bench)
    bench.reply(asked, REPLY, None)
    return str(asked.to)


def test_lowest_gap_is_asked_for_from_the_chain_below() -> None:
    bench = gapped()
    assert fetch(bench).message == Fetch(STREAM, 3, 6, 1, TRUTH.at(2).chain, FETCH_BYTES_MAX)


def test_gap_is_told_to_be_closed_when_that_is_durable() -> None:
    bench = gapped()
    bench.reply(fetch(bench), REPLY, TRUTH.batch(3, 5))
    bench.member.joining.tell_held(SESSION, 1, AskHeld(STREAM, 1))
    closing, telling = bench.context.outbox.actions[-2:]
    assert isinstance(closing, CloseGap)
    assert isinstance(telling, Forward)
    assert telling.send.message == AskHeldReply(STREAM, Code.OK, 1, 9, ())


def test_gap_is_filled_page_by_page_and_closed() -> None:
    bench = gapped()
    bench.reply(fetch(bench), REPLY, TRUTH.batch(3, 4))
    assert bench.member.history.gaps() == [IdRange(3, 6)], "not held before it is proved"
    assert [each.batch for each in bench.actions(Fill)] == [TRUTH.batch(3, 4)]
    asked = fetch(bench)
    assert (asked.message.start, asked.message.prev_chain) == (5, TRUTH.at(4).chain)
    bench.reply(asked, REPLY, TRUTH.batch(5, 5))
    assert len(bench.actions(Fill)) == len(bench.actions(CloseGap)) == 1
    assert bench.member.history.gaps() == []
    assert bench.asked(Fetch) == {}


def test_next_gap_follows() -> None:
    history = TRUTH.with_gap(2, 4, 5)
    history.jump(TRUTH.batch(8, 9), 0, TRUTH.at(9))
    bench = MemberBench(history)
    bench.reply(fetch(bench), REPLY, TRUTH.batch(3, 3))
    asked = fetch(bench)
    assert (asked.message.start, asked.message.end) == (6, 8)


def test_fill_that_does_not_meet_the_run_above_is_dropped() -> None:
    """It came from another member's aside run."""
    bench = gapped()
    bench.reply(fetch(bench), REPLY, OTHER.batch(3, 5))
    assert len(bench.actions(DropFill)) == 1
    assert bench.actions(CloseGap) == []
    assert bench.member.history.fill is None
    assert fetch(bench).message.start == 3


def test_source_with_another_history_does_not_come_first_for_ever() -> None:
    bench = gapped()
    first = set()
    for _ in range(20):
        asked = fetch(bench)
        first.add(asked.to)
        bench.reply(asked, REPLY, OTHER.batch(3, 5))
    assert first == {"n1", "n2", "n3"}


def test_fill_that_nobody_builds_on_is_dropped() -> None:
    """It parted from the committed history before its source's aside run ended."""
    bench = gapped()
    bench.reply(fetch(bench), REPLY, OTHER.batch(3, 3))
    for _ in range(2):
        refuse(bench)
    assert bench.actions(DropFill) == []
    refuse(bench)
    assert len(bench.actions(DropFill)) == 1
    bench.pass_ms(PAUSE_MS)
    assert fetch(bench).message.start == 3


def test_fill_is_kept_while_a_source_is_silent_but_not_for_ever() -> None:
    bench = gapped()
    bench.reply(fetch(bench), REPLY, OTHER.batch(3, 3))
    bench.pass_ms(STUCK_MS_MAX)
    assert bench.actions(DropFill) == []
    bench.pass_ms(4 * FETCH_MS)
    assert len(bench.actions(DropFill)) == 1


@pytest.mark.parametrize(
    "batch", [None, TRUTH.batch(2, 4), TRUTH.batch(4, 5), OTHER.batch(4, 5), TRUTH.batch(3, 6)]
)
def test_what_does_not_build_on_the_fill_is_not_taken(batch: Batch | None) -> None:
    bench = gapped()
    first = fetch(bench)
    bench.reply(first, REPLY, batch)
    assert bench.actions(Fill) == []
    assert fetch(bench).to != first.to


def test_every_source_has_its_turn_this_member_last_then_comes_a_pause() -> None:
    """Its own aside runs may be the only copies."""
    bench = gapped()
    assert [refuse(bench) for _ in range(3)] == ["n3", "n2", "n1"]
    assert bench.asked(Fetch) == {}
    bench.pass_ms(PAUSE_MS)
    assert refuse(bench) == "n3"


def test_source_that_does_not_answer_is_left() -> None:
    bench = gapped()
    assert fetch(bench).to == "n3"
    bench.pass_ms(FETCH_MS)
    assert set(bench.asked(Fetch)) == {"n3", "n2"}


def test_gap_that_was_filled_meanwhile_is_not_filled_again() -> None:
    bench = gapped()
    asked = fetch(bench)
    bench.member.history.add_fill(TRUTH.batch(3, 5))
    bench.member.history.close_gap()
    bench.reply(asked, REPLY, TRUTH.batch(3, 5))
    assert bench.actions(Fill) == []


def test_one_question_at_a_time_and_none_without_a_gap() -> None:
    bench = gapped()
    fetch(bench)
    bench.member.backfill.start()
    assert bench.asked(Fetch) == {}
    assert MemberBench(TRUTH.held(5)).asked(Fetch) == {}
    assert MemberBench(History()).asked(Fetch) == {}


def test_member_without_others_fills_from_its_own_aside_runs() -> None:
    bench = MemberBench(TRUTH.with_gap(2, 6, 8), topology=StreamTopology(1, ("n1",)))
    assert fetch(bench).to == "n1"


def test_pause_lasts_whatever_else_happens() -> None:
    """Each commit looks for gaps; none of them may begin a round before its time."""
    bench = gapped()
    for _ in ("n3", "n2", "n1"):
        refuse(bench)
    bench.member.put(SESSION, 1, Put(STREAM, 1, W1, 1, TRUTH.at(8), 0), None)
    bench.member.advance(TRUTH.at(8))
    bench.member.backfill.start()
    assert bench.asked(Fetch) == {}
    bench.pass_ms(PAUSE_MS)
    assert set(bench.asked(Fetch)) == {"n3"}


def test_gap_that_is_closed_before_its_turn_leaves_the_turn_to_others() -> None:
    bench = MemberBench(TRUTH.held(2))
    throttle, begun = bench.context.throttle, []
    for other in range(BACKFILL_TURNS_MAX):
        throttle.ask(1_000 + other, lambda: None)
    bench.member.history.jump(TRUTH.batch(6, 8), 0, TRUTH.at(8))
    bench.member.backfill.start()
    assert bench.asked(Fetch) == {}, "others have all the turns"
    throttle.ask(2_000, lambda: begun.append(2_000))
    bench.member.history.add_fill(TRUTH.batch(3, 5))
    bench.member.history.close_gap()
    throttle.end(1_000, 0)
    assert begun == [2_000]
    assert bench.asked(Fetch) == {}


def test_streams_begin_with_different_sources() -> None:
    first = []
    for stream_id in (8, 9, 10):
        bench = MemberBench(TRUTH.with_gap(2, 6, 8), is_started=False)
        bench.member.stream_id = stream_id
        bench.member.backfill.on_topology()
        bench.member.start()
        first.append(fetch(bench).to)
    assert first == ["n2", "n3", "n2"]


def test_damage_becomes_a_gap_that_is_filled() -> None:
    bench = MemberBench(TRUTH.held(8, 9))
    bench.member.backfill.open_gap(TRUTH.at(2), TRUTH.at(5))
    assert bench.actions(Cut) == [Cut(STREAM, TRUTH.at(2), TRUTH.at(5))]
    assert bench.member.history.gaps() == [IdRange(3, 6)]
    assert bench.member.history.tail == TRUTH.at(9)
    bench.reply(fetch(bench), REPLY, TRUTH.batch(3, 5))
    assert len(bench.actions(CloseGap)) == 1
    assert bench.member.history.runs == TRUTH.held(8, 9).runs


def test_storage_knows_that_the_live_run_holds_the_commit_point_before_it_is_cut() -> None:
    bench = MemberBench(TRUTH.held(2, 9))
    bench.member.advance(TRUTH.at(8))
    bench.member.backfill.open_gap(TRUTH.at(0), TRUTH.at(7))
    assert bench.actions(tuple) == [
        Commit(STREAM, TRUTH.at(8)),
        Cut(STREAM, TRUTH.at(0), TRUTH.at(7)),
    ]


def test_damage_that_was_reported_before_changes_nothing() -> None:
    bench = MemberBench(TRUTH.held(9))
    for after, last in [(2, 5), (2, 5), (3, 4), (2, 7), (1, 4)]:
        bench.member.backfill.open_gap(TRUTH.at(after), TRUTH.at(last))
    assert len(bench.actions(Cut)) == 1
    assert bench.member.history.gaps() == [IdRange(3, 6)]


def test_damage_of_what_is_trimmed_is_no_gap() -> None:
    """Storage keeps what it holds below the first entry as long as the same segment is needed."""
    history = History(TRUTH.at(3), committed=TRUTH.at(3), base=TRUTH.at(3))
    history.append(TRUTH.batch(4, 9), 0)
    history.commit(TRUTH.at(8))
    bench = MemberBench(history)
    bench.member.backfill.open_gap(TRUTH.at(1), TRUTH.at(3))
    assert bench.actions(Cut) == []
    bench.member.backfill.open_gap(TRUTH.at(1), TRUTH.at(5))
    assert bench.actions(Cut) == [Cut(STREAM, TRUTH.at(3), TRUTH.at(5))]
    assert history.gaps() == [IdRange(4, 6)]


@pytest.mark.parametrize(
    ("after", "last", "is_lower"), [(0, 1, True), (0, 2, True), (5, 6, False), (6, 7, False)]
)
def test_damage_below_the_fill_is_filled_first(after: int, last: int, is_lower: bool) -> None:
    bench = gapped()
    bench.reply(fetch(bench), REPLY, TRUTH.batch(3, 4))
    asked = fetch(bench)
    bench.member.backfill.open_gap(TRUTH.at(after), TRUTH.at(last))
    assert len(bench.actions(DropFill)) == is_lower
    assert bench.member.history.fill_position() == TRUTH.at(after if is_lower else 4)
    bench.reply(asked, REPLY, None)
    assert fetch(bench).message.start == (after if is_lower else 4) + 1
