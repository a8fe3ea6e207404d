"""The largest frame that is allowed, on every way that it can take: a node carries it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.wire.peer import ANSWER_S, Answer, Peer
from walle import frame
from walle.errors import Code
from walle.limits import FRAME_BYTES_MAX, FRAME_RECORDS_COUNT_MAX
from walle.messages import ClaimReply, Put, PutReply, Read, ReadReply
from walle.record import Encoder, size_of

if TYPE_CHECKING:
    from tests.wire.watch import Watch
    from walle.ids import Position
    from walle.record import Batch

pytestmark = pytest.mark.slow


def put_of(claimed: ClaimReply, transmission: int, relay: int) -> Put:
    return Put(
        claimed.stream_id, claimed.version, claimed.writer, transmission, claimed.tail, relay
    )


def largest(claimed: ClaimReply, tail: Position) -> Batch:
    """As many records as a frame may have, and as many bytes."""
    bytes_max = FRAME_BYTES_MAX - len(frame.encode_head(put_of(claimed, 1, 0), 1))
    encoder = Encoder(claimed.writer, tail)
    for left in range(FRAME_RECORDS_COUNT_MAX, 0, -1):
        size = (bytes_max - encoder.size) // left & -8
        encoder.add(bytes(size - size_of(0)), 0)
    batch = encoder.take()
    assert (batch.count, batch.payload.size) == (FRAME_RECORDS_COUNT_MAX, bytes_max)
    return batch


def answers(peer: Peer, count: int) -> list[PutReply]:
    found: list[PutReply] = []
    while len(found) < count:
        answer: Answer | None = peer.receive(ANSWER_S)
        assert answer is not None, "the node closed the connection"
        assert isinstance(answer.message, PutReply), answer.message
        found.append(answer.message)
    return found


@pytest.mark.parametrize("relay", [0, 1], ids=["direct", "relayed"])
def test_the_largest_put_is_stored(own_watch: Watch, relay: int) -> None:
    with Peer(own_watch.address) as peer:
        claimed = peer.claim(peer.create("/largest"), lease_ms=10_000)
        batch = largest(claimed, claimed.tail)
        peer.send(put_of(claimed, 1, relay), bytes(batch.payload.view()))
        (reply,) = answers(peer, 1)
        assert (reply.code, reply.held) == (Code.OK, batch.last)
        read = peer.ask(Read(claimed.stream_id, 1, 8, 5_000 * relay, 0, 0))
        assert isinstance(read, ReadReply)
    own_watch.finish()


def test_the_largest_put_may_come_too_early(own_watch: Watch) -> None:
    with Peer(own_watch.address) as peer:
        claimed = peer.claim(peer.create("/early"), lease_ms=10_000)
        encoder = Encoder(claimed.writer, claimed.tail)
        encoder.add(b"first", 0)
        first = encoder.take()
        batch = largest(claimed, first.last)
        peer.send(put_of(claimed, 2, 0), bytes(batch.payload.view()))
        (early,) = answers(peer, 1)
        assert (early.code, early.held.entry_id) == (Code.OK, 0)
        peer.send(put_of(claimed, 1, 0), bytes(first.payload.view()))
        assert batch.last in [reply.held for reply in answers(peer, 2)]
    own_watch.finish()
