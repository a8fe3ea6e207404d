"""Which nodes a client asks, and what becomes of their refusals."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from walle.client.client import Client
from walle.client.members import HELD_S, REQUEST_S
from walle.errors import Busy, NotHeld, Unavailable, WalleError
from walle.ids import ORIGIN
from walle.messages import Read, ReadReply

if TYPE_CHECKING:
    from collections.abc import Sequence

READ = Read(7, 1, 0, 0, linearizable=0, local=1)
REPLY = ReadReply(7, 1, ORIGIN)


class Nodes(Client):
    """A client whose nodes answer as they are told.

    asked, waited_s: which of them were, and for how long an answer was waited for.
    """

    def __init__(self, answers: dict[str, WalleError | None]) -> None:
        super().__init__(list(answers), None)
        self.answers = answers
        self.asked: list[str] = []
        self.waited_s: list[float] = []
        self.sessions.get = self._session  # type: ignore[method-assign]
        self.sessions.prefer(next(iter(answers)))  # it was found first

    async def _session(self, address: str) -> Any:
        self.asked.append(address)
        return NodeSession(self.answers[address], self.waited_s)

    async def read(self, addresses: Sequence[str]) -> ReadReply:  # type: ignore[override]
        reply, _ = await self.ask(READ, ReadReply, addresses=addresses, timeout_s=30)
        return reply


class NodeSession:
    def __init__(self, error: WalleError | None, waited_s: list[float]) -> None:
        self._error = error
        self._waited_s = waited_s

    async def request(self, _message: Read, timeout_s: float) -> tuple[ReadReply, None]:
        self._waited_s.append(timeout_s)
        await asyncio.sleep(timeout_s if self._error is SILENT else 0)
        if self._error is not None:
            raise self._error
        return REPLY, None


LACKS, IS_DOWN, SILENT = NotHeld("a gap"), Unavailable("down"), Unavailable("no answer")


def test_who_lacks_something_is_passed_over_and_asked_last_from_then_on() -> None:
    async def run() -> None:
        nodes = Nodes({"a": LACKS, "b": IS_DOWN, "c": None})
        assert await nodes.read("abc") == REPLY
        assert await nodes.read("abc") == REPLY
        assert nodes.asked == ["a", "b", "c", "c"]

    asyncio.run(run())


def test_nobody_is_waited_for_long_who_is_asked_for_what_another_lacks() -> None:
    """One who does not answer must not keep the client from asking the next in time."""

    async def run() -> None:
        nodes = Nodes({"a": IS_DOWN, "b": LACKS, "c": IS_DOWN, "d": None})
        assert await nodes.read("abcd") == REPLY
        assert nodes.waited_s == [REQUEST_S, REQUEST_S, HELD_S, HELD_S]
        assert HELD_S < REQUEST_S

    asyncio.run(run())


def test_who_took_all_the_time_is_not_asked_first_again() -> None:
    """Else nobody else would ever be asked, however often the question is repeated."""

    async def run() -> None:
        nodes = Nodes({"a": SILENT, "b": SILENT, "c": None})
        for _ in range(2):
            with pytest.raises(Unavailable):
                await nodes.ask(READ, ReadReply, addresses="abc", timeout_s=0.01, request_s=0.02)
        await nodes.ask(READ, ReadReply, addresses="abc", timeout_s=0.01, request_s=0.02)
        assert nodes.asked == ["a", "b", "c"]

    asyncio.run(run())


def test_who_answers_late_is_not_asked_first_if_another_one_is_by_now() -> None:
    async def run() -> None:
        nodes = Nodes({"a": None, "b": None})
        asking = asyncio.create_task(nodes.read("ab"))
        while not nodes.asked:  # noqa: ASYNC110
            await asyncio.sleep(0)
        nodes.sessions.prefer("b")
        await asking
        await nodes.read("ab")
        assert nodes.asked == ["a", "b"]

    asyncio.run(run())


@pytest.mark.parametrize("others", [LACKS, IS_DOWN, Busy("busy")])
def test_what_nobody_within_reach_holds_is_told_at_once(others: WalleError) -> None:
    async def run() -> None:
        nodes = Nodes({"a": LACKS, "b": others})
        with pytest.raises(NotHeld):
            await nodes.read("ab")
        assert nodes.asked == ["a", "b"]

    asyncio.run(run())
