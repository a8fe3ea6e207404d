"""The ring between real processes: nothing lost, nothing torn, nobody asleep for ever."""

from __future__ import annotations

import os
import random
import signal
from functools import partial
from mmap import mmap
from typing import TYPE_CHECKING

import pytest

from tests.native.children import forked, wait_readable
from walle.ring.bell import Bell
from walle.ring.spsc import Ring

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

CONTENT = random.Random(20).randbytes(4_096)


def content_of(index: int) -> bytes:
    """The message with that index: its size and every byte follow from it."""
    mixed = index * 2_654_435_761 % (1 << 32)
    return index.to_bytes(8, "little") + CONTENT[mixed % 1_000 :][: mixed >> 24]


def wait_for_ring(bell: Bell) -> None:
    wait_readable(bell.fd)
    os.eventfd_read(bell.fd)


class Link:
    """A ring with a bell at each end, made before the fork."""

    def __init__(self, capacity: int) -> None:
        self.memory = mmap(-1, Ring.OVERHEAD_BYTES + capacity)
        self.capacity = capacity
        Ring.create(self.memory, 0, capacity)
        self.consumers_bell = Bell()
        self.producers_bell = Bell()

    def open(self) -> Ring:
        return Ring(self.memory, 0, self.capacity)

    def close(self) -> None:
        self.consumers_bell.close()
        self.producers_bell.close()


@pytest.fixture(params=[1 << 10, 1 << 12, 1 << 16])
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    link = Link(request.param)
    yield link
    link.close()


def produce(link: Link, count: int, seed: int) -> int:
    """Sends `count` messages in batches of any size. Returns how often it slept."""
    ring = link.open()
    chance = random.Random(seed)
    sleeps = 0
    unpublished = chance.randrange(1, 64)
    for index in range(count):
        message = content_of(index)[: link.capacity // 2 - 8]
        while not ring.try_write(message):
            if ring.publish():
                link.consumers_bell.ring()
            if ring.arm_producer(len(message)):
                sleeps += 1
                wait_for_ring(link.producers_bell)
        unpublished -= 1
        if not unpublished:
            unpublished = chance.randrange(1, 64)
            if ring.publish():
                link.consumers_bell.ring()
    if ring.publish():
        link.consumers_bell.ring()
    return sleeps


def consume(link: Link, count: int, seed: int) -> int:
    """Receives `count` messages and checks each. Returns how often it slept."""
    ring = link.open()
    chance = random.Random(seed)
    sleeps = 0
    received = 0
    while received < count:
        views = ring.consume(chance.choice([1, 200, 1 << 20]))
        for view in views:
            assert view == content_of(received)[: link.capacity // 2 - 8], f"message {received}"
            received += 1
        if ring.release():
            link.producers_bell.ring()
        if not views and ring.arm_consumer():
            sleeps += 1
            wait_for_ring(link.consumers_bell)
    return sleeps


def test_two_processes_exchange_messages_and_lose_no_wake_up(link: Link) -> None:
    count = 200_000
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    pipe = os.pipe()

    def child() -> None:
        os.write(pipe[1], produce(link, count, seed).to_bytes(8, "little"))

    with forked(child):
        consumers_sleeps = consume(link, count, seed + 1)
    producers_sleeps = int.from_bytes(os.read(pipe[0], 8), "little")
    for fd in pipe:
        os.close(fd)
    print(f"the consumer slept {consumers_sleeps} times, the producer {producers_sleeps}")  # noqa: T201
    assert consumers_sleeps + producers_sleeps, "the faster of the two has to wait"


def test_two_processes_taking_turns_lose_no_wake_up() -> None:
    # One message at a time: every one finds the other side asleep or about to be.
    there, back = Link(1 << 10), Link(1 << 10)
    count = 20_000

    def child() -> None:
        ring, answers = there.open(), back.open()
        for _ in range(count):
            answers.try_write(wait_for_one(ring, there))
            if answers.publish():
                back.consumers_bell.ring()

    def wait_for_one(ring: Ring, link: Link) -> bytes:
        while not (views := ring.consume()):
            if ring.arm_consumer():
                wait_for_ring(link.consumers_bell)
        message = bytes(views[0])
        ring.release()
        return message

    with forked(child):
        ring, answers = there.open(), back.open()
        for index in range(count):
            ring.try_write(index.to_bytes(8, "little"))
            if ring.publish():
                there.consumers_bell.ring()
            assert wait_for_one(answers, back) == index.to_bytes(8, "little")
    there.close()
    back.close()


def test_producer_that_is_killed_leaves_what_it_published_and_nothing_more(link: Link) -> None:
    def child() -> None:
        ring = link.open()
        for index in range(3):
            ring.try_write(content_of(index)[:40])
        ring.publish()
        ring.try_write(b"never published")
        os.kill(os.getpid(), signal.SIGKILL)

    with forked(child, status=-signal.SIGKILL):
        pass
    assert link.open().consume() == [content_of(index)[:40] for index in range(3)]


def test_producer_that_is_killed_anywhere_leaves_whole_messages() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    chance = random.Random(seed)
    for _ in range(30):
        link = Link(1 << 14)
        with forked(partial(endless, link), status=-signal.SIGKILL) as pid:
            ring = link.open()
            received = 0
            enough = chance.randrange(1, 4_000)
            while received < enough:
                received = receive(ring, received)
            os.kill(pid, signal.SIGKILL)
        while (now := receive(ring, received)) > received:
            received = now
        assert ring.arm_consumer(), "nothing is left"
        link.close()


def endless(link: Link) -> None:
    """Writes for ever, three messages at a time."""
    ring = link.open()
    index = 0
    while True:
        if ring.try_write(content_of(index)):
            index += 1
        if index % 3 == 0:
            ring.publish()


def receive(ring: Ring, received: int) -> int:
    """Checks what is there; returns how many have been received."""
    for view in ring.consume():
        assert view == content_of(received), f"message {received}"
        received += 1
    ring.release()
    return received
