"""Every message of the wire, and the one codec for all of them.

A message is a NamedTuple whose annotations are its layout, in order, little-endian, unpadded:

    U8 U16 U32 U64        unsigned integers of 1, 2, 4, 8 bytes
    Identity              16 bytes
    WriterId              ts u64, nonce u64
    Position              entry_id u64, chain u64
    str                   length u16, then that many bytes of UTF-8
    bytes                 length u32, then that many bytes
    tuple[X, ...]         count u32, then that many X

Requests come first, each with its answer below it; any request may be answered by `Failure`
instead. `TYPES` numbers them; a number is never reused. docs/wire.md says the same to people.
"""

from __future__ import annotations

import struct
from functools import partial
from operator import attrgetter, itemgetter
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    NamedTuple,
    TypeAlias,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from walle.errors import LocalProtocolError, RemoteProtocolError, invariant
from walle.ids import IDENTITY_SIZE, ORIGIN, Position, WriterId
from walle.limits import LEASE_MS_MAX, LEASE_MS_MIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

U8 = Annotated[int, "B"]
U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]
Identity = Annotated[bytes, f"{IDENTITY_SIZE}s"]

COMPRESSIONS = ("none", "zstd")
"""How a stream's writers may store data; `walle/compression.py` does it."""

PROTOCOL_VERSION = 1
ROLE_CLIENT = 0
ROLE_NODE = 1


class NodeAddress(NamedTuple):
    """A node's id and where it listens, `host:port`."""

    node_id: str
    address: str


class NodeRecord(NamedTuple):
    """A node as the cluster knows it: its identity is random, made with its data directory.

    zone: what fails together with it, such as a rack; empty: nothing else does.
    capacity: how much is placed on it, relative to the others.
    """

    node_id: str
    address: str
    identity: Identity
    zone: str = ""
    capacity: U32 = 1


class StreamSettings(NamedTuple):
    """What is chosen for a stream. Nobody needs it to understand the entries.

    compression: one of COMPRESSIONS; that of writers that choose none themselves.
    retention_max_bytes: of records; the oldest beyond that are trimmed. 0: no bound.
    retention_max_age_ms: entries that were written longer ago are trimmed. 0: no bound.
    replicas: on how many nodes it is to be. 0: three, or as many as there are.
    lease_min_ms, lease_max_ms: between which its writers' leases lie. 0: no bound of its own.
    """

    compression: str = "none"
    retention_max_bytes: U64 = 0
    retention_max_age_ms: U64 = 0
    replicas: U8 = 0
    lease_min_ms: U32 = 0
    lease_max_ms: U32 = 0

    @property
    def lease_bounds_ms(self) -> tuple[int, int]:
        """The shortest and the longest lease that a claim may ask for."""
        return self.lease_min_ms or LEASE_MS_MIN, self.lease_max_ms or LEASE_MS_MAX


# --- the session ----------------------------------------------------------------------------------


class Hello(NamedTuple):
    """The first frame of a connection. A client sends zeros for what it does not know or have."""

    protocol: U16
    role: U8
    cluster_id: Identity
    node_id: str
    identity: Identity


class Welcome(NamedTuple):
    protocol: U16
    cluster_id: Identity
    node_id: str
    identity: Identity


class Failure(NamedTuple):
    """The answer to any request that failed; `code` is an `errors.Code`."""

    code: U16
    text: str


# --- writing --------------------------------------------------------------------------------------


class Put(NamedTuple):
    """Entries (the frame's records), or none for a heartbeat. docs/protocol.md, "Put".

    transmission: this sending's number, growing; the answer echoes it.
    committed: the writer's commit point.
    relay: 1 asks the receiving member to do the same to all members on the writer's behalf.
    mark: the highest that a member has answered with; it shows that this was sent after that mark
        was made. docs/protocol.md, "Membership".
    """

    stream_id: U64
    version: U64
    writer: WriterId
    transmission: U64
    committed: Position
    relay: U8
    mark: U64 = 0


class PutReply(NamedTuple):
    """What one member holds after a Put; for a relayed one, what a majority does.

    version: the member's.
    promised: the writer the member promised, with its address when `code` is FENCED.
    transmission: the lease was renewed for it, when `code` is OK.
    held: the end of the writer's history at this member, durable; entry 0 when it holds none yet.
    committed: the member's commit point.
    mark: to be sent with the next puts.
    """

    stream_id: U64
    code: U16
    version: U64
    promised: WriterId
    transmission: U64
    held: Position
    committed: Position
    address: str
    mark: U64 = 0


class Claim(NamedTuple):
    """Make me the stream's writer.

    address: what WriterStatus shall tell of the writer.
    wait_ms: how long the claim may take, waiting for leases included.
    force: 1 takes over at once, though the lease of the present writer runs; that one is cut off,
        and its lease is waited for. 0 leaves it alone until its lease has lapsed.
    """

    stream_id: U64
    address: str
    lease_ms: U32
    wait_ms: U32
    force: U8


class ClaimReply(NamedTuple):
    stream_id: U64
    version: U64
    writer: WriterId
    tail: Position


class Release(NamedTuple):
    """The writer has ended in good order: its lease need not be waited for.

    relay: 1 asks the receiving member to tell all members, and to answer once a majority has it.
    """

    stream_id: U64
    version: U64
    writer: WriterId
    committed: Position
    relay: U8


class ReleaseReply(NamedTuple):
    stream_id: U64
    code: U16
    version: U64
    promised: WriterId


class WriterStatus(NamedTuple):
    """Who is the writer, by a majority, or by this member's own view when `local` is 1.

    known, wait_ms: answer when the writer is not `known`, or after wait_ms at the latest.
    """

    stream_id: U64
    local: U8
    known: WriterId
    wait_ms: U32


class WriterStatusReply(NamedTuple):
    """established: 1 when the writer's claim has returned: a majority is stamped for it."""

    stream_id: U64
    version: U64
    writer: WriterId
    address: str
    lease_ms: U32
    remaining_lease_ms: U32
    established: U8


# --- reading --------------------------------------------------------------------------------------


class Read(NamedTuple):
    """Committed entries from `start` on; from the first that is not trimmed, if it is 0.

    bytes_max: of records in the answer; 0 asks only for the commit point.
    wait_ms: when nothing from `start` on is committed yet, wait so long for it.
    linearizable: 1: first wait until every entry acknowledged before now is committed here.
    local: 1: only what this member itself holds; a gap is refused instead of fetched.
    end: the first entry that is not wanted; 0: all are.
    """

    stream_id: U64
    start: U64
    bytes_max: U32
    wait_ms: U32
    linearizable: U8
    local: U8
    end: U64 = 0


class ReadReply(NamedTuple):
    """Records from the asked start on; none when nothing is committed there yet, and none when it
    was trimmed: then it lies before first_entry_id."""

    stream_id: U64
    first_entry_id: U64
    committed: Position


# --- streams and nodes ----------------------------------------------------------------------------


class Describe(NamedTuple):
    """Which stream has this name?"""

    name: str


class StreamInfo(NamedTuple):
    """A stream's topology and settings. old_members is empty unless a change of members is under
    way."""

    stream_id: U64
    name: str
    version: U64
    members: tuple[NodeAddress, ...]
    old_members: tuple[NodeAddress, ...]
    first_entry_id: U64
    settings: StreamSettings = StreamSettings()


class ListStreams(NamedTuple):
    """The streams with an id above `after`, in order of their ids, as many as fit an answer."""

    after: U64


class StreamList(NamedTuple):
    """more: 1 when there are streams with higher ids than these."""

    more: U8
    streams: tuple[StreamInfo, ...]


class CreateStream(NamedTuple):
    """Answered by StreamInfo once the creation is committed. Idempotent: what is left at its
    default may be otherwise in a stream that exists.

    members: the node ids; empty: placed by rendezvous hashing, as many as the settings say.
    origin: the position before its first entry: that of another stream which this one goes on from.
    """

    name: str
    members: tuple[str, ...]
    settings: StreamSettings = StreamSettings()
    origin: Position = ORIGIN


UNCHANGED = StreamSettings(
    compression="",
    retention_max_bytes=(1 << 64) - 1,
    retention_max_age_ms=(1 << 64) - 1,
    replicas=(1 << 8) - 1,
    lease_min_ms=(1 << 32) - 1,
    lease_max_ms=(1 << 32) - 1,
)


class SetStream(NamedTuple):
    """Answered by StreamInfo once these settings are the stream's. Idempotent.

    settings: those that are as in UNCHANGED stay as they are.
    """

    name: str
    settings: StreamSettings


class TrimStream(NamedTuple):
    """Answered by StreamInfo once the stream begins later. Idempotent. One entry always remains.

    entry_id: the entries below it go; 0: those that were written before before_us.
    before_us: microseconds since 1970; 0 with an entry_id. A bounded part goes at a time: to be
        repeated for as long as first_entry_id moves.
    """

    name: str
    entry_id: U64
    before_us: U64


class SetMembers(NamedTuple):
    """Answered by StreamInfo once the change has begun, or if these are the members already.
    Idempotent: whether it has ended, DescribeChange tells.

    members: the node ids that are to be the members; empty: the present ones but `without`.
    without: the node whose place another one takes, placed as for a new stream; empty with members.
    force: 1: the change ends though too few of the new members hold some of the entries. What
        nobody else holds is lost.
    """

    name: str
    members: tuple[str, ...]
    without: str
    force: U8


class RecoverStream(NamedTuple):
    """Makes what is left of a stream's members its only ones, without asking anybody: for when the
    others are lost for good. Answered by StreamInfo. Idempotent.

    version: the stream's; nobody else may have changed it meanwhile.
    members: one or two of its members. With two a claim needs both, and so finds what either has.
    """

    name: str
    version: U64
    members: tuple[str, ...]


class DescribeChange(NamedTuple):
    """How far is the change of the stream's members?"""

    name: str


class ChangeInfo(NamedTuple):
    """stream: without old members no change is under way.
    waits_for: what the change waits for, for people; empty where none is under way.
    ranges: the entries that too few of the new members hold, when it waits for that: the lowest of
        them.
    """

    stream: StreamInfo
    waits_for: str
    ranges: tuple[Gap, ...]


class DeleteStream(NamedTuple):
    """Answered by StreamInfo, as it was last, once the stream is no more. Idempotent.

    stream_id: of the stream that has that name.
    """

    name: str
    stream_id: U64


class Status(NamedTuple):
    """What this node knows of itself, of the cluster and of its streams with an id above `after`,
    as many as fit an answer."""

    after: U64


class StatusReply(NamedTuple):
    """more: 1 when this node has streams with higher ids than these.
    json: an object, described in docs/wire.md."""

    more: U8
    json: bytes


class ListNodes(NamedTuple):
    """Which nodes does the cluster have? Busy, when this node belongs to none yet."""


class ClusterInfo(NamedTuple):
    """The cluster as of the entry `applied_id` of `/cluster`: its nodes, and where to read it.

    version, members, old_members, first_entry_id, first_prev_chain: the topology of `/cluster`.
    """

    cluster_id: Identity
    applied_id: U64
    nodes: tuple[NodeRecord, ...]
    version: U64
    members: tuple[str, ...]
    old_members: tuple[str, ...]
    first_entry_id: U64
    first_prev_chain: U64


class RegisterNode(NamedTuple):
    """Answered by ClusterInfo once the cluster knows the node, just so. Idempotent. How a node
    joins, and how it tells that its settings have changed."""

    node: NodeRecord


class RemoveNode(NamedTuple):
    """Answered by ClusterInfo once the cluster has no such node. Idempotent."""

    node_id: str


# --- between members: claims ----------------------------------------------------------------------


class NewWriter(NamedTuple):
    """over: the newest writer that this claim may take over from; a member that has promised a
    newer one refuses."""

    stream_id: U64
    version: U64
    writer: WriterId
    address: str
    lease_ms: U32
    over: WriterId


class NewWriterReply(NamedTuple):
    stream_id: U64
    code: U16
    version: U64
    promised: WriterId


class ReadTail(NamedTuple):
    """The chains of the entries from `start` on, or from the commit point when `start` is 0."""

    stream_id: U64
    version: U64
    writer: WriterId
    start: U64


class ReadTailReply(NamedTuple):
    """first, chains: the chains (u64 each) of entries first, first + 1, ...; a page of them."""

    stream_id: U64
    code: U16
    version: U64
    promised: WriterId
    committed: Position
    accepted: WriterId
    tail: Position
    first: U64
    chains: bytes


class Sync(NamedTuple):
    """Make your history the chosen one, fetching what you lack from `source`.

    base: hold what you have up to here and drop what follows. When `jump` is 1, `base` is the
        highest commit point instead: start a new run at that entry.
    tail: where the chosen history ends.
    """

    stream_id: U64
    version: U64
    writer: WriterId
    source: str
    base: Position
    tail: Position
    jump: U8


class SyncReply(NamedTuple):
    stream_id: U64
    code: U16
    version: U64
    promised: WriterId
    tail: Position


class Stamp(NamedTuple):
    stream_id: U64
    version: U64
    writer: WriterId
    tail: Position


class StampReply(NamedTuple):
    stream_id: U64
    code: U16
    version: U64
    promised: WriterId


# --- between members: who is the writer, how far is the stream ------------------------------------


class AskWriter(NamedTuple):
    """Whom have you promised, and how far are you? For adoption, status, linearizable reads."""

    stream_id: U64
    version: U64


class AskWriterReply(NamedTuple):
    """remaining_lease_ms: what this member still owes the promised writer or older ones.
    is_damaged: 1 when the member may have lost entries behind its tail, and cannot answer for it.
    """

    stream_id: U64
    code: U16
    version: U64
    promised: WriterId
    address: str
    lease_ms: U32
    remaining_lease_ms: U32
    accepted: WriterId
    tail: Position
    committed: Position
    is_damaged: U8


class AskCommitted(NamedTuple):
    streams: tuple[U64, ...]


class StreamCommitted(NamedTuple):
    stream_id: U64
    committed: Position


class AskCommittedReply(NamedTuple):
    streams: tuple[StreamCommitted, ...]


class Fetch(NamedTuple):
    """Records from `start` up to `end` (not included), from any run you hold.

    after: 1: `start`'s record must carry `prev_chain`; 0: any record of that id will do, and the
        asking member checks it.
    """

    stream_id: U64
    start: U64
    end: U64
    after: U8
    prev_chain: U64
    bytes_max: U32


class FetchReply(NamedTuple):
    """The records from `start` on, in the frame; none when this member does not hold them."""

    stream_id: U64
    start: U64


class AskOldest(NamedTuple):
    """Which entry would be the first, if the older ones were trimmed? Answered by ReadReply with
    that one record.

    before_us: those that were written before then are to go.
    bytes_max: so many bytes of records may be left, from the last one backwards.
    """

    stream_id: U64
    before_us: U64
    bytes_max: U64


# --- forming a cluster ----------------------------------------------------------------------------


class Probe(NamedTuple):
    """Who are you, and in which cluster? Allowed between nodes before any cluster exists."""


class ProbeReply(NamedTuple):
    node: NodeRecord
    cluster_id: Identity


class Form(NamedTuple):
    """The seed's decision, durable at the seed: these nodes, with these identities, are it."""

    cluster_id: Identity
    nodes: tuple[NodeRecord, ...]


class FormReply(NamedTuple):
    code: U16
    cluster_id: Identity


# --- between members: a change of members ---------------------------------------------------------


class Adopt(NamedTuple):
    """The manager tells a member, old or new, the stream's committed topology.

    old_members: empty unless joint. first_entry_id, first_prev_chain: the first entry that is not
    trimmed, and the chain before it.
    """

    stream_id: U64
    name: str
    version: U64
    members: tuple[str, ...]
    old_members: tuple[str, ...]
    first_entry_id: U64
    first_prev_chain: U64


class AdoptReply(NamedTuple):
    """version: the member's, durable."""

    stream_id: U64
    code: U16
    version: U64


class Confirm(NamedTuple):
    """Answered OK once the member has taken a put that was sent after this mark was made, with a
    commit point at entry_id or above; BUSY until then."""

    stream_id: U64
    version: U64
    mark: U64
    entry_id: U64


class ConfirmReply(NamedTuple):
    """mark: the member's newest; with CONFLICT it is above the asked one. entry_id: the highest
    commit point of the puts that were sent after it."""

    stream_id: U64
    code: U16
    version: U64
    mark: U64
    entry_id: U64


class AskHeld(NamedTuple):
    """What does the member hold, proved, up to its commit point?"""

    stream_id: U64
    version: U64


class Gap(NamedTuple):
    """The entry ids in [start, end)."""

    start: U64
    end: U64


class AskHeldReply(NamedTuple):
    """Of [first_entry_id, end) the member holds all but the gaps."""

    stream_id: U64
    code: U16
    version: U64
    end: U64
    gaps: tuple[Gap, ...]


TYPES: dict[int, type[Any]] = {
    1: Hello,
    2: Welcome,
    3: Failure,
    10: Put,
    11: PutReply,
    12: Claim,
    13: ClaimReply,
    14: Release,
    15: ReleaseReply,
    16: WriterStatus,
    17: WriterStatusReply,
    20: Read,
    21: ReadReply,
    30: Describe,
    31: StreamInfo,
    32: ListStreams,
    33: StreamList,
    34: CreateStream,
    36: Status,
    37: StatusReply,
    38: SetStream,
    39: TrimStream,
    40: ListNodes,
    41: ClusterInfo,
    42: RegisterNode,
    43: RemoveNode,
    50: NewWriter,
    51: NewWriterReply,
    52: ReadTail,
    53: ReadTailReply,
    54: Sync,
    55: SyncReply,
    56: Stamp,
    57: StampReply,
    60: AskWriter,
    61: AskWriterReply,
    62: AskCommitted,
    63: AskCommittedReply,
    64: Fetch,
    65: FetchReply,
    66: AskOldest,
    70: Probe,
    71: ProbeReply,
    72: Form,
    73: FormReply,
    80: Adopt,
    81: AdoptReply,
    82: Confirm,
    83: ConfirmReply,
    84: AskHeld,
    85: AskHeldReply,
    90: SetMembers,
    91: DescribeChange,
    92: ChangeInfo,
    93: DeleteStream,
    99: RecoverStream,
}

CODES: dict[type[Any], int] = {cls: code for code, cls in TYPES.items()}

ANSWERS: dict[type[Any], type[Any]] = {
    Put: PutReply,
    Claim: ClaimReply,
    Release: ReleaseReply,
    WriterStatus: WriterStatusReply,
    Read: ReadReply,
    Describe: StreamInfo,
    ListStreams: StreamList,
    CreateStream: StreamInfo,
    Status: StatusReply,
    SetStream: StreamInfo,
    TrimStream: StreamInfo,
    SetMembers: StreamInfo,
    DescribeChange: ChangeInfo,
    RecoverStream: StreamInfo,
    DeleteStream: StreamInfo,
    ListNodes: ClusterInfo,
    RegisterNode: ClusterInfo,
    RemoveNode: ClusterInfo,
    NewWriter: NewWriterReply,
    ReadTail: ReadTailReply,
    Sync: SyncReply,
    Stamp: StampReply,
    AskWriter: AskWriterReply,
    AskCommitted: AskCommittedReply,
    Fetch: FetchReply,
    AskOldest: ReadReply,
    Probe: ProbeReply,
    Form: FormReply,
    Adopt: AdoptReply,
    Confirm: ConfirmReply,
    AskHeld: AskHeldReply,
}
"""What answers each request, if not a Failure."""

WITH_RECORDS = frozenset({Put, ReadReply, FetchReply})
"""The messages whose frames may carry records."""

NODE_ONLY = frozenset(
    {
        NewWriter,
        ReadTail,
        Sync,
        Stamp,
        AskWriter,
        AskCommitted,
        Fetch,
        AskOldest,
        Probe,
        Form,
        Adopt,
        Confirm,
        AskHeld,
    }
)
"""The requests that only a node may send."""

Message: TypeAlias = Any
"""One of the NamedTuples above. (A NamedTuple cannot share a base class.)"""


# --- the codec ------------------------------------------------------------------------------------


class _Text:
    length = "H"

    def encode(self, value: str) -> tuple[int, bytes]:
        data = value.encode()
        return len(data), data

    def decode(self, buffer: memoryview | bytes, offset: int, size: int) -> tuple[str, int]:
        data, end = _BLOB.decode(buffer, offset, size)
        return data.decode(), end


class _Blob:
    length = "I"

    def encode(self, value: bytes) -> tuple[int, bytes]:
        return len(value), value

    def decode(self, buffer: memoryview | bytes, offset: int, size: int) -> tuple[bytes, int]:
        end = offset + size
        if end > len(buffer):
            raise RemoteProtocolError(f"a field of {size} bytes ends behind its message")
        return bytes(buffer[offset:end]), end


class _Many:
    length = "I"

    def __init__(self, item: Any) -> None:
        self._item = Codec(item)

    def encode(self, value: tuple[Any, ...]) -> tuple[int, bytes]:
        return len(value), b"".join(map(self._item.encode, value))

    def decode(self, buffer: memoryview | bytes, offset: int, count: int) -> tuple[Any, int]:
        # Even the smallest items would have to fit: a wild count is refused before it costs.
        if count * self._item.size_min > len(buffer) - offset:
            raise RemoteProtocolError(f"a list of {count} items ends behind its message")
        items = []
        for _ in range(count):
            item, offset = self._item.decode(buffer, offset)
            items.append(item)
        return tuple(items), offset


_TEXT, _BLOB = _Text(), _Blob()


class Codec:
    """The bytes of one type: of a NamedTuple, or of an item of a list.

    Its values are laid out flat, those of tuples in it, too. A *part* is values of fixed size and
    then the length of one that has none: one struct. `_rest` is what follows the last part.

    size_min: bytes of the smallest value.
    """

    def __init__(self, hint: Any) -> None:
        self._flatten: Callable[[Any], tuple[Any, ...]] = lambda value: (value,)
        self._build: Callable[[Sequence[Any]], Any] = itemgetter(0)
        leaves = [("", hint)]
        if hasattr(hint, "_fields"):
            leaves = list(_leaves(hint))
            self._flatten = _getter(attrgetter, [path for path, _ in leaves])
            self._build, _ = _builder(hint)
        self._parts: list[tuple[struct.Struct, slice, int, _Text | _Blob | _Many]] = []
        layout, start = "<", 0
        for place, (_, leaf) in enumerate(leaves):
            variable = _variable(leaf)
            if variable is None:
                # An int that is not annotated is one of WriterId and Position.
                layout += "Q" if leaf is int else get_args(leaf)[1]
                continue
            part = struct.Struct(layout + variable.length)
            self._parts.append((part, slice(start, place), place, variable))
            layout, start = "<", place + 1
        self._rest, self._rest_slice = struct.Struct(layout), slice(start, None)
        self.size_min = self._rest.size + sum(part.size for part, *_ in self._parts)

    def encode(self, value: Any) -> bytes:
        """
        Raises:
            struct.error, UnicodeEncodeError: something does not fit its field.
        """
        flat = self._flatten(value)
        if not self._parts:
            return self._rest.pack(*flat)
        out = b""
        for layout, fixed, place, variable in self._parts:
            length, data = variable.encode(flat[place])
            out += layout.pack(*flat[fixed], length) + data
        return out + self._rest.pack(*flat[self._rest_slice])

    def decode(self, buffer: memoryview | bytes, offset: int) -> tuple[Any, int]:
        """What begins at `offset`, and where it ends.

        Raises:
            RemoteProtocolError, struct.error, UnicodeDecodeError: the bytes are no such value.
        """
        if not self._parts:
            return self._build(self._rest.unpack_from(buffer, offset)), offset + self._rest.size
        flat: list[Any] = []
        for layout, _, _, variable in self._parts:
            flat += layout.unpack_from(buffer, offset)
            flat[-1], offset = variable.decode(buffer, offset + layout.size, flat[-1])
        flat += self._rest.unpack_from(buffer, offset)
        return self._build(flat), offset + self._rest.size


def _leaves(cls: type[Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted name and the type of each value that is no NamedTuple."""
    for name, hint in _hints(cls):
        if hasattr(hint, "_fields"):
            yield from _leaves(hint, f"{path}{name}.")
        else:
            yield path + name, hint


def _hints(cls: type[Any]) -> list[tuple[str, Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return [(name, hints[name]) for name in cls._fields]


def _builder(cls: type[Any]) -> tuple[Callable[[Sequence[Any]], Any], int]:
    """What makes the NamedTuple of its flat values, and how many these are."""
    make = partial(tuple.__new__, cls)  # its own does the same more slowly
    keys: list[int | slice] = []
    nested = []
    count = 0
    for place, (_, hint) in enumerate(_hints(cls)):
        if hasattr(hint, "_fields"):
            build_one, size = _builder(hint)
            nested.append((place, build_one))
            keys.append(slice(count, count + size))
            count += size
        else:
            keys.append(count)
            count += 1
    pick = _getter(itemgetter, keys)

    def build(flat: Sequence[Any]) -> Any:
        values = list(pick(flat))
        for place, build_one in nested:
            values[place] = build_one(values[place])
        return make(values)

    return (build if nested else make), count


def _getter(kind: Callable[..., Any], keys: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """An itemgetter or an attrgetter that gives a tuple, however many the keys are."""
    if len(keys) > 1:
        return cast("Callable[[Any], tuple[Any, ...]]", kind(*keys))
    return lambda value: tuple([kind(key)(value) for key in keys])


def _variable(hint: Any) -> _Text | _Blob | _Many | None:
    """What encodes a value of no fixed size; None: it has one."""
    if hint is str:
        return _TEXT
    if hint is bytes:
        return _BLOB
    if get_origin(hint) is tuple:
        return _Many(get_args(hint)[0])
    is_known = hint is int or get_origin(hint) is Annotated
    invariant(is_known, "a field has a type that the codec knows", hint=hint)
    return None


_CODECS = {cls: Codec(cls) for cls in CODES}


def encode(message: Message) -> bytes:
    """The message's bytes.

    Raises:
        LocalProtocolError: a value does not fit its field.
    """
    try:
        return _CODECS[type(message)].encode(message)
    except UnicodeEncodeError as error:
        raise LocalProtocolError(
            f"{error.object!r} is no text: UTF-8 has no such characters"
        ) from error
    except struct.error as error:
        raise LocalProtocolError(f"{type(message).__name__}: {error}") from error


def encoded_size(message: Message) -> int:
    """How many bytes the message needs, alone or as a part of another."""
    return len(encode(message))


def decode(code: int, buffer: memoryview | bytes, offset: int) -> Message:
    """The message of type `code` in buffer[offset:]; zeros may follow up to a multiple of 8.

    Raises:
        RemoteProtocolError: no such type, or the bytes are not such a message.
    """
    if code not in TYPES:
        raise RemoteProtocolError(f"no message has type {code}")
    cls = TYPES[code]
    try:
        message, end = _CODECS[cls].decode(buffer, offset)
    except (struct.error, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"{cls.__name__}: {error}") from error
    if len(buffer) - end >= 8:
        raise RemoteProtocolError(f"{cls.__name__}: bytes follow the message")
    return message
