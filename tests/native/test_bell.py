"""The bell: any number of rings is one wake-up, also from another process."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

import pytest

from tests.native.children import forked, wait_readable
from walle.ring.bell import Bell

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bell() -> Iterator[Bell]:
    bell = Bell()
    yield bell
    bell.close()


def test_rings_before_somebody_looks_are_one_and_the_next_is_another(bell: Bell) -> None:
    with select.epoll() as epoll:
        epoll.register(bell.fd, select.EPOLLIN | select.EPOLLET)
        for _ in range(3):
            assert not epoll.poll(0)
            bell.ring()
            bell.ring()
            assert epoll.poll(0)


def test_ring_of_a_bell_whose_counter_is_full_does_not_wait(bell: Bell) -> None:
    os.eventfd_write(bell.fd, (1 << 64) - 2)
    bell.ring()
    assert select.select([bell.fd], [], [], 0)[0]


def test_closed_bell_has_given_back_its_descriptor() -> None:
    bell = Bell()
    bell.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(bell.fd)


@pytest.mark.slow
def test_bell_is_heard_in_another_process(bell: Bell) -> None:
    def child() -> None:
        wait_readable(bell.fd)

    with forked(child):
        bell.ring()
