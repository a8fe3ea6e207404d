"""What the core asks for: messages to send, and actions for storage to make durable.

Storage carries out actions strictly in order. A message that speaks of something durable is
itself put into that order (`Forward`): storage hands it on once everything before it is on stable
storage. So the core never waits for a disk: its state is that of the last action ordered.

The actions that carry no records are written with the codec of `walle.messages`: their annotations
are their layout, in the ring and in the journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from walle.core.topology import StreamTopology
from walle.ids import NO_IDENTITY, NO_WRITER, Position, WriterId, new_tuple
from walle.messages import U32, U64, Identity, NodeRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from walle.messages import Message
    from walle.record import Batch

Address: TypeAlias = int | str
"""Where a message goes: a session (an answer to whoever asked on it) or a node, by its id."""


class Send(NamedTuple):
    """One message. batch: the records of its frame, if any."""

    to: Address
    request_id: int
    message: Message
    batch: Batch | None = None


class Recipient(NamedTuple):
    """Who gets the same answer as another, and to which request."""

    to: Address
    request_id: int


class Promise(NamedTuple):
    """The writer a member has promised, and what it may owe to older ones.

    older_lease_ms: the longest lease of any older writer that may still be running.
    """

    writer: WriterId
    address: str
    lease_ms: U32
    older_lease_ms: U32


NO_PROMISE = Promise(NO_WRITER, "", 0, 0)


# --- actions that change what is durable ----------------------------------------------------------


class SetCluster(NamedTuple):
    """The cluster that this node belongs to, as of an entry of `/cluster`: where to find it.

    topology: that of `/cluster`; version 0: the one with which these nodes formed the cluster.
    applied_id: the entry; 0: none yet.
    """

    cluster_id: Identity
    nodes: tuple[NodeRecord, ...]
    topology: StreamTopology = StreamTopology(0, ())
    applied_id: U64 = 0


NO_CLUSTER = SetCluster(NO_IDENTITY, ())


class SetTopology(NamedTuple):
    """The stream's topology at this node; creates the stream's log when there is none."""

    stream_id: U64
    name: str
    topology: StreamTopology


class SetPromise(NamedTuple):
    stream_id: U64
    promise: Promise


class SetAccepted(NamedTuple):
    stream_id: U64
    accepted: WriterId


class Append(NamedTuple):
    """Append the batch but its first `skip` records to the live run; None leaves `accepted`."""

    stream_id: U64
    batch: Batch
    skip: int
    accepted: WriterId | None


class Truncate(NamedTuple):
    """Drop what follows `tail` from the live run."""

    stream_id: U64
    tail: Position


class Jump(NamedTuple):
    """Start a new live run with the batch but its first `skip` records; what the old one holds
    behind the old commit point becomes an aside run. One durable record with the commit point."""

    stream_id: U64
    batch: Batch
    skip: int
    committed: Position
    accepted: WriterId | None


class Fill(NamedTuple):
    """Append backfilled records to the fill, the unproved run that grows into the lowest gap."""

    stream_id: U64
    batch: Batch


class CloseGap(NamedTuple):
    """The fill has met the run above it: it is proved. Aside runs that began in it are dropped."""

    stream_id: U64


class DropFill(NamedTuple):
    """The fill did not meet the run above it: drop it."""

    stream_id: U64


class Cut(NamedTuple):
    """The entries behind `after`, up to `last`, are damaged: they are cut out of their run, and so
    become a gap. They lie below the commit point and above the fill."""

    stream_id: U64
    after: Position
    last: Position


class Leave(NamedTuple):
    """This node is no member of the stream any more: all entries go, and `accepted` with them, as
    though the stream had just come to this node. What it has promised stays, and the topology."""

    stream_id: U64


# --- actions that need no sync --------------------------------------------------------------------


class Commit(NamedTuple):
    """The commit point. Made durable in time, and before it has moved too far."""

    stream_id: U64
    committed: Position


class ReadRecords(NamedTuple):
    """Answer `send` with the records from `start` up to `end`, at most about bytes_max of them.

    after: the chain that `start`'s record must build on; None: any.
    aside: look into aside runs too.
    others: who gets the same answer. They are sessions, each of them once.
    """

    stream_id: U64
    start: int
    end: int
    bytes_max: int
    after: int | None
    aside: bool
    send: Send
    others: tuple[Recipient, ...] = ()


class ReadOldest(NamedTuple):
    """Answer `send` with the oldest record of the runs that is to stay, or the last below `end`.

    before_us: those go that were written before then. bytes_max: and those which take, with all
    that follow, more bytes than that. It may be an older one: how much is looked at is bounded.
    """

    stream_id: U64
    end: U64
    before_us: U64
    bytes_max: U64
    send: Send


class Forward(NamedTuple):
    """Send this once everything ordered before it is durable."""

    send: Send


Action: TypeAlias = (
    SetCluster
    | SetTopology
    | SetPromise
    | SetAccepted
    | Append
    | Truncate
    | Jump
    | Fill
    | CloseGap
    | DropFill
    | Cut
    | Leave
    | Commit
    | ReadRecords
    | ReadOldest
    | Forward
)

ReadAction: TypeAlias = ReadRecords | ReadOldest
"""What storage answers with records."""

UNSYNCED = frozenset({Commit, ReadRecords, ReadOldest, Forward})
"""The actions that by themselves leave nothing to sync."""


class Outbox:
    """Collects effects; the driver takes them after each step.

    own: the messages of the node to itself, which never leave it; `sends`: those to others.
    fatal: why this node must not run, in a sentence that says what to do; None: it may.
    sequence: the number of the last action that needs a sync.
    synced: the highest such number that is durable; the driver sets it.
    """

    def __init__(self, node_id: str) -> None:
        self.own: list[Send] = []
        self.sends: list[Send] = []
        self.actions: list[Action] = []
        self.alarms: list[str] = []
        self.notes: list[str] = []
        self.fatal: str | None = None
        self.sequence = 0
        self.synced = 0
        self._node_id = node_id
        self._last: dict[Hashable, Callable[[], None]] = {}

    def at_end(self, key: Hashable, action: Callable[[], None]) -> None:
        """Calls `action` at the end of the step, once, however often that is said with this key."""
        self._last[key] = action

    def send(
        self, to: Address, message: Message, request_id: int = 0, batch: Batch | None = None
    ) -> None:
        """A message that depends on nothing durable: it goes at once."""
        send = new_tuple(Send, (to, request_id, message, batch))
        (self.own if to == self._node_id else self.sends).append(send)

    def order(self, action: Action) -> int:
        """The next action for storage; returns the sequence number that makes it durable."""
        self.actions.append(action)
        if type(action) not in UNSYNCED:
            self.sequence += 1
        return self.sequence

    def send_durable(self, to: Address, message: Message, request_id: int, sequence: int) -> None:
        """A message that may go once action number `sequence` is durable."""
        if sequence <= self.synced:
            self.send(to, message, request_id)
        else:
            send = new_tuple(Send, (to, request_id, message, None))
            self.actions.append(new_tuple(Forward, (send,)))

    def alarm(self, text: str) -> None:
        """Something an operator must look at, in a sentence."""
        self.alarms.append(text)

    def note(self, text: str) -> None:
        """Something an operator may want to know, in a sentence; never once per put."""
        self.notes.append(text)

    def end_step(self) -> None:
        """Does what is to be done at the end."""
        while self._last:
            last, self._last = self._last, {}
            for action in last.values():
                action()

    def take(self) -> tuple[list[Send], list[Action]]:
        """The messages and actions collected since the last call; ends the step."""
        if self._last:
            self.end_step()
        taken = self.own + self.sends, self.actions
        self.own, self.sends, self.actions = [], [], []
        return taken
