"""A writer that runs on a node: for the topology manager, and on behalf of a thin client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.messages import PutReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.context import Context
    from walle.core.pipeline import Pipeline
    from walle.core.topology import StreamTopology
    from walle.messages import Message
    from walle.record import Batch


class NodeWriter:
    """Drives a pipeline over the node's own messages and alarms.

    on_progress: called when a member has answered: the commit point, the lease or `lost` may
        have changed.
    """

    def __init__(
        self, context: Context, pipeline: Pipeline, on_progress: Callable[[], None]
    ) -> None:
        self._context = context
        self.pipeline = pipeline
        self._on_progress = on_progress
        self._request_id = context.calls.listen(self._receive)
        self._key = ("writer", self._request_id)
        for node in pipeline.topology.everyone:
            pipeline.connected(node, context.now_ns)
        self._flush()

    def put(self, batch: Batch) -> None:
        """Puts the next entries."""
        self.pipeline.put(batch, self._context.now_ns)
        self._flush()

    def heartbeat(self) -> None:
        """Renews the lease at once."""
        self.pipeline.heartbeat(self._context.now_ns)
        self._flush()

    def adopt(self, topology: StreamTopology) -> None:
        """Goes by a newer version of the topology, if it is one: everything uncommitted is sent
        again to all whom it names."""
        if topology.version > self.pipeline.topology.version:
            self.pipeline.adopt(topology, self._context.now_ns)
            for node in topology.everyone:
                self.pipeline.connected(node, self._context.now_ns)
            self._flush()

    def stop(self) -> None:
        """Sends no more."""
        self._context.calls.forget(self._request_id)
        self._context.timers.cancel(self._key)

    def _receive(self, node: str, reply: Message) -> None:
        if isinstance(reply, PutReply):
            self.pipeline.receive(node, reply, self._context.now_ns)
            self._flush()
            self._on_progress()

    def _tick(self) -> None:
        self.pipeline.tick(self._context.now_ns)
        self._flush()

    def _flush(self) -> None:
        for node, put, batch in self.pipeline.take():
            self._context.outbox.send(node, put, self._request_id, batch)
        self._context.timers.set(self._key, self.pipeline.next_ns(), self._tick)
