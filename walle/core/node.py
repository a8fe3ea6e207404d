"""One node's part of the protocol: its members, and what concerns the node as a whole.

The driver (the consensus process, or the simulator) sets the time in `context`, calls one of the
public methods, then takes the effects from `context.outbox`. Messages to the node itself never
leave: they are handled before the call ends, or come back from storage when they had to wait
until something was durable.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from walle.core import claim, effects, quorum
from walle.core.bootstrap import Bootstrap
from walle.core.cluster import ClusterState
from walle.core.handshake import Handshake
from walle.core.history import History
from walle.core.manager import Manager
from walle.core.member import Member, State
from walle.core.relay import Relay
from walle.errors import Code, InvariantError
from walle.ids import NO_IDENTITY, STREAM_CLUSTER, Position, WriterId
from walle.limits import ADDRESS_BYTES_MAX, FETCH_BYTES_MAX, LEASE_MS_MAX, LEASE_MS_MIN
from walle.messages import (
    NODE_ONLY,
    ROLE_NODE,
    AskCommitted,
    AskCommittedReply,
    AskWriter,
    Claim,
    ClaimReply,
    CreateStream,
    Describe,
    Failure,
    Fetch,
    Form,
    Hello,
    ListStreams,
    NewWriter,
    NodeRecord,
    Probe,
    Put,
    PutReply,
    Read,
    ReadReply,
    ReadTail,
    Release,
    ReleaseReply,
    Stamp,
    Status,
    StatusReply,
    StreamCommitted,
    StreamInfo,
    StreamList,
    Sync,
    Welcome,
    WriterStatus,
    WriterStatusReply,
)
from walle.record import decode_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.cluster import StreamRecord
    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.messages import Message
    from walle.record import Batch

ASK_MS = 2_000
CREATE_MS = 5_000
RELEASE_MS = 2_000
FOLLOW_PAUSE_MS = 100
NEWS_MS = 1_000
NEWS_MS_MAX = 60_000


class Recovered(NamedTuple):
    """What storage found: the cluster this node belongs to, if any, and its streams."""

    cluster_id: bytes = NO_IDENTITY
    nodes: tuple[NodeRecord, ...] = ()
    states: tuple[State, ...] = ()


class Node:
    """All that one node decides.

    Args:
        identity: random, made with the data directory.
        address: where this node listens.
        initial_cluster: the addresses of the nodes that form the cluster, by node id.
        describe_process: what the driver adds to this node's status.
    """

    def __init__(
        self,
        context: Context,
        *,
        identity: bytes,
        address: str,
        initial_cluster: dict[str, str],
        recovered: Recovered,
        describe_process: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.context = context
        self.address = address
        self.cluster = ClusterState()
        self.members: dict[int, Member] = {}
        self.handshake = Handshake(context.node_id, identity, self.cluster)
        self._identity = identity
        self._initial_cluster = initial_cluster
        self._describe_process = describe_process
        self._bootstrap = Bootstrap(
            context,
            identity=identity,
            cluster=self.cluster,
            initial_cluster=initial_cluster,
            on_formed=self._on_formed,
        )
        self._manager: Manager | None = None
        self._node_sessions: set[int] = set()
        self._relays: dict[tuple[int, WriterId], Relay] = {}
        self._watchers: dict[int, list[tuple[WriterId, Callable[[], None]]]] = {}
        self._news_ms: dict[int, tuple[int, int]] = {}  # stream: (due ns, the wait after that, ms)
        self._applied = Position(0, 0)
        self._waiting_for_topology: list[tuple[int, Callable[[], None]]] = []
        self._is_following = False
        self._requests = self._dispatch_table()
        if recovered.cluster_id != NO_IDENTITY:
            self.cluster.form(recovered.cluster_id, recovered.nodes)
        for state in recovered.states:
            self._add_member(state)

    # --- what the driver calls --------------------------------------------------------------------

    def start(self) -> None:
        """Takes up work: forms the cluster, follows it, closes gaps."""
        self._bootstrap.start()
        for member in self.members.values():
            member.start()
        if STREAM_CLUSTER in self.members:
            self._start_cluster()
        self._ask_news()
        self._settle()

    def receive(
        self, sender: Address, request_id: int, message: Message, batch: Batch | None
    ) -> None:
        """A message has arrived.

        sender: the session it came on; or the node that answers, for an answer.
        batch: the frame's records, checked.
        """
        self._receive(sender, request_id, message, batch)
        self._settle()

    def tick(self) -> None:
        """Runs the alarms that are due."""
        self.context.timers.run_due(self.context.now_ns)
        self._settle()

    def open_session(self, session: int, hello: Hello) -> Welcome | Failure:
        """Someone connected and said hello; after a Failure the session is closed."""
        answer = self.handshake.answer(hello)
        if isinstance(answer, Welcome) and hello.role == ROLE_NODE:
            self._node_sessions.add(session)
        return answer

    def close_session(self, session: int) -> None:
        """The session has ended."""
        self._node_sessions.discard(session)

    def refused(self, node_id: str, failure: Failure) -> None:
        """The other node refused this one's hello."""
        text = f"{node_id} refuses this node: {failure.text}"
        if failure.code == Code.WRONG_CLUSTER and self.cluster.cluster_id == NO_IDENTITY:
            self.context.outbox.fatal = text
        else:
            self.context.outbox.alarm(text)

    def stop(self) -> None:
        """Ends in good order: gives up what this node itself holds as a writer."""
        if self._manager is not None:
            self._manager.stop()
        self._settle()

    @property
    def is_releasing(self) -> bool:
        """Whether `stop` still waits for a majority to hear of it."""
        return self._manager is not None and self._manager.is_releasing

    def peers(self) -> dict[str, str]:
        """The addresses of the nodes to be connected with, by node id."""
        known = {node.node_id: node.address for node in self.cluster.nodes.values()}
        peers = known or dict(self._initial_cluster)
        peers.pop(self.context.node_id, None)
        return peers

    # --- dispatch ---------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Handles the messages that this node has sent to itself."""
        outbox = self.context.outbox
        while any(send.to == self.context.node_id for send in outbox.sends):
            sends, outbox.sends = outbox.sends, []
            for send in sends:
                if send.to == self.context.node_id:
                    self._receive(send.to, send.request_id, send.message, send.batch)
                else:
                    outbox.sends.append(send)

    def _dispatch_table(self) -> dict[type[Any], Callable[..., None]]:
        return {
            Put: self._on_put,
            Claim: self._on_claim,
            Release: self._on_release,
            WriterStatus: self._on_writer_status,
            Read: lambda sender, rid, m: self._with_member(
                sender, rid, m, lambda member: member.reading.read(sender, rid, m)
            ),
            Describe: self._on_describe,
            ListStreams: self._on_list_streams,
            CreateStream: self._on_create_stream,
            Status: self._on_status,
            NewWriter: self._to_member(Member.new_writer),
            ReadTail: self._to_member(Member.read_tail),
            Sync: self._to_member(Member.sync),
            Stamp: self._to_member(Member.stamp),
            AskWriter: self._to_member(Member.answer_who),
            Fetch: self._to_member(Member.fetch),
            AskCommitted: self._on_ask_committed,
            Probe: lambda sender, rid, _message: self._bootstrap.probed(sender, rid),
            Form: self._bootstrap.form,
        }

    def _receive(
        self, sender: Address, request_id: int, message: Message, batch: Batch | None
    ) -> None:
        handler = self._requests.get(type(message))
        if handler is None:
            if isinstance(sender, str):
                self.context.calls.receive(sender, request_id, message, batch)
            else:
                self._fail(sender, request_id, Code.BAD_REQUEST, "an answer to no question")
        elif (
            type(message) in NODE_ONLY
            and isinstance(sender, int)
            and sender not in self._node_sessions
        ):
            self._fail(sender, request_id, Code.BAD_REQUEST, "only nodes may ask that")
        elif isinstance(message, Put):
            self._on_put(sender, request_id, message, batch)
        else:
            handler(sender, request_id, message)

    def _fail(self, to: Address, request_id: int, code: Code, text: str) -> None:
        self.context.send(to, Failure(code, text), request_id)

    def _with_member(
        self,
        sender: Address,
        request_id: int,
        message: Message,
        then: Callable[[Member], None],
    ) -> None:
        """Calls `then` with the stream's member here, or answers why there is none."""
        member = self.members.get(message.stream_id)
        if member is not None:
            then(member)
            return
        code, text = self._why_no_member(message.stream_id)
        self._fail(sender, request_id, code, text)

    def _why_no_member(self, stream_id: int) -> tuple[Code, str]:
        record = self.cluster.streams.get(stream_id)
        if record is None:
            self._catch_up()
            return Code.BUSY, f"{self.context.node_id} does not know stream {stream_id} yet"
        members = ", ".join(record.topology.everyone)
        return (
            Code.NOT_A_MEMBER,
            f"{self.context.node_id} is not a member of {record.name}; its members are {members}",
        )

    def _to_member(
        self, method: Callable[[Member, Address, int, Any], None]
    ) -> Callable[[Address, int, Message], None]:
        def handle(sender: Address, request_id: int, message: Message) -> None:
            self._with_member(
                sender,
                request_id,
                message,
                lambda member: method(member, sender, request_id, message),
            )

        return handle

    # --- members ----------------------------------------------------------------------------------

    def _add_member(self, state: State) -> Member:
        member = Member(
            self.context, state, on_change=self._on_member_changed, on_stale=self._catch_up
        )
        self.members[state.stream_id] = member
        return member

    def _create_member(self, record: StreamRecord) -> None:
        """This node has become a member of the stream."""
        origin = record.topology.origin
        history = History(origin=origin, committed=origin, base=origin)
        self.context.outbox.order(effects.SetTopology(*record))
        self._add_member(State(*record, history))

    def _on_member_changed(self, member: Member) -> None:
        if member.stream_id == STREAM_CLUSTER:
            self._follow()
        watchers = self._watchers.get(member.stream_id)
        if watchers:
            changed = [each for each in watchers if each[0] != member.promise.writer]
            self._watchers[member.stream_id] = [each for each in watchers if each not in changed]
            for _, again in changed:
                again()

    def _ask_news(self) -> None:
        """Members that have not heard from a writer ask the others how far the stream is.

        Batched over streams; each stream ever more seldom, while it stays quiet.
        """
        now_ns = self.context.now_ns
        streams_by_node: dict[str, list[int]] = {}
        for stream_id, member in self.members.items():
            due_ns, wait_ms = self._news_ms.get(stream_id, (0, NEWS_MS))
            if now_ns - member.last_put_ns < NEWS_MS * 1_000_000 and due_ns:
                self._news_ms[stream_id] = (self.context.after_ms(NEWS_MS), NEWS_MS)
            elif now_ns >= due_ns:
                self._news_ms[stream_id] = (
                    self.context.after_ms(wait_ms),
                    min(2 * wait_ms, NEWS_MS_MAX),
                )
                for node in member.others:
                    streams_by_node.setdefault(node, []).append(stream_id)
        for node, stream_ids in streams_by_node.items():
            self.context.calls.ask(
                [node],
                AskCommitted(tuple(stream_ids)),
                lambda _node, reply, _batch: self._on_news(reply),
                until_ns=self.context.after_ms(NEWS_MS),
            )
        self.context.timers.set("news", self.context.after_ms(NEWS_MS), self._ask_news)

    def _on_news(self, reply: Message) -> None:
        if isinstance(reply, AskCommittedReply):
            for stream_id, committed in reply.streams:
                member = self.members.get(stream_id)
                if member is not None:
                    member.learn_committed(committed)

    def _on_ask_committed(self, sender: Address, request_id: int, ask: AskCommitted) -> None:
        known = tuple(
            StreamCommitted(stream_id, self.members[stream_id].history.committed)
            for stream_id in ask.streams
            if stream_id in self.members
        )
        self.context.send(sender, AskCommittedReply(known), request_id)

    # --- the cluster ------------------------------------------------------------------------------

    def _on_formed(self, cluster_id: bytes, nodes: tuple[NodeRecord, ...]) -> None:
        self.context.outbox.order(effects.SetCluster(cluster_id, nodes))
        self.cluster.form(cluster_id, nodes)
        self._create_member(self.cluster.streams[STREAM_CLUSTER])
        self._start_cluster()

    def _start_cluster(self) -> None:
        member = self.members[STREAM_CLUSTER]
        self._manager = Manager(self.context, member, self.cluster, self.address)
        self._manager.watch()
        self._follow()

    def _follow(self) -> None:
        """Applies what of `/cluster` is committed and not yet applied."""
        member = self.members[STREAM_CLUSTER]
        if self._is_following or member.history.committed.entry_id <= self._applied.entry_id:
            return
        self._is_following = True
        question = Read(STREAM_CLUSTER, self._applied.entry_id + 1, FETCH_BYTES_MAX, 0, 0, 0)

        def on_reply(_node: str, reply: Message, batch: Batch | None) -> None:
            call.finish()
            self._is_following = False
            if isinstance(reply, ReadReply) and batch is not None:
                self._apply(batch)
                self._follow()
            else:
                on_end()

        def on_end() -> None:
            self._is_following = False
            pause_ns = self.context.after_ms(FOLLOW_PAUSE_MS)
            self.context.timers.set("follow", pause_ns, self._follow)

        call = self.context.calls.ask(
            [self.context.node_id],
            question,
            on_reply,
            until_ns=self.context.after_ms(ASK_MS),
            on_end=on_end,
        )

    def _apply(self, batch: Batch) -> None:
        if batch.before != self._applied:
            raise InvariantError(f"/cluster: {batch.before} follows {self._applied}")
        for entry in decode_all(batch.payload.view()):
            self._applied = Position(entry.entry_id, entry.chain)
            record = self.cluster.apply(entry.entry_id, entry.data)
            if (
                record is not None
                and record.stream_id not in self.members
                and self.context.node_id in record.topology.everyone
            ):
                self._create_member(record)
        if self._manager is not None:
            self._manager.on_applied()
        waiting, self._waiting_for_topology = self._waiting_for_topology, []
        for entry_id, then in waiting:
            self._when_applied(entry_id, then)

    def _catch_up(self) -> None:
        """Something newer than this node's topology was seen: asks how far `/cluster` is."""
        member = self.members.get(STREAM_CLUSTER)
        if member is None or self.context.timers.is_set("catch up"):
            return
        pause_ns = self.context.after_ms(FOLLOW_PAUSE_MS)
        self.context.timers.set("catch up", pause_ns, lambda: None)
        self.context.calls.ask(
            member.others,
            AskCommitted((STREAM_CLUSTER,)),
            lambda _node, reply, _batch: self._on_news(reply),
            until_ns=self.context.after_ms(ASK_MS),
        )

    # --- writers' requests ------------------------------------------------------------------------

    def _on_put(self, sender: Address, request_id: int, put: Put, batch: Batch | None) -> None:
        member = self.members.get(put.stream_id)
        if member is None:
            code, _ = self._why_no_member(put.stream_id)
            nowhere = Position(0, 0)
            reply = PutReply(
                put.stream_id, code, 0, put.writer, put.transmission, nowhere, nowhere, ""
            )
            self.context.send(sender, reply, request_id)
        elif put.relay:
            self._relay(sender, request_id, put, batch, member)
        else:
            member.put(sender, request_id, put, batch)

    def _relay(
        self, sender: Address, request_id: int, put: Put, batch: Batch | None, member: Member
    ) -> None:
        if member.admit_version(put.version) is not Code.OK or put.writer < member.promise.writer:
            member.put(sender, request_id, put._replace(relay=0), batch)  # it says why not
            return
        key = (put.stream_id, put.writer)
        relay = self._relays.get(key)
        if relay is None:
            relay = self._relays[key] = Relay(
                self.context, member, put, on_idle=lambda: self._end_relay(key)
            )
        relay.put(sender, request_id, put, batch)

    def _end_relay(self, key: tuple[int, WriterId]) -> None:
        self._relays.pop(key, None)

    def _on_claim(self, sender: Address, request_id: int, request: Claim) -> None:
        record = self.cluster.streams.get(request.stream_id)
        if record is None:
            self._fail(sender, request_id, *self._why_no_member(request.stream_id))
            return
        if not LEASE_MS_MIN <= request.lease_ms <= LEASE_MS_MAX:
            text = f"a lease of {request.lease_ms} ms; {LEASE_MS_MIN} to {LEASE_MS_MAX} are allowed"
            self._fail(sender, request_id, Code.BAD_REQUEST, text)
            return
        if len(request.address.encode()) > ADDRESS_BYTES_MAX:
            text = f"a writer's address has at most {ADDRESS_BYTES_MAX} bytes"
            self._fail(sender, request_id, Code.BAD_REQUEST, text)
            return
        stream_id = request.stream_id
        member = self.members.get(stream_id)

        def on_claimed(claimed: claim.Claimed) -> None:
            reply = ClaimReply(stream_id, claimed.version, claimed.writer, claimed.tail)
            self.context.send(sender, reply, request_id)

        claim.Claim(
            self.context,
            stream_id=stream_id,
            topology=lambda: self.cluster.streams[stream_id].topology,
            above=member.promise.writer if member is not None else WriterId(0, 0),
            address=request.address,
            lease_ms=request.lease_ms,
            until_ns=self.context.after_ms(request.wait_ms),
            force=bool(request.force),
            on_stale=self._catch_up,
            on_claimed=on_claimed,
            on_failed=lambda why: self._fail(
                sender, request_id, Code.UNAVAILABLE, f"{record.name} was not claimed: {why}"
            ),
        ).start()

    def _on_release(self, sender: Address, request_id: int, release: Release) -> None:
        def relay(member: Member) -> None:
            reply = ReleaseReply(
                release.stream_id, Code.OK, member.topology.version, release.writer
            )
            self.context.calls.ask_majority(
                member.topology,
                release._replace(relay=0),
                lambda _answers: self.context.send(sender, reply, request_id),
                until_ns=self.context.after_ms(RELEASE_MS),
                on_end=lambda: self.context.send(
                    sender, reply._replace(code=Code.UNAVAILABLE), request_id
                ),
            )

        if release.relay:
            self._with_member(sender, request_id, release, relay)
        else:
            self._with_member(
                sender, request_id, release, lambda m: m.release(sender, request_id, release)
            )

    def _on_writer_status(self, sender: Address, request_id: int, ask: WriterStatus) -> None:
        self._with_member(
            sender,
            request_id,
            ask,
            lambda member: self._writer_status(
                sender, request_id, ask, member, self.context.after_ms(ask.wait_ms)
            ),
        )

    def _writer_status(
        self, sender: Address, request_id: int, ask: WriterStatus, member: Member, until_ns: int
    ) -> None:
        """Answers who the writer is; while it is the known one, waits for that to change."""

        def answer(reply: WriterStatusReply) -> None:
            if reply.writer != ask.known or self.context.now_ns >= until_ns:
                self.context.send(sender, reply, request_id)
                return
            key = ("watch", member.stream_id, sender, request_id)

            def again() -> None:
                self.context.timers.cancel(key)
                watchers = self._watchers[member.stream_id]
                if watcher in watchers:
                    watchers.remove(watcher)
                self._writer_status(sender, request_id, ask, member, until_ns)

            watcher = (ask.known, again)
            self._watchers.setdefault(member.stream_id, []).append(watcher)
            self.context.timers.set(key, until_ns, again)

        if ask.local:
            promise = member.promise
            answer(
                WriterStatusReply(
                    member.stream_id,
                    member.topology.version,
                    promise.writer,
                    promise.address,
                    promise.lease_ms,
                    member.lease.remaining_ms(self.context.now_ns),
                    int(member.accepted == promise.writer),
                )
            )
            return

        def on_majority(answers: dict[str, Any]) -> None:
            highest = max(answers.values(), key=lambda each: each.promised)
            stamped = [node for node, each in answers.items() if each.accepted == highest.promised]
            answer(
                WriterStatusReply(
                    member.stream_id,
                    member.topology.version,
                    highest.promised,
                    highest.address,
                    highest.lease_ms,
                    max(each.remaining_lease_ms for each in answers.values()),
                    int(quorum.is_majority(member.topology, stamped)),
                )
            )

        self.context.calls.ask_majority(
            member.topology,
            AskWriter(member.stream_id, member.topology.version),
            on_majority,
            until_ns=self.context.after_ms(ASK_MS),
            on_end=lambda: self._fail(
                sender,
                request_id,
                Code.UNAVAILABLE,
                f"no majority of {member.name}'s members answered",
            ),
        )

    # --- streams ----------------------------------------------------------------------------------

    def _on_describe(self, sender: Address, request_id: int, describe: Describe) -> None:
        """A name that this node does not know may be new: it looks again once it is up to date."""

        def answer() -> None:
            record = self.cluster.find(describe.name)
            if record is not None:
                self.context.send(sender, self.cluster.info(record), request_id)
            else:
                text = f"no stream {describe.name}: `walle stream create {describe.name}` makes it"
                self._fail(sender, request_id, Code.UNKNOWN_STREAM, text)

        if self.cluster.find(describe.name) is not None:
            answer()
        else:
            self._when_fresh(answer, lambda text: self._fail(sender, request_id, Code.BUSY, text))

    def _when_fresh(self, then: Callable[[], None], or_else: Callable[[str], None]) -> None:
        """Calls `then` once all is applied that was committed in `/cluster` before now."""

        def on_reply(_node: str, reply: Message, _batch: Batch | None) -> None:
            call.finish()
            if isinstance(reply, ReadReply):
                self._when_applied(reply.committed.entry_id, then)
            else:
                or_else(getattr(reply, "text", ""))

        question = Read(STREAM_CLUSTER, self._applied.entry_id + 1, 0, 0, linearizable=1, local=0)
        call = self.context.calls.ask(
            [self.context.node_id],
            question,
            on_reply,
            until_ns=self.context.after_ms(CREATE_MS),
            on_end=lambda: or_else("the cluster's topology cannot be read at the moment"),
        )

    def _when_applied(self, entry_id: int, then: Callable[[], None]) -> None:
        if self._applied.entry_id >= entry_id:
            then()
        else:
            self._waiting_for_topology.append((entry_id, then))

    def _on_list_streams(self, sender: Address, request_id: int, _ask: ListStreams) -> None:
        streams = tuple(self.cluster.info(record) for record in self.cluster.streams.values())
        self.context.send(sender, StreamList(streams), request_id)

    def _on_create_stream(self, sender: Address, request_id: int, create: CreateStream) -> None:
        """Handled by the manager, wherever it is."""
        if self._manager is not None and self._manager.is_acting:
            self._manager.create_stream(
                create, lambda answer: self.context.send(sender, answer, request_id)
            )
            return
        manager = self._manager_node()
        if manager is None:
            text = "the cluster has no topology manager at the moment"
            self._fail(sender, request_id, Code.BUSY, text)
            return

        def on_reply(_node: str, reply: Message, _batch: Batch | None) -> None:
            call.finish()
            if isinstance(reply, StreamInfo | Failure):
                self.context.send(sender, reply, request_id)

        call = self.context.calls.ask(
            [manager],
            create,
            on_reply,
            until_ns=self.context.after_ms(CREATE_MS),
            on_end=lambda: self._fail(
                sender, request_id, Code.BUSY, f"the topology manager {manager} does not answer"
            ),
        )

    def _manager_node(self) -> str | None:
        """Which other node is the manager, as far as this one knows."""
        member = self.members.get(STREAM_CLUSTER)
        if member is None or member.lease.promised_until_ns <= self.context.now_ns:
            return None
        address = member.promise.address
        nodes = self.cluster.nodes.values()
        return next(
            (
                node.node_id
                for node in nodes
                if node.address == address and node.node_id != self.context.node_id
            ),
            None,
        )

    # --- status -----------------------------------------------------------------------------------

    def _on_status(self, sender: Address, request_id: int, _ask: Status) -> None:
        body = json.dumps(self.status(), separators=(",", ":")).encode()
        self.context.send(sender, StatusReply(body), request_id)

    def status(self) -> dict[str, Any]:
        """This node's own view; docs/wire.md describes it."""
        return {
            "cluster": self.cluster.cluster_id.hex(),
            "id": self.context.node_id,
            "identity": self._identity.hex(),
            "address": self.address,
            "nodes": [
                {"id": node.node_id, "address": node.address, "identity": node.identity.hex()}
                for node in self.cluster.nodes.values()
            ],
            "streams": [self._stream_status(member) for member in self.members.values()],
            **self._describe_process(),
        }

    def _stream_status(self, member: Member) -> dict[str, Any]:
        history, promise = member.history, member.promise
        gap = history.lowest_gap()
        fill = history.fill
        return {
            "id": member.stream_id,
            "name": member.name,
            "version": member.topology.version,
            "members": list(member.topology.members),
            "first_entry_id": history.origin.entry_id + 1,
            "committed_id": history.committed.entry_id,
            "tail_id": history.tail.entry_id,
            "gaps": [list(each) for each in history.gaps()],
            "backfill": None
            if gap is None
            else {
                "gap": [gap[0].entry_id + 1, gap[1].start],
                "filled_id": fill.last.entry_id if fill is not None else gap[0].entry_id,
            },
            "writer": {
                "ts": promise.writer.ts,
                "nonce": promise.writer.nonce,
                "address": promise.address,
                "lease_ms": promise.lease_ms,
                "remaining_lease_ms": member.lease.remaining_ms(self.context.now_ns),
            },
        }
