"""What passes between a measurement and its processes, and how its clock wakes."""

from __future__ import annotations

import selectors
import socket
import time
from unittest.mock import patch

import pytest

from walle.bench.worker import Part, PreciseSelector
from walle.bench.workload import Workload
from walle.tls import Tls


@pytest.mark.parametrize("tls", [None, Tls("a.pem", "c.pem", "k.pem")])
def test_a_part_arrives_as_it_was_sent(tls: Tls | None) -> None:
    part = Part("127.0.0.1:7411", tls, Workload(streams=3, rate=5, distribution="uniform"), 2)
    assert Part.from_json(part.to_json()) == part


def test_it_wakes_when_something_can_be_read_and_when_time_is_up() -> None:
    near, far = socket.socketpair()
    with near, far, PreciseSelector() as selector:
        selector.register(near, selectors.EVENT_READ)
        begin_ns = time.monotonic_ns()
        assert selector.select(0.001) == []
        assert time.monotonic_ns() - begin_ns >= 1_000_000
        assert selector.select(0) == []
        far.send(b"x")
        for timeout in (0.0, 60.0, None):
            ((key, _),) = selector.select(timeout)
            assert key.fileobj is near


def test_only_the_end_of_a_wait_takes_two_calls() -> None:
    near, far = socket.socketpair()
    with near, far, PreciseSelector() as selector:
        selector.register(near, selectors.EVENT_READ)
        far.send(b"x")
        with patch("walle.bench.worker.select.select") as precise:
            assert selector.select(60.0)
            selector.is_precise = False
            assert selector.select(0.001)
        precise.assert_not_called()
        selector.is_precise = True
        near.recv(1)
        taken_ns = []
        for _ in range(20):
            begin_ns = time.monotonic_ns()
            assert selector.select(0.006) == []
            taken_ns.append(time.monotonic_ns() - begin_ns)
        assert min(taken_ns) < 6_000_000, "it wakes before the end, which is then waited for"
