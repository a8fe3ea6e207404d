"""The manager's side of a change of members: what is asked of whom, when, and how often."""

from __future__ import annotations

import random
from typing import Any

import pytest

from walle.core.change import PAUSE_MS, STEP_MS, Change
from walle.core.cluster import StreamRecord
from walle.core.context import Context
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import NO_WRITER, ORIGIN, IdRange, Position
from walle.limits import NS_PER_MS
from walle.messages import (
    Adopt,
    AdoptReply,
    AskHeld,
    AskHeldReply,
    AskWriter,
    AskWriterReply,
    Confirm,
    ConfirmReply,
    Failure,
    Gap,
)

STREAM = 7
RECORD = StreamRecord(STREAM, "/s", StreamTopology(2, ("n1", "n4"), ("n1", "n2", "n3")))


class Bench:
    def __init__(self) -> None:
        self.context = Context("boss", random.Random(1))
        self.context.wall_us = 1_000
        self.ended: list[bool] = []
        self.asked: dict[type[Any], dict[str, tuple[int, Any]]] = {}
        self.change = Change(self.context, RECORD, self._on_end)
        self.change.start()
        self.collect()

    def _on_end(self) -> None:
        self.ended.append(True)

    def collect(self) -> list[type[Any]]:
        """What is newly asked."""
        sends, _ = self.context.outbox.take()
        for send in sends:
            to = self.asked.setdefault(type(send.message), {})
            to[str(send.to)] = send.request_id, send.message
        return [type(send.message) for send in sends]

    def answer(self, kind: type[Any], reply: Any, *names: str) -> None:
        for name in names:
            request_id, _ = self.asked[kind][name]
            self.context.calls.receive(name, request_id, reply, None)
        self.collect()

    def adopted(self, *names: str, version: int = 2) -> None:
        self.answer(Adopt, AdoptReply(STREAM, Code.OK, version), *names)

    def tails(self, tail_id: int, *names: str, code: Code = Code.OK) -> None:
        tail = Position(tail_id, 1)
        reply = AskWriterReply(STREAM, code, 2, NO_WRITER, "", 0, 0, NO_WRITER, tail, ORIGIN, 0)
        self.answer(AskWriter, reply, *names)

    def confirmed(self, entry_id: int, *names: str, code: Code = Code.OK, mark: int = 0) -> None:
        self.answer(Confirm, ConfirmReply(STREAM, code, 2, mark, entry_id), *names)

    def held(self, end: int, *names: str, gaps: tuple[Gap, ...] = ()) -> None:
        self.answer(AskHeld, AskHeldReply(STREAM, Code.OK, 2, end, gaps), *names)

    def pass_ms(self, ms: float) -> None:
        self.context.now_ns += int(ms * NS_PER_MS)
        self.context.wall_us += int(ms * 1_000)
        self.context.timers.run_due(self.context.now_ns)
        self.collect()

    @property
    def mark(self) -> int:
        found: int = next(iter(self.asked[Confirm].values()))[1].mark
        return found


def confirming(tail_id: int = 5) -> Bench:
    bench = Bench()
    bench.adopted("n1", "n2", "n4")
    bench.tails(tail_id, "n1", "n2")
    return bench


def covering() -> Bench:
    bench = confirming()
    bench.confirmed(6, "n1", "n2", "n4")
    return bench


def test_everybody_is_told_the_joint_version_until_they_have_answered() -> None:
    bench = Bench()
    assert bench.asked[Adopt].keys() == {"n1", "n2", "n3", "n4"}
    assert bench.asked[Adopt]["n1"][1] == Adopt(STREAM, "/s", *RECORD.topology)
    bench.adopted("n1", "n2", "n4")
    bench.asked.clear()
    bench.pass_ms(10_000)
    assert bench.asked[Adopt].keys() == {"n3"}


def test_member_that_tells_another_version_has_not_adopted() -> None:
    bench = Bench()
    bench.adopted("n1", "n2", "n4", version=1)
    assert AskWriter not in bench.asked


def test_tails_are_asked_of_the_old_members_and_the_highest_counts() -> None:
    bench = Bench()
    bench.adopted("n1", "n4", "n3")
    assert bench.asked[AskWriter].keys() == {"n1", "n2", "n3"}
    bench.tails(9, "n2", code=Code.STALE_VERSION)
    bench.tails(4, "n1")
    assert Confirm not in bench.asked
    bench.tails(5, "n3")
    assert bench.asked[Confirm].keys() == {"n1", "n2", "n3", "n4"}
    assert bench.asked[Confirm]["n1"][1].entry_id == 5


def test_both_majorities_confirm() -> None:
    bench = confirming()
    bench.confirmed(6, "n2", "n3")
    bench.confirmed(7, "n1")
    assert AskHeld not in bench.asked  # one of two new members
    bench.confirmed(6, "n4")
    assert bench.asked[AskHeld].keys() == {"n1", "n4"}


def test_tails_are_read_again_with_a_newer_mark_if_nobody_confirms() -> None:
    bench = confirming()
    first = bench.mark
    bench.pass_ms(STEP_MS)
    bench.pass_ms(PAUSE_MS)
    bench.tails(8, "n1", "n3")
    assert bench.mark > first
    assert bench.asked[Confirm]["n1"][1].entry_id == 8


def test_mark_goes_above_that_of_a_manager_whose_clock_was_ahead() -> None:
    bench = confirming()
    bench.confirmed(0, "n1", code=Code.CONFLICT, mark=10**12)
    bench.pass_ms(STEP_MS)
    bench.pass_ms(PAUSE_MS)
    bench.tails(5, "n1", "n3")
    assert bench.mark == 10**12 + 1


def test_change_ends_once_a_majority_of_the_new_members_holds_everything() -> None:
    bench = covering()
    bench.held(7, "n1")
    assert not bench.ended
    bench.held(7, "n4")
    assert bench.ended == [True]
    bench.pass_ms(60_000)
    assert bench.ended == [True]


def test_change_waits_for_what_too_few_hold_and_says_what_that_is() -> None:
    bench = covering()
    bench.held(7, "n1")
    bench.held(6, "n4", gaps=(Gap(2, 4),))
    assert not bench.ended
    assert bench.change.waits_for.endswith("to hold [2, 4), [6, 7)")
    bench.pass_ms(STEP_MS)
    bench.pass_ms(PAUSE_MS)
    bench.held(7, "n1", "n4")
    assert bench.ended == [True]


def test_text_tells_of_a_few_ranges_however_many_there_are() -> None:
    bench = confirming()
    bench.confirmed(9_000, "n1", "n2", "n4")
    gaps = tuple(Gap(each, each + 1) for each in range(1, 9_000, 2))
    bench.held(9_001, "n1", "n4", gaps=gaps)
    assert len(bench.change.lacking) == 4_500
    assert bench.change.waits_for.endswith("[17, 18), [19, 20) and 4490 more ranges")


def test_stopped_change_asks_nothing_more() -> None:
    bench = confirming()
    bench.change.stop()
    bench.asked.clear()
    bench.pass_ms(60_000)
    assert bench.asked == {}


def test_refusals_count_for_nothing() -> None:
    """Nodes that do not know the stream, or the version, yet; those that do are enough."""
    refusal = Failure(Code.UNAVAILABLE, "not now")
    bench = Bench()
    bench.answer(Adopt, refusal, "n3")
    bench.adopted("n1", "n2", "n4")
    bench.answer(AskWriter, refusal, "n3")
    bench.tails(5, "n1", "n2")
    bench.answer(Confirm, refusal, "n3")
    bench.confirmed(6, "n1", "n2", "n4")
    bench.answer(AskHeld, refusal, "n4")
    bench.held(7, "n1")
    assert not bench.ended
    bench.pass_ms(STEP_MS)
    bench.pass_ms(PAUSE_MS)
    bench.held(7, "n1", "n4")
    assert bench.ended == [True]


def test_change_that_is_stopped_while_it_pauses_asks_nothing_more() -> None:
    bench = confirming()
    bench.pass_ms(STEP_MS)
    bench.change.stop()
    bench.asked.clear()
    bench.pass_ms(60_000)
    assert bench.asked == {}


@pytest.mark.parametrize("is_early", [True, False])
def test_forced_change_ends_though_too_few_hold_all(*, is_early: bool) -> None:
    bench = confirming()
    if is_early:
        bench.change.force()
    bench.confirmed(6, "n1", "n2", "n4")
    bench.held(7, "n4", gaps=(Gap(1, 3),))
    if not is_early:
        assert bench.ended == []
        assert bench.change.lacking == [IdRange(1, 7)]
        bench.change.force()
    assert bench.ended == [True]
    assert bench.change.lacking == []
