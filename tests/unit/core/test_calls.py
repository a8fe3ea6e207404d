"""Questions, repeated until they are answered."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.making import MS, THREE
from walle.core.calls import REPEAT_MS_MAX, REPEAT_MS_MIN
from walle.core.context import Context
from walle.core.timers import NEVER
from walle.errors import Code
from walle.messages import Failure, Form, FormReply, NodeRecord, ProbeReply

if TYPE_CHECKING:
    from walle.messages import Message

QUESTION = Form(bytes(16), ())
OK = FormReply(Code.OK, bytes(16))
REFUSED = FormReply(Code.WRONG_CLUSTER, bytes(16))
BUSY = FormReply(Code.BUSY, bytes(16))
NO = Failure(Code.UNKNOWN_STREAM, "no")


class Asker:
    """A node's calls, and what became of one question."""

    def __init__(self) -> None:
        self.context = Context("n0", random.Random(1))
        self.calls = self.context.calls
        self.replies: list[tuple[str, Message]] = []
        self.ended = 0

    def ask(self, *nodes: str, until_ms: float = 10_000) -> int:
        call = self.calls.ask(
            nodes,
            QUESTION,
            lambda node, reply, _batch: self.replies.append((node, reply)),
            until_ns=self.context.after_ms(until_ms),
            on_end=self.end,
        )
        return call.request_id

    def ask_majority(self, until_ms: float = 10_000) -> int:
        call = self.calls.ask_majority(
            THREE,
            QUESTION,
            lambda answers: self.replies.append(("majority", answers)),
            until_ns=self.context.after_ms(until_ms),
            on_end=self.end,
        )
        return call.request_id

    def end(self) -> None:
        self.ended += 1

    def sent(self) -> list[Any]:
        """The nodes that were asked since the last call."""
        sends, _ = self.context.outbox.take()
        return [send.to for send in sends]

    def pass_ms(self, ms: float) -> None:
        """Time passes; alarms ring when they are due."""
        end_ns = self.context.after_ms(ms)
        while (due_ns := self.context.timers.next_ns()) <= end_ns:
            self.context.now_ns = due_ns
            self.context.timers.run_due(due_ns)
        self.context.now_ns = end_ns


def test_question_is_repeated_ever_more_seldom_to_those_that_have_not_answered() -> None:
    asker = Asker()
    rid = asker.ask("n1", "n2", until_ms=60_000)
    assert asker.sent() == ["n1", "n2"]
    asker.calls.receive("n1", rid, OK, None)
    asker.pass_ms(REPEAT_MS_MIN - 1)
    assert asker.sent() == []
    asker.pass_ms(1)
    assert asker.sent() == ["n2"]
    asker.pass_ms(10_000)
    asker.sent()
    asker.pass_ms(10 * REPEAT_MS_MAX)
    assert len(asker.sent()) == 10


def test_every_node_answers_once_and_then_it_ends() -> None:
    asker = Asker()
    rid = asker.ask("n1", "n2")
    for node in ("n1", "n1", "n9", "n2", "n2"):
        asker.calls.receive(node, rid, OK, None)
    assert asker.replies == [("n1", OK), ("n2", OK)]
    assert asker.ended == 1
    assert asker.context.timers.next_ns() == NEVER


@pytest.mark.parametrize("busy", [BUSY, Failure(Code.BUSY, "later")])
def test_busy_is_no_answer(busy: Message) -> None:
    asker = Asker()
    rid = asker.ask("n1")
    asker.sent()
    asker.calls.receive("n1", rid, busy, None)
    assert asker.replies == []
    asker.pass_ms(REPEAT_MS_MIN)
    assert asker.sent() == ["n1"]


def test_answer_to_another_question_is_none() -> None:
    """Request ids begin anew when a node restarts."""
    asker = Asker()
    rid = asker.ask("n1")
    asker.calls.receive("n1", rid, ProbeReply(NodeRecord("n1", "h1:1", bytes(16)), bytes(16)), None)
    assert asker.replies == []
    asker.calls.receive("n1", rid, NO, None)
    assert asker.replies == [("n1", NO)]


def test_time_is_over() -> None:
    asker = Asker()
    rid = asker.ask("n1", until_ms=500)
    asker.pass_ms(499)
    assert asker.ended == 0
    asker.pass_ms(1)
    assert asker.ended == 1
    asker.sent()
    asker.pass_ms(10_000)
    asker.calls.receive("n1", rid, OK, None)
    assert (asker.replies, asker.sent(), asker.ended) == ([], [], 1)


def test_finished_question_is_forgotten_without_an_end() -> None:
    asker = Asker()
    call = asker.calls.ask(["n1"], QUESTION, lambda *_: None, until_ns=NEVER, on_end=asker.end)
    call.finish()
    call.finish()
    asker.pass_ms(10_000)
    assert (asker.ended, asker.context.timers.next_ns()) == (0, NEVER)


def test_question_may_be_finished_by_its_last_answer() -> None:
    """Then `on_end` is not called after all."""
    asker = Asker()
    call = asker.calls.ask(
        ["n1"], QUESTION, lambda *_: call.finish(), until_ns=NEVER, on_end=asker.end
    )
    asker.calls.receive("n1", call.request_id, OK, None)
    assert asker.ended == 0


def test_question_whose_end_and_repetition_ring_late_together_is_not_repeated() -> None:
    """As after a pause of the process."""
    asker = Asker()
    asker.ask("n1", until_ms=REPEAT_MS_MIN / 2)
    asker.sent()
    asker.context.now_ns += 2 * REPEAT_MS_MIN * MS
    asker.context.timers.run_due(asker.context.now_ns)
    assert asker.ended == 1
    asker.pass_ms(10 * REPEAT_MS_MAX)
    assert asker.sent() == []


# --- majorities -----------------------------------------------------------------------------------


def test_majority_is_told_once() -> None:
    asker = Asker()
    rid = asker.ask_majority()
    for node in ("n1", "n2", "n3"):
        asker.calls.receive(node, rid, OK, None)
    assert asker.replies == [("majority", {"n1": OK, "n2": OK})]
    assert asker.ended == 0


@pytest.mark.parametrize("refusal", [REFUSED, NO])
def test_refusals_count_for_no_majority(refusal: Message) -> None:
    asker = Asker()
    rid = asker.ask_majority()
    for node, reply in (("n1", refusal), ("n2", OK), ("n3", refusal)):
        assert asker.ended == 0
        asker.calls.receive(node, rid, reply, None)
    assert asker.replies == []
    assert asker.ended == 1


def test_majority_may_come_after_a_refusal() -> None:
    asker = Asker()
    rid = asker.ask_majority()
    for node, reply in (("n1", REFUSED), ("n2", OK), ("n3", OK)):
        asker.calls.receive(node, rid, reply, None)
    assert asker.replies == [("majority", {"n2": OK, "n3": OK})]


# --- listeners ------------------------------------------------------------------------------------


def test_listener_hears_every_answer_busy_ones_too_until_it_is_forgotten() -> None:
    asker = Asker()
    rid = asker.calls.listen(lambda node, reply: asker.replies.append((node, reply)))
    assert rid != asker.ask("n1")
    for node, reply in (("n1", OK), ("n1", OK), ("n2", BUSY)):
        asker.calls.receive(node, rid, reply, None)
    asker.calls.forget(rid)
    asker.calls.receive("n1", rid, OK, None)
    assert asker.replies == [("n1", OK), ("n1", OK), ("n2", BUSY)]
