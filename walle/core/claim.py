"""Claiming a stream's writer: the coordinator. docs/protocol.md, "ClaimWriter".

    promise ──majority──► read tails ──majority──► choose ─► sync + stamp each ──majority──► claimed

Each promising member goes through its steps at its own pace; one that answers after the choice is
synced and stamped all the same. All steps carry one stream version. Refused for a newer writer or a
newer version, the claim starts again, above it, after a random pause, until its time is over.

A claim that is not forced first waits until a majority knows of no running lease, and does so
again whenever it starts again: it takes over from nobody. Another claim that came up since it last
looked is left a moment to return, too.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, NamedTuple

from walle.core import quorum
from walle.errors import Code, code_name
from walle.ids import ANY_WRITER, Position, WriterId
from walle.messages import (
    AskWriter,
    AskWriterReply,
    Failure,
    NewWriter,
    NewWriterReply,
    ReadTail,
    ReadTailReply,
    Stamp,
    StampReply,
    Sync,
    SyncReply,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.calls import Call
    from walle.core.context import Context
    from walle.core.topology import StreamTopology
    from walle.messages import Message
    from walle.record import Batch

RESTART_MS_MIN = 5
RESTART_MS_JITTER = 50
RESTART_MS_MAX = 4_000
"""The pause before a claim begins anew doubles up to this: several claimants must not keep refusing
each other."""
ASK_MS = 1_000
LOOK_MS_MAX = 250
"""How often a waiting claim looks whether the lease was released before its time."""


class Claimed(NamedTuple):
    """A claim that has returned: `writer` continues the history that ends at `tail`."""

    version: int
    writer: WriterId
    tail: Position


class Tail(NamedTuple):
    """What a promising member told of the end of its history.

    first, chains: the chains of entries first, first + 1, ... up to the tail; `first` is the
        member's commit point, with which its live run may begin.
    """

    committed: Position
    accepted: WriterId
    tail: Position
    first: int
    chains: array[int]

    def chain_at(self, entry_id: int) -> int:
        """The chain after an entry in [first, tail]."""
        return self.chains[entry_id - self.first]


class Choice(NamedTuple):
    """The history that a claim has chosen: that of `source`, up to its tail."""

    source: str
    history: Tail
    committed: Position


def choose(tails: dict[str, Tail], also_committed: list[Position]) -> Choice:
    """The history with the greatest (accepted, tail id) is the stream's.

    also_committed: the commit points of promising members that cannot answer for their tails.
    """
    source = max(tails, key=lambda node: (tails[node].accepted, tails[node].tail.entry_id, node))
    known = [tail.committed for tail in tails.values()] + also_committed
    committed = max(known, key=lambda position: position.entry_id)
    return Choice(source, tails[source], committed)


def common_base(member: Tail, chosen: Tail) -> Position | None:
    """The last entry that both histories show with the same chain; None if they show none.

    An equal chain at one id means equal histories up to it, so a binary search will do.
    """
    low = max(member.first, chosen.first)
    high = min(member.tail.entry_id, chosen.tail.entry_id)
    if low > high or member.chain_at(low) != chosen.chain_at(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        if member.chain_at(middle) == chosen.chain_at(middle):
            low = middle
        else:
            high = middle - 1
    return Position(low, chosen.chain_at(low))


class Claim:
    """One claim, from its first message until it returns or its time is over.

    topology: gives the newest topology that this node knows of the stream.
    above: the highest writer id this node has seen.
    force: whether to take over from a writer whose lease runs.
    retry: whether to begin anew when another writer is in the way; otherwise the claim fails.
    on_claimed, on_failed: exactly one of them is called, once.
    """

    def __init__(
        self,
        context: Context,
        *,
        stream_id: int,
        topology: Callable[[], StreamTopology],
        above: WriterId,
        address: str,
        lease_ms: int,
        until_ns: int,
        force: bool,
        retry: bool = True,
        on_stale: Callable[[], None],
        on_claimed: Callable[[Claimed], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self._context = context
        self._stream_id = stream_id
        self._newest_topology = topology
        self._above = above
        self._address = address
        self._lease_ms = lease_ms
        self._until_ns = until_ns
        self._force = force
        self._retry = retry
        self._on_stale = on_stale
        self._on_claimed = on_claimed
        self._on_failed = on_failed
        self._seen: WriterId | None = None
        self._restarts = 0
        self._calls: list[Call] = []
        self._failure = "no majority of the members answered in time"

    def start(self) -> None:
        """Begins; or begins anew, above every writer id seen so far."""
        self._topology = self._newest_topology()
        self._context.timers.set(("claim", id(self)), self._until_ns, self._give_up)
        if not self._topology.everyone:
            self._failure = "it was deleted"
            self._give_up()
        elif self._force:
            self._ask_promises()
        else:
            self._wait_for_leases()

    def _wait_for_leases(self) -> None:
        context = self._context

        def on_majority(answers: dict[str, AskWriterReply]) -> None:
            newest = max(answer.promised for answer in answers.values())
            is_new = self._seen is not None and newest > self._seen
            self._seen = newest
            self._above = max(self._above, newest)
            longest = max(answers.values(), key=lambda answer: answer.remaining_lease_ms)
            if not longest.remaining_lease_ms and not is_new:
                self._ask_promises()
                return
            pause_ms = LOOK_MS_MAX if is_new else min(longest.remaining_lease_ms, LOOK_MS_MAX)
            does = "holds the lease" if longest.remaining_lease_ms else "is claiming the stream"
            self._pause(
                pause_ms + context.jitter_ms(RESTART_MS_JITTER),
                f"{longest.address or 'another writer'} {does}",
            )

        call = context.calls.ask_majority(
            self._topology,
            AskWriter(self._stream_id, self._topology.version),
            on_majority,
            until_ns=min(context.after_ms(ASK_MS), self._until_ns),
            on_end=lambda: self._begin_anew("no majority of the members answered"),
        )
        self._calls.append(call)

    def _ask_promises(self) -> None:
        """Step 1."""
        context = self._context
        over = self._above
        ts = max(context.wall_us, self._above.ts + 1)
        self._writer = self._above = WriterId(ts, context.random.getrandbits(64))
        self._tails: dict[str, Tail] = {}
        self._damaged: dict[str, Position] = {}
        self._refused: set[str] = set()
        self._stamped: set[str] = set()
        self._choice: Choice | None = None
        message = NewWriter(
            self._stream_id,
            self._topology.version,
            self._writer,
            self._address,
            self._lease_ms,
            over=ANY_WRITER if self._force else over,
        )
        self._ask(self._topology.everyone, message, self._on_promise)

    def _ask(
        self,
        nodes: tuple[str, ...],
        message: Message,
        on_reply: Callable[[str, Message, Batch | None], None],
    ) -> None:
        call = self._context.calls.ask(nodes, message, on_reply, until_ns=self._until_ns)
        self._calls.append(call)

    # --- the steps, for one member ----------------------------------------------------------------

    def _on_promise(self, node: str, reply: Message, _batch: Batch | None) -> None:
        if isinstance(reply, NewWriterReply) and reply.code == Code.OK:
            self._read_tail(node, 0, array("Q"))
        else:
            self._on_refusal(node, reply)

    def _read_tail(self, node: str, first: int, chains: array[int]) -> None:
        """Reads the chains of the member's suffix, page after page."""

        def on_page(_node: str, reply: Message, _batch: Batch | None) -> None:
            if not isinstance(reply, ReadTailReply):
                self._on_refusal(node, reply)
            elif reply.code == Code.DAMAGED:
                self._damaged[node] = reply.committed
                if self._choice is not None:
                    self._sync(node, self._choice)
            elif reply.code != Code.OK:
                self._on_refusal(node, reply)
            else:
                begin = first if chains else reply.first
                if chains and reply.first != start:
                    self._refuse(node, f"{node}'s commit point has moved while its tail was read")
                    return
                so_far = chains + array("Q", reply.chains[: len(reply.chains) // 8 * 8])
                if reply.chains and begin + len(so_far) <= reply.tail.entry_id:
                    self._read_tail(node, begin, so_far)
                else:
                    tail = Tail(reply.committed, reply.accepted, reply.tail, begin, so_far)
                    self._on_tail(node, tail)

        start = first + len(chains)
        message = ReadTail(self._stream_id, self._topology.version, self._writer, start)
        self._ask((node,), message, on_page)

    def _on_tail(self, node: str, tail: Tail) -> None:
        if tail.first + len(tail.chains) - 1 != tail.tail.entry_id:
            self._refuse(node, "a member's tail and its chains disagree")
            return
        self._tails[node] = tail
        if self._choice is not None:
            self._sync(node, self._choice)
        elif quorum.is_majority(self._topology, self._tails):
            self._choice = choose(self._tails, list(self._damaged.values()))
            for promising in [*self._tails, *self._damaged]:
                self._sync(promising, self._choice)

    def _sync(self, node: str, choice: Choice) -> None:
        """Gives the member what it lacks of the chosen history; then it can be stamped."""
        chosen, tail = choice.history, self._tails.get(node)
        if tail is not None and tail.tail == chosen.tail:
            self._stamp(node, chosen.tail)
            return

        def on_synced(_node: str, reply: Message, _batch: Batch | None) -> None:
            if isinstance(reply, SyncReply) and reply.code == Code.OK:
                self._stamp(node, chosen.tail)
            else:
                self._on_refusal(node, reply)

        base = common_base(tail, chosen) if tail is not None else None
        message = Sync(
            self._stream_id,
            self._topology.version,
            self._writer,
            choice.source,
            base=base or choice.committed,
            tail=chosen.tail,
            jump=int(base is None),
        )
        self._ask((node,), message, on_synced)

    def _stamp(self, node: str, tail: Position) -> None:
        def on_stamped(_node: str, reply: Message, _batch: Batch | None) -> None:
            if not isinstance(reply, StampReply) or reply.code != Code.OK:
                self._on_refusal(node, reply)
                return
            self._stamped.add(node)
            if quorum.is_majority(self._topology, self._stamped):
                self.cancel()
                self._on_claimed(Claimed(self._topology.version, self._writer, tail))

        message = Stamp(self._stream_id, self._topology.version, self._writer, tail)
        self._ask((node,), message, on_stamped)

    # --- refusals ---------------------------------------------------------------------------------

    def _on_refusal(self, node: str, reply: Message) -> None:
        """A newer writer or version: begin anew. Anything else: do without that member."""
        if isinstance(reply, Failure):
            self._refuse(node, reply.text)
        elif reply.code == Code.FENCED:
            self._above = max(self._above, reply.promised)
            self._begin_anew(f"a newer writer, {reply.promised}, is claiming the stream")
        elif reply.code in (Code.STALE_VERSION, Code.NOT_A_MEMBER):
            self._on_stale()
            self._begin_anew("the stream's members have changed")
        else:
            self._refuse(node, f"{node} refused: {code_name(reply.code)}")

    def _refuse(self, node: str, why: str) -> None:
        self._refused.add(node)
        if not quorum.can_be_majority(self._topology, self._refused):
            self._begin_anew(why)

    def _begin_anew(self, why: str) -> None:
        longest_ms = min(RESTART_MS_JITTER << self._restarts, RESTART_MS_MAX)
        self._restarts = min(self._restarts + 1, 10)
        self._pause(RESTART_MS_MIN + self._context.jitter_ms(longest_ms), why)

    def _pause(self, ms: float, why: str) -> None:
        """Starts again after a while, if there is time left; `why` is told when there is none."""
        self._failure = why
        if not self._retry:
            self._give_up()
            return
        self.cancel()
        at_ns = self._context.after_ms(ms)
        if at_ns < self._until_ns:
            self._context.timers.set(("claim", id(self)), at_ns, self.start)
        else:
            self._context.timers.set(("claim", id(self)), self._until_ns, self._give_up)

    def _give_up(self) -> None:
        self.cancel()
        self._on_failed(self._failure)

    def cancel(self) -> None:
        """Forgets every question; answers that still come are dropped, and nobody is called."""
        self._context.timers.cancel(("claim", id(self)))
        for call in self._calls:
            call.finish()
        self._calls = []
