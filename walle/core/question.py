"""One question to the other members, put on behalf of everybody who wants its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class SharedQuestion(Generic[T]):
    """Many ask, one question is under way.

    An answer must not be older than the request that it serves: whoever asks while the question
    is under way gets the answer to the next one.

    put: puts the question, and calls its argument with the answer; with a better one again.
    """

    def __init__(self, put: Callable[[Callable[[T], None]], None]) -> None:
        self._put = put
        self._asked: list[Callable[[T], None]] = []
        self._next: list[Callable[[T], None]] = []

    def ask(self, then: Callable[[T], None]) -> None:
        """Calls `then` with an answer that is newer than this call."""
        self._next.append(then)
        if not self._asked:
            self._begin()

    def _begin(self) -> None:
        asked = self._asked = self._next
        self._next = []
        self._put(lambda answer: self._on_answer(asked, answer))

    def _on_answer(self, asked: list[Callable[[T], None]], answer: T) -> None:
        if asked is self._asked:
            self._asked = []
            if self._next:
                self._begin()
        for then in asked:
            then(answer)
