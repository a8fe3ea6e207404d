"""What a vanished writer left is committed; what is idle, or has a writer, is left alone."""

from __future__ import annotations

import pytest

from tests.unit.core.bench import SESSION, STREAM, MemberBench, Truth
from tests.unit.making import W1, W2
from walle.core.orphan import CLAIM_MS, TELL_MS
from walle.errors import Code
from walle.ids import ANY_WRITER, NO_WRITER, ORIGIN, WriterId
from walle.limits import LEASE_MS_MIN
from walle.messages import (
    AskWriter,
    AskWriterReply,
    NewWriter,
    NewWriterReply,
    Put,
    PutReply,
    ReadTail,
    ReadTailReply,
    Release,
    ReleaseReply,
    Stamp,
    StampReply,
)

TRUTH = Truth(8)
OTHERS = ("n2", "n3")
SOON_MS = 6 * LEASE_MS_MIN
"""A lease, and the longest pause after it."""


def orphaned() -> MemberBench:
    """Entries 4 and 5 are not committed, and nobody has put since the start."""
    return MemberBench(TRUTH.held(3, 5))


def claim(bench: MemberBench) -> WriterId:
    """The others go through the claim's steps; returns its writer."""
    for asked in bench.asked(AskWriter).values():
        who = AskWriterReply(STREAM, Code.OK, 1, W1, "", 100, 0, W1, ORIGIN, ORIGIN, 0)
        bench.reply(asked, who)
    promised = bench.asked(NewWriter)
    writer: WriterId = promised["n2"].message.writer
    assert promised["n2"].message.address == "_internal:n1"
    for node in OTHERS:
        bench.reply(promised[node], NewWriterReply(STREAM, Code.OK, 1, writer))
    reads = bench.asked(ReadTail)
    chains = TRUTH.batch(3, 5).chains.tobytes()
    for node in OTHERS:
        reply = ReadTailReply(STREAM, Code.OK, 1, writer, TRUTH.at(3), W1, TRUTH.at(5), 3, chains)
        bench.reply(reads[node], reply)
    stamps = bench.asked(Stamp)
    for node in OTHERS:
        bench.reply(stamps[node], StampReply(STREAM, Code.OK, 1, writer))
    return writer


def test_suffix_without_a_writer_is_claimed_committed_and_released() -> None:
    bench = orphaned()
    bench.pass_ms(SOON_MS)
    writer = claim(bench)
    beats = bench.asked(Put)
    assert {each.message.committed for each in beats.values()} == {TRUTH.at(5)}
    assert bench.asked(Release) == {}, "the commit point comes first"
    for node in OTHERS:
        told = PutReply(STREAM, Code.OK, 1, writer, 1, TRUTH.at(5), TRUTH.at(5), "")
        bench.reply(beats[node], told)
    releases = bench.asked(Release)
    assert {each.message.writer for each in releases.values()} == {writer}
    bench.member.advance(TRUTH.at(5))
    for node in OTHERS:
        bench.reply(releases[node], ReleaseReply(STREAM, Code.OK, 1, writer))
    bench.pass_ms(10 * SOON_MS)
    assert bench.asked(AskWriter) == {}


def test_it_is_not_claimed_before_the_lease_has_run_out_and_a_little_more() -> None:
    bench = orphaned()
    bench.pass_ms(2 * LEASE_MS_MIN - 1)
    assert bench.asked(AskWriter) == {}


@pytest.mark.parametrize("committed_id", [0, 5])
def test_idle_stream_is_never_claimed(committed_id: int) -> None:
    bench = MemberBench(TRUTH.held(committed_id))
    bench.pass_ms(100 * SOON_MS)
    assert bench.asked(AskWriter) == {}


def test_stream_with_a_writer_is_not_claimed() -> None:
    bench = orphaned()
    for _ in range(20):
        bench.pass_ms(LEASE_MS_MIN / 2)
        beat = Put(STREAM, 1, W1, 1, TRUTH.at(3), 0)
        bench.member.put(SESSION, 1, beat, None)
    assert bench.asked(AskWriter) == {}
    bench.pass_ms(SOON_MS)
    assert bench.asked(AskWriter) != {}


def test_claim_is_left_the_time_of_its_lease() -> None:
    """Its writer may not have heard yet that it has returned."""
    bench = orphaned()
    lease_ms = 20 * LEASE_MS_MIN
    bench.member.new_writer(SESSION, 1, NewWriter(STREAM, 1, W2, "here", lease_ms, ANY_WRITER))
    bench.pass_ms(lease_ms + LEASE_MS_MIN - 1)
    assert bench.asked(AskWriter) == {}
    bench.pass_ms(SOON_MS)
    assert bench.asked(AskWriter) != {}


def test_writer_that_has_released_the_stream_is_not_waited_for() -> None:
    bench = orphaned()
    lease_ms = 20 * LEASE_MS_MIN
    bench.member.new_writer(SESSION, 1, NewWriter(STREAM, 1, W2, "here", lease_ms, ANY_WRITER))
    bench.member.release(SESSION, 2, Release(STREAM, 1, W2, TRUTH.at(3), 0))
    bench.pass_ms(SOON_MS)
    assert bench.asked(AskWriter) != {}


def test_suffix_that_was_committed_meanwhile_is_not_claimed() -> None:
    bench = orphaned()
    bench.member.advance(TRUTH.at(5))
    bench.pass_ms(SOON_MS)
    assert bench.asked(AskWriter) == {}


def test_claim_that_fails_is_repeated_later() -> None:
    bench = orphaned()
    bench.pass_ms(SOON_MS)
    assert bench.asked(AskWriter) != {}
    bench.pass_ms(CLAIM_MS + SOON_MS)
    assert bench.asked(AskWriter) != {}


def test_claim_does_not_insist_when_another_is_under_way() -> None:
    """What began while nobody was in the way does not take the stream from who came meanwhile."""
    bench = orphaned()
    bench.pass_ms(SOON_MS)
    asked = bench.asked(AskWriter)
    lease_ms = 20 * LEASE_MS_MIN
    bench.member.new_writer(SESSION, 1, NewWriter(STREAM, 1, W2, "here", lease_ms, ANY_WRITER))
    for node in OTHERS:
        who = AskWriterReply(STREAM, Code.OK, 1, W1, "", 100, 0, W1, ORIGIN, ORIGIN, 0)
        bench.reply(asked[node], who)
    promised = bench.asked(NewWriter)
    for node in OTHERS:
        bench.reply(promised[node], NewWriterReply(STREAM, Code.FENCED, 1, W2))
    bench.pass_ms(lease_ms)
    assert bench.asked(AskWriter) == {}
    bench.pass_ms(SOON_MS)
    assert bench.asked(AskWriter) != {}


def test_claim_is_begun_again_where_nobody_heard_of_the_commit_point() -> None:
    bench = orphaned()
    bench.pass_ms(SOON_MS)
    claim(bench)
    bench.asked(AskWriter)
    bench.pass_ms(TELL_MS + SOON_MS)
    assert bench.asked(AskWriter) != {}
    assert bench.member.promise.writer != NO_WRITER
