"""A stream's topology: who its members are, under which version, and where the stream begins.

docs/protocol.md, "Membership" and "Trim". While a change of members is under way the topology is
*joint*: every decision then needs a majority of the old members and a majority of the new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from walle.ids import Position
from walle.messages import U64

if TYPE_CHECKING:
    from walle.messages import StreamInfo


class StreamTopology(NamedTuple):
    """version: the label of every request about the stream; a trim leaves it as it is.
    members: node ids; the new ones while joint.
    old_members: node ids while joint, else empty.
    first_entry_id, first_prev_chain: the first entry not trimmed, and the chain before it.
    """

    version: U64
    members: tuple[str, ...]
    old_members: tuple[str, ...] = ()
    first_entry_id: U64 = 1
    first_prev_chain: U64 = 0

    @classmethod
    def of(cls, info: StreamInfo) -> StreamTopology:
        """As a client is told it, who need not know the chain before the first entry."""
        return cls(
            info.version,
            tuple(member.node_id for member in info.members),
            tuple(member.node_id for member in info.old_members),
            info.first_entry_id,
        )

    @property
    def everyone(self) -> tuple[str, ...]:
        """Old and new members, each once, in a fixed order."""
        return tuple(dict.fromkeys(self.members + self.old_members))

    def has(self, node_id: str) -> bool:
        """Whether the node is among them."""
        return node_id in self.members or node_id in self.old_members

    @property
    def origin(self) -> Position:
        """The position before the first entry."""
        return Position(self.first_entry_id - 1, self.first_prev_chain)

    def trimmed(self, origin: Position) -> StreamTopology:
        """With `origin` before the first entry, unless that one is further on already."""
        if origin.entry_id < self.first_entry_id:
            return self
        return self._replace(first_entry_id=origin.entry_id + 1, first_prev_chain=origin.chain)

    def merged(self, other: StreamTopology) -> StreamTopology:
        """The newer members of the two, and the later beginning."""
        older, newer = sorted((self, other), key=lambda each: each.version)
        return newer.trimmed(older.origin)


DELETED = StreamTopology(version=(1 << 64) - 1, members=())
"""That of a stream that is no more: it names nobody, under a version above all others."""
