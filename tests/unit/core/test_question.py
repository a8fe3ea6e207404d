"""A question that many share: nobody gets an answer older than his request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core.question import SharedQuestion

if TYPE_CHECKING:
    from collections.abc import Callable


class Desk:
    """Keeps the questions that were put, to answer them by hand."""

    def __init__(self) -> None:
        self.put: list[Callable[[int], None]] = []
        self.heard: list[tuple[str, int]] = []
        self.question: SharedQuestion[int] = SharedQuestion(self.put.append)

    def ask(self, who: str) -> None:
        self.question.ask(lambda answer: self.heard.append((who, answer)))

    def answer(self, answer: int) -> None:
        self.put.pop(0)(answer)


def test_those_who_ask_meanwhile_share_the_next_answer() -> None:
    desk = Desk()
    desk.ask("a")
    desk.ask("b")
    desk.ask("c")
    assert len(desk.put) == 1
    desk.answer(1)
    assert desk.heard == [("a", 1)]
    assert len(desk.put) == 1
    desk.answer(2)
    assert desk.heard == [("a", 1), ("b", 2), ("c", 2)]
    assert desk.put == []


def test_it_is_put_again_after_a_rest() -> None:
    desk = Desk()
    desk.ask("a")
    desk.answer(1)
    desk.ask("b")
    desk.answer(2)
    assert desk.heard == [("a", 1), ("b", 2)]


def test_who_asks_again_on_the_answer_gets_a_new_one() -> None:
    desk = Desk()
    desk.question.ask(lambda _answer: desk.ask("again"))
    desk.answer(1)
    assert desk.heard == []
    desk.answer(2)
    assert desk.heard == [("again", 2)]


def test_question_may_be_answered_at_once() -> None:
    heard: list[int] = []
    numbers = iter(range(9))
    question: SharedQuestion[int] = SharedQuestion(lambda then: then(next(numbers)))
    question.ask(heard.append)
    question.ask(heard.append)
    assert heard == [0, 1]


def test_better_answer_reaches_those_who_had_the_first_and_nobody_else() -> None:
    desk = Desk()
    desk.ask("a")
    answer = desk.put[0]
    desk.answer(3)
    desk.ask("b")
    answer(2)
    assert desk.heard == [("a", 3), ("a", 2)]
    desk.answer(1)
    assert desk.heard[-1] == ("b", 1)
