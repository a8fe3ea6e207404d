"""The topology manager: the exclusive writer of `/cluster`, on one of its members.

Every member watches the manager's lease and, when it has lapsed, claims `/cluster` after a random
pause. A new manager acts only after applying everything up to its claimed tail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from walle.core.changing import Changing
from walle.core.claim import Claim
from walle.core.cluster import (
    Refusal,
    encode_create_stream,
    encode_form,
    encode_members,
    encode_settings,
)
from walle.core.nodes import Nodes, Planned
from walle.core.pipeline import Pipeline
from walle.core.snapshot import encode_snapshot, is_due
from walle.core.timers import NEVER
from walle.core.trimming import Trimming
from walle.core.writer import NodeWriter
from walle.errors import Code
from walle.ids import CLUSTER_STREAM_NAME, STREAM_CLUSTER
from walle.limits import NS_PER_MS, QUESTIONS_COUNT_MAX
from walle.messages import (
    Adopt,
    ChangeInfo,
    ClusterInfo,
    CreateStream,
    DeleteStream,
    DescribeChange,
    Failure,
    RecoverStream,
    RegisterNode,
    Release,
    RemoveNode,
    SetMembers,
    SetStream,
    StreamInfo,
    TrimStream,
)
from walle.record import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.claim import Claimed
    from walle.core.cluster import ClusterState
    from walle.core.context import Context
    from walle.core.member import Member
    from walle.ids import Position

Request: TypeAlias = (
    CreateStream
    | SetStream
    | TrimStream
    | SetMembers
    | DescribeChange
    | RecoverStream
    | DeleteStream
    | RegisterNode
    | RemoveNode
)
Answer: TypeAlias = StreamInfo | ChangeInfo | ClusterInfo | Failure

LEASE_MS = 2_000
CLAIM_MS = 4 * LEASE_MS
PAUSE_MS = 300
ASK_MS = 1_000
OVERTAKEN = Failure(Code.BUSY, "the topology manager has changed; repeat the request")


class Manager:
    """Watches, claims and writes `/cluster` on behalf of this node."""

    def __init__(self, context: Context, member: Member, cluster: ClusterState) -> None:
        self._context = context
        self._member = member
        self._cluster = cluster
        self._claim: Claim | None = None
        self.is_releasing = False
        self._writer: NodeWriter | None = None
        self._encoder: Encoder | None = None
        self._claimed_id = 0
        self._told = 0
        self._waiting: dict[str, tuple[int, Callable[[Failure | None], None]]] = {}
        self._alone = ""
        self.changing = Changing(context, cluster, self._put_change, self._put)
        self._trimming = Trimming(context, cluster, self._put_change)
        self._nodes = Nodes(cluster, self._put_entry)

    @property
    def is_acting(self) -> bool:
        """Whether this node is the manager, and knows all that was decided before."""
        return (
            self._writer is not None
            and self._cluster.applied_id > 0
            and self._cluster.applied_id >= self._claimed_id
        )

    def watch(self) -> None:
        """Claims `/cluster` once nobody holds its lease."""
        pause_ms = PAUSE_MS + self._context.jitter_ms(PAUSE_MS)
        due_ns = max(self._member.lease.until_ns, self._context.now_ns)
        at_ns = due_ns + int(pause_ms * NS_PER_MS)
        self._context.timers.set("manager", at_ns, self._check)

    def stop(self) -> None:
        """Hands `/cluster` back, so that another member need not wait for the lease."""
        self._context.timers.cancel("manager")
        if self._claim is not None:
            self._claim.cancel()
            self._claim = None
        if self._writer is None:
            return
        pipeline = self._writer.pipeline
        self._end(self._writer)
        self.is_releasing = True

        def done() -> None:
            self.is_releasing = False

        self._context.calls.ask_majority(
            self._member.topology,
            Release(
                self._member.stream_id,
                self._member.topology.version,
                pipeline.writer,
                pipeline.committed,
                relay=0,
            ),
            lambda _answers: done(),
            until_ns=self._context.after_ms(ASK_MS),
            on_end=done,
        )

    def on_topology(self) -> None:
        """`/cluster` itself has other members now. They decide from here on; who is none of them
        hands over."""
        if not self._member.is_named:
            self._tell_successors()
            self.stop()
        elif self._writer is not None:
            self._writer.adopt(self._member.topology)
        elif self._claim is None:
            self.watch()

    def _tell_successors(self) -> None:
        """This node is no member of `/cluster` any more, and perhaps the only one that knows: so it
        tells those who are, until a majority of them knows as well."""
        topology = self._member.topology
        self._context.calls.ask_majority(
            topology,
            self._version,
            lambda _answers: None,
            until_ns=NEVER,
            on_end=lambda: None,
        )

    @property
    def _version(self) -> Adopt:
        """That of `/cluster`, as this node's member knows it."""
        member = self._member
        return Adopt(member.stream_id, member.name, *member.topology)

    # --- claiming ---------------------------------------------------------------------------------

    def _check(self) -> None:
        """The lease seems to have lapsed: claims, unless a majority knows better.

        Whom its topology of `/cluster` names may not know of it, and cannot read of it without a
        manager: so they are told first.
        """
        member = self._member
        if not member.is_named:
            self._tell_successors()
            return
        if member.lease.until_ns > self._context.now_ns:
            self.watch()
            return
        if member.topology.version > 1 or member.topology.first_entry_id > 1:
            self._context.calls.ask(
                member.topology.everyone,
                self._version,
                lambda *_: None,
                until_ns=self._context.after_ms(CLAIM_MS),
            )
        self._claim = Claim(
            self._context,
            stream_id=member.stream_id,
            topology=lambda: member.topology,
            above=member.promise.writer,
            address=self._context.node_id,
            lease_ms=LEASE_MS,
            until_ns=self._context.after_ms(CLAIM_MS),
            force=False,
            on_stale=member.on_stale,
            on_claimed=self._begin,
            on_failed=lambda _why: self._rest(),
        )
        self._claim.start()

    def _rest(self) -> None:
        self._claim = None
        self.watch()

    def _begin(self, claimed: Claimed) -> None:
        self._claim = None
        self._claimed_id = claimed.tail.entry_id
        self._told = 0
        self._context.outbox.note("this node is the topology manager")
        self._encoder = Encoder(claimed.writer, claimed.tail)
        pipeline = Pipeline(
            stream_id=self._member.stream_id,
            topology=self._member.topology,
            writer=claimed.writer,
            lease_ms=LEASE_MS,
            tail=claimed.tail,
        )
        self._writer = NodeWriter(self._context, pipeline, self._on_progress)
        if claimed.tail.entry_id == 0:
            self._put(encode_form(self._cluster.cluster_id, self._cluster.nodes.values()))
        self._trimming.start()
        self.on_applied()  # what was applied before may be for the manager to go on with

    def _on_progress(self) -> None:
        if self._writer is None or self._writer.pipeline.lost is None:
            return
        self._end(self._writer)
        self._context.outbox.note("this node is no longer the topology manager")
        self.watch()

    def _put(self, change: bytes) -> int:
        """Puts one change; returns its entry id."""
        if self._writer is None or self._encoder is None:
            raise RuntimeError("only the manager puts changes")
        self._encoder.add(change, self._context.wall_us)
        batch = self._encoder.take()
        self._writer.put(batch)
        return batch.last_id

    # --- acting -----------------------------------------------------------------------------------

    def change(self, request: Request, answer: Callable[[Answer], None]) -> None:
        """Does what is asked; answers once that is committed and applied here."""
        match request:
            case RegisterNode():
                self._nodes.register(request, answer)
            case RemoveNode():
                self._nodes.remove(request, answer)
            case CreateStream():
                self._create_stream(request, answer)
            case SetStream():
                self._set_stream(request, answer)
            case TrimStream():
                self._trimming.trim(request, answer)
            case SetMembers():
                self.changing.set_members(request, answer)
            case RecoverStream():
                self.changing.recover(request, answer)
            case DescribeChange():
                self.changing.describe(request, answer)
            case _:
                self.changing.delete(request, answer)

    def _create_stream(
        self, request: CreateStream, answer: Callable[[StreamInfo | Failure], None]
    ) -> None:
        plan = self._cluster.plan_stream(request)
        existing = self._cluster.find(request.name)
        if isinstance(plan, Refusal):
            answer(Failure(*plan))
        elif existing is not None:
            answer(self._cluster.info(existing))
        else:
            change = encode_create_stream(*plan)
            self._put_change(request.name, change, answer)

    def _set_stream(
        self, request: SetStream, answer: Callable[[StreamInfo | Failure], None]
    ) -> None:
        plan = self._cluster.plan_settings(request)
        if isinstance(plan, Refusal):
            answer(Failure(*plan))
        elif plan == self._cluster.find(request.name):
            answer(self._cluster.info(plan))
        else:
            change = encode_settings(plan.stream_id, plan.settings)
            self._put_change(request.name, change, answer)

    def _put_change(
        self, name: str, change: bytes, answer: Callable[[StreamInfo | Failure], None]
    ) -> None:
        """Puts a change of the stream of that name; answers once it is applied here."""

        def on_applied(failure: Failure | None) -> None:
            record = self._cluster.find(name)
            if failure is not None or record is None:
                answer(failure or OVERTAKEN)
            else:
                answer(self._cluster.info(record))

        self._put_entry(Planned(name, change), on_applied)

    def _put_entry(self, planned: Planned, then: Callable[[Failure | None], None]) -> None:
        pipeline = self._writer.pipeline if self._writer is not None else None
        if (
            pipeline is None
            or pipeline.exclusive_until_ns() < self._context.now_ns
            or len(self._waiting) >= QUESTIONS_COUNT_MAX
        ):
            then(Failure(Code.BUSY, "the topology manager has no majority at the moment"))
        elif is_due(self._cluster):
            then(Failure(Code.BUSY, f"a snapshot of {CLUSTER_STREAM_NAME} is being written"))
        elif planned.key in self._waiting:  # repeating will tell
            then(Failure(Code.BUSY, f"{planned.key} is being created or changed"))
        elif self._alone in self._waiting or (planned.is_alone and self._waiting):
            then(Failure(Code.BUSY, "another change is under way, beside which there can be none"))
        else:
            self._alone = planned.key if planned.is_alone else ""
            self._waiting[planned.key] = (self._put(planned.change), then)

    def _end(self, writer: NodeWriter) -> None:
        """This node is no longer the manager, of which that was the writer."""
        writer.stop()
        self._writer = None
        self.changing.stop()
        waiting, self._waiting = self._waiting, {}
        for _, then in waiting.values():
            then(OVERTAKEN)
        self._trimming.stop()

    def _tell_recovery(self) -> None:
        """Where the members of `/cluster` were set by hand, without a majority, its entries do not
        know of that yet."""
        topology = self._member.topology
        if topology.version > max(self._told, self._cluster.topology_of(STREAM_CLUSTER).version):
            self._told = topology.version
            self._put(encode_members(STREAM_CLUSTER, topology))

    def _snapshot(self, tail: Position) -> None:
        """Writes a snapshot when one is due and nothing else is in flight; lets `/cluster` begin
        with the last complete one, whoever has written that."""
        if is_due(self._cluster) and tail.entry_id == self._cluster.applied_id:
            for part in encode_snapshot(self._cluster, tail):
                self._put(part)
        record = self._cluster.streams[STREAM_CLUSTER]
        before, topology = self._cluster.snapshot.before, record.topology
        if before.entry_id >= topology.first_entry_id and not topology.old_members:
            self._trimming.put(record, before, lambda _result: None)

    def on_applied(self) -> None:
        """Entries of `/cluster` have been applied: answers whoever waited for them."""
        if self.is_acting and self._encoder is not None:
            self._tell_recovery()
            self._snapshot(self._encoder.tail)
            self.changing.go_on()
        done = [
            key
            for key, (entry_id, _) in self._waiting.items()
            if entry_id <= self._cluster.applied_id
        ]
        committed_id = self._writer.pipeline.committed.entry_id if self._writer is not None else 0
        for key in done:
            entry_id, then = self._waiting.pop(key)
            # Else a newer manager has put another entry with that id.
            then(None if entry_id <= committed_id else OVERTAKEN)
