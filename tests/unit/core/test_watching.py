"""Who the writer is: asked, watched, and how many may watch."""

from __future__ import annotations

from tests.unit.core.bench import SESSION, STREAM, MemberBench
from tests.unit.making import W1, W2
from walle.core.watching import ASK_MS
from walle.errors import Code
from walle.ids import ANY_WRITER, NO_WRITER, ORIGIN, WriterId
from walle.limits import WATCHES_MAX
from walle.messages import (
    AskWriter,
    AskWriterReply,
    Failure,
    NewWriter,
    WriterStatus,
    WriterStatusReply,
)


def ask(
    bench: MemberBench, known: WriterId = NO_WRITER, *, wait_ms: int = 0, local: int = 0
) -> None:
    bench.member.watching.status(SESSION, 5, WriterStatus(STREAM, local, known, wait_ms))


def says(promised: WriterId, accepted: WriterId, remaining_ms: int = 0) -> AskWriterReply:
    return AskWriterReply(
        STREAM,
        Code.OK,
        1,
        promised,
        f"app:{promised.ts}",
        100,
        remaining_ms,
        accepted,
        ORIGIN,
        ORIGIN,
        is_damaged=0,
    )


def answer(bench: MemberBench, *replies: AskWriterReply) -> None:
    """n2 and n3 answer the newest question."""
    asked = bench.asked(AskWriter)
    for node, reply in zip(("n2", "n3"), replies, strict=True):
        bench.reply(asked[node], reply)


def status(writer: WriterId, remaining_ms: int, established: int) -> WriterStatusReply:
    return WriterStatusReply(STREAM, 1, writer, f"app:{writer.ts}", 100, remaining_ms, established)


def promise(bench: MemberBench, writer: WriterId) -> None:
    bench.member.new_writer(
        "n2", 1, NewWriter(STREAM, 1, writer, f"app:{writer.ts}", 100, ANY_WRITER)
    )


def test_majority_tells_the_newest_writer_and_whether_it_is_established() -> None:
    bench = MemberBench()
    ask(bench)
    answer(bench, says(W1, W1, 30), says(W2, W2, 20))
    assert bench.answers() == [status(W2, 30, 0)]
    ask(bench)
    answer(bench, says(W2, W2), says(W2, W2))
    assert bench.answers() == [status(W2, 0, 1)]


def test_own_view_asks_nobody() -> None:
    bench = MemberBench()
    ask(bench, local=1)
    assert bench.answers() == [status(W1, 100, 1)]
    assert bench.asked(AskWriter) == {}


def test_no_majority_is_told_in_time() -> None:
    bench = MemberBench()
    ask(bench)
    bench.pass_ms(ASK_MS)
    (found,) = bench.answers()
    assert found == Failure(Code.UNAVAILABLE, "no majority of /s's members answered")


def test_known_writer_is_watched_until_another_is_promised() -> None:
    bench = MemberBench()
    ask(bench, W1, wait_ms=60_000)
    answer(bench, says(W1, W1), says(W1, W1))
    bench.pass_ms(1_000)
    assert bench.answers() == []
    promise(bench, W2)
    answer(bench, says(W2, W1), says(W2, W1))
    assert status(W2, 0, 0) in bench.answers()


def test_known_writer_is_told_again_when_the_wait_is_over() -> None:
    bench = MemberBench()
    ask(bench, W1, wait_ms=500)
    answer(bench, says(W1, W1), says(W1, W1))
    bench.pass_ms(500)
    answer(bench, says(W1, W1), says(W1, W1))
    assert bench.answers() == [status(W1, 0, 1)]


def test_own_view_is_watched_too() -> None:
    bench = MemberBench()
    ask(bench, W1, wait_ms=60_000, local=1)
    assert bench.answers() == []
    promise(bench, W2)
    assert [each.writer for each in bench.answers() if isinstance(each, WriterStatusReply)] == [W2]


def test_watches_are_bounded_and_end_with_their_session() -> None:
    bench = MemberBench()
    for _ in range(WATCHES_MAX):
        ask(bench, W1, wait_ms=60_000, local=1)
    ask(bench, W1, wait_ms=60_000, local=1)
    (found,) = bench.answers()
    assert isinstance(found, Failure)
    assert found.code == Code.BUSY
    bench.context.sessions.close(SESSION)
    promise(bench, W2)
    assert [each for each in bench.answers() if isinstance(each, WriterStatusReply)] == []
    assert bench.member.watching._watches == {}


def test_member_that_learns_of_the_known_writer_late_has_nothing_to_tell() -> None:
    bench = MemberBench()
    ask(bench, W2, wait_ms=60_000)
    answer(bench, says(W2, W2), says(W2, W2))
    promise(bench, W2)
    assert bench.asked(AskWriter) == {}
    assert [each for each in bench.answers() if isinstance(each, WriterStatusReply)] == []


def test_answer_that_comes_after_its_session_has_ended_is_dropped() -> None:
    bench = MemberBench()
    ask(bench)
    bench.context.sessions.close(SESSION)
    answer(bench, says(W2, W2), says(W2, W2))
    assert bench.answers() == []
