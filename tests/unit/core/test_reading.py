"""Readers at one member: only what is committed, without holes, and no older than was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.core.bench import SESSION, STREAM, MemberBench, Truth
from tests.unit.making import W1
from walle.core.effects import ReadOldest, ReadRecords, Send
from walle.core.reading import ELSEWHERE_MS, ENTRIES_AT_ONCE_MAX, LINEARIZE_MS, READ_MS
from walle.errors import Code
from walle.ids import ORIGIN, Position
from walle.limits import FETCH_BYTES_MAX, READ_SHARED_BYTES_MAX, READS_WAITING_MAX
from walle.messages import AskOldest, AskWriter, AskWriterReply, Failure, Read, ReadReply

if TYPE_CHECKING:
    from walle.core.history import History

TRUTH = Truth(12)


def read(
    start: int, *, bytes_max: int = 1_000, wait_ms: int = 0, linearizable: int = 0, local: int = 0
) -> Read:
    return Read(STREAM, start, bytes_max, wait_ms, linearizable, local)


def ask(bench: MemberBench, request: Read, request_id: int = 5) -> None:
    bench.member.reading.read(SESSION, request_id, request)


def commit(bench: MemberBench, entry_id: int) -> None:
    bench.member.advance(TRUTH.at(entry_id))


def has_tail(entry_id: int, code: Code = Code.OK) -> AskWriterReply:
    tail = Position(entry_id, 0)
    return AskWriterReply(STREAM, code, 1, W1, "", 100, 0, W1, tail, ORIGIN, 0)


def failure(bench: MemberBench) -> tuple[int, str]:
    """The only answer, which is a refusal."""
    (answer,) = bench.answers()
    assert isinstance(answer, Failure)
    return answer.code, answer.text


# --- at once --------------------------------------------------------------------------------------


def test_no_more_is_read_than_is_wanted() -> None:
    bench = MemberBench(TRUTH.held(5))
    ask(bench, read(2)._replace(end=4))
    (order,) = bench.actions(ReadRecords)
    assert (order.start, order.end) == (2, 4)
    ask(bench, read(2)._replace(end=2))
    assert bench.answers() == [ReadReply(STREAM, 1, TRUTH.at(5))]


@pytest.mark.parametrize(
    ("start", "end"),
    [(1, 6), (3, 6), (5, 6)],
)
def test_committed_entries_are_read_up_to_the_commit_point(start: int, end: int) -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    ask(bench, read(start))
    (order,) = bench.actions(ReadRecords)
    assert (order.start, order.end, order.bytes_max) == (start, end, 1_000)
    assert (order.after, order.aside) == (None, False)
    assert order.send.message == ReadReply(STREAM, 1, TRUTH.at(5))
    assert (order.send.to, order.send.request_id) == (SESSION, 5)


@pytest.mark.parametrize("request_", [read(6), read(8), read(1, bytes_max=0)])
def test_commit_point_alone_is_told_where_there_is_nothing_to_send(request_: Read) -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    ask(bench, request_)
    assert bench.answers() == [ReadReply(STREAM, 1, TRUTH.at(5))]
    assert bench.actions(ReadRecords) == []


def test_one_answer_is_bounded() -> None:
    bench = MemberBench(TRUTH.held(5))
    ask(bench, read(1, bytes_max=2**32 - 1))
    (order,) = bench.actions(ReadRecords)
    assert order.bytes_max == FETCH_BYTES_MAX
    assert order.end - order.start <= ENTRIES_AT_ONCE_MAX


def test_answer_ends_where_a_gap_begins() -> None:
    bench = MemberBench(TRUTH.with_gap(2, 6, 8))
    ask(bench, read(1))
    ask(bench, read(7))
    assert [(each.start, each.end) for each in bench.actions(ReadRecords)] == [(1, 3), (7, 9)]


def trimmed() -> History:
    """Entries 5 and 6, of which both are committed."""
    history = TRUTH.held(6)
    history.trim(TRUTH.at(4))
    return history


@pytest.mark.parametrize("request_", [read(4), read(1), read(5, bytes_max=0)])
def test_where_the_stream_begins_is_told_instead_of_trimmed_entries(request_: Read) -> None:
    bench = MemberBench(trimmed())
    ask(bench, request_)
    assert bench.answers() == [ReadReply(STREAM, 5, TRUTH.at(6))]
    assert bench.actions(ReadRecords) == []


def test_read_from_0_begins_with_the_first_entry_there_is() -> None:
    bench = MemberBench(trimmed())
    ask(bench, read(0))
    assert [(each.start, each.end) for each in bench.actions(ReadRecords)] == [(5, 7)]


# --- the oldest entry that is to stay -------------------------------------------------------------


def test_oldest_entry_to_stay_is_looked_for_among_what_is_committed() -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    bench.member.reading.find_oldest(SESSION, 5, AskOldest(STREAM, 77, 1_000))
    (order,) = bench.actions(ReadOldest)
    assert order[:-1] == (STREAM, 6, 77, 1_000)
    assert order.send == Send(SESSION, 5, ReadReply(STREAM, 1, TRUTH.at(5)))


def test_member_with_a_gap_does_not_know_the_oldest_entry_to_stay() -> None:
    bench = MemberBench(TRUTH.with_gap(2, 6, 8))
    bench.member.reading.find_oldest(SESSION, 5, AskOldest(STREAM, 77, 1_000))
    code, text = failure(bench)
    assert code == Code.GAP
    assert "[3, 6)" in text
    assert bench.actions(ReadOldest) == []


# --- gaps -----------------------------------------------------------------------------------------


def test_gap_is_refused_to_who_asks_for_this_member_only() -> None:
    bench = MemberBench(TRUTH.with_gap(2, 6, 8))
    ask(bench, read(4, local=1))
    code, text = failure(bench)
    assert code == Code.GAP
    assert "n1 does not hold entries [3, 6) of /s yet" in text


def test_gap_is_read_from_another_member_and_passed_on() -> None:
    bench = MemberBench(TRUTH.with_gap(2, 6, 8))
    ask(bench, read(4, wait_ms=99))
    asked = bench.asked(Read)
    assert set(asked) == {"n2"}
    assert asked["n2"].message == read(4, local=1)
    bench.reply(asked["n2"], Failure(Code.GAP, "neither do I"))
    bench.reply(bench.asked(Read)["n3"], ReadReply(STREAM, 1, TRUTH.at(8)), TRUTH.batch(4, 5))
    sends, _ = bench.context.outbox.take()
    (send,) = [each for each in sends if each.to == SESSION]
    assert (send.request_id, send.batch) == (5, TRUTH.batch(4, 5))
    assert send.message == ReadReply(STREAM, 1, TRUTH.at(8))


def test_others_answers_that_do_not_begin_there_are_not_passed_on() -> None:
    bench = MemberBench(TRUTH.with_gap(2, 6, 8))
    ask(bench, read(4))
    bench.reply(bench.asked(Read)["n2"], ReadReply(STREAM, 1, TRUTH.at(3)), None)
    bench.reply(bench.asked(Read)["n3"], ReadReply(STREAM, 1, TRUTH.at(8)), TRUTH.batch(5, 5))
    assert failure(bench) == (Code.UNAVAILABLE, "no member that answers holds entry 4 of /s")


def test_gap_that_nobody_can_read_is_told_in_time() -> None:
    bench = MemberBench(TRUTH.with_gap(2, 6, 8))
    ask(bench, read(4))
    bench.pass_ms(2 * ELSEWHERE_MS - 1)
    assert bench.answers() == []
    bench.pass_ms(1)
    assert failure(bench)[0] == Code.UNAVAILABLE


# --- waiting --------------------------------------------------------------------------------------


def test_read_waits_for_its_entry() -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    ask(bench, read(7, wait_ms=50))
    commit(bench, 6)
    assert bench.answers() == []
    commit(bench, 8)
    (order,) = bench.actions(ReadRecords)
    assert (order.start, order.end) == (7, 9)
    bench.pass_ms(60)
    assert bench.answers() == []


def test_read_that_waited_for_nothing_is_told_the_commit_point() -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    ask(bench, read(7, wait_ms=50))
    bench.pass_ms(50)
    assert bench.answers() == [ReadReply(STREAM, 1, TRUTH.at(5))]
    commit(bench, 8)
    assert bench.actions(ReadRecords) == []


def test_waiting_reads_are_bounded_and_those_that_need_not_wait_are_served() -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    for number in range(READS_WAITING_MAX):
        ask(bench, read(6, wait_ms=1_000), number)
    ask(bench, read(6, wait_ms=1_000))
    assert failure(bench)[0] == Code.BUSY
    ask(bench, read(1))
    assert len(bench.actions(ReadRecords)) == 1
    commit(bench, 6)
    assert len(bench.actions(ReadRecords)) == READS_WAITING_MAX


def test_too_many_reads_in_a_gap_are_refused_as_well() -> None:
    bench = MemberBench(TRUTH.with_gap(2, 6, 8))
    for number in range(READS_WAITING_MAX + 1):
        ask(bench, read(4), number)
    assert failure(bench)[0] == Code.BUSY


@pytest.mark.parametrize("request_", [read(9, wait_ms=60_000), read(1, linearizable=1), read(4)])
def test_what_waits_ends_with_its_session(request_: Read) -> None:
    bench = MemberBench(TRUTH.with_gap(2, 6, 8))
    ask(bench, request_)
    bench.context.sessions.close(SESSION)
    bench.asked(Read)
    bench.pass_ms(3 * READ_MS)
    assert bench.answers() == []
    assert set(bench.asked(Read)) == set()
    assert bench.actions(ReadRecords) == []
    assert bench.member.reading._waiting == {}


# --- followers ------------------------------------------------------------------------------------


def with_sessions(bench: MemberBench, count: int) -> list[int]:
    sessions = list(range(100, 100 + count))
    for session in sessions:
        bench.context.sessions.open(session)
    return sessions


def follow(bench: MemberBench, session: int, start: int, **options: int) -> None:
    bench.member.reading.read(session, 1_000 + session, read(start, **options))


def test_followers_that_wait_for_the_same_get_one_answer() -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    sessions = with_sessions(bench, 50)
    for number, session in enumerate(sessions):
        follow(bench, session, 6, wait_ms=1_000 + number)
    bench.context.sessions.close(sessions[9])
    commit(bench, 7)
    (order,) = bench.actions(ReadRecords)
    assert (order.start, order.end) == (6, 8)
    told = [order.send[:2], *order.others]
    assert told == [(each, 1_000 + each) for each in sessions if each != sessions[9]]
    assert order.send.message == ReadReply(STREAM, 1, TRUTH.at(7))
    assert not bench.member.reading._waiting


def test_what_is_asked_in_one_step_is_answered_at_its_end_up_to_the_newest_commit_point() -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    first, second, third = with_sessions(bench, 3)
    follow(bench, first, 5)
    commit(bench, 7)
    follow(bench, second, 5, wait_ms=99)
    follow(bench, third, 6)
    orders = bench.actions(ReadRecords)
    assert [(each.start, each.end, each.send.to) for each in orders] == [
        (5, 8, first),
        (6, 8, third),
    ]
    assert [each.others for each in orders] == [((second, 1_000 + second),), ()]


def test_one_answer_that_goes_to_many_is_smaller() -> None:
    bench = MemberBench(TRUTH.held(5))
    for session in with_sessions(bench, 64):
        follow(bench, session, 1, bytes_max=FETCH_BYTES_MAX)
    (order,) = bench.actions(ReadRecords)
    assert order.bytes_max == READ_SHARED_BYTES_MAX // 64 < FETCH_BYTES_MAX


def test_one_session_that_asks_twice_is_answered_twice() -> None:
    bench = MemberBench(TRUTH.held(5))
    first, second = with_sessions(bench, 2)
    for session in (first, second, first):
        follow(bench, session, 1)
    shared, alone = bench.actions(ReadRecords)
    assert (shared.send.to, [each.to for each in shared.others]) == (first, [second])
    assert (alone.send.to, alone.others) == (first, ())


def test_a_node_is_answered_at_once() -> None:
    """What it asks of itself does not wait for the end of the step: that is where it is taken."""
    bench = MemberBench(TRUTH.held(5, 8))
    bench.member.reading.read("n1", 4, read(7, wait_ms=50))
    bench.member.reading.read("n1", 5, read(5, bytes_max=0))
    assert [each.request_id for each in bench.context.outbox.own] == [5]
    commit(bench, 7)
    bench.member.reading.read("n1", 6, read(1))
    assert len(bench.context.outbox.actions) == 2


def test_many_who_ask_for_a_gap_are_refused_one_by_one() -> None:
    bench = MemberBench(TRUTH.with_gap(2, 6, 8))
    for session in with_sessions(bench, 3):
        follow(bench, session, 4, local=1)
    assert [answer.code for answer in bench.answers()] == [Code.GAP] * 3


@pytest.mark.parametrize("start", [1, 4])
def test_who_has_gone_in_the_same_step_gets_nothing(start: int) -> None:
    bench = MemberBench(TRUTH.with_gap(2, 6, 8))
    (session,) = with_sessions(bench, 1)
    follow(bench, session, start)
    bench.context.sessions.close(session)
    assert bench.actions(ReadRecords) == []
    assert bench.asked(Read) == {}


def test_what_is_due_is_refused_where_nobody_is_served_any_more() -> None:
    bench = MemberBench(TRUTH.held(5))
    ask(bench, read(1))
    bench.member.reading.refuse_all(Failure(Code.NOT_A_MEMBER, "no more"))
    assert bench.answers() == [Failure(Code.NOT_A_MEMBER, "no more")]
    assert bench.actions(ReadRecords) == []


# --- linearizable ---------------------------------------------------------------------------------


def test_linearizable_read_asks_a_majority_for_their_tails_first() -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    ask(bench, read(1, linearizable=1))
    asked = bench.asked(AskWriter)
    assert set(asked) == {"n1", "n2", "n3"}
    bench.reply(asked["n1"], has_tail(5))
    assert bench.actions(ReadRecords) == []
    bench.reply(asked["n2"], has_tail(4))
    (order,) = bench.actions(ReadRecords)
    assert (order.start, order.end) == (1, 6)


def test_linearizable_read_waits_until_the_highest_tail_is_committed_here() -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    ask(bench, read(1, linearizable=1))
    asked = bench.asked(AskWriter)
    bench.reply(asked["n2"], has_tail(7))
    bench.reply(asked["n3"], has_tail(6))
    commit(bench, 6)
    assert bench.actions(ReadRecords) == []
    commit(bench, 7)
    (order,) = bench.actions(ReadRecords)
    assert order.end == 8


def test_linearizable_read_may_then_wait_for_its_entry() -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    ask(bench, read(6, linearizable=1, wait_ms=50))
    asked = bench.asked(AskWriter)
    for node in ("n2", "n3"):
        bench.reply(asked[node], has_tail(5))
    assert bench.answers() == []
    bench.pass_ms(50)
    assert bench.answers() == [ReadReply(STREAM, 1, TRUTH.at(5))]


def test_full_disk_is_no_reason_to_end_a_read_that_waits_for_the_tails() -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    ask(bench, read(1, linearizable=1))
    bench.member.reading.on_full()
    assert bench.answers() == []
    asked = bench.asked(AskWriter)
    for node in ("n2", "n3"):
        bench.reply(asked[node], has_tail(5))
    assert len(bench.actions(ReadRecords)) == 1


def test_tail_that_does_not_settle_is_asked_for_again() -> None:
    """A newer claim may have dropped it."""
    bench = MemberBench(TRUTH.held(5, 8))
    ask(bench, read(1, linearizable=1))
    asked = bench.asked(AskWriter)
    for node in ("n2", "n3"):
        bench.reply(asked[node], has_tail(9))
    bench.pass_ms(LINEARIZE_MS)
    asked = bench.asked(AskWriter)
    for node in ("n2", "n3"):
        bench.reply(asked[node], has_tail(5))
    assert len(bench.actions(ReadRecords)) == 1


def test_without_a_majority_a_linearizable_read_fails_in_time() -> None:
    bench = MemberBench(TRUTH.held(5, 8))
    ask(bench, read(1, linearizable=1))
    bench.pass_ms(READ_MS - 1)
    assert bench.answers() == []
    bench.pass_ms(1)
    code, text = failure(bench)
    assert code == Code.UNAVAILABLE
    assert "did not settle in time" in text


def test_reads_that_come_while_tails_are_asked_for_share_the_next_answer() -> None:
    """The one under way may be older than they are."""
    bench = MemberBench(TRUTH.held(5, 8))
    for number in range(3):
        ask(bench, read(1, linearizable=1), number)
    first = bench.asked(AskWriter)
    for node in ("n2", "n3"):
        bench.reply(first[node], has_tail(5))
    assert [each.send.request_id for each in bench.actions(ReadRecords)] == [0]
    second = bench.asked(AskWriter)
    for node in ("n2", "n3"):
        bench.reply(second[node], has_tail(5))
    assert [each.send.request_id for each in bench.actions(ReadRecords)] == [1, 2]


def test_damaged_members_tail_does_not_count() -> None:
    """It may have lost what was acknowledged before the read began."""
    bench = MemberBench(TRUTH.held(2))
    ask(bench, read(1, linearizable=1))
    asked = bench.asked(AskWriter)
    for node, is_damaged in (("n1", 0), ("n2", 1)):
        bench.reply(asked[node], has_tail(2)._replace(is_damaged=is_damaged))
    assert bench.actions(ReadRecords) == []
    bench.reply(asked["n3"], has_tail(2))
    assert len(bench.actions(ReadRecords)) == 1


def test_commit_point_is_learned_from_the_majority_that_tells_its_tails() -> None:
    bench = MemberBench(TRUTH.held(2, 4))
    ask(bench, read(1, linearizable=1))
    asked = bench.asked(AskWriter)
    for node in ("n2", "n3"):
        bench.reply(asked[node], has_tail(4)._replace(committed=TRUTH.at(4)))
    assert bench.member.history.committed == TRUTH.at(4)
