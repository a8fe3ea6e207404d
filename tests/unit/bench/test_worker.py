"""What passes between a measurement and its processes, and how its clock wakes."""

from __future__ import annotations

import selectors
import socket
import time

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
