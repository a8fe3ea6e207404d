"""A member whose stream is trimmed: what it keeps, whatever it had, and whom that surprises."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest

from tests.unit.core.bench import SESSION, STREAM, MemberBench, Truth
from tests.unit.making import THREE, W1, W2
from walle.core.effects import Append, Commit, Fill, Forward, SetTopology
from walle.errors import Code
from walle.ids import ORIGIN, IdRange, Position
from walle.messages import (
    AdoptReply,
    AskHeld,
    AskHeldReply,
    AskWriter,
    AskWriterReply,
    Fetch,
    FetchReply,
    Put,
    PutReply,
    Read,
    ReadReply,
    ReadTail,
    ReadTailReply,
    Stamp,
    StampReply,
    Sync,
    SyncReply,
)

if TYPE_CHECKING:
    from walle.core.history import History
    from walle.ids import WriterId
    from walle.messages import Message
    from walle.record import Batch

TRUTH = Truth(20)
OTHER = Truth(9, W2, TRUTH.at(3))
"""Another writer's entries from 4 on."""


def trim(bench: MemberBench, origin: Position, version: int = 1) -> None:
    topology = THREE._replace(version=version).trimmed(origin)
    bench.member.joining.adopt(topology)


def diverged(committed_id: int, tail_id: int) -> History:
    """Entries up to 3, then the other writer's."""
    history = TRUTH.held(3)
    history.append(OTHER.batch(4, tail_id), 0)
    history.commit(OTHER.at(committed_id) if committed_id > 3 else TRUTH.at(committed_id))
    return history


def ids(history: History) -> list[IdRange]:
    return [IdRange(run.start, run.end) for run in history.runs]


def answer(bench: MemberBench) -> Message:
    """The newest answer."""
    *_, newest = bench.answers()
    return newest


def put(
    bench: MemberBench, batch: Batch | None, committed: Position, writer: WriterId = W1
) -> PutReply:
    bench.member.put(SESSION, 1, Put(STREAM, 1, writer, 1, committed, relay=0), batch)
    reply = answer(bench)
    assert isinstance(reply, PutReply)
    return reply


# --- what is kept ---------------------------------------------------------------------------------

KEPT: dict[str, tuple[History, int, list[IdRange], int, int]] = {
    # name: what is held, the origin, the runs after, commit point, tail
    "within what is committed": (TRUTH.held(8, 10), 5, [IdRange(6, 11)], 8, 10),
    "up to the commit point": (TRUTH.held(8, 10), 8, [IdRange(9, 11)], 8, 10),
    "all that is held": (TRUTH.held(8), 8, [], 8, 8),
    "beyond the commit point": (TRUTH.held(8, 10), 9, [IdRange(10, 11)], 9, 10),
    "beyond the commit point up to the tail": (TRUTH.held(8, 10), 10, [], 10, 10),
    "beyond the tail": (TRUTH.held(8, 10), 15, [], 15, 15),
    "below a gap": (TRUTH.with_gap(5, 8, 12), 3, [IdRange(4, 6), IdRange(8, 13)], 12, 12),
    "within a gap": (TRUTH.with_gap(5, 8, 12), 6, [IdRange(8, 13)], 12, 12),
    "up to the end of a gap": (TRUTH.with_gap(5, 8, 12), 7, [IdRange(8, 13)], 12, 12),
    "above a gap": (TRUTH.with_gap(5, 8, 12), 9, [IdRange(10, 13)], 12, 12),
    "nothing was held": (TRUTH.held(0), 15, [], 15, 15),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_lies_above_the_origin_is_kept(case: str) -> None:
    history, origin_id, runs, committed_id, tail_id = KEPT[case]
    bench = MemberBench(copy.deepcopy(history), is_started=False)
    trim(bench, TRUTH.at(origin_id))
    found = bench.member.history
    assert ids(found) == runs
    assert found.origin == TRUTH.at(origin_id)
    assert (found.committed, found.tail) == (TRUTH.at(committed_id), TRUTH.at(tail_id))
    assert all(origin_id < gap.start for gap in found.gaps())
    assert bench.member.accepted == W1


@pytest.mark.parametrize("tail_id", [4, 8, 12])
def test_suffix_that_parted_from_the_committed_history_goes(tail_id: int) -> None:
    """However far it reaches: it left that history below the origin."""
    bench = MemberBench(diverged(3, tail_id))
    trim(bench, TRUTH.at(8))
    history = bench.member.history
    assert (ids(history), history.aside) == ([], [])
    assert history.committed == history.tail == TRUTH.at(8)
    assert bench.member.accepted == W1


def test_aside_runs_go_once_they_lie_below() -> None:
    history = diverged(3, 6)
    history.jump(TRUTH.batch(9, 10), 0, TRUTH.at(10))
    bench = MemberBench(history)
    trim(bench, TRUTH.at(5))
    assert [run.last for run in bench.member.history.aside] == [OTHER.at(6)]
    trim(bench, TRUTH.at(6))
    assert bench.member.history.aside == []


def test_doubt_ends_with_what_was_doubted() -> None:
    bench = MemberBench(TRUTH.held(2, 4))
    bench.member.doubtful_id = 7
    trim(bench, TRUTH.at(6))
    assert bench.member.is_damaged
    trim(bench, TRUTH.at(7))
    assert not bench.member.is_damaged


# --- in which order -------------------------------------------------------------------------------


@pytest.mark.parametrize(("origin_id", "ordered"), [(5, [8]), (8, [8]), (9, [9]), (10, [10])])
def test_storage_is_told_of_the_commit_point_before_the_trim(
    origin_id: int, ordered: list[int]
) -> None:
    """By it, it knows that the live run holds the origin."""
    bench = MemberBench(TRUTH.held(2, 10))
    bench.member.advance(TRUTH.at(8))
    trim(bench, TRUTH.at(origin_id))
    _, actions = bench.context.outbox.take()
    commits = [each for each in actions if isinstance(each, Commit)]
    assert [each.committed.entry_id for each in commits] == ordered
    assert isinstance(actions[-1], SetTopology)
    assert actions[-1].topology.origin == TRUTH.at(origin_id)
    bench.pass_ms(1_000)
    assert bench.actions(Commit) == []


def test_storage_is_told_of_no_commit_point_that_the_live_run_lacks() -> None:
    bench = MemberBench(TRUTH.held(2, 10))
    trim(bench, TRUTH.at(15))
    bench.pass_ms(1_000)
    assert bench.actions(Commit) == []


def test_trim_is_adopted_once_and_never_back() -> None:
    bench = MemberBench(TRUTH.held(8))
    trim(bench, TRUTH.at(5))
    assert len(bench.actions(SetTopology)) == 1
    trim(bench, TRUTH.at(5))
    trim(bench, TRUTH.at(2))
    assert bench.actions(SetTopology) == []
    assert bench.member.history.origin == TRUTH.at(5)


def test_newer_members_do_not_bring_an_older_beginning_back() -> None:
    bench = MemberBench(TRUTH.held(8))
    trim(bench, TRUTH.at(5))
    trim(bench, ORIGIN, version=2)
    assert bench.member.topology == THREE._replace(version=2).trimmed(TRUTH.at(5))


def test_manager_is_answered_once_the_trim_is_durable() -> None:
    bench = MemberBench(TRUTH.held(8))
    topology = THREE.trimmed(TRUTH.at(5))
    bench.member.joining.adopt(topology)
    bench.member.joining.adopted(SESSION, 1)
    sends, actions = bench.context.outbox.take()
    assert sends == []
    *_, change, forward = actions
    assert isinstance(change, SetTopology)
    assert isinstance(forward, Forward)
    assert forward.send.message == AdoptReply(STREAM, Code.OK, 1)


# --- writers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin_id", [5, 9, 15])
def test_writer_does_not_notice(origin_id: int) -> None:
    """Its version is still good: nothing that it has in flight is refused."""
    bench = MemberBench(TRUTH.held(8, 10))
    trim(bench, TRUTH.at(origin_id))
    start = max(origin_id, 10) + 1
    reply = put(bench, TRUTH.batch(start, start + 1), TRUTH.at(start - 1))
    assert (reply.code, reply.held) == (Code.OK, TRUTH.at(start + 1))
    assert bench.member.history.committed == TRUTH.at(start - 1)


def test_puts_that_were_too_early_follow_the_origin() -> None:
    bench = MemberBench(TRUTH.held(2))
    assert put(bench, TRUTH.batch(8, 9), TRUTH.at(2)).held == TRUTH.at(2)
    trim(bench, TRUTH.at(7))
    replies = [each for each in bench.answers() if isinstance(each, PutReply)]
    assert [each.held for each in replies] == [TRUTH.at(9)]
    assert bench.member.history.tail == TRUTH.at(9)


def test_storage_trims_before_it_appends_what_follows() -> None:
    bench = MemberBench(TRUTH.held(2))
    put(bench, TRUTH.batch(8, 9), TRUTH.at(2))
    bench.context.outbox.take()
    trim(bench, TRUTH.at(7))
    _, actions = bench.context.outbox.take()
    kinds = [type(each) for each in actions]
    assert kinds.index(SetTopology) < kinds.index(Append)


@pytest.mark.parametrize(
    ("first_id", "last_id"), [(1, 2), (2, 4), (4, 6), (3, 9), (6, 9), (9, 10), (10, 12)]
)
def test_puts_that_come_again_are_recognized_at_the_origin(first_id: int, last_id: int) -> None:
    bench = MemberBench(TRUTH.held(8, 10))
    trim(bench, TRUTH.at(5))
    reply = put(bench, TRUTH.batch(first_id, last_id), TRUTH.at(8))
    assert reply.code == Code.OK
    assert bench.member.history.tail == TRUTH.at(max(last_id, 10))
    assert bench.context.outbox.alarms == []


def test_commit_point_that_was_missing_is_not_jumped_to_any_more() -> None:
    bench = MemberBench(TRUTH.held(2))
    assert put(bench, None, TRUTH.at(6)).code == Code.OK
    trim(bench, TRUTH.at(8))
    bench.pass_ms(5_000)
    assert bench.asked(Fetch) == {}
    assert put(bench, None, TRUTH.at(8)).code == Code.OK


def test_commit_point_beyond_the_origin_is_jumped_to() -> None:
    bench = MemberBench(TRUTH.held(2))
    put(bench, None, TRUTH.at(12))
    trim(bench, TRUTH.at(8))
    bench.pass_ms(50)
    asked = bench.asked(Fetch)
    bench.reply(asked["n2"], FetchReply(STREAM, 12), TRUTH.batch(12, 12))
    assert bench.member.history.committed == TRUTH.at(12)
    assert bench.member.history.gaps() == [IdRange(9, 12)]


# --- claims ---------------------------------------------------------------------------------------


def promised(history: History) -> MemberBench:
    bench = MemberBench(history)
    bench.member.set_promise(W2, "", 100)
    return bench


def sync(bench: MemberBench, base: Position, tail: Position, jump: int) -> list[int]:
    bench.member.syncing.sync(SESSION, 1, Sync(STREAM, 1, W2, "n2", base, tail, jump))
    return [each.code for each in bench.answers() if isinstance(each, SyncReply)]


def test_tail_of_a_member_behind_the_trim_is_its_origin() -> None:
    bench = promised(TRUTH.held(2, 4))
    trim(bench, TRUTH.at(8))
    bench.member.read_tail(SESSION, 1, ReadTail(STREAM, 1, W2, 0))
    reply = answer(bench)
    assert isinstance(reply, ReadTailReply)
    assert (reply.committed, reply.tail, reply.accepted) == (TRUTH.at(8), TRUTH.at(8), W1)
    assert (reply.first, reply.chains) == (8, TRUTH.at(8).chain.to_bytes(8, "little"))


@pytest.mark.parametrize("jump", [0, 1])
def test_sync_from_below_the_origin_is_refused_so_that_the_claim_reads_the_tail_again(
    jump: int,
) -> None:
    bench = promised(TRUTH.held(2, 4))
    trim(bench, TRUTH.at(8))
    assert sync(bench, TRUTH.at(4), TRUTH.at(12), jump) == [Code.CONFLICT]


@pytest.mark.parametrize(("base_id", "jump"), [(8, 0), (8, 1), (11, 1)])
def test_sync_from_the_origin_or_above_is_carried_out(base_id: int, jump: int) -> None:
    bench = promised(TRUTH.held(2, 4))
    trim(bench, TRUTH.at(8))
    assert sync(bench, TRUTH.at(base_id), TRUTH.at(12), jump) == []
    if base_id > 8:
        record = TRUTH.batch(base_id, base_id)
        bench.reply(bench.asked(Fetch)["n2"], FetchReply(STREAM, base_id), record)
    asked = bench.asked(Fetch)["n2"]
    rest = TRUTH.batch(base_id + 1, 12)
    bench.reply(asked, FetchReply(STREAM, base_id + 1), rest)
    assert [each.code for each in bench.answers() if isinstance(each, SyncReply)] == [Code.OK]
    bench.member.stamp(SESSION, 2, Stamp(STREAM, 1, W2, TRUTH.at(12)))
    assert [each.code for each in bench.answers() if isinstance(each, StampReply)] == [Code.OK]


@pytest.mark.parametrize(("origin_id", "code"), [(3, Code.OK), (4, Code.OK), (8, Code.CONFLICT)])
def test_trim_in_the_middle_of_a_sync(origin_id: int, code: Code) -> None:
    """It goes on from where it was, if that is still there."""
    bench = promised(TRUTH.held(2, 4))
    assert sync(bench, TRUTH.at(4), TRUTH.at(12), jump=0) == []
    asked = bench.asked(Fetch)["n2"]
    trim(bench, TRUTH.at(origin_id))
    bench.reply(asked, FetchReply(STREAM, 5), TRUTH.batch(5, 12))
    assert [each.code for each in bench.answers() if isinstance(each, SyncReply)] == [code]


# --- gaps, readers, changes of members ------------------------------------------------------------


def backfilling(filled_id: int) -> MemberBench:
    """The gap [4, 12) is filled up to an entry, and more is asked for."""
    bench = MemberBench(TRUTH.with_gap(3, 12, 14))
    if filled_id > 3:
        asked = bench.asked(Fetch)["n3"]
        bench.reply(asked, FetchReply(STREAM, 4), TRUTH.batch(4, filled_id))
    return bench


@pytest.mark.parametrize("filled_id", [3, 6])
@pytest.mark.parametrize("origin_id", [2, 3])
def test_backfill_goes_on_where_the_trim_ends_below_it(filled_id: int, origin_id: int) -> None:
    bench = backfilling(filled_id)
    asked = bench.asked(Fetch)["n3"]
    trim(bench, TRUTH.at(origin_id))
    bench.reply(asked, FetchReply(STREAM, filled_id + 1), TRUTH.batch(filled_id + 1, 11))
    assert bench.member.history.gaps() == []


@pytest.mark.parametrize("origin_id", [4, 5, 6, 9])
def test_backfill_begins_at_the_origin_or_goes_on_above_it(origin_id: int) -> None:
    bench = backfilling(6)
    late = bench.asked(Fetch)["n3"]
    trim(bench, TRUTH.at(origin_id))
    bench.reply(late, FetchReply(STREAM, 7), TRUTH.batch(7, 8))
    bench.pass_ms(500)
    start = max(origin_id, 8 if origin_id < 7 else 0) + 1
    (asked,) = bench.asked(Fetch).values()
    assert (asked.message.start, asked.message.prev_chain) == (start, TRUTH.at(start - 1).chain)
    bench.reply(asked, FetchReply(STREAM, start), TRUTH.batch(start, 11))
    assert bench.member.history.gaps() == []


@pytest.mark.parametrize("origin_id", [11, 12, 13])
def test_backfill_of_what_is_trimmed_ends(origin_id: int) -> None:
    bench = backfilling(6)
    late = bench.asked(Fetch)["n3"]
    bench.actions(Fill)
    trim(bench, TRUTH.at(origin_id))
    bench.reply(late, FetchReply(STREAM, 7), TRUTH.batch(7, 11))
    bench.pass_ms(5_000)
    assert bench.asked(Fetch) == {}
    assert bench.actions(Fill) == []
    assert bench.member.history.fill is None


def test_reader_that_waits_is_told_where_the_stream_begins_now() -> None:
    bench = MemberBench(TRUTH.held(2))
    bench.member.reading.read(SESSION, 1, Read(STREAM, 3, 100, 1_000, linearizable=0, local=0))
    trim(bench, TRUTH.at(8))
    assert answer(bench) == ReadReply(STREAM, 9, TRUTH.at(8))


def test_linearizable_read_is_served_by_a_member_that_was_behind() -> None:
    bench = MemberBench(TRUTH.held(2))
    bench.member.reading.read(SESSION, 1, Read(STREAM, 0, 100, 0, linearizable=1, local=0))
    asked = bench.asked(AskWriter)
    for node in ("n2", "n3"):
        tail = TRUTH.at(8)
        reply = AskWriterReply(STREAM, Code.OK, 1, W1, "", 100, 0, W1, tail, tail, 0)
        bench.reply(asked[node], reply)
    assert bench.answers() == []
    trim(bench, TRUTH.at(8))
    assert answer(bench) == ReadReply(STREAM, 9, TRUTH.at(8))


def test_what_is_trimmed_is_not_missing_in_a_change_of_members() -> None:
    bench = MemberBench(TRUTH.with_gap(3, 12, 14))
    trim(bench, TRUTH.at(8))
    bench.member.joining.tell_held(SESSION, 1, AskHeld(STREAM, 1))
    reply = answer(bench)
    assert isinstance(reply, AskHeldReply)
    assert (reply.end, reply.gaps) == (15, ((9, 12),))
