"""What all members of a node together backfill is bounded: turns, and a rate."""

from __future__ import annotations

import random
from functools import partial

from walle.core.context import Context
from walle.core.throttle import RATE_WINDOW_NS, Rate
from walle.limits import BACKFILL_TURNS_MAX, NS_PER_S


class Stage:
    """Streams that fetch 100 bytes in each turn."""

    def __init__(self, bytes_per_second: int = 0) -> None:
        self.context = Context("n1", random.Random(1), backfill_bytes_per_second=bytes_per_second)
        self.throttle = self.context.throttle
        self.begun: list[int] = []

    def ask(self, *streams: int) -> None:
        for each in streams:
            self.throttle.ask(each, partial(self.begun.append, each))

    def pass_s(self, seconds: float) -> None:
        self.context.now_ns += int(seconds * NS_PER_S)
        self.context.timers.run_due(self.context.now_ns)


def test_streams_take_turns_in_the_order_in_which_they_asked() -> None:
    stage = Stage()
    streams = [*range(BACKFILL_TURNS_MAX + 2)]
    stage.ask(*streams)
    assert stage.begun == streams[:-2]
    stage.throttle.end(0, 100)
    stage.ask(0)
    assert stage.begun == streams[:-1]
    stage.throttle.end(1, 100)
    stage.throttle.end(2, 100)
    assert stage.begun == [*streams, 0]


def test_rate_is_kept_over_all_streams() -> None:
    stage = Stage(bytes_per_second=1_000)
    stage.ask(1, 2)
    assert stage.begun == [1, 2]
    stage.throttle.end(1, 100)
    stage.ask(1)
    assert stage.begun == [1, 2]
    stage.pass_s(0.1)
    assert stage.begun == [1, 2, 1]
    stage.throttle.end(1, 100)
    stage.throttle.end(2, 300)
    stage.ask(1, 2)
    stage.pass_s(0.39)
    assert len(stage.begun) == 3
    stage.pass_s(0.02)
    assert stage.begun[3:] == [1, 2]


def test_time_without_work_is_not_saved_up() -> None:
    stage = Stage(bytes_per_second=1_000)
    stage.pass_s(1_000)
    stage.ask(1)
    stage.throttle.end(1, 1_000)
    stage.ask(1)
    assert stage.begun == [1]
    stage.pass_s(1)
    assert stage.begun == [1, 1]


def test_any_number_of_streams_may_have_no_use_for_their_turns() -> None:
    """They were deleted while they waited."""
    stage = Stage()
    stage.ask(*range(BACKFILL_TURNS_MAX))
    gone = range(BACKFILL_TURNS_MAX, 5_000)
    for each in gone:
        stage.throttle.ask(each, partial(stage.throttle.end, each, 0))
    stage.ask(5_000)
    stage.throttle.end(0, 100)
    assert stage.begun[-1] == 5_000


def test_rate_forgets() -> None:
    rate = Rate()
    rate.add(0, 3_000)
    assert rate.per_second(0) == 3_000 * NS_PER_S // RATE_WINDOW_NS
    assert rate.per_second(RATE_WINDOW_NS) == 3_000 * NS_PER_S // RATE_WINDOW_NS
    rate.add(RATE_WINDOW_NS, 1_000)
    assert rate.per_second(2 * RATE_WINDOW_NS - 1) == 4_000 * NS_PER_S // (2 * RATE_WINDOW_NS - 1)
    assert rate.per_second(4 * RATE_WINDOW_NS) == 0
