"""What goes through the rings between consensus and storage: orders, and what storage recovered.

Integers are in native order: these bytes never leave the machine. A batch's records stay in the
arena where they can; see `mail`.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

from walle.core import effects
from walle.core.effects import Promise, Recipient, Send
from walle.core.history import History, Run
from walle.core.member import State
from walle.core.node import Recovered
from walle.core.topology import StreamTopology
from walle.errors import InvariantError
from walle.ids import NO_WRITER, ORIGIN, Position, WriterId, new_tuple
from walle.messages import U32, U64, Codec
from walle.process.mail import Destination, pack_batch, pack_mail, unpack_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.effects import Action
    from walle.native import Buffer
    from walle.record import Batch

ORDER = 20  # consensus to storage
ENDED = 21  # consensus to storage: nobody waits for that session's reads any more
FORWARD = 22  # consensus to storage: the mail that follows, once all ordered before it is durable
RECOVERED = 30  # storage to consensus, at the start
DAMAGED = 31  # storage to consensus: what must be cut out of a run

# --- consensus to storage -------------------------------------------------------------------------

_ORDER = struct.Struct("=BQB")
_ENTRIES = struct.Struct("=QIQQQQ")
_READ = struct.Struct("=QQQIBQBI")
_RECIPIENT = struct.Struct("=QQ")
_READ_OLDEST = struct.Struct("=QQQQ")
_SEND = struct.Struct("=BQ")
_ENDED = struct.Struct("=BQ")
_FORWARD = bytes([FORWARD])

_PLAIN = (
    effects.SetCluster,
    effects.SetTopology,
    effects.SetPromise,
    effects.SetAccepted,
    effects.Truncate,
    effects.CloseGap,
    effects.DropFill,
    effects.Cut,
    effects.Leave,
    effects.Commit,
)
_ALL = (
    *_PLAIN,
    effects.Append,
    effects.Jump,
    effects.Fill,
    effects.ReadRecords,
    effects.ReadOldest,
)
_NUMBERS = {action: number for number, action in enumerate(_ALL)}
_CODECS: dict[type[Any], Codec] = {action: Codec(action) for action in _PLAIN}


class Order(NamedTuple):
    """One action; `sequence` counts those that need a sync.

    A send in it is already a frame: its `to` is a Destination, its `message` the frame's head.
    """

    sequence: int
    action: Action


def pack_order(
    sequence: int,
    action: Action,
    *,
    gives_place: Callable[[Batch], bool],
    to_frame: Callable[[Send], tuple[Destination, bytes]],
) -> list[Buffer]:
    """
    Args:
        gives_place: tells whether a batch's records stay in the arena; see `mail.pack_batch`.
        to_frame: makes a frame's destination and head of a message.
    """
    if type(action) is effects.Forward:
        return pack_forward(*to_frame(action.send))
    start = _ORDER.pack(ORDER, sequence, _NUMBERS[type(action)])
    if type(action) is effects.Append:  # nearly always; a match takes longer than all the rest
        ts, nonce = action.accepted or NO_WRITER
        fixed = _ENTRIES.pack(action.stream_id, action.skip, ts, nonce, 0, 0)
        batch = action.batch
        return pack_batch(start + fixed, batch, gives_place=gives_place(batch))
    match action:
        case effects.Jump(stream_id, batch, skip, committed, accepted):
            fixed = _ENTRIES.pack(stream_id, skip, *(accepted or NO_WRITER), *committed)
            return pack_batch(start + fixed, batch, gives_place=gives_place(batch))
        case effects.Fill(stream_id, batch):
            fixed = _ENTRIES.pack(stream_id, 0, *NO_WRITER, *ORIGIN)
            return pack_batch(start + fixed, batch, gives_place=gives_place(batch))
        case effects.ReadRecords():
            fixed = _READ.pack(
                action.stream_id,
                action.start,
                action.end,
                action.bytes_max,
                action.after is not None,
                action.after or 0,
                action.aside,
                len(action.others),
            )
            to, head = to_frame(action.send)
            others = b"".join([_RECIPIENT.pack(*each) for each in action.others])
            return [start + fixed + others + _SEND.pack(*to) + head]
        case effects.ReadOldest():
            fixed = _READ_OLDEST.pack(*action[:-1])
            to, head = to_frame(action.send)
            return [start + fixed + _SEND.pack(*to) + head]
    return [start + _CODECS[type(action)].encode(action)]


def pack_forward(to: Destination, head: bytes | bytearray) -> list[Buffer]:
    """A frame to be sent once all that was ordered before is durable, or several, to the same: mail
    that storage hands on as it is."""
    return [_FORWARD, *pack_mail(to, head)]


def unpack_order(view: memoryview, arena: memoryview) -> Order:
    """The order; its batch's records are where they lie, in the arena or in the ring."""
    _, sequence, number = _ORDER.unpack_from(view)
    cls, offset = _ALL[number], _ORDER.size
    if cls in _CODECS:
        return Order(sequence, _CODECS[cls].decode(view, offset)[0])
    if cls is effects.ReadRecords:
        (stream_id, start, end, size, has_after, after, aside, count) = _READ.unpack_from(
            view, offset
        )
        middle = offset + _READ.size
        behind = middle + count * _RECIPIENT.size
        others = tuple(map(Recipient._make, _RECIPIENT.iter_unpack(view[middle:behind])))
        send = _unpack_send(view, behind)
        return Order(
            sequence,
            effects.ReadRecords(
                stream_id, start, end, size, after if has_after else None, bool(aside), send, others
            ),
        )
    if cls is effects.ReadOldest:
        stream_id, end, before_us, bytes_max = _READ_OLDEST.unpack_from(view, offset)
        send = _unpack_send(view, offset + _READ_OLDEST.size)
        return Order(sequence, effects.ReadOldest(stream_id, end, before_us, bytes_max, send))
    stream_id, skip, ts, nonce, committed_id, chain = _ENTRIES.unpack_from(view, offset)
    batch = unpack_batch(view, offset + _ENTRIES.size, arena)
    if batch is None:
        raise InvariantError(f"{cls.__name__} without records")
    accepted = WriterId(ts, nonce) if ts else None
    if cls is effects.Append:
        append = new_tuple(effects.Append, (stream_id, batch, skip, accepted))
        return new_tuple(Order, (sequence, append))
    if cls is effects.Fill:
        return Order(sequence, effects.Fill(stream_id, batch))
    committed = Position(committed_id, chain)
    return Order(sequence, effects.Jump(stream_id, batch, skip, committed, accepted))


def _unpack_send(view: memoryview, offset: int) -> Send:
    to = Destination(*_SEND.unpack_from(view, offset))
    return Send(to, 0, bytes(view[offset + _SEND.size :]))  # type: ignore[arg-type]


def pack_ended(session: int) -> list[Buffer]:
    return [_ENDED.pack(ENDED, session)]


def unpack_ended(view: memoryview) -> int:
    session: int = _ENDED.unpack_from(view)[1]
    return session


# --- storage to consensus -------------------------------------------------------------------------


def pack_damaged(cut: effects.Cut) -> list[Buffer]:
    return [bytes([DAMAGED]), _CODECS[effects.Cut].encode(cut)]


def unpack_damaged(view: memoryview) -> effects.Cut:
    cut: effects.Cut = _CODECS[effects.Cut].decode(view, 1)[0]
    return cut


class _Run(NamedTuple):
    start: U64
    prev_chain: U64
    last: Position


class _Stream(NamedTuple):
    stream_id: U64
    name: str
    topology: StreamTopology
    promise: Promise
    accepted: WriterId
    doubtful_id: U64
    origin: Position
    committed: Position
    base: Position
    chains: bytes
    runs: tuple[_Run, ...]
    aside: tuple[_Run, ...]
    fill: tuple[_Run, ...]


class _Found(NamedTuple):
    cluster: effects.SetCluster
    is_last: U32
    streams: tuple[_Stream, ...]


_FOUND = Codec(_Found)


def pack_recovered(recovered: Recovered) -> list[list[Buffer]]:
    """What storage found, one message a stream, so that any number of streams fits."""
    messages: list[list[Buffer]] = []
    streams = [(_pack_state(state),) for state in recovered.states]
    for index, stream in enumerate([*streams, ()]):
        found = _Found(recovered.cluster, index == len(streams), stream)
        messages.append([bytes([RECOVERED]), _FOUND.encode(found)])
    return messages


def unpack_recovered(view: memoryview) -> tuple[Recovered, bool]:
    """One message's part of what storage found, and whether it is the last."""
    found = _FOUND.decode(view, 1)[0]
    states = tuple(_unpack_state(stream) for stream in found.streams)
    return Recovered(found.cluster, states), bool(found.is_last)


def _pack_state(state: State) -> _Stream:
    history = state.history
    return _Stream(
        state.stream_id,
        state.name,
        state.topology,
        state.promise,
        state.accepted,
        state.doubtful_id,
        history.origin,
        history.committed,
        history.base,
        history.chains.tobytes(),
        _pack_runs(history.runs),
        _pack_runs(history.aside),
        _pack_runs([history.fill] if history.fill is not None else []),
    )


def _pack_runs(runs: list[Run]) -> tuple[_Run, ...]:
    return tuple(_Run(run.start, run.prev_chain, run.last) for run in runs)


def _unpack_state(stream: _Stream) -> State:
    chains = array("Q")
    chains.frombytes(stream.chains)
    history = History(
        stream.origin,
        [Run(*run) for run in stream.runs],
        [Run(*run) for run in stream.aside],
        next((Run(*run) for run in stream.fill), None),
        stream.committed,
        stream.base,
        chains,
    )
    return State(
        stream.stream_id,
        stream.name,
        stream.topology,
        history,
        stream.promise,
        stream.accepted,
        stream.doubtful_id,
    )
