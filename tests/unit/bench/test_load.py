"""A stream under load, on a writer that does what it is told."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

import pytest

from walle.bench import load
from walle.bench.latency import Tally
from walle.bench.load import Stream
from walle.errors import Busy, DiskFull, WalleError
from walle.ids import ORIGIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from walle.client.writer import Writer
    from walle.ids import Position

END_NS = 1_000
DATA = b"data"


class FakeWriter:
    """Takes puts while there is room; they end when they are told to."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.room = 1 << 30
        self.error: WalleError | None = None
        self.in_flight: deque[asyncio.Future[Position]] = deque()
        self.on_committed: Callable[[Position], None] = lambda _position: None

    @property
    def has_room(self) -> bool:
        return self.room > 0

    def put(self, data: bytes) -> asyncio.Future[Position]:
        return self._put([data])

    def put_many(self, datas: list[bytes]) -> asyncio.Future[Position]:
        assert len(datas) > 1
        return self._put(datas)

    def _put(self, datas: list[bytes]) -> asyncio.Future[Position]:
        assert set(datas) == {DATA}
        if self.error is not None:
            raise self.error
        if self.room < len(datas):
            raise Busy("full")
        self.room -= len(datas)
        self.in_flight.append(self._loop.create_future())
        return self.in_flight[-1]

    def end(self, count: int, error: WalleError | None = None) -> None:
        for _ in range(count):
            future = self.in_flight.popleft()
            if error is None:
                future.set_result(ORIGIN)
            else:
                future.set_exception(error)


class Stage:
    """A stream, its writer and its clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now_ns = 0
        self.writer = FakeWriter(loop)
        self.tally = Tally(0, END_NS)

    def stream(self, batch: int = 1) -> Stream:
        batches = repeat(([DATA] * batch, batch * len(DATA)))
        return Stream(cast("Writer", self.writer), batches, batch, self.tally)

    def totals(self) -> dict[str, Any]:
        return self.tally.totals()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    loop = asyncio.new_event_loop()
    made = Stage(loop)
    monkeypatch.setattr(load, "now_ns", lambda: made.now_ns)
    yield made
    loop.close()


def test_what_is_due_is_put_at_once(stage: Stage) -> None:
    stream = stage.stream()
    stream.offer(5)
    assert len(stage.writer.in_flight) == 1
    stage.writer.end(1)
    stage.writer.on_committed(ORIGIN)
    assert stream.is_idle
    assert stage.totals() == {"due": 1, "done": 1, "failed": {}, "unanswered": 0}


def test_what_finds_no_room_is_put_later_and_keeps_its_due_time(stage: Stage) -> None:
    stream = stage.stream()
    stage.writer.room = 1
    for due_ns in (1, 2, 3):
        stream.offer(due_ns)
    assert len(stage.writer.in_flight) == 1
    assert stage.totals()["unanswered"] == 3
    stage.writer.room, stage.now_ns = 10, END_NS + 50_000_000
    stream.proceed()
    assert len(stage.writer.in_flight) == 3
    stage.writer.end(3)
    stream.proceed()
    assert stream.is_idle
    assert stage.totals()["done"] == 3
    taken = stage.tally.take()
    assert taken["count"] == 0, "they ended too late to be part of the throughput"


def test_batch_that_finds_no_room_is_put_as_a_whole_later(stage: Stage) -> None:
    stream = stage.stream(batch=10)
    stage.writer.room = 4
    stream.offer(1)
    assert not stage.writer.in_flight
    stage.writer.room = 10
    stream.proceed()
    stage.writer.end(1)
    stream.proceed()
    assert stage.totals() == {"due": 10, "done": 10, "failed": {}, "unanswered": 0}
    assert stage.tally.take()["bytes"] == 10 * len(DATA)


def test_closed_loop_keeps_as_many_in_flight_as_wanted(stage: Stage) -> None:
    stream = stage.stream(batch=3)
    stream.wanted = 10
    stream.proceed()
    assert len(stage.writer.in_flight) == 3
    stage.writer.end(1)
    stream.proceed()
    assert len(stage.writer.in_flight) == 3
    stage.now_ns = END_NS
    stage.writer.end(3)
    stream.proceed()
    assert stream.is_idle, "nothing is put after the end"


def test_failures_are_counted_and_not_repeated(stage: Stage) -> None:
    stream = stage.stream(batch=2)
    stage.writer.error = DiskFull("full")
    stream.offer(1)
    assert stream.is_idle
    stage.writer.error = None
    stream.offer(2)
    stage.writer.end(1, DiskFull("full"))
    stream.proceed()
    assert stage.totals() == {"due": 4, "done": 0, "failed": {"DiskFull": 4}, "unanswered": 0}


def test_closed_loop_whose_puts_fail_does_not_spin(stage: Stage) -> None:
    stream = stage.stream()
    stream.wanted = 5
    stage.writer.error = DiskFull("full")
    stream.proceed()
    assert stage.totals()["failed"] == {"DiskFull": 5}
