"""A member's part in a change of its stream's members. docs/protocol.md, "Membership".

The manager tells it the new version, makes a *mark*, and asks whether a put has come that was sent
after that: such a put echoes the mark. Then it asks what the member holds. All but the version is
volatile: a member that restarts is asked again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.errors import Code
from walle.ids import NO_WRITER
from walle.limits import GAPS_LISTED_MAX
from walle.messages import AdoptReply, AskHeld, AskHeldReply, Confirm, ConfirmReply, Failure, Gap

if TYPE_CHECKING:
    from walle.core.effects import Address
    from walle.core.member import Member
    from walle.core.topology import StreamTopology
    from walle.messages import Put


class Joining:
    """mark: the newest one made under the member's version; 0: none. A writer hears of it with
    each answer.
    """

    def __init__(self, member: Member) -> None:
        self.mark = 0
        self._member = member
        self._confirmed_id: int | None = None

    def adopt(self, topology: StreamTopology) -> None:
        """Takes up a topology of the stream, if anything in it is newer."""
        member = self._member
        newest = member.topology.merged(topology)
        if newest.version > member.topology.version:
            self.mark, self._confirmed_id = 0, None
        if newest != member.topology:
            member.set_topology(newest)
        self.leave_if_left_out()

    def leave_if_left_out(self) -> None:
        """Leaves, if the topology does not name this node and that is not done yet."""
        member = self._member
        if not member.is_named and not (member.history.is_empty and member.accepted == NO_WRITER):
            member.context.outbox.note(f"{member.name}: this node is no member of it any more")
            member.leave()

    def refusal(self) -> Failure:
        """Why this node, which the topology does not name, serves nobody."""
        member = self._member
        node, members = member.context.node_id, ", ".join(member.topology.everyone)
        if not members:
            return was_deleted(member.name)
        text = f"{node} is not a member of {member.name}; its members are {members}"
        return Failure(Code.NOT_A_MEMBER, text)

    def adopted(self, sender: Address, request_id: int) -> None:
        """Answers the manager, once the topology is durable."""
        member = self._member
        reply = AdoptReply(member.stream_id, Code.OK, member.topology.version)
        member.answer(sender, request_id, reply)

    def took(self, put: Put) -> None:
        """The member has taken a put, with all that it tells."""
        if self.mark and put.mark >= self.mark:
            self._confirmed_id = max(self._confirmed_id or 0, put.committed.entry_id)

    def confirm(self, sender: Address, request_id: int, message: Confirm) -> None:
        """Whether a put has come that was sent after the mark was made."""
        member = self._member
        code = member.admit_version(message.version)
        if code is Code.OK and message.mark > self.mark:
            self.mark, self._confirmed_id = message.mark, None
        confirmed_id = self._confirmed_id
        if code is Code.OK and message.mark < self.mark:
            code = Code.CONFLICT  # puts that echo this member's mark show nothing of that one
        elif code is Code.OK and (confirmed_id is None or confirmed_id < message.entry_id):
            code = Code.BUSY
            member.orphan.watch()
        version = member.topology.version
        reply = ConfirmReply(member.stream_id, code, version, self.mark, confirmed_id or 0)
        member.answer(sender, request_id, reply)

    @property
    def is_waiting(self) -> bool:
        """Whether a change of members waits for a commit point."""
        is_joint = bool(self._member.topology.old_members)
        return self.mark > 0 and self._confirmed_id is None and is_joint

    def tell_held(self, sender: Address, request_id: int, message: AskHeld) -> None:
        """What this member holds, proved, up to its commit point."""
        member = self._member
        code = member.admit_version(message.version)
        gaps = member.history.gaps()
        end = member.history.committed.entry_id + 1
        if len(gaps) > GAPS_LISTED_MAX:
            end = gaps[GAPS_LISTED_MAX].start
        told = tuple(Gap(*gap) for gap in gaps[:GAPS_LISTED_MAX])
        reply = AskHeldReply(member.stream_id, code, member.topology.version, end, told)
        member.answer(sender, request_id, reply)


def was_deleted(name: str) -> Failure:
    """The stream is no more."""
    return Failure(Code.UNKNOWN_STREAM, f"stream {name} was deleted")
