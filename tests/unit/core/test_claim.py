"""What a claim's coordinator works out by itself: the choice, the common part, when it gives up."""

from __future__ import annotations

import random
from array import array
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.bench import MemberBench
from tests.unit.making import MS, THREE, W1, W2, W3
from walle.core.claim import (
    ASK_MS,
    RESTART_MS_MAX,
    RESTART_MS_MIN,
    Claim,
    Claimed,
    Tail,
    choose,
    common_base,
)
from walle.core.context import Context
from walle.core.timers import NEVER
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import NO_WRITER, ORIGIN, Position, WriterId
from walle.messages import (
    AskWriter,
    AskWriterReply,
    Failure,
    NewWriter,
    NewWriterReply,
    ReadTail,
    ReadTailReply,
    Stamp,
    StampReply,
    Sync,
    SyncReply,
)

if TYPE_CHECKING:
    from walle.core.effects import Send
    from walle.messages import Message

STREAM = 7


def tail(first: int, *chains: int, accepted: WriterId = W1, committed: int | None = None) -> Tail:
    """A suffix from entry `first` on, which is the commit point if nothing else is said."""
    committed = first if committed is None else committed
    return Tail(
        Position(committed, chains[committed - first]),
        accepted,
        Position(first + len(chains) - 1, chains[-1]),
        first,
        array("Q", chains),
    )


# --- choose ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tails", "source"),
    [
        ({"a": tail(1, 1), "b": tail(1, 1, 2)}, "b"),  # the longer one
        ({"a": tail(1, 1, accepted=W2), "b": tail(1, 1, 2)}, "a"),  # the newer writer's
        ({"a": tail(1, 1, 2, accepted=W2), "b": tail(1, 1, 3, 4, accepted=W2)}, "b"),
        ({"b": tail(1, 1), "a": tail(1, 1)}, "b"),  # whichever, but always the same
    ],
)
def test_greatest_accepted_then_longest_history_is_chosen(
    tails: dict[str, Tail], source: str
) -> None:
    choice = choose(tails, [])
    assert (choice.source, choice.history) == (source, tails[source])


def test_highest_commit_point_is_chosen_whoever_knows_it() -> None:
    tails = {"a": tail(1, 1, 2, committed=1), "b": tail(1, 1, 2, committed=2)}
    assert choose(tails, []).committed == Position(2, 2)
    assert choose(tails, [Position(1, 1)]).committed == Position(2, 2)
    assert choose(tails, [Position(5, 5)]).committed == Position(5, 5)


# --- the common part ------------------------------------------------------------------------------


@st.composite
def two_tails(draw: st.DrawFn) -> tuple[Tail, Tail, int]:
    """Two histories that are equal up to an entry and then part, each shown from its own commit
    point on; with the last common entry's id."""
    size = draw(st.integers(1, 12))
    common = draw(st.integers(0, size))
    shown = []
    for salt in (100, 200):
        chains = [each if each <= common else salt + each for each in range(size + 1)]
        last = draw(st.integers(0, size))
        first = draw(st.integers(0, last))
        shown.append(tail(first, *chains[first : last + 1]))
    return shown[0], shown[1], common


@given(two_tails())
def test_common_base_is_the_last_entry_that_both_show_alike(case: tuple[Tail, Tail, int]) -> None:
    member, chosen, _ = case
    alike = [
        each
        for each in range(13)
        if member.first <= each <= member.tail.entry_id
        and chosen.first <= each <= chosen.tail.entry_id
        and member.chain_at(each) == chosen.chain_at(each)
    ]
    found = common_base(member, chosen)
    assert found == (Position(max(alike), member.chain_at(max(alike))) if alike else None)
    assert common_base(chosen, member) == found


# --- the coordinator ------------------------------------------------------------------------------


class Desk:
    """One claim, whose questions are answered by hand."""

    def __init__(self, *, force: bool = True, retry: bool = True, until_ms: int = 10_000) -> None:
        self.context = Context("n0", random.Random(1))
        self.context.wall_us = 1_000
        self.topology = THREE
        self.claimed: list[Claimed] = []
        self.failures: list[str] = []
        self.stale = 0
        self.claim = Claim(
            self.context,
            stream_id=STREAM,
            topology=lambda: self.topology,
            above=W1,
            address="app:1",
            lease_ms=2_000,
            until_ns=until_ms * MS,
            force=force,
            retry=retry,
            on_stale=self._on_stale,
            on_claimed=self.claimed.append,
            on_failed=self.failures.append,
        )
        self.claim.start()

    def _on_stale(self) -> None:
        self.stale += 1

    def sent(self, kind: type[Any]) -> dict[str, Any]:
        """The messages of one kind sent since the last call, by node; the others are dropped."""
        sends, _ = self.context.outbox.take()
        self.sends: dict[str, Send] = {
            str(send.to): send for send in sends if isinstance(send.message, kind)
        }
        return {node: send.message for node, send in self.sends.items()}

    def answer(self, reply: Message, *nodes: str) -> None:
        """Answers what `sent` has shown."""
        for node in nodes:
            self.context.calls.receive(node, self.sends[node].request_id, reply, None)

    def pass_ms(self, ms: float) -> None:
        end_ns = self.context.after_ms(ms)
        while (due_ns := self.context.timers.next_ns()) <= end_ns:
            self.context.now_ns = due_ns
            self.context.timers.run_due(due_ns)
        self.context.now_ns = end_ns

    def promise(self, *nodes: str) -> WriterId:
        """Those members promise; returns the writer."""
        asked = self.sent(NewWriter)
        writer: WriterId = next(iter(asked.values())).writer
        self.answer(NewWriterReply(STREAM, Code.OK, 1, writer), *nodes)
        return writer

    def give_tail(self, node: str, last: Position, *, code: Code = Code.OK) -> None:
        """A member shows that it holds nothing but `last`, which is committed."""
        chains = array("Q", [last.chain]).tobytes()
        reply = ReadTailReply(STREAM, code, 1, W2, last, W1, last, last.entry_id, chains)
        self.answer(reply, node)


def who(promised: WriterId, remaining_ms: int = 0, address: str = "app:9") -> AskWriterReply:
    return AskWriterReply(
        STREAM, Code.OK, 1, promised, address, 2_000, remaining_ms, promised, ORIGIN, ORIGIN, 0
    )


def test_writer_id_is_newer_than_the_clock_and_all_that_was_seen() -> None:
    assert Desk().sent(NewWriter)["n1"].writer.ts == 1_000
    desk = Desk(force=False)
    desk.sent(AskWriter)
    desk.answer(who(WriterId(5_000, 1)), "n1", "n2")
    assert desk.sent(NewWriter)["n1"].writer.ts == 5_001


def test_claim_returns_once_a_majority_is_stamped() -> None:
    desk = Desk()
    writer = desk.promise("n1", "n2")
    last = Position(4, 44)
    desk.sent(ReadTail)
    desk.give_tail("n1", last)
    assert desk.context.outbox.sends == [], "the choice waits for a majority"
    desk.give_tail("n2", last)
    assert set(desk.sent(Stamp)) == {"n1", "n2"}
    desk.answer(StampReply(STREAM, Code.OK, 1, writer), "n1")
    assert desk.claimed == []
    desk.answer(StampReply(STREAM, Code.OK, 1, writer), "n2")
    assert desk.claimed == [Claimed(1, writer, last)]
    assert desk.context.timers.next_ns() == NEVER
    assert desk.failures == []


def test_member_that_lacks_the_chosen_history_is_synced_before_it_is_stamped() -> None:
    desk = Desk()
    writer = desk.promise("n1", "n2")
    desk.sent(ReadTail)
    desk.give_tail("n1", Position(2, 22))
    desk.give_tail("n2", Position(4, 44))
    sync = desk.sent(Sync)["n1"]
    assert (sync.source, sync.base, sync.tail) == ("n2", Position(4, 44), Position(4, 44))
    assert sync.jump == 1, "they show no common entry"
    desk.answer(SyncReply(STREAM, Code.OK, 1, writer, sync.tail), "n1")
    assert desk.sent(Stamp)["n1"].tail == Position(4, 44)


def test_damaged_member_does_not_count_for_the_choice_but_its_commit_point_does() -> None:
    desk = Desk()
    desk.promise("n1", "n2", "n3")
    reads = desk.sent(ReadTail)
    assert set(reads) == {"n1", "n2", "n3"}
    desk.give_tail("n1", Position(4, 44))
    desk.give_tail("n2", Position(5, 55), code=Code.DAMAGED)
    assert desk.context.outbox.sends == []
    desk.give_tail("n3", Position(4, 44))
    sync = desk.sent(Sync)["n2"]
    assert (sync.base, sync.jump) == (Position(5, 55), 1)


def test_damaged_member_that_answers_late_is_synced_too() -> None:
    desk = Desk()
    desk.promise("n1", "n2", "n3")
    desk.sent(ReadTail)
    desk.give_tail("n1", Position(4, 44))
    desk.give_tail("n3", Position(4, 44))
    desk.give_tail("n2", Position(3, 33), code=Code.DAMAGED)
    assert set(desk.sent(Sync)) == {"n2"}


def test_tail_is_read_page_by_page() -> None:
    desk = Desk()
    desk.promise("n1")
    start = desk.sent(ReadTail)["n1"].start
    assert start == 0
    for page, wanted in (((11, 12), 3), ((13, 14), 5)):
        chains = array("Q", page).tobytes()
        first = page[0] - 10
        reply = ReadTailReply(
            STREAM, Code.OK, 1, W2, Position(1, 11), W1, Position(5, 15), first, chains
        )
        desk.answer(reply, "n1")
        assert desk.sent(ReadTail)["n1"].start == wanted


@pytest.mark.parametrize(
    "refusal",
    [
        Failure(Code.UNAVAILABLE, "not now"),
        ReadTailReply(STREAM, Code.BAD_REQUEST, 1, W2, ORIGIN, W1, ORIGIN, 0, b""),
    ],
)
def test_member_that_does_not_tell_its_tail_is_left_out(refusal: Message) -> None:
    desk = Desk()
    desk.promise("n1", "n2", "n3")
    desk.sent(ReadTail)
    desk.answer(refusal, "n1")
    for node in ("n2", "n3"):
        desk.give_tail(node, Position(4, 44))
    assert set(desk.sent(Stamp)) == {"n2", "n3"}


def test_member_whose_commit_point_moves_while_its_tail_is_read_is_left_out() -> None:
    """The pages of its tail do not fit together."""
    desk = Desk()
    desk.promise("n1", "n2", "n3")
    desk.sent(ReadTail)
    others = desk.sends
    last = Position(5, 55)
    for first, chains in ((1, [11, 12]), (4, [44, 55])):
        page = array("Q", chains).tobytes()
        committed = Position(first, chains[0])
        desk.answer(ReadTailReply(STREAM, Code.OK, 1, W2, committed, W1, last, first, page), "n1")
        again = desk.sent(ReadTail)
    assert again == {}
    desk.sends = others
    for node in ("n2", "n3"):
        desk.give_tail(node, last)
    assert set(desk.sent(Stamp)) == {"n2", "n3"}


def test_member_whose_tail_and_chains_disagree_is_left_out() -> None:
    desk = Desk()
    desk.promise("n1", "n2", "n3")
    desk.sent(ReadTail)
    for node in ("n1", "n2"):
        reply = ReadTailReply(STREAM, Code.OK, 1, W2, ORIGIN, W1, Position(9, 9), 1, b"")
        desk.answer(reply, node)
    desk.pass_ms(100)
    assert set(desk.sent(NewWriter)) == {"n1", "n2", "n3"}, "it began anew"


@pytest.mark.parametrize(
    "refusal",
    [
        NewWriterReply(STREAM, Code.NOT_PROMISED, 1, W1),
        Failure(Code.UNKNOWN_STREAM, "who?"),
    ],
)
def test_claim_does_without_a_member_that_refuses_and_begins_anew_without_two(
    refusal: Message,
) -> None:
    desk = Desk()
    first = desk.sent(NewWriter)["n1"].writer
    desk.answer(refusal, "n1")
    desk.pass_ms(60)
    assert {each.writer for each in desk.sent(NewWriter).values()} <= {first}
    desk.claim.cancel()
    desk = Desk()
    first = desk.sent(NewWriter)["n1"].writer
    desk.answer(refusal, "n1", "n2")
    desk.pass_ms(60)
    assert desk.sent(NewWriter)["n1"].writer > first


def test_fenced_claim_begins_anew_above_the_newer_writer() -> None:
    desk = Desk()
    desk.sent(NewWriter)
    newer = WriterId(9_000_000, 1)
    desk.answer(NewWriterReply(STREAM, Code.FENCED, 1, newer), "n1")
    assert desk.context.outbox.sends == [], "after a random pause"
    desk.pass_ms(60)
    assert desk.sent(NewWriter)["n1"].writer > newer


@pytest.mark.parametrize("code", [Code.STALE_VERSION, Code.NOT_A_MEMBER])
def test_stale_claim_begins_anew_under_the_newest_topology(code: Code) -> None:
    desk = Desk()
    desk.sent(NewWriter)
    desk.answer(NewWriterReply(STREAM, code, 2, W1), "n1")
    assert desk.stale == 1
    desk.topology = StreamTopology(2, ("n1", "n4"))
    desk.pass_ms(60)
    asked = desk.sent(NewWriter)
    assert set(asked) == {"n1", "n4"}
    assert asked["n4"].version == 2


def test_claim_without_force_waits_until_no_lease_runs() -> None:
    desk = Desk(force=False)
    desk.sent(AskWriter)
    desk.answer(who(W3, 2_000), "n1", "n2")
    desk.pass_ms(301)
    assert set(desk.sent(AskWriter)) == {"n1", "n2", "n3"}
    desk.answer(who(W3, 0), "n3")
    desk.answer(who(NO_WRITER, 0), "n1")
    assert set(desk.sent(NewWriter)) == {"n1", "n2", "n3"}


def test_waiting_claim_leaves_another_that_came_up_meanwhile_the_time_to_return() -> None:
    desk = Desk(force=False, until_ms=2_000)
    desk.sent(AskWriter)
    desk.answer(who(W1, 100), "n1", "n2")
    desk.pass_ms(151)
    desk.sent(AskWriter)
    desk.answer(who(W3, 0), "n1", "n2")
    assert desk.sent(NewWriter) == {}, "it has promised, and has no lease yet"
    desk.pass_ms(301)
    desk.sent(AskWriter)
    desk.answer(who(W3, 0), "n1", "n2")
    assert {each.over for each in desk.sent(NewWriter).values()} == {W3}, "it does not come"


def test_failure_tells_who_is_claiming_the_stream() -> None:
    desk = Desk(force=False, until_ms=200)
    desk.sent(AskWriter)
    desk.answer(who(W1, 100), "n1", "n2")
    desk.pass_ms(151)
    desk.sent(AskWriter)
    desk.answer(who(W3, 0), "n1", "n2")
    desk.pass_ms(200)
    assert desk.failures == ["app:9 is claiming the stream"]


def test_claim_that_does_not_insist_fails_when_another_is_in_the_way() -> None:
    desk = Desk(force=False, retry=False)
    desk.sent(AskWriter)
    desk.answer(who(W1, 0), "n1", "n2")
    desk.sent(NewWriter)
    desk.answer(NewWriterReply(STREAM, Code.FENCED, 1, W3), "n1")
    assert len(desk.failures) == 1
    desk.pass_ms(20_000)
    assert len(desk.failures) == 1
    assert desk.sent(AskWriter) == {}


def test_failure_tells_who_holds_the_lease() -> None:
    desk = Desk(force=False, until_ms=200)
    desk.sent(AskWriter)
    desk.answer(who(W3, 2_000), "n1", "n2")
    desk.pass_ms(200)
    assert desk.failures == ["app:9 holds the lease"]


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("until_ms", [ASK_MS // 2, ASK_MS, 5 * ASK_MS])
def test_claim_that_nobody_answers_fails_once(*, force: bool, until_ms: int) -> None:
    desk = Desk(force=force, until_ms=until_ms)
    desk.pass_ms(until_ms - 1)
    assert desk.failures == []
    desk.pass_ms(10_000)
    assert len(desk.failures) == 1
    assert "no majority" in desk.failures[0]
    assert desk.context.timers.next_ns() == NEVER


@pytest.mark.parametrize("force", [True, False])
def test_cancelled_claim_asks_nothing_more_and_calls_nobody(*, force: bool) -> None:
    desk = Desk(force=force)
    desk.pass_ms(10)
    desk.claim.cancel()
    desk.context.outbox.take()
    desk.pass_ms(20_000)
    assert desk.context.outbox.sends == []
    assert (desk.claimed, desk.failures) == ([], [])


def test_unforced_claim_takes_over_from_nobody_that_it_has_not_seen() -> None:
    """Between its question and its promise somebody else may have claimed the stream."""
    desk = Desk(force=False)
    desk.sent(AskWriter)
    desk.answer(who(WriterId(5_000, 1)), "n1", "n2")
    asked = desk.sent(NewWriter)["n1"]
    assert asked.over == WriterId(5_000, 1)
    bench = MemberBench()
    newer = WriterId(asked.writer.ts - 1, 9)
    bench.member.new_writer("n0", 1, NewWriter(STREAM, 1, newer, "app:2", 100, over=W1))
    bench.member.new_writer("n0", 2, asked._replace(over=W1))
    assert bench.member.promise.writer == newer


def test_claims_that_refuse_each_other_wait_longer_and_longer() -> None:
    desk = Desk(until_ms=60_000)
    pauses = []
    for _ in range(9):
        desk.sent(NewWriter)
        begun_ns = desk.context.now_ns
        desk.answer(NewWriterReply(STREAM, Code.FENCED, 1, WriterId(9_000, 1)), "n1")
        desk.context.outbox.take()
        while not desk.context.outbox.sends:
            desk.pass_ms(1)
        pauses.append(desk.context.now_ns - begun_ns)
    assert max(pauses[-4:]) > 8 * max(pauses[:2])
    assert max(pauses) <= (RESTART_MS_MAX + RESTART_MS_MIN + 1) * MS
