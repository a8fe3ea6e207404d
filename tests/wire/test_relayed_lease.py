"""What a relay's acknowledgement proves, and when a relay ends. docs/wire.md, "Puts through one
member". The relay alone, on a clock that stands still unless the test moves it."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

from tests.wire.peer import make_batch
from walle.core.context import Context
from walle.core.relay import Relay
from walle.core.timers import NEVER
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import ORIGIN, WriterId
from walle.messages import Put, PutReply

CLIENT = 7
NODES = ("n1", "n2", "n3")
WRITER = WriterId(1_000, 1)
LEASE_MS = 5_000
S = 1_000_000_000


class Bench:
    """A relay, and the members that it talks to, played by the test."""

    def __init__(self) -> None:
        self.context = Context("n1", random.Random(1))
        member = SimpleNamespace(
            stream_id=2,
            topology=StreamTopology(1, NODES),
            promise=SimpleNamespace(lease_ms=LEASE_MS),
        )
        self.is_idle = False
        self.first = Put(2, 1, WRITER, 1, ORIGIN, relay=1)
        self.batch = make_batch(WRITER, ORIGIN, b"one")
        self.relay = Relay(self.context, cast("Any", member), self.first, self._on_idle)
        self.sent: list[tuple[int, str, Put]] = []

    def _on_idle(self) -> None:
        self.is_idle = True

    def answers(self) -> list[PutReply]:
        """What the client has been answered since the last call."""
        sends, _ = self.context.outbox.take()
        self.sent += [
            (each.request_id, each.to, each.message) for each in sends if isinstance(each.to, str)
        ]
        return [each.message for each in sends if each.to == CLIENT]

    def acknowledge(self) -> None:
        """The members acknowledge all that the relay has sent them."""
        sent, self.sent = self.sent, []
        for request_id, node, put in sent:
            reply = PutReply(
                2, Code.OK, 1, WRITER, put.transmission, self.batch.last, put.committed, ""
            )
            self.context.calls.receive(node, request_id, reply, None)


def test_a_put_is_answered_once_a_majority_has_it() -> None:
    bench = Bench()
    bench.relay.put(CLIENT, 1, bench.first, bench.batch)
    assert not bench.answers()
    bench.acknowledge()
    (answer,) = bench.answers()
    assert (answer.code, answer.transmission) == (Code.OK, 1)
    assert answer.held == bench.batch.last


def test_a_put_sent_again_proves_a_renewal_after_it() -> None:
    bench = Bench()
    bench.relay.put(CLIENT, 1, bench.first, bench.batch)
    bench.answers()
    bench.acknowledge()
    assert len(bench.answers()) == 1
    bench.context.now_ns += 3 * S  # the relay's process stood still: no heartbeat went out
    bench.relay.put(CLIENT, 2, bench.first._replace(transmission=2), bench.batch)
    assert not bench.answers()  # no member has heard of the writer since
    bench.acknowledge()
    (answer,) = bench.answers()
    assert (answer.code, answer.transmission) == (Code.OK, 2)


def test_a_relay_whose_client_is_quiet_ends_for_good() -> None:
    """Also when the process has stood still, so that its end and its heartbeat are overdue both."""
    bench = Bench()
    bench.relay.put(CLIENT, 1, bench.first, bench.batch)
    for now_ns in (19 * S // 2, 11 * S):  # it ends after two leases, which are 10 s
        assert not bench.is_idle
        bench.context.now_ns = now_ns
        bench.context.timers.run_due(now_ns)
    assert bench.is_idle
    assert [answer.code for answer in bench.answers()] == [Code.UNAVAILABLE]
    assert bench.context.timers.next_ns() == NEVER  # it would renew the lease for ever
