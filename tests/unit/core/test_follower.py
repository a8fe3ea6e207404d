"""Following `/cluster`: from this node's own member, or from another one that can serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.core.bench import MemberBench, Truth
from walle.core import follower as follower_module
from walle.core.cluster import ClusterState
from walle.core.follower import ASK_MS, FRESH_MS, PAUSE_MS, Follower
from walle.core.news import News
from walle.errors import Code, InvariantError
from walle.messages import Failure, Read, ReadReply

if TYPE_CHECKING:
    from walle.core.cluster import StreamRecord

TRUTH = Truth(4)
STREAM = 1


class Nothing(ClusterState):
    """A topology that no entry changes."""

    def apply(self, entry_id: int, data: bytes) -> StreamRecord | None:  # noqa: ARG002
        self.applied_id = entry_id
        return None


class Desk:
    """A node whose member of the stream has entries up to 3, none of them applied."""

    def __init__(self) -> None:
        self.bench = MemberBench(TRUTH.held(3))
        self.cluster = Nothing()
        self.told: list[str] = []
        self.follower = Follower(
            self.bench.context,
            {STREAM: self.bench.member},
            self.cluster,
            News(self.bench.context, {}),
            on_stream=lambda _record: None,
            on_applied=lambda: None,
        )

    def asked(self) -> tuple[str, Any]:
        ((node, asked),) = self.bench.asked(Read).items()
        return node, asked

    def ask_fresh(self) -> None:
        self.follower.when_fresh(
            lambda: self.told.append("fresh"), lambda: self.told.append("not now")
        )


def test_entries_are_applied_in_order() -> None:
    desk = Desk()
    desk.follower.follow()
    desk.follower.follow()
    node, asked = desk.asked()
    assert node == "n1"
    desk.bench.reply(asked, ReadReply(STREAM, 1, TRUTH.at(3)), TRUTH.batch(1, 3))
    assert desk.cluster.applied_id == 3


def test_what_this_member_cannot_serve_is_read_from_another_one() -> None:
    desk = Desk()
    desk.follower.follow()
    desk.bench.reply(desk.asked()[1], Failure(Code.DAMAGED, "entry 1 is damaged"))
    desk.bench.pass_ms(PAUSE_MS)
    assert desk.asked()[0] == "n2"
    desk.bench.pass_ms(ASK_MS + PAUSE_MS)
    assert set(desk.bench.asked(Read)) >= {"n3"}


def test_entries_that_do_not_follow_end_the_process() -> None:
    desk = Desk()
    desk.follower.follow()
    with pytest.raises(InvariantError):
        desk.bench.reply(desk.asked()[1], ReadReply(STREAM, 1, TRUTH.at(3)), TRUTH.batch(2, 3))


def test_request_waits_for_what_was_committed_before_it() -> None:
    desk = Desk()
    desk.ask_fresh()
    desk.bench.reply(desk.asked()[1], ReadReply(STREAM, 1, TRUTH.at(3)), None)
    assert desk.told == []
    desk.follower.follow()
    desk.bench.reply(desk.asked()[1], ReadReply(STREAM, 1, TRUTH.at(3)), TRUTH.batch(1, 3))
    assert desk.told == ["fresh"]
    desk.ask_fresh()
    desk.bench.reply(desk.asked()[1], ReadReply(STREAM, 1, TRUTH.at(3)), None)
    assert desk.told == ["fresh", "fresh"]


def test_request_is_told_when_freshness_cannot_be_had() -> None:
    desk = Desk()
    desk.ask_fresh()
    desk.bench.reply(desk.asked()[1], Failure(Code.UNAVAILABLE, "no majority"))
    desk.ask_fresh()
    desk.bench.pass_ms(FRESH_MS)
    assert desk.told == ["not now", "not now"]


def test_requests_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "QUESTIONS_COUNT_MAX", 2)
    desk = Desk()
    for _ in range(3):
        desk.ask_fresh()
    assert desk.told == ["not now"]


def test_looking_for_news_is_not_repeated_at_once() -> None:
    desk = Desk()
    desk.follower.catch_up()
    desk.follower.catch_up()
    sends, _ = desk.bench.context.outbox.take()
    assert sorted(str(send.to) for send in sends) == ["n2", "n3"]
