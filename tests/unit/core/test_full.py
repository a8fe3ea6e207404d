"""A member whose disk is full: it takes no entries, and all else goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.core.bench import SESSION, STREAM, MemberBench, Truth
from tests.unit.making import MS, W1, W2
from walle.core.backfill import FULL_PAUSE_MS
from walle.core.effects import (
    Append,
    CloseGap,
    Fill,
    Jump,
    ReadRecords,
    SetAccepted,
    SetPromise,
    Truncate,
)
from walle.core.member import REPEAT_JUMP_MS
from walle.errors import Code
from walle.ids import ANY_WRITER, ORIGIN, STREAM_CLUSTER, Position
from walle.limits import JUMP_WAIT_MS_MAX, LEASE_MS_MIN
from walle.messages import (
    AskWriter,
    AskWriterReply,
    Failure,
    Fetch,
    FetchReply,
    NewWriter,
    Put,
    PutReply,
    Read,
    ReadReply,
    Release,
    Stamp,
    StampReply,
    Sync,
    SyncReply,
)

if TYPE_CHECKING:
    from walle.core.history import History
    from walle.ids import WriterId
    from walle.record import Batch

TRUTH = Truth(12)
STORING = (Append, Jump, Fill)


def full(history: History | None = None, **settings: Any) -> MemberBench:
    bench = MemberBench(history or TRUTH.held(4, 6), **settings)
    bench.context.has_space = False
    return bench


def put(
    bench: MemberBench,
    batch: Batch | None = None,
    committed: Position = ORIGIN,
    writer: WriterId = W1,
) -> PutReply:
    bench.member.put(SESSION, 1, Put(STREAM, 1, writer, 1, committed, relay=0), batch)
    *_, reply = bench.answers()
    assert isinstance(reply, PutReply)
    return reply


def stored(bench: MemberBench) -> list[Any]:
    """What was given to storage that takes space."""
    return [action for kind in STORING for action in bench.actions(kind)]


# --- puts -----------------------------------------------------------------------------------------


def test_entries_are_refused_and_taken_once_there_is_space() -> None:
    bench = full()
    reply = put(bench, TRUTH.batch(7, 8))
    assert (reply.code, reply.held) == (Code.NO_SPACE, TRUTH.at(6))
    assert stored(bench) == []
    bench.context.has_space = True
    reply = put(bench, TRUTH.batch(7, 8))
    assert (reply.code, reply.held) == (Code.OK, TRUTH.at(8))
    assert len(stored(bench)) == 1


def test_entries_whose_predecessor_is_missing_are_not_kept_either() -> None:
    bench = full()
    assert put(bench, TRUTH.batch(8, 9)).code == Code.NO_SPACE
    bench.context.has_space = True
    assert put(bench, TRUTH.batch(7, 7)).held == TRUTH.at(7)


def test_suffix_that_conflicts_is_kept_as_long_as_nothing_can_replace_it() -> None:
    bench = full(accepted=W1)
    bench.member.set_promise(W2, "app:2", LEASE_MS_MIN)
    newer = Truth(3, W2, TRUTH.at(5))
    assert put(bench, newer.batch(6, 7), writer=W2).code == Code.NO_SPACE
    assert bench.actions(Truncate) == []
    assert bench.member.history.tail == TRUTH.at(6)


def test_entries_that_are_held_are_acknowledged() -> None:
    reply = put(full(), TRUTH.batch(5, 6))
    assert (reply.code, reply.held) == (Code.OK, TRUTH.at(6))


def test_heartbeats_renew_the_lease_and_move_the_commit_point() -> None:
    bench = full()
    bench.pass_ms(LEASE_MS_MIN)
    reply = put(bench, committed=TRUTH.at(6))
    assert (reply.code, reply.committed) == (Code.OK, TRUTH.at(6))
    assert bench.member.lease.until_ns == bench.context.now_ns + LEASE_MS_MIN * MS


def test_refused_put_renews_the_lease() -> None:
    bench = full()
    bench.pass_ms(LEASE_MS_MIN)
    put(bench, TRUTH.batch(7, 8))
    assert bench.member.lease.until_ns == bench.context.now_ns + LEASE_MS_MIN * MS


def test_entries_of_the_clusters_stream_are_taken_from_the_reserve() -> None:
    bench = full()
    bench.context.has_reserve = False
    bench.member.stream_id = STREAM_CLUSTER
    assert put(bench, TRUTH.batch(7, 8)).code == Code.OK


# --- jumps and gaps -------------------------------------------------------------------------------


def test_member_jumps_to_the_commit_point_only_when_there_is_space() -> None:
    bench = full()
    assert put(bench, committed=TRUTH.at(9)).code == Code.OK
    bench.pass_ms(10 * JUMP_WAIT_MS_MAX)
    assert bench.asked(Fetch) == {}
    bench.context.has_space = True
    bench.pass_ms(REPEAT_JUMP_MS)
    asked = bench.asked(Fetch)
    assert {each.message.start for each in asked.values()} == {9}
    bench.reply(asked["n2"], FetchReply(STREAM, 9), TRUTH.batch(9, 9))
    assert len(bench.actions(Jump)) == 1


def test_other_members_commit_point_is_not_jumped_to() -> None:
    bench = full()
    bench.member.learn_committed(TRUTH.at(9))
    assert bench.asked(Fetch) == {}
    bench.context.has_space = True
    bench.member.learn_committed(TRUTH.at(9))
    assert bench.asked(Fetch) != {}


def test_backfill_rests_while_there_is_no_space() -> None:
    bench = full(TRUTH.with_gap(2, 6, 8), is_started=False)
    bench.member.start()
    bench.pass_ms(5 * FULL_PAUSE_MS)
    assert bench.asked(Fetch) == {}
    bench.context.has_space = True
    bench.pass_ms(FULL_PAUSE_MS)
    (asked,) = bench.asked(Fetch).values()
    bench.reply(asked, FetchReply(STREAM, 3), TRUTH.batch(3, 5))
    assert len(bench.actions(CloseGap)) == 1


# --- claims ---------------------------------------------------------------------------------------


def claimed(bench: MemberBench) -> None:
    """W2 is promised: it has read the tails, and goes on from here."""
    message = NewWriter(STREAM, 1, W2, "app:2", LEASE_MS_MIN, over=ANY_WRITER)
    bench.member.new_writer(SESSION, 1, message)
    assert len(bench.actions(SetPromise)) == 1


def sync(bench: MemberBench, base_id: int, tail_id: int, *, jump: int = 0) -> None:
    message = Sync(STREAM, 1, W2, "n3", TRUTH.at(base_id), TRUTH.at(tail_id), jump)
    bench.member.syncing.sync(SESSION, 2, message)


def synced(bench: MemberBench) -> Code:
    (reply,) = (each for each in bench.answers() if isinstance(each, SyncReply))
    return Code(reply.code)


def test_claim_goes_on_and_may_use_the_reserve() -> None:
    bench = full()
    claimed(bench)
    sync(bench, 6, 8)
    (asked,) = bench.asked(Fetch).values()
    bench.reply(asked, FetchReply(STREAM, 7), TRUTH.batch(7, 8))
    assert synced(bench) == Code.OK
    bench.member.stamp(SESSION, 3, Stamp(STREAM, 1, W2, TRUTH.at(8)))
    (reply,) = (each for each in bench.answers() if isinstance(each, StampReply))
    assert reply.code == Code.OK
    assert len(bench.actions(SetAccepted)) == 1
    bench.member.release(SESSION, 4, Release(STREAM, 1, W2, TRUTH.at(8), relay=0))
    assert bench.member.history.committed == TRUTH.at(8)


@pytest.mark.parametrize(("base_id", "jump"), [(6, 0), (8, 1)])
def test_claim_is_given_nothing_once_the_reserve_is_used_up(base_id: int, jump: int) -> None:
    bench = full()
    bench.context.has_reserve = False
    claimed(bench)
    sync(bench, base_id, 9, jump=jump)
    assert bench.asked(Fetch) == {}
    assert synced(bench) == Code.NO_SPACE


def test_claim_that_needs_nothing_goes_on_without_reserve() -> None:
    bench = full()
    bench.context.has_reserve = False
    claimed(bench)
    sync(bench, 5, 5)
    assert synced(bench) == Code.OK
    assert bench.member.history.tail == TRUTH.at(5)


# --- reads ----------------------------------------------------------------------------------------


def ask(bench: MemberBench, start: int, *, linearizable: int = 0, wait_ms: int = 0) -> None:
    bench.member.reading.read(SESSION, 5, Read(STREAM, start, 1_000, wait_ms, linearizable, 0))


def has_tail(tail_id: int, committed: Position = ORIGIN) -> AskWriterReply:
    tail = Position(tail_id, 0)
    return AskWriterReply(STREAM, Code.OK, 1, W1, "", 100, 0, W1, tail, committed, 0)


def failure(bench: MemberBench) -> tuple[int, str]:
    (answer,) = (each for each in bench.answers() if isinstance(each, Failure))
    return answer.code, answer.text


def test_reads_of_what_is_held_are_served() -> None:
    bench = full()
    ask(bench, 7)
    assert bench.answers() == [ReadReply(STREAM, 1, TRUTH.at(4))]


@pytest.mark.parametrize("wait_ms", [0, 60_000])
def test_who_waits_for_what_cannot_be_taken_is_sent_to_another_member(wait_ms: int) -> None:
    bench = full()
    ask(bench, 5, wait_ms=60_000, linearizable=int(not wait_ms))
    asked = bench.asked(AskWriter)
    for node in asked:
        bench.reply(asked[node], has_tail(9))
    bench.pass_ms(REPEAT_JUMP_MS)
    assert bench.answers() == [], "it may still come"
    put(bench, committed=TRUTH.at(9))
    bench.pass_ms(JUMP_WAIT_MS_MAX)
    code, text = failure(bench)
    assert code == Code.NO_SPACE
    assert text == "the disk of n1 is full: it lacks what follows entry 4 of /s"


def test_who_waits_for_another_member_goes_on_waiting() -> None:
    bench = full(TRUTH.with_gap(2, 6, 8))
    ask(bench, 4)
    bench.member.learn_committed(TRUTH.at(12))
    assert bench.answers() == []
    (asked,) = bench.asked(Read).values()
    bench.reply(asked, ReadReply(STREAM, 1, TRUTH.at(8)), TRUTH.batch(4, 5))
    assert bench.answers() == [ReadReply(STREAM, 1, TRUTH.at(8))]


def test_linearizable_read_hears_from_the_others_that_it_is_in_the_wrong_place() -> None:
    bench = full()
    ask(bench, 1, linearizable=1)
    asked = bench.asked(AskWriter)
    for node in ("n2", "n3"):
        bench.reply(asked[node], has_tail(9, TRUTH.at(9)))
    assert failure(bench)[0] == Code.NO_SPACE


def test_linearizable_read_needs_only_what_some_majority_shows() -> None:
    """What n3 alone holds is never committed while the disks of n1 and n2 are full."""
    bench = full(TRUTH.held(6))
    ask(bench, 1, linearizable=1)
    asked = bench.asked(AskWriter)
    for node, tail_id in (("n1", 6), ("n3", 9)):
        bench.reply(asked[node], has_tail(tail_id))
    assert bench.actions(ReadRecords) == []
    bench.reply(asked["n2"], has_tail(6))
    assert len(bench.actions(ReadRecords)) == 1
