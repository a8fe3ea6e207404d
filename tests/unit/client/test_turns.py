"""Whose turn it is, by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from walle.client import turns as turns_module
from walle.client.turns import ONE_EACH, TURNS, Turns

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Sender:
    """Notes in `sent` that it sends, and keeps its turns. fails: the next time it raises."""

    def __init__(self, name: str, turns: Turns, sent: list[str]) -> None:
        self.name = name
        self.fails = False
        self.taken: list[int] = []
        self._turns = turns
        self._sent = sent

    def send_batch(self) -> None:
        if self.fails:
            raise ValueError
        self._sent.append(self.name)
        self.taken.append(self._turns.take())


class Stage:
    """Senders a, b, c and d at turns that are served when the test says so.

    freed: how often the turns have said that they are to be served.
    """

    def __init__(self) -> None:
        self.freed = 0
        self.turns = Turns(self._on_free)
        self.sent: list[str] = []
        self.senders = {name: Sender(name, self.turns, self.sent) for name in "abcd"}

    def _on_free(self) -> None:
        self.freed += 1

    def wait(self, names: str) -> None:
        for name in names:
            self.turns.wait(self.senders[name])

    def serve(self) -> str:
        """Who sends by that."""
        self.sent.clear()
        self.turns.serve()
        return "".join(self.sent)

    def give_back(self, name: str) -> None:
        self.turns.give_back(self.senders[name].taken.pop(0))


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_first_come_first_served_one_batch_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "TURNS", 2)
    monkeypatch.setattr(turns_module, "COUNTED_S", 60.0)

    async def test() -> None:
        stage = Stage()
        stage.wait("cab")
        assert stage.serve() == "ca"
        stage.wait("cdb")  # b waits already, and keeps its place
        assert stage.serve() == ""
        before = stage.freed
        stage.give_back("a")
        assert stage.freed > before
        assert stage.serve() == "b"
        stage.wait("a")
        stage.turns.leave(stage.senders["c"])
        stage.give_back("c")
        stage.give_back("b")
        assert stage.serve() == "da"
        assert not stage.turns.is_contended
        before = stage.freed
        stage.give_back("d")
        assert stage.freed == before, "nobody waits"

    run(test())


def test_batch_counts_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "TURNS", 2)
    monkeypatch.setattr(turns_module, "COUNTED_S", 0.05)

    async def test() -> None:
        stage = Stage()
        stage.wait("abcd")
        assert stage.serve() == "ab"
        before = stage.freed
        await asyncio.sleep(0.1)
        assert stage.freed == before + 1, "they are served without anybody having to ask"
        assert stage.serve() == "cd"
        for name in "ab":
            stage.give_back(name)  # late: nobody else's turn ends by that
        stage.wait("ab")
        assert stage.serve() == ""
        stage.give_back("c")
        assert stage.serve() == "a"

    run(test())


def test_one_that_fails_has_had_its_turn() -> None:
    async def test() -> None:
        stage = Stage()
        stage.senders["a"].fails = True
        stage.wait("ab")
        with pytest.raises(ValueError):  # noqa: PT011
            stage.serve()
        assert stage.turns.is_free
        assert stage.serve() == "b"
        assert not stage.turns.is_free

    run(test())


def test_batches_that_took_no_turn_count_as_well() -> None:
    """Full ones, which wait for nothing."""

    async def test() -> None:
        stage = Stage()
        for count in range(TURNS):
            assert stage.turns.is_busy == (count >= ONE_EACH)
            stage.turns.take()
        stage.wait("a")
        assert stage.serve() == ""

    run(test())
