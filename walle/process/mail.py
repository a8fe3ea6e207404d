"""What goes through the rings to and from the network process, and how batches go through any ring.

Integers are in native order: these bytes never leave the machine. Every message begins with its
kind, u8. Payload bytes are not in it: a `Place` names them in the shared arena. Only what never was
in the arena (records that storage read, or that this node made) travels in the ring itself.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, NamedTuple, cast

from walle.ids import NO_WRITER, WriterId, new_tuple
from walle.messages import U32, Codec
from walle.record import Batch, Bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from walle.native import Buffer
    from walle.record import Payload

# --- kinds ----------------------------------------------------------------------------------------

ARRIVED = 1  # network to consensus: a frame
CLOSED = 2  # network to consensus: a session has ended
MAIL = 10  # to network, or from storage to consensus: a frame to send
RELEASE = 11  # to network: places of the arena that are no longer needed
CLOSE = 12  # to network: end that session
PEERS = 13  # consensus to network: the nodes to be connected with
MAIL_TO_MANY = 14  # storage to network: the same frame to several sessions

SESSION = 0
PEER = 1
SELF = 2
FOLLOWERS = 3
"""Not for mail: all who read the same of a stream, by the stream's id."""


class Destination(NamedTuple):
    """Whom a frame is for: a session or a peer, by number, or this node itself."""

    kind: int
    number: int


class Place(NamedTuple):
    """Bytes in the arena."""

    offset: int
    size: int


NOWHERE = Place(0, 0)


class RingPayload(NamedTuple):
    """Records in a ring: valid until the ring's reader releases them."""

    data: memoryview

    @property
    def size(self) -> int:
        return len(self.data)

    def view(self) -> memoryview:
        return self.data

    def detach(self) -> Bytes:
        return Bytes(bytes(self.data))


class ArenaPayload(NamedTuple):
    """Records that lie in the arena. Their place is given back once, by whoever has it last."""

    arena: memoryview
    offset: int
    size: int

    def view(self) -> memoryview:
        arena, offset, size = self
        return arena[offset : offset + size]

    def detach(self) -> Bytes:
        return Bytes(bytes(self.view()))


# --- batches --------------------------------------------------------------------------------------

_BATCH = struct.Struct("=QQQQBIQIQ")
"""first_id, prev_chain, writer (ts, nonce), has a writer, count; the place; bytes that follow."""


_NO_BATCH = bytes(_BATCH.size)


def pack_batch(before: bytes, batch: Batch, *, gives_place: bool) -> list[Buffer]:
    """The batch's description and its chains, in one piece with what stands before it.

    gives_place: its records lie in the arena, and stay there for the reader, who has to give the
        place back. Else they travel in the ring.
    """
    payload, writer, chains = batch.payload, batch.writer, batch.chains
    ts, nonce = writer or NO_WRITER
    described = (batch.first_id, batch.prev_chain, ts, nonce, writer is not None, len(chains))
    if gives_place:
        _, offset, size = cast("ArenaPayload", payload)
        return [before + _BATCH.pack(*described, offset, size, 0) + chains.tobytes()]
    view = payload.view()
    return [before + _BATCH.pack(*described, *NOWHERE, len(view)) + chains.tobytes(), view]


def unpack_batch(view: memoryview, offset: int, arena: memoryview) -> Batch | None:
    """The batch at `offset`, its records where they lie."""
    fixed = _BATCH.unpack_from(view, offset)
    first_id, prev_chain, ts, nonce, has_writer, count, place_offset, place_size, size = fixed
    if not count:
        return None
    start = offset + _BATCH.size
    end = start + 8 * count
    chains = array("Q")
    chains.frombytes(view[start:end])
    payload: Payload
    if size:
        payload = RingPayload(view[end : end + size])
    else:
        payload = new_tuple(ArenaPayload, (arena, place_offset, place_size))
    writer = new_tuple(WriterId, (ts, nonce)) if has_writer else None
    return Batch(first_id, prev_chain, chains, writer, payload)


# --- network to consensus -------------------------------------------------------------------------

_ARRIVED = struct.Struct("=BBQI")
_CLOSED = struct.Struct("=BQ")


def pack_arrived(source: Destination, head: memoryview, batch: Batch | None) -> list[Buffer]:
    """A frame has come from a session or from a peer; its records are checked."""
    start = _ARRIVED.pack(ARRIVED, *source, len(head)) + head
    if batch is None:
        return [start + _NO_BATCH]
    return pack_batch(start, batch, gives_place=type(batch.payload) is ArenaPayload)


def unpack_arrived(
    view: memoryview, arena: memoryview
) -> tuple[Destination, memoryview, Batch | None]:
    """Whom the frame has come from, its head, and its records."""
    _, kind, number, head_size = _ARRIVED.unpack_from(view)
    end = _ARRIVED.size + head_size
    head, batch = view[_ARRIVED.size : end], unpack_batch(view, end, arena)
    return new_tuple(Destination, (kind, number)), head, batch


def pack_closed(session: int) -> list[Buffer]:
    return [_CLOSED.pack(CLOSED, session)]


def unpack_closed(view: memoryview) -> int:
    session: int = _CLOSED.unpack_from(view)[1]
    return session


# --- to network -----------------------------------------------------------------------------------

_MAIL = struct.Struct("=BBQIQII")


class Mail(NamedTuple):
    """A frame to send. Its records lie at `place` in the arena, or follow in the ring, or are none.

    The reader gives `place` back once it has sent them, unless it is NOWHERE itself.
    """

    to: Destination
    head: memoryview
    place: Place
    records: memoryview


def pack_mail(
    to: Destination, head: Buffer, place: Place = NOWHERE, records: Sequence[Buffer] = ()
) -> list[Buffer]:
    size = sum(map(len, records)) if records else 0
    return [_MAIL.pack(MAIL, *to, len(head), *place, size), head, *records]


def kind_of(view: memoryview) -> int:
    """Of what kind the mail's destination is."""
    return view[1]


def unpack_mail(view: memoryview) -> Mail:
    _, kind, number, head_size, offset, size, records_size = _MAIL.unpack_from(view)
    start = _MAIL.size
    middle = start + head_size
    to = new_tuple(Destination, (kind, number))
    place = new_tuple(Place, (offset, size)) if size else NOWHERE
    records = view[middle : middle + records_size]
    return new_tuple(Mail, (to, view[start:middle], place, records))


_MAIL_TO_MANY = struct.Struct("=BIII")
_RECIPIENT = struct.Struct("=QQ")


class MailToMany(NamedTuple):
    """A frame to send to several sessions, each with its own request's id in the head."""

    recipients: Sequence[tuple[int, int]]
    head: memoryview
    records: memoryview


def pack_mail_to_many(
    recipients: Sequence[tuple[int, int]], head: bytes, records: Sequence[Buffer]
) -> list[Buffer]:
    """
    Args:
        recipients: numbers of sessions, and the ids of their requests.
    """
    size = sum(map(len, records))
    fixed = _MAIL_TO_MANY.pack(MAIL_TO_MANY, len(recipients), len(head), size)
    return [fixed, b"".join([_RECIPIENT.pack(*each) for each in recipients]), head, *records]


def unpack_mail_to_many(view: memoryview) -> MailToMany:
    _, count, head_size, size = _MAIL_TO_MANY.unpack_from(view)
    start = _MAIL_TO_MANY.size
    middle = start + count * _RECIPIENT.size
    end = middle + head_size
    recipients = list(_RECIPIENT.iter_unpack(view[start:middle]))
    return MailToMany(recipients, view[middle:end], view[end : end + size])


def pack_release(offsets: Iterable[int]) -> list[Buffer]:
    """The offsets of the places."""
    return [bytes([RELEASE]), array("Q", offsets).tobytes()]


def unpack_release(view: memoryview) -> array[int]:
    offsets = array("Q")
    offsets.frombytes(view[1:])
    return offsets


def pack_close(to: Destination) -> list[Buffer]:
    return [_ARRIVED.pack(CLOSE, *to, 0)]


def unpack_close(view: memoryview) -> Destination:
    _, kind, number, _ = _ARRIVED.unpack_from(view)
    return Destination(kind, number)


class Peer(NamedTuple):
    """A node to be connected with; `number` is its number as a destination."""

    number: U32
    node_id: str
    address: str


class Peers(NamedTuple):
    """All nodes to be connected with, and the Hello frame to begin with."""

    hello: bytes
    peers: tuple[Peer, ...]


_PEERS = Codec(Peers)


def pack_peers(peers: Peers) -> list[Buffer]:
    return [bytes([PEERS]), _PEERS.encode(peers)]


def unpack_peers(view: memoryview) -> Peers:
    peers: Peers = _PEERS.decode(view, 1)[0]
    return peers
