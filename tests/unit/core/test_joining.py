"""A member's part in a change of its stream's members: what it tells of what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.core.bench import SESSION, STREAM, MemberBench, Truth
from walle.core import joining
from walle.errors import Code
from walle.messages import AskHeld, AskHeldReply, Gap

if TYPE_CHECKING:
    import pytest

TRUTH = Truth(9)


def held(bench: MemberBench) -> AskHeldReply:
    bench.member.joining.tell_held(SESSION, 1, AskHeld(STREAM, 1))
    (answer,) = bench.answers()
    assert isinstance(answer, AskHeldReply)
    return answer


def test_held_is_what_is_committed_but_the_gaps() -> None:
    history = TRUTH.with_gap(2, 5, 6)
    history.append(TRUTH.batch(7, 8), 0)
    answer = held(MemberBench(history))
    assert (answer.code, answer.end, answer.gaps) == (Code.OK, 7, (Gap(3, 5),))


def test_only_what_lies_below_the_first_gap_not_listed_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    history = TRUTH.with_gap(1, 3, 4)
    history.jump(TRUTH.batch(6, 6), 0, TRUTH.at(6))
    history.jump(TRUTH.batch(9, 9), 0, TRUTH.at(9))
    bench = MemberBench(history)
    assert held(bench).end == 10
    monkeypatch.setattr(joining, "GAPS_LISTED_MAX", 2)
    answer = held(bench)
    assert (answer.end, answer.gaps) == (7, (Gap(2, 3), Gap(5, 6)))
