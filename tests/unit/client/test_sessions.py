"""The sessions by which a client asks: how many attempts there are, and who hears of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from walle.client.sessions import Sessions
from walle.errors import LocalProtocolError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Opened:
    """In place of a session."""

    welcome = None
    is_open = True

    async def close(self) -> None:
        self.is_open = False


class Stage(Sessions):
    """Attempts end when the test says so.

    attempts: to open a session, and not ended yet, or cancelled. opened: all that were.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.attempts: list[asyncio.Future[None]] = []
        self.opened: list[Any] = []

    async def open(self, address: str) -> Any:
        if address == "closed":
            return await super().open(address)
        self.attempts.append(asyncio.get_running_loop().create_future())
        await self.attempts[-1]
        self.opened.append(Opened())
        return self.opened[-1]

    def wanted(self, count: int) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.get("a")) for _ in range(count)]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_all_wait_for_one_attempt_and_share_what_comes_of_it() -> None:
    async def test() -> None:
        sessions = Stage()
        for error in (Unavailable("nobody there"), None):
            waiting = sessions.wanted(3)
            await settle()
            [attempt] = sessions.attempts
            sessions.attempts.clear()
            if error is not None:
                attempt.set_exception(error)
                assert await asyncio.gather(*waiting, return_exceptions=True) == [error] * 3
            else:
                attempt.set_result(None)
                assert await asyncio.gather(*waiting) == sessions.opened * 3
        assert await sessions.get("a") is sessions.opened[0]
        assert not sessions.attempts

    run(test())


def test_who_is_cancelled_takes_nobodys_attempt_along() -> None:
    async def test() -> None:
        sessions = Stage()
        first, second = sessions.wanted(2)
        await settle()
        first.cancel()
        await settle()
        assert first.cancelled()
        sessions.attempts[0].set_result(None)
        assert await second is sessions.opened[0]

    run(test())


def test_nobody_need_hear_of_a_failure() -> None:
    errors: list[Any] = []

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        sessions = Stage()
        [waiting] = sessions.wanted(1)
        await settle()
        waiting.cancel()
        sessions.attempts[0].set_exception(Unavailable("nobody there"))
        await settle()

    run(test())
    assert not errors


def test_once_they_are_closed_none_is_opened() -> None:
    async def test() -> None:
        sessions = Stage()
        [opened] = sessions.wanted(1)
        await settle()
        sessions.attempts[0].set_result(None)
        await opened
        waiting = asyncio.create_task(sessions.get("b"))
        await settle()
        await sessions.close()
        assert sessions.attempts[1].cancelled()
        assert not sessions.opened[0].is_open
        with pytest.raises(LocalProtocolError, match="closed"):
            await waiting
        with pytest.raises(LocalProtocolError, match="closed"):
            await sessions.get("closed")

    run(test())
