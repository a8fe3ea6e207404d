"""Small values that unit tests are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core.topology import StreamTopology
from walle.ids import ORIGIN, Position, WriterId
from walle.record import Encoder

if TYPE_CHECKING:
    from walle.record import Batch

MS = 1_000_000
W1 = WriterId(1, 1)
W2 = WriterId(2, 2)
W3 = WriterId(3, 3)
THREE = StreamTopology(1, ("n1", "n2", "n3"))


def entries(
    count: int, after: Position = ORIGIN, writer: WriterId = W1, data: bytes = b"data"
) -> Batch:
    """A batch of that many equal entries."""
    encoder = Encoder(writer, after)
    for _ in range(count):
        encoder.add(data, 0)
    return encoder.take()
