"""A member's refusals: at bounds, for damage, and of histories that cannot be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.core.bench import SESSION, STREAM, MemberBench, Truth
from tests.unit.making import W1, W2, W3
from walle.core import member as member_module
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import ANY_WRITER, ORIGIN, IdRange, Position
from walle.limits import ADOPTION_COUNT_MAX, LEASE_MS_MIN
from walle.messages import (
    Fetch,
    FetchReply,
    NewWriter,
    Put,
    PutReply,
    ReadTail,
    ReadTailReply,
    Sync,
    SyncReply,
)
from walle.record import Encoder

if TYPE_CHECKING:
    import pytest

    from walle.ids import WriterId
    from walle.record import Batch

TRUTH = Truth(9)


def put(
    bench: MemberBench,
    batch: Batch | None = None,
    committed: Position = ORIGIN,
    writer: WriterId = W1,
) -> PutReply:
    message = Put(STREAM, 1, writer, 1, committed, relay=0)
    bench.member.put(SESSION, 1, message, batch)
    *_, reply = bench.answers()
    assert isinstance(reply, PutReply)
    return reply


def test_node_that_the_topology_does_not_name_says_so() -> None:
    bench = MemberBench(topology=StreamTopology(1, ("n2", "n3")))
    assert put(bench).code == Code.NOT_A_MEMBER


def test_uncommitted_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member_module, "UNCOMMITTED_ENTRIES_MAX", 3)
    bench = MemberBench(TRUTH.held(2))
    assert put(bench, TRUTH.batch(3, 5)).code == Code.OK
    assert put(bench, TRUTH.batch(6, 6)).code == Code.BUSY
    assert put(bench, None, TRUTH.at(4)).code == Code.OK
    assert put(bench, TRUTH.batch(6, 6)).code == Code.OK


def test_entries_that_lie_in_a_gap_are_left_to_backfill() -> None:
    """They are committed already: the answer tells how far this member is."""
    bench = MemberBench(TRUTH.with_gap(1, 5, 6))
    reply = put(bench, TRUTH.batch(2, 3))
    assert (reply.code, reply.held) == (Code.OK, TRUTH.at(6))
    assert bench.member.history.gaps() == [IdRange(2, 5)]
    assert bench.member._reordered.puts == []


def test_entries_that_are_committed_already_do_not_show_whose_the_tail_is() -> None:
    """The newer writer's commit point came from other members, and so did its first entries; the
    tail may be the older one's."""
    truth = Truth(4, W2)
    bench = MemberBench(truth.held(2, 4))
    bench.member.set_promise(W2, "", 100)
    reply = put(bench, truth.batch(1, 1), writer=W2)
    assert (reply.code, reply.held) == (Code.OK, ORIGIN)
    assert bench.member.accepted == W1
    assert put(bench, truth.batch(1, 2), writer=W2).held == truth.at(2)


def test_puts_that_wait_for_news_of_their_writer_are_bounded() -> None:
    bench = MemberBench(TRUTH.held(2))
    message = Put(STREAM, 1, W3, 1, ORIGIN, relay=0)
    for number in range(ADOPTION_COUNT_MAX):
        bench.member.put(SESSION, number, message, None)
    assert bench.answers() == []
    assert put(bench, writer=W3).code == Code.BUSY


def test_other_entries_below_the_commit_point_are_not_called_held() -> None:
    bench = MemberBench(TRUTH.held(5))
    encoder = Encoder(W1, Position(2, 999))
    encoder.add(b"other", 0)
    assert put(bench, encoder.take()).code == Code.BUSY, "a majority is asked first"


def test_damaged_member_promises_but_does_not_tell_its_tail() -> None:
    bench = MemberBench(TRUTH.held(2, 4))
    bench.member.doubtful_id = 7
    bench.member.lease.promised_until_ns = 0
    bench.member.new_writer(SESSION, 1, NewWriter(STREAM, 1, W2, "", 100, ANY_WRITER))
    bench.member.read_tail(SESSION, 2, ReadTail(STREAM, 1, W2, 0))
    bench.pass_ms(1_000)
    tail = next(each for each in bench.answers() if isinstance(each, ReadTailReply))
    assert (tail.code, tail.chains) == (Code.DAMAGED, b"")


def test_new_member_jumps_at_once_and_others_wait_for_what_may_be_late() -> None:
    for held, wait_ms in ((Truth(0).held(0), 0), (TRUTH.held(2), LEASE_MS_MIN / 4)):
        bench = MemberBench(held)
        put(bench, None, TRUTH.at(8))
        bench.pass_ms(max(0, wait_ms - 1))
        assert bool(bench.asked(Fetch)) == (not wait_ms)
        bench.pass_ms(1)
        assert bench.asked(Fetch) or not wait_ms


def test_record_that_parts_from_what_is_committed_is_not_jumped_to() -> None:
    """Its chain is right, but not what it builds on: that cannot be."""
    bench = MemberBench(TRUTH.held(2))
    encoder = Encoder(W1, Position(2, 999))
    encoder.add(b"other", 0)
    batch = encoder.take()
    bench.member.jump_to(batch.last, batch, W1)
    assert bench.member.history.committed == TRUTH.at(2)
    assert len(bench.context.outbox.alarms) == 1


def sync(bench: MemberBench, message: Sync, request_id: int = 1) -> list[int]:
    bench.member.syncing.sync(SESSION, request_id, message)
    return [each.code for each in bench.answers() if isinstance(each, SyncReply)]


def claimed() -> MemberBench:
    """w2 is promised; entries up to 4 are held, of which 2 are committed."""
    bench = MemberBench(TRUTH.held(2, 4))
    bench.member.set_promise(W2, "", 100)
    return bench


def test_sync_from_a_commit_point_that_is_held_keeps_what_is_before_it() -> None:
    bench = claimed()
    message = Sync(STREAM, 1, W2, "n2", TRUTH.at(3), TRUTH.at(3), jump=1)
    assert sync(bench, message) == [Code.OK]
    assert bench.member.history.committed == bench.member.history.tail == TRUTH.at(3)


def test_sync_of_an_impossible_history_is_refused() -> None:
    bench = claimed()
    far = Position(2**64 - 1, 1)
    assert sync(bench, Sync(STREAM, 1, W2, "n2", TRUTH.at(2), far, jump=0)) == [Code.BAD_REQUEST]


def test_sync_to_a_tail_before_its_base_is_refused() -> None:
    bench = claimed()
    message = Sync(STREAM, 1, W2, "n2", TRUTH.at(4), Position(3, 1), jump=0)
    assert sync(bench, message) == [Code.CONFLICT]


def test_sync_whose_claim_was_superseded_meanwhile_is_forgotten() -> None:
    bench = claimed()
    message = Sync(STREAM, 1, W2, "n2", TRUTH.at(4), TRUTH.at(6), jump=0)
    assert sync(bench, message) == []
    bench.member.set_promise(W3, "", 100)
    bench.pass_ms(5_000)
    assert bench.answers() == []
    assert bench.member.history.tail == TRUTH.at(4)


def test_sync_is_checked_again_when_its_records_come() -> None:
    """The stream's members have changed meanwhile."""
    bench = claimed()
    message = Sync(STREAM, 1, W2, "n2", TRUTH.at(4), TRUTH.at(6), jump=0)
    assert sync(bench, message) == []
    bench.member.joining.adopt(StreamTopology(2, ("n1", "n2")))
    (fetch,) = bench.asked(Fetch).values()
    bench.reply(fetch, FetchReply(STREAM, 5), TRUTH.batch(5, 6))
    assert [each.code for each in bench.answers()] == [Code.STALE_VERSION]
    assert bench.member.history.tail == TRUTH.at(4)


def test_jump_of_a_superseded_sync_is_not_made() -> None:
    bench = claimed()
    message = Sync(STREAM, 1, W2, "n2", TRUTH.at(7), TRUTH.at(8), jump=1)
    assert sync(bench, message) == []
    fetches = bench.asked(Fetch)
    bench.member.set_promise(W3, "", 100)
    bench.reply(fetches["n2"], FetchReply(STREAM, 7), TRUTH.batch(7, 7))
    assert bench.member.history.committed == TRUTH.at(2)
    assert bench.member.history.tail == TRUTH.at(4)
