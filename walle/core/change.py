"""A change of a stream's members, from its joint version to the end of it.

    joint version ─► told to all ─► a majority of old and of new have it ─► tails ─► mark
                 ─► commit point confirmed ─► coverage ─► the change may end

docs/protocol.md, "Membership", says why each step is there. All of it is volatile: whoever becomes
the manager begins again at the first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core import quorum
from walle.core.coverage import uncovered
from walle.core.timers import NEVER
from walle.errors import Code, invariant
from walle.ids import IdRange
from walle.messages import (
    Adopt,
    AdoptReply,
    AskHeld,
    AskHeldReply,
    AskWriter,
    AskWriterReply,
    Confirm,
    ConfirmReply,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.calls import Call
    from walle.core.cluster import StreamRecord
    from walle.core.context import Context
    from walle.messages import Message
    from walle.record import Batch

STEP_MS = 2_000
PAUSE_MS = 200
RANGES_SHOWN = 10
TELL_MS = 10_000
"""How long a member is told what is decided; one that is not there then learns it from
`/cluster`."""


class Change:
    """The manager's side of one change of members.

    record: the stream, with its joint topology, which is committed in `/cluster`.
    on_end: called once, when the new topology may be published.
    waits_for: why the change has not ended yet, for people.
    lacking: the entries that too few of the new members hold, once it waits for that.
    """

    def __init__(self, context: Context, record: StreamRecord, on_end: Callable[[], None]) -> None:
        self._context = context
        self._record = record
        self._stream_id = record.stream_id
        self._topology = record.topology
        self._on_end = on_end
        self._call: Call | None = None
        self._teller: Call | None = None
        self._key = ("change", record.stream_id)
        self._mark = 0
        self._is_forced = False
        self.waits_for = ""
        self.lacking: list[IdRange] = []

    def start(self) -> None:
        """Tells all members, old and new; goes on once enough of them have the version."""
        topology = self._topology
        adopted: set[str] = set()

        def on_reply(node: str, reply: Message, _batch: Batch | None) -> None:
            is_begun = quorum.is_majority(topology, adopted)
            if isinstance(reply, AdoptReply) and reply.version == topology.version:
                adopted.add(node)
            if not is_begun and quorum.is_majority(topology, adopted):
                self._read_tails()

        self.waits_for = "a majority of the old and of the new members to take the new version"
        self._teller = tell(self._context, self._record, on_reply, NEVER)

    def force(self) -> None:
        """Waits no longer until enough of the new members hold every entry; for all else it does:
        without it, entries could be lost that nobody has been told of."""
        self._is_forced = True
        if self.lacking:
            self._end()

    def stop(self) -> None:
        """This node is no longer the manager."""
        self._context.timers.cancel(self._key)
        for call in (self._call, self._teller):
            if call is not None:
                call.finish()

    # --- (a) a commit point that was sent after the tails were read -------------------------------

    def _read_tails(self) -> None:
        """The highest tail of a majority of the old members that are at the joint version."""
        topology = self._topology
        tails: dict[str, int] = {}

        def on_reply(node: str, reply: Message, _batch: Batch | None) -> None:
            if not isinstance(reply, AskWriterReply) or reply.code != Code.OK or reply.is_damaged:
                return
            tails[node] = reply.tail.entry_id
            if len(tails) >= quorum.majority_size(len(topology.old_members)):
                self._finish_call()
                self._confirm(max(tails.values()))

        self.waits_for = "the tails of a majority of the old members"
        self._ask(
            topology.old_members,
            AskWriter(self._stream_id, topology.version),
            on_reply,
            self._read_tails,
        )

    def _confirm(self, tail_id: int) -> None:
        """Marks this moment, and waits until a joint majority has taken a commit point at the
        highest tail or above it, in a put that was sent after it. If there is no writer to send
        one, a member claims the stream for that."""
        topology = self._topology
        self._mark = mark = max(self._context.wall_us, self._mark + 1)
        confirmed: dict[str, int] = {}

        def on_reply(node: str, reply: Message, _batch: Batch | None) -> None:
            if not isinstance(reply, ConfirmReply):
                return
            self._mark = max(self._mark, reply.mark)  # a former manager's clock was ahead
            if reply.code != Code.OK:
                return
            confirmed[node] = reply.entry_id
            if quorum.is_majority(topology, confirmed):
                self._finish_call()
                self._cover(quorum.majority_value(topology, confirmed), {})

        self.waits_for = f"a commit point at entry {tail_id} or above"
        self._ask(
            topology.everyone,
            Confirm(self._stream_id, topology.version, mark, tail_id),
            on_reply,
            self._read_tails,  # the newest reading counts
        )

    # --- (b) coverage -----------------------------------------------------------------------------

    def _cover(self, committed_id: int, missing: dict[str, list[IdRange]]) -> None:
        """Waits until a majority of the new members hold every entry up to that one, proved.

        missing: what each of them lacks, as it told last.
        """
        topology = self._topology
        wanted = IdRange(topology.first_entry_id, committed_id + 1)

        def on_reply(node: str, reply: Message, _batch: Batch | None) -> None:
            if isinstance(reply, AskHeldReply) and reply.code == Code.OK:
                missing[node] = [IdRange(*gap) for gap in reply.gaps]
                if reply.end < wanted.end:
                    missing[node].append(IdRange(reply.end, wanted.end))
                self.lacking = uncovered(wanted, missing, topology.members)
                if not self.lacking or self._is_forced:
                    self._end()
                else:
                    self.waits_for = f"a majority of the new members to hold {self._shown()}"

        self._ask(
            topology.members,
            AskHeld(self._stream_id, topology.version),
            on_reply,
            lambda: self._cover(committed_id, missing),
        )

    def _shown(self) -> str:
        """What too few hold, as a text has room for it."""
        more = len(self.lacking) - RANGES_SHOWN
        ranges = ", ".join(map(str, self.lacking[:RANGES_SHOWN]))
        return f"{ranges} and {more} more ranges" if more > 0 else ranges

    def _end(self) -> None:
        self.stop()
        self.lacking = []
        self.waits_for = "the new version to be committed"
        self._on_end()

    # --- asking -----------------------------------------------------------------------------------

    def _ask(
        self,
        nodes: tuple[str, ...],
        message: Message,
        on_reply: Callable[[str, Message, Batch | None], None],
        again: Callable[[], None],
    ) -> None:
        """Asks; without a result in time, does the step `again` after a pause."""

        def on_end() -> None:
            self._call = None
            self._context.timers.set(self._key, self._context.after_ms(PAUSE_MS), again)

        self._call = self._context.calls.ask(
            nodes,
            message,
            on_reply,
            until_ns=self._context.after_ms(STEP_MS),
            on_end=on_end,
        )

    def _finish_call(self) -> None:
        """The step has its result."""
        invariant(self._call is not None, "a step's result answers its question")
        assert self._call is not None  # noqa: S101 - for the type checker
        self._call.finish()
        self._call = None


def tell(
    context: Context,
    record: StreamRecord,
    on_reply: Callable[[str, Message, Batch | None], None],
    until_ns: int,
) -> Call:
    """Tells everybody whom the topology names, until they have answered: idle streams move, too."""
    message = Adopt(record.stream_id, record.name, *record.topology)
    return context.calls.ask(record.topology.everyone, message, on_reply, until_ns=until_ns)
