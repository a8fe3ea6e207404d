"""Questions to the other members: one on behalf of everybody who wants its answer; for a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from walle.messages import Fetch, FetchReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.member import Member
    from walle.ids import Position
    from walle.messages import Message
    from walle.record import Batch

T = TypeVar("T")

FETCH_MS = 2_000


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


def fetch_one(
    member: Member,
    position: Position,
    on_record: Callable[[Batch], None],
    on_end: Callable[[], None],
) -> None:
    """Fetches the one record at `position` from any other member, and checks its chain."""

    def on_reply(_node: str, reply: Message, batch: Batch | None) -> None:
        if isinstance(reply, FetchReply) and batch is not None and batch.last == position:
            call.finish()
            on_record(batch)

    call = member.context.calls.ask(
        member.others,
        Fetch(member.stream_id, position.entry_id, position.entry_id + 1, 0, 0, 1),
        on_reply,
        until_ns=member.context.after_ms(FETCH_MS),
        on_end=on_end,
    )
