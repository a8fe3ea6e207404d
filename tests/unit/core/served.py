"""A cluster of real nodes on a toy network, with one stream, as its clients see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from walle.messages import CreateStream, StreamInfo, StreamSettings
from walle.testing.cluster import Cluster

if TYPE_CHECKING:
    from walle.messages import Message
    from walle.record import Batch


class Served(Cluster):
    """Three nodes with the stream `/s`, or more of which some are not its members."""

    def __init__(self, size: int = 3, replicas: int = 3) -> None:
        super().__init__(size)
        self._request_id = 1_000
        self.run(1_000)
        info = self.call("n1", CreateStream("/s", (), StreamSettings(replicas=replicas)))
        assert isinstance(info, StreamInfo)
        self.run(1_000)
        self.stream_id = info.stream_id
        self.members = [member.node_id for member in info.members]

    def call(
        self, name: str, message: Message, batch: Batch | None = None, session: int = 1
    ) -> Any:
        """Asks a node and returns its first answer."""
        self._request_id += 1
        request_id = self._request_id
        self.ask(name, message, request_id, batch, session)
        self.run_until(lambda: bool(self.answers_to(request_id)))
        return self.answers_to(request_id)[0]
