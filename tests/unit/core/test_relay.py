"""Puts on behalf of a thin client: a majority answers, and the client's own numbers are echoed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.core.bench import SESSION, STREAM, MemberBench, Truth
from tests.unit.making import W1, W2
from walle.core.pipeline import RESEND_MS
from walle.core.relay import IDLE_LEASES, Relay
from walle.errors import Code
from walle.ids import ORIGIN, Position
from walle.limits import LEASE_MS_MIN, PIPELINE_ENTRIES_MAX
from walle.messages import Failure, Put, PutReply

if TYPE_CHECKING:
    from walle.record import Batch

TRUTH = Truth(9)


class RelayBench(MemberBench):
    """n1 relays for the client that writes as w1, whose claim found entries up to 2."""

    def __init__(self) -> None:
        super().__init__(TRUTH.held(2))
        self.idle = 0
        self.numbers: dict[str, list[int]] = {}
        self.relay = Relay(self.context, self.member, self.client_put(1, 2), self._on_idle)

    def _on_idle(self) -> None:
        self.idle += 1

    def client_put(self, transmission: int, committed_id: int) -> Put:
        return Put(STREAM, 1, W1, transmission, TRUTH.at(committed_id), relay=1)

    def put(
        self, transmission: int, *ids: int, committed_id: int = 2, batch: Batch | None = None
    ) -> None:
        """The client puts the entries from the first id to the last, or beats."""
        batch = TRUTH.batch(ids[0], ids[-1]) if ids else batch
        put = self.client_put(transmission, committed_id)
        self.relay.put(SESSION, 100 + transmission, put, batch)

    def acknowledge(self, *nodes: str, held_id: int = 2, code: Code = Code.OK) -> None:
        """The members answer the newest that they were sent."""
        for node, asked in self.asked(Put).items():
            if node in nodes:
                version = 2 if code is Code.STALE_VERSION else 1
                promised = W2 if code is Code.FENCED else W1
                held, address = TRUTH.at(held_id), "app:2" if code is Code.FENCED else ""
                number = asked.message.transmission
                reply = PutReply(STREAM, code, version, promised, number, held, ORIGIN, address)
                self.reply(asked, reply)

    def told(self) -> list[tuple[int, Code, Position]]:
        """What the client was answered: its transmission, the code, how far a majority holds."""
        found = []
        for answer in self.answers():
            assert isinstance(answer, PutReply)
            found.append((answer.transmission, Code(answer.code), answer.held))
        return found


def test_put_is_answered_once_a_majority_has_it() -> None:
    bench = RelayBench()
    bench.put(40, 3, 4)
    sent = bench.asked(Put)
    assert set(sent) == {"n1", "n2", "n3"}
    assert {each.message.relay for each in sent.values()} == {0}
    assert {each.batch for each in sent.values() if each.batch != TRUTH.batch(3, 4)} == set()
    bench.relay._writer.heartbeat()
    bench.acknowledge("n1", held_id=4)
    assert bench.told() == []
    bench.relay._writer.heartbeat()
    bench.acknowledge("n3", held_id=4)
    assert bench.told() == [(40, Code.OK, TRUTH.at(4))]


def test_heartbeat_renews_the_lease_with_a_majority_only() -> None:
    bench = RelayBench()
    bench.asked(Put)
    bench.put(41)
    bench.acknowledge("n2")
    assert bench.told() == []
    bench.put(42)
    bench.acknowledge("n1", "n2")
    assert bench.told() == [(41, Code.OK, TRUTH.at(2)), (42, Code.OK, TRUTH.at(2))]


def test_older_acknowledgements_do_not_answer_a_younger_put() -> None:
    """The client's lease counts from the sending that they prove."""
    bench = RelayBench()
    bench.put(41)
    asked = bench.asked(Put)
    bench.put(42)
    for node in ("n1", "n2"):
        number = asked[node].message.transmission
        reply = PutReply(STREAM, Code.OK, 1, W1, number, TRUTH.at(2), ORIGIN, "")
        bench.reply(asked[node], reply)
    assert [number for number, *_ in bench.told()] == [41]


def test_entries_that_are_sent_again_are_not_put_again() -> None:
    bench = RelayBench()
    bench.put(41, 3)
    bench.asked(Put)
    bench.put(42, 3)
    assert {each.batch for each in bench.asked(Put).values()} == {None}
    bench.put(43)
    bench.acknowledge("n1", "n2", held_id=3)
    assert [(number, code) for number, code, _ in bench.told()] == [
        (41, Code.OK),
        (42, Code.OK),
        (43, Code.OK),
    ]


def test_entries_that_do_not_follow_are_refused() -> None:
    bench = RelayBench()
    bench.put(41, 5)
    assert bench.told() == [(41, Code.CONFLICT, TRUTH.at(2))]


def test_client_that_went_on_another_way_is_followed() -> None:
    """By its commit point."""
    bench = RelayBench()
    bench.put(41, 3)
    bench.put(42, 7, committed_id=6)
    assert {each.batch for each in bench.asked(Put).values() if each.batch is None} == set()
    bench.put(43, committed_id=6)
    bench.acknowledge("n1", "n2", held_id=7)
    assert bench.told()[-1] == (43, Code.OK, TRUTH.at(7))


def test_lost_writer_is_told_by_whom() -> None:
    bench = RelayBench()
    bench.put(41, 3)
    bench.acknowledge("n1", "n2", code=Code.FENCED)
    (answer,) = bench.answers()
    assert (answer.code, answer.promised, answer.address) == (Code.FENCED, W2, "app:2")
    assert bench.idle == 1


def test_newer_version_ends_the_relay() -> None:
    bench = RelayBench()
    bench.put(41, 3)
    bench.acknowledge("n1", code=Code.STALE_VERSION)
    assert bench.told() == [(41, Code.STALE_VERSION, TRUTH.at(2))]
    assert bench.idle == 1


def test_quiet_client_is_forgotten() -> None:
    bench = RelayBench()
    bench.put(41, 3)
    bench.pass_ms(IDLE_LEASES * LEASE_MS_MIN)
    assert bench.told() == [(41, Code.UNAVAILABLE, TRUTH.at(2))]
    assert bench.idle == 1
    bench.asked(Put)
    bench.pass_ms(10 * RESEND_MS)
    assert bench.asked(Put) == {}, "a relay renews no lease for a writer that may be gone"


def test_puts_under_way_are_bounded() -> None:
    bench = RelayBench()
    for number in range(PIPELINE_ENTRIES_MAX):
        bench.relay._pending.append(bench.relay._pending[0]) if number else bench.put(41, 3)
    bench.told()
    bench.put(42)
    assert bench.told() == [(42, Code.BUSY, TRUTH.at(2))]


@pytest.mark.parametrize("count", [1, 3])
def test_answers_keep_the_clients_order(count: int) -> None:
    bench = RelayBench()
    for index in range(count):
        bench.put(50 + index, 3 + index)
    bench.put(60)
    bench.acknowledge("n2", "n3", held_id=2 + count)
    numbers = [number for number, *_ in bench.told()]
    assert numbers == [*range(50, 50 + count), 60]


def test_client_whose_puts_came_another_way_is_answered_at_once() -> None:
    """The relay begins anew at the client's commit point; what it still owed is not waited for."""
    bench = RelayBench()
    bench.put(40, 3, 4)
    bench.put(41, 7, 8, committed_id=6)
    assert bench.told() == [(40, Code.UNAVAILABLE, TRUTH.at(2))]
    bench.acknowledge("n2", "n3", held_id=8)
    assert bench.told() == [(41, Code.OK, TRUTH.at(8))]


def test_member_that_cannot_answer_is_waited_for() -> None:
    bench = RelayBench()
    bench.put(41, 3)
    for asked in bench.asked(Put).values():
        bench.reply(asked, Failure(Code.BUSY, "it does not know the stream yet"))
    assert bench.told() == []
    bench.pass_ms(LEASE_MS_MIN)
    bench.acknowledge("n1", "n2", held_id=3)
    assert bench.told() == [(41, Code.OK, TRUTH.at(3))]


def test_full_disks_are_told_and_hold_up_no_heartbeat() -> None:
    bench = RelayBench()
    bench.put(41, 3, 4)
    bench.acknowledge("n1", "n2", code=Code.NO_SPACE)
    assert bench.told() == [(41, Code.NO_SPACE, TRUTH.at(2))]
    bench.put(42)
    bench.acknowledge("n1", "n2")
    assert bench.told() == [(42, Code.OK, TRUTH.at(2))]
    bench.put(43, 5)
    assert bench.told() == [(43, Code.NO_SPACE, TRUTH.at(2))], "nothing more is put in flight"
    bench.put(44, 3, 4)
    assert bench.told() == [(44, Code.NO_SPACE, TRUTH.at(2))]


def test_what_was_in_flight_becomes_durable_once_there_is_space() -> None:
    bench = RelayBench()
    bench.put(41, 3, 4)
    bench.acknowledge("n1", "n2", code=Code.NO_SPACE)
    for number in range(42, 42 + RESEND_MS // LEASE_MS_MIN):
        bench.put(number)
        bench.pass_ms(LEASE_MS_MIN)
    bench.acknowledge("n1", "n3", held_id=4)
    assert {code for _, code, _ in bench.told()} == {Code.NO_SPACE, Code.OK}
    bench.put(90, 3, 4)
    bench.acknowledge("n1", "n3", held_id=4)
    assert bench.told() == [(90, Code.OK, TRUTH.at(4))]
    bench.put(91, 5)
    bench.acknowledge("n1", "n3", held_id=5)
    assert bench.told() == [(91, Code.OK, TRUTH.at(5))]
