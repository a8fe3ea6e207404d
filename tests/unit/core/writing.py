"""A writer's pipeline, whose sendings are looked at and answered one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.unit.making import MS, THREE, W1
from walle.core.pipeline import HEARTBEATS_PER_LEASE, Outgoing, Pipeline
from walle.errors import Code
from walle.ids import ORIGIN, Position
from walle.messages import PutReply
from walle.record import Encoder

if TYPE_CHECKING:
    from walle.core.topology import StreamTopology
    from walle.ids import WriterId
    from walle.record import Batch

STREAM = 7
LEASE_MS = 1_000
BEAT_MS = LEASE_MS // HEARTBEATS_PER_LEASE


class Bench:
    """A pipeline at work, the time, and what it has sent."""

    def __init__(
        self,
        topology: StreamTopology = THREE,
        tail: Position = ORIGIN,
        *,
        is_connected: bool = True,
    ) -> None:
        self.now_ns = 1_000 * MS
        self.encoder = Encoder(W1, tail)
        self.pipeline = Pipeline(
            stream_id=STREAM, topology=topology, writer=W1, lease_ms=LEASE_MS, tail=tail
        )
        if is_connected:
            self.connect(*topology.everyone)
            self.pipeline.take()

    def connect(self, *nodes: str) -> None:
        for node in nodes:
            self.pipeline.connected(node, self.now_ns)

    def put(self, count: int = 1, data: bytes = b"data") -> Batch:
        """Puts a batch of so many entries; it is not taken."""
        for _ in range(count):
            self.encoder.add(data, 0)
        batch = self.encoder.take()
        self.pipeline.put(batch, self.now_ns)
        return batch

    def take(self, node: str = "n1") -> list[Outgoing]:
        """What is sent to one member; what is sent to the others is thrown away."""
        return [each for each in self.pipeline.take() if each.node == node]

    def batches(self, node: str = "n1") -> list[int]:
        """The first ids of the batches sent to one member, heartbeats left out."""
        return [each.batch.first_id for each in self.take(node) if each.batch is not None]

    def spans(self, node: str = "n1") -> list[tuple[int, int]]:
        """The first and the last id of each of them."""
        found = [each.batch for each in self.take(node) if each.batch is not None]
        return [(batch.first_id, batch.last_id) for batch in found]

    def answer(
        self,
        *nodes: str,
        held: Position = ORIGIN,
        code: Code = Code.OK,
        transmission: int | None = None,
        version: int | None = None,
        stream_id: int = STREAM,
        promised: WriterId = W1,
        mark: int = 0,
    ) -> None:
        """The members answer, by default the newest transmission."""
        pipeline = self.pipeline
        for node in nodes:
            reply = PutReply(
                stream_id,
                code,
                pipeline.topology.version if version is None else version,
                promised,
                pipeline.transmission if transmission is None else transmission,
                held,
                ORIGIN,
                "app:1" if code is Code.FENCED else "",
                mark,
            )
            pipeline.receive(node, reply, self.now_ns)

    def has_room(self) -> bool:
        return self.pipeline.has_room

    def lost(self) -> PutReply | None:
        return self.pipeline.lost

    def pass_ms(self, ms: float) -> None:
        """Time passes; the owner ticks once, at its end."""
        self.now_ns += int(ms * MS)
        self.pipeline.tick(self.now_ns)
