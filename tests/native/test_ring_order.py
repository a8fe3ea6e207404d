"""The order of memory between going to sleep and waking: which outcomes are allowed.

Two processes act at the same moment, round after round. One publishes while the other arms itself
to sleep, or one releases while the other arms itself. Either the first sees that the other is armed
and rings, or the other sees the new position and stays awake, or both. That nobody rings and the
other sleeps is forbidden; without any one of the four fences in ring.c it happens a few dozen times
in so many rounds, on x86-64 too.
"""

from __future__ import annotations

import os
from collections import Counter
from mmap import mmap
from typing import TYPE_CHECKING

import pytest

from tests.native.children import forked
from walle.ring.spsc import Ring

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # where others want the processors, too, one side waits for the other
    pytest.mark.skipif(
        len(os.sched_getaffinity(0)) < 2, reason="one processor does nothing at the same moment"
    ),
]

ROUNDS = 200_000
CAPACITY = 1_024
LARGE = bytes(CAPACITY // 4 - 8)


class Meeting:
    """Lets two processes go on at the same moment."""

    def __init__(self) -> None:
        self._turns = memoryview(mmap(-1, 4_096)).cast("Q")

    def wait(self, *, side: int, turn: int) -> None:
        """Returns when both sides wait for this turn. Spins, as a sleep ends too unpunctually."""
        turns, mine, others = self._turns, 64 * side, 64 - 64 * side
        turns[mine] = turn
        spins = 0
        while turns[others] < turn:
            spins += 1
            if not spins % 1_000:
                os.sched_yield()  # the other side has no processor


def skew(count: int) -> None:
    """Lets some nanoseconds pass, so that the two sides come in every order."""
    for _ in range(count):
        pass


def collide(
    prepare: Callable[[], None],
    wake: Callable[[], bool],
    sleep: Callable[[], bool],
    finish: Callable[[], None],
) -> Counter[tuple[bool, bool]]:
    """Counts what `wake`, in one process, and `sleep`, in another, answer at the same moment."""
    meeting = Meeting()
    rings = mmap(-1, ROUNDS)

    def child() -> None:
        for index in range(ROUNDS):
            prepare()
            meeting.wait(side=0, turn=3 * index + 1)
            skew(index % 16)
            rings[index] = wake()
            meeting.wait(side=0, turn=3 * index + 2)
            meeting.wait(side=0, turn=3 * index + 3)

    outcomes: Counter[tuple[bool, bool]] = Counter()
    with forked(child):
        for index in range(ROUNDS):
            meeting.wait(side=1, turn=3 * index + 1)
            skew(index // 16 % 16)
            sleeps = sleep()
            meeting.wait(side=1, turn=3 * index + 2)
            outcomes[bool(rings[index]), sleeps] += 1
            finish()
            meeting.wait(side=1, turn=3 * index + 3)
    return outcomes


def check(outcomes: Counter[tuple[bool, bool]]) -> None:
    print({f"rings={rings} sleeps={sleeps}": n for (rings, sleeps), n in outcomes.items()})  # noqa: T201
    assert not outcomes[False, True], "nobody rings and the other sleeps"
    assert outcomes[True, True], "the test is worth nothing if nobody ever sleeps"
    assert outcomes[False, False], "nor if somebody always does"


@pytest.fixture
def ring() -> Ring:
    return Ring.create(mmap(-1, Ring.OVERHEAD_BYTES + CAPACITY), 0, CAPACITY)


def test_consumer_does_not_sleep_on_a_message_without_a_ring(ring: Ring) -> None:
    def prepare() -> None:
        ring.try_write(b"")

    def finish() -> None:
        assert not ring.arm_consumer(), "there is a message, so it is awake from now on"
        assert len(ring.consume()) == 1
        ring.release()

    check(collide(prepare, ring.publish, ring.arm_consumer, finish))


def test_producer_does_not_sleep_on_room_without_a_ring(ring: Ring) -> None:
    for _ in range(4):
        assert ring.try_write(LARGE)
    ring.publish()

    def prepare() -> None:
        assert len(ring.consume(bytes_max=1)) == 1

    def sleep() -> bool:
        return ring.arm_producer(len(LARGE))

    def finish() -> None:
        assert ring.try_write(LARGE)
        ring.publish()

    check(collide(prepare, ring.release, sleep, finish))
