"""A writer's lease: it counts from sending times, and proves only what was acknowledged."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.core.writing import BEAT_MS, LEASE_MS, Bench
from tests.unit.making import MS
from walle.core.pipeline import COMMIT_NOTICE_MS, SENDINGS_REMEMBERED_PER_LEASE
from walle.core.topology import StreamTopology


def test_lease_counts_from_the_sending_not_from_the_answer() -> None:
    bench = Bench()
    bench.pass_ms(100)
    sent_ns = bench.now_ns
    bench.pipeline.heartbeat(sent_ns)
    bench.now_ns += 300 * MS
    bench.answer("n1")
    assert bench.pipeline.exclusive_until_ns() == 0, "one of three is no majority"
    bench.answer("n2")
    assert bench.pipeline.exclusive_until_ns() == sent_ns + 3 * LEASE_MS * MS // 4


def test_answer_proves_only_the_transmission_that_it_echoes() -> None:
    """A resend or a late answer does not make the lease younger."""
    bench = Bench()
    bench.pass_ms(100)
    first_ns = bench.now_ns
    bench.pipeline.heartbeat(first_ns)
    first = bench.pipeline.transmission
    bench.pass_ms(100)
    bench.pipeline.heartbeat(bench.now_ns)
    bench.answer("n1", "n2", transmission=first)
    assert bench.pipeline.acknowledged_transmission == first
    assert bench.pipeline.exclusive_until_ns() == first_ns + 3 * LEASE_MS * MS // 4


def test_answer_without_transmission_is_no_lease() -> None:
    bench = Bench()
    bench.answer("n1", "n2", "n3", transmission=0)
    assert bench.pipeline.exclusive_until_ns() == 0


def test_only_so_many_sendings_are_remembered_while_nobody_answers() -> None:
    bench = Bench()
    first_ns = bench.now_ns
    first = bench.pipeline.transmission
    step_ms = -(-LEASE_MS // SENDINGS_REMEMBERED_PER_LEASE)
    for _ in range(3 * SENDINGS_REMEMBERED_PER_LEASE):
        bench.pass_ms(step_ms)
        bench.pipeline.heartbeat(bench.now_ns)
    bench.answer("n1", "n2", transmission=first)
    assert bench.pipeline.exclusive_until_ns() == 0, "that is too long ago to be of use"
    assert len(bench.pipeline._sendings) == 2 * SENDINGS_REMEMBERED_PER_LEASE
    bench.answer("n1", "n2")
    assert bench.pipeline.exclusive_until_ns() > first_ns + 2 * LEASE_MS * MS


class LeaseMachine(RuleBasedStateMachine):
    """Sendings at any times and answers in any order, against a list of all of them."""

    @initialize(size=st.integers(1, 5))
    def create(self, size: int) -> None:
        self.nodes = [f"n{index}" for index in range(size)]
        self.bench = Bench(StreamTopology(1, tuple(self.nodes)), is_connected=False)
        self.sent_ns = {0: 0}
        self.echoed = dict.fromkeys(self.nodes, 0)
        self.bench.connect(*self.nodes)
        self.note()

    def note(self) -> None:
        for each in self.bench.pipeline.take():
            self.sent_ns.setdefault(each.put.transmission, self.bench.now_ns)

    @rule(ms=st.floats(0, 40))
    def wait(self, ms: float) -> None:
        self.bench.now_ns += int(ms * MS)

    @rule()
    def beat(self) -> None:
        self.bench.pipeline.heartbeat(self.bench.now_ns)
        self.note()

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        node = data.draw(st.sampled_from(self.nodes))
        number = data.draw(st.sampled_from(sorted(self.sent_ns)))
        self.bench.answer(node, transmission=number)
        self.echoed[node] = max(self.echoed[node], number)

    @invariant()
    def exclusive_is_the_majoritieth_newest_sending_or_a_step_earlier(self) -> None:
        newest = sorted(self.echoed.values(), reverse=True)[len(self.nodes) // 2]
        pipeline = self.bench.pipeline
        assert pipeline.acknowledged_transmission == newest
        until_ns = pipeline.exclusive_until_ns()
        if not newest:
            assert until_ns == 0
            return
        exact_ns = self.sent_ns[newest] + 3 * LEASE_MS * MS // 4
        step_ns = LEASE_MS * MS // SENDINGS_REMEMBERED_PER_LEASE
        assert exact_ns - step_ns < until_ns <= exact_ns


TestLease = LeaseMachine.TestCase
TestLease.settings = settings(max_examples=60, stateful_step_count=30)


def test_sendings_are_remembered_for_a_lease_and_no_longer() -> None:
    """Under load there are thousands of sendings in a lease."""
    bench = Bench()
    numbers = []
    for _ in range(2_000):
        bench.now_ns += MS
        bench.pipeline.heartbeat(bench.now_ns)
        bench.pipeline.take()
        numbers.append(bench.pipeline.transmission)
    assert len(bench.pipeline._sendings) <= 2 * SENDINGS_REMEMBERED_PER_LEASE
    bench.answer("n1", "n2", transmission=numbers[-LEASE_MS])
    sent_ns = bench.now_ns - (LEASE_MS - 1) * MS
    step_ns = LEASE_MS * MS // SENDINGS_REMEMBERED_PER_LEASE
    exact_ns = sent_ns + 3 * LEASE_MS * MS // 4
    assert exact_ns - 2 * step_ns < bench.pipeline.exclusive_until_ns() <= exact_ns


def test_put_soon_after_makes_the_notice_needless() -> None:
    bench = Bench()
    batch = bench.put()
    bench.answer("n1", "n2", held=batch.last)
    bench.put()
    bench.pipeline.take()
    bench.pass_ms(COMMIT_NOTICE_MS)
    assert bench.pipeline.take() == []


def test_no_notice_goes_while_a_put_is_near_but_heartbeats_do() -> None:
    bench = Bench()
    bench.answer("n1", "n2", held=bench.put().last)
    bench.pipeline.take()
    bench.pipeline.is_put_near = True
    assert bench.pipeline.next_ns() > bench.now_ns + COMMIT_NOTICE_MS * MS
    bench.pass_ms(BEAT_MS)
    assert [each.put.committed for each in bench.pipeline.take()] == 3 * [bench.pipeline.committed]
