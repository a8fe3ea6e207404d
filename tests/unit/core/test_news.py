"""Members without a writer's word ask each other how far their streams are."""

from __future__ import annotations

from tests.unit.core.bench import SESSION, STREAM, MemberBench, Truth
from tests.unit.making import W1
from walle.core.news import ASK_MS_MIN, STREAMS_AT_ONCE, News
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import ORIGIN, Position
from walle.limits import ENTRY_ID_MAX
from walle.messages import (
    AskCommitted,
    AskCommittedReply,
    Failure,
    Fetch,
    Put,
    StreamCommitted,
)

TRUTH = Truth(9)


def asking(bench: MemberBench) -> News:
    news = News(bench.context, {STREAM: bench.member})
    news.watch(STREAM)
    news.ask()
    return news


def waits_ms(bench: MemberBench, committed: Position) -> list[int]:
    """How long passes between questions, when all answer with that commit point."""
    waits: list[int] = []
    waited = 0
    while len(waits) < 4:
        for asked in bench.asked(AskCommitted).values():
            bench.reply(asked, AskCommittedReply((StreamCommitted(STREAM, committed),)))
        bench.pass_ms(ASK_MS_MIN)
        waited += ASK_MS_MIN
        if any(isinstance(each.message, AskCommitted) for each in bench.context.outbox.sends):
            waits.append(waited)
            waited = 0
    return waits


def test_quiet_stream_is_asked_for_ever_more_seldom() -> None:
    bench = MemberBench(TRUTH.held(2))
    asking(bench)
    assert waits_ms(bench, TRUTH.at(2)) == [1_000, 2_000, 4_000, 8_000]


def test_stream_that_goes_on_without_this_member_is_asked_for_often() -> None:
    bench = MemberBench(TRUTH.held(2))
    asking(bench)
    assert set(waits_ms(bench, TRUTH.at(9))) == {ASK_MS_MIN}


def answer(bench: MemberBench) -> bool:
    """All that are asked answer that there is nothing new; whether any were."""
    asked = bench.asked(AskCommitted)
    for each in asked.values():
        bench.reply(each, AskCommittedReply((StreamCommitted(STREAM, TRUTH.at(2)),)))
    return bool(asked)


def seconds_of_questions(bench: MemberBench, count: int) -> list[bool]:
    """For each of so many seconds, whether something is asked."""
    asks = []
    for _ in range(count):
        bench.pass_ms(ASK_MS_MIN)
        asks.append(answer(bench))
    return asks


def test_stream_with_a_writer_is_asked_for_only_when_that_is_silent() -> None:
    bench = MemberBench(TRUTH.held(2))
    news = asking(bench)
    assert answer(bench)
    for _ in range(5):
        bench.pass_ms(ASK_MS_MIN - 1)
        news.stir(STREAM)
        bench.member.put(SESSION, 1, Put(STREAM, 1, W1, 1, TRUTH.at(2), 0), None)
        assert not answer(bench)
    assert seconds_of_questions(bench, 6) == [False, True, True, False, True, False]


def test_stream_that_is_gone_is_forgotten() -> None:
    bench = MemberBench(TRUTH.held(2))
    members = {STREAM: bench.member}
    news = News(bench.context, members)
    news.watch(STREAM)
    news.ask()
    assert answer(bench)
    news.stir(STREAM)
    members.clear()
    assert not any(seconds_of_questions(bench, 5))


def test_many_streams_are_asked_for_in_pages() -> None:
    bench = MemberBench(topology=StreamTopology(1, ("n1", "n2")))
    count = STREAMS_AT_ONCE + 1
    news = News(bench.context, dict.fromkeys(range(count), bench.member))
    for stream_id in range(count):
        news.watch(stream_id)
    news.ask()
    sends, _ = bench.context.outbox.take()
    asked = [len(each.message.streams) for each in sends if each.to == "n2"]
    assert asked == [STREAMS_AT_ONCE, 1]


def test_commit_point_that_cannot_be_is_not_believed() -> None:
    bench = MemberBench(TRUTH.held(2))
    news = asking(bench)
    asked = bench.asked(AskCommitted)
    impossible = Position(ENTRY_ID_MAX + 1, 0)
    bench.reply(asked["n2"], AskCommittedReply((StreamCommitted(STREAM, impossible),)))
    assert bench.asked(Fetch) == {}
    news.answer(SESSION, 1, AskCommitted((STREAM, 99)))
    (answer,) = bench.answers()
    assert answer == AskCommittedReply((StreamCommitted(STREAM, TRUTH.at(2)),))
    assert answer.streams[0].committed != ORIGIN


def test_stream_that_left_this_node_is_not_asked_for() -> None:
    bench = MemberBench(topology=StreamTopology(1, ("n2", "n3")))
    asking(bench)
    assert bench.asked(AskCommitted) == {}


def test_answers_about_streams_that_are_not_here_are_passed_over() -> None:
    bench = MemberBench(TRUTH.held(2, 4))
    asking(bench)
    asked = bench.asked(AskCommitted)
    bench.reply(asked["n2"], Failure(Code.UNAVAILABLE, "not now"))
    told = (StreamCommitted(99, TRUTH.at(9)), StreamCommitted(STREAM, TRUTH.at(4)))
    bench.reply(asked["n3"], AskCommittedReply(told))
    assert bench.member.history.committed == TRUTH.at(4)
