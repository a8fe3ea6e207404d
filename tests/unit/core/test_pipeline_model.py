"""A pipeline and three members over a way that loses, delays and repeats."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.core.writing import Bench
from tests.unit.making import THREE
from walle.core.pipeline import COMMIT_NOTICE_MS, RESEND_MS, RETRY_MS, Outgoing
from walle.ids import ORIGIN, Position


class PipelineMachine(RuleBasedStateMachine):
    """Members that hold what reaches them, over a way that loses, delays and repeats."""

    @initialize()
    def create(self) -> None:
        self.bench = Bench(is_connected=False)
        self.held: dict[str, list[Position]] = {node: [ORIGIN] for node in THREE.members}
        self.on_the_way: list[Outgoing] = []
        self.replies: list[tuple[str, int, Position]] = []
        self.bench.connect(*THREE.members)

    @rule(count=st.integers(1, 3))
    def put(self, count: int) -> None:
        self.bench.put(count)
        self.on_the_way += self.bench.pipeline.take()

    @rule(ms=st.sampled_from([1, COMMIT_NOTICE_MS, RETRY_MS, RESEND_MS]))
    def wait(self, ms: int) -> None:
        self.bench.pass_ms(ms)
        self.on_the_way += self.bench.pipeline.take()

    @rule(data=st.data(), is_kept=st.booleans())
    def deliver(self, data: st.DataObject, is_kept: bool) -> None:
        if not self.on_the_way:
            return
        index = data.draw(st.integers(0, len(self.on_the_way) - 1))
        sent = self.on_the_way[index] if is_kept else self.on_the_way.pop(index)
        held = self.held[sent.node]
        batch = sent.batch
        if batch is not None and batch.before in held and batch.last not in held:
            held += [batch.position_at(each) for each in range(len(held), batch.last_id + 1)]
        self.replies.append((sent.node, sent.put.transmission, held[-1]))

    @rule(data=st.data(), is_kept=st.booleans())
    def answer(self, data: st.DataObject, is_kept: bool) -> None:
        if not self.replies:
            return
        index = data.draw(st.integers(0, len(self.replies) - 1))
        node, number, held = self.replies[index] if is_kept else self.replies.pop(index)
        self.bench.answer(node, held=held, transmission=number)
        self.on_the_way += self.bench.pipeline.take()

    @rule(node=st.sampled_from(THREE.members))
    def break_a_connection(self, node: str) -> None:
        self.bench.pipeline.disconnected(node)
        self.on_the_way = [each for each in self.on_the_way if each.node != node]
        self.bench.connect(node)
        self.on_the_way += self.bench.pipeline.take()

    @invariant()
    def what_is_committed_is_held_by_a_majority(self) -> None:
        committed = self.bench.pipeline.committed
        assert sum(committed in held for held in self.held.values()) >= 2

    @invariant()
    def bytes_in_flight_are_counted_right(self) -> None:
        pipeline = self.bench.pipeline
        in_flight = pipeline.uncommitted()
        counted = pipeline._window_bytes - pipeline._committed_bytes
        assert counted == sum(each.payload.size for each in in_flight)
        assert all(each.last_id > pipeline.committed.entry_id for each in in_flight)
        assert all(link.unacknowledged_bytes >= 0 for link in pipeline._links.values())

    def teardown(self) -> None:
        """Once nothing is lost any more, everything is committed soon."""
        for _ in range(4):
            self.wait(RESEND_MS)
            while self.on_the_way or self.replies:
                for sent in self.on_the_way[:]:
                    held, batch = self.held[sent.node], sent.batch
                    if batch is not None and batch.before in held and batch.last not in held:
                        ids = range(len(held), batch.last_id + 1)
                        held += [batch.position_at(each) for each in ids]
                    self.replies.append((sent.node, sent.put.transmission, held[-1]))
                self.on_the_way.clear()
                for node, number, last in self.replies:
                    self.bench.answer(node, held=last, transmission=number)
                self.replies.clear()
                self.on_the_way += self.bench.pipeline.take()
        assert self.bench.pipeline.committed == self.bench.pipeline.tail


TestPipeline = PipelineMachine.TestCase
TestPipeline.settings = settings(max_examples=60, stateful_step_count=30)
