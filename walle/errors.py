"""Every error WALLE raises, and the codes by which a refusal crosses the wire.

    WalleError
    ├── ConfigError             a setting or an argument is wrong; names the key and the rule
    ├── ProtocolError
    │   ├── LocalProtocolError  this side broke the protocol: a bug in the caller
    │   └── RemoteProtocolError the peer broke the protocol: its bytes cannot be understood
    ├── CorruptionError         stored bytes fail their checks; names file, offset, expected, found
    ├── UnreadableEntry         an entry is stored in a form that cannot be decoded
    ├── Refused                 a node answered with a refusal that repeating cannot mend
    │   ├── UnknownStream       no stream has that name or id, perhaps not any more
    │   ├── StreamExists        the name is taken, with other settings
    │   ├── Trimmed             the entry was trimmed; names the first that is left
    │   ├── NotAMember          the node does not hold the stream, perhaps not any more
    │   └── WrongCluster        the node belongs to another cluster, or is another node
    ├── Unavailable             no majority, no node, or no answer before the deadline
    │   ├── Busy                at a bound; nothing was done, repeat later
    │   └── DiskFull            no space for entries; nothing was done, repeat when there is
    ├── WriterLost              a newer writer claimed the stream; carries the put's outcome
    └── LeaseExpired            the read lease lapsed before the guarded section ended

A broken invariant is none of these: `invariant` raises `InvariantError`, nobody catches it, and
the process ends; the supervisor starts the node afresh from disk.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from walle.ids import WriterId


class Code(IntEnum):
    """How a request was answered. The values are the wire's; they are never reused."""

    OK = 0
    BUSY = 1  # at a bound, or the topology or the writer is not known yet: repeat later
    FENCED = 2  # a newer writer is promised; the answer names it
    STALE_VERSION = 3  # the request's stream version is older than the member's
    NOT_A_MEMBER = 4  # the stream's topology does not name this node
    NOT_PROMISED = 5  # a claim's later step came without its promise, or after its stamp
    CONFLICT = 6  # the history it builds on is not the member's
    UNKNOWN_STREAM = 7
    STREAM_EXISTS = 8
    WRONG_CLUSTER = 9
    BAD_REQUEST = 10  # malformed, or out of bounds; repeating it cannot help
    UNAVAILABLE = 11  # no majority answered before the deadline
    GAP = 12  # asked of this member only, and it does not hold the entry
    DAMAGED = 13  # to nodes: the member cannot vouch for its tail
    DIVERGED = 15  # it would change a committed entry: refused, and an alarm for the operator
    NO_SPACE = 16  # the node's disk is full: it takes no entries until space is free again
    REMOVED = 20  # this node was removed from the cluster, and its identity is never used again


def code_name(code: int) -> str:
    """A code's name; its number, if a newer node sent one that this version does not know."""
    try:
        return Code(code).name
    except ValueError:
        return f"code {code}"


class Outcome(Enum):
    """What became of a put whose writer was lost (docs/protocol.md, "Outcome of a put")."""

    DURABLE = "durable"
    NOT_WRITTEN = "not written"
    UNKNOWN = "unknown"


class WalleError(Exception):
    """The root of all that WALLE raises for its callers."""


class ConfigError(WalleError):
    """A setting breaks a rule.

    Args:
        key: the setting, as the user wrote it (`listen`, `initial_cluster.n2`, `--port`).
        rule: what is wanted, as a sentence that says what to do.
    """

    def __init__(self, key: str, rule: str) -> None:
        super().__init__(f"{key}: {rule}")
        self.key = key
        self.rule = rule


class ProtocolError(WalleError):
    """Bytes or calls that the protocol does not allow."""


class LocalProtocolError(ProtocolError):
    """This side used the protocol wrongly."""


class RemoteProtocolError(ProtocolError):
    """The other side sent what the protocol does not allow; its connection is of no further use."""


class CorruptionError(WalleError):
    """Stored bytes fail a check.

    Args:
        path: the file.
        offset: where in the file, in bytes.
        expected: what should be there.
        found: what is there.
    """

    def __init__(self, path: str, offset: int, *, expected: str, found: str) -> None:
        super().__init__(f"{path} at byte {offset}: expected {expected}, found {found}")
        self.path = path
        self.offset = offset
        self.expected = expected
        self.found = found


class UnreadableEntry(WalleError):
    """An entry passed its checks, but what its writer stored cannot be decoded.

    Args:
        stream: the stream's name.
        entry_id: the entry's.
        text: what is wrong with it, and what to do.
    """

    def __init__(self, stream: str, entry_id: int, text: str) -> None:
        super().__init__(f"entry {entry_id} of {stream} {text}")
        self.stream = stream
        self.entry_id = entry_id


class Refused(WalleError):
    """A node refused the request; `code` says why in a word, the text in a sentence."""

    code = Code.BAD_REQUEST

    def __init__(self, text: str, code: Code | None = None) -> None:
        super().__init__(text)
        if code is not None:
            self.code = code


class UnknownStream(Refused):
    """No stream has that name, or it was deleted."""

    code = Code.UNKNOWN_STREAM


class StreamExists(Refused):
    """A stream of that name exists with other settings."""

    code = Code.STREAM_EXISTS


class NotAMember(Refused):
    """The stream's topology does not name the node."""

    code = Code.NOT_A_MEMBER


class NotHeld(Refused):
    """The one member that was asked does not hold the entry."""

    code = Code.GAP


class Trimmed(Refused):
    """The stream begins later.

    Args:
        stream: its name.
        entry_id: the entry that was wanted.
        first_entry_id: the first one that is left.
    """

    def __init__(self, stream: str, entry_id: int, first_entry_id: int) -> None:
        super().__init__(
            f"stream {stream}: entry {entry_id} was trimmed; read from {first_entry_id} on"
        )
        self.stream = stream
        self.entry_id = entry_id
        self.first_entry_id = first_entry_id


class WrongCluster(Refused):
    """The other side belongs to another cluster, or is not the node it should be."""

    code = Code.WRONG_CLUSTER


class Unavailable(WalleError):
    """What was asked could not be done before the deadline. Repeating it later may help."""


class Busy(Unavailable):
    """A bound is reached. Nothing was done."""


class DiskFull(Unavailable):
    """Nodes have no space for entries on their disks. What raised this was not done; it can be
    once space is free there."""


class WriterLost(WalleError):
    """Another writer claimed the stream.

    Args:
        stream: the stream's name.
        writer: the newer writer's id.
        address: the newer writer's address, as it claimed.
        outcome: of the put that raised this.
    """

    def __init__(
        self, stream: str, writer: WriterId, address: str, outcome: Outcome = Outcome.UNKNOWN
    ) -> None:
        super().__init__(
            f"stream {stream}: the writer is now {address or 'another'} ({writer}); "
            f"this put's outcome: {outcome.value}"
        )
        self.stream = stream
        self.writer = writer
        self.address = address
        self.outcome = outcome


class LeaseExpired(WalleError):
    """The writer cannot prove that it was exclusive all the while; its answer may be stale."""


class InvariantError(Exception):
    """Something that cannot happen has happened. Not a `WalleError`: nobody may handle it."""


def invariant(condition: object, text: str, **values: object) -> None:
    """Ends the process by `InvariantError` unless `condition` holds.

    Used instead of `assert`, which -O removes. `values` go into the message.
    """
    if not condition:
        details = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise InvariantError(f"{text}: {details}" if details else text)


_REFUSALS: dict[Code, type[Refused]] = {
    Code.UNKNOWN_STREAM: UnknownStream,
    Code.STREAM_EXISTS: StreamExists,
    Code.WRONG_CLUSTER: WrongCluster,
    Code.NOT_A_MEMBER: NotAMember,
    Code.GAP: NotHeld,
}


def error_for(code: Code, text: str) -> WalleError:
    """The exception that a client raises for a `Failure` with `code`."""
    if code is Code.BUSY:
        return Busy(text)
    if code is Code.UNAVAILABLE:
        return Unavailable(text)
    if code is Code.NO_SPACE:
        return DiskFull(text)
    refusal = _REFUSALS.get(code)
    return refusal(text) if refusal else Refused(text, code)
