"""The ring against its twin of queues: any order of calls gives the same answers and messages."""

from __future__ import annotations

from mmap import mmap

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.native import twins
from walle.ring.spsc import Ring


class RingMachine(RuleBasedStateMachine):
    """Producer and consumer in one process, on objects of their own as after a fork."""

    @initialize(bits=st.integers(6, 11))
    def create(self, bits: int) -> None:
        self.capacity = 1 << bits
        memory = mmap(-1, Ring.OVERHEAD_BYTES + self.capacity)
        self.producer = Ring.create(memory, 0, self.capacity)
        self.consumer = Ring(memory, 0, self.capacity)
        self.twin = twins.Ring(self.capacity)
        self.views: list[memoryview] = []
        self.count = 0

    def _size(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, self.capacity // 2 - 8), label="size")

    @rule(data=st.data())
    def try_write(self, data: st.DataObject) -> None:
        self.count += 1
        message = bytes([self.count % 251]) * self._size(data)
        cut = data.draw(st.integers(0, len(message)), label="cut")
        parts = (message[:cut], message[cut:])
        assert self.producer.try_write(*parts) == self.twin.try_write(*parts)

    @rule()
    def publish(self) -> None:
        assert self.producer.publish() == self.twin.publish()

    @precondition(lambda self: not self.twin.written)
    @rule(data=st.data())
    def arm_producer(self, data: st.DataObject) -> None:
        size = self._size(data)
        assert self.producer.arm_producer(size) == self.twin.arm_producer(size)

    @rule(bytes_max=st.integers(0, 600))
    def consume(self, bytes_max: int) -> None:
        views = self.consumer.consume(bytes_max)
        assert views == self.twin.consume(bytes_max)
        self.views += views

    @rule()
    def release(self) -> None:
        assert self.consumer.release() == self.twin.release()
        self.views.clear()

    @rule()
    def arm_consumer(self) -> None:
        assert self.consumer.arm_consumer() == self.twin.arm_consumer()

    @invariant()
    def consumed_views_hold_until_they_are_released(self) -> None:
        assert self.views == [message for message, _ in self.twin.consumed]


RingMachine.TestCase.settings = settings(max_examples=200)
TestRing = RingMachine.TestCase
