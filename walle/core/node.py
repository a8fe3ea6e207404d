"""One node's part of the protocol: its members, and what concerns the node as a whole.

The driver (the consensus process, or the simulator) sets the time in `context`, calls one of the
public methods, then takes the effects from `context.outbox`. Messages to the node itself never
leave: they are handled before the call ends, or come back from storage when they had to wait
until something was durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from walle.core import effects
from walle.core.bootstrap import Bootstrap
from walle.core.cluster import ClusterState, StreamRecord, no_stream, node_to_json
from walle.core.follower import Follower
from walle.core.forwarding import Forwarding
from walle.core.handshake import Handshake
from walle.core.history import History
from walle.core.joining import was_deleted
from walle.core.manager import Manager
from walle.core.member import Member, State
from walle.core.names import check_name
from walle.core.news import News
from walle.core.nodes import describe_cluster, refuse_removed
from walle.core.registration import Registration
from walle.core.status import describe_node, page
from walle.core.topology import DELETED, StreamTopology
from walle.core.writers import Writers
from walle.errors import Code
from walle.ids import CLUSTER_STREAM_NAME, NO_IDENTITY, ORIGIN, STREAM_CLUSTER
from walle.messages import (
    NODE_ONLY,
    ROLE_NODE,
    Adopt,
    AskCommitted,
    AskHeld,
    AskOldest,
    AskWriter,
    Claim,
    Confirm,
    CreateStream,
    DeleteStream,
    Describe,
    DescribeChange,
    Failure,
    Fetch,
    Form,
    Hello,
    ListNodes,
    ListStreams,
    NewWriter,
    NodeRecord,
    Probe,
    Put,
    PutReply,
    Read,
    ReadTail,
    RecoverStream,
    RegisterNode,
    Release,
    RemoveNode,
    SetMembers,
    SetStream,
    Stamp,
    Status,
    StreamList,
    Sync,
    TrimStream,
    Welcome,
    WriterStatus,
    encoded_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.ids import Position
    from walle.messages import Message
    from walle.record import Batch

WRITERS_REQUESTS = frozenset({Put, Claim, Release})
"""What on `/cluster` only nodes may ask."""


class Recovered(NamedTuple):
    """What storage found: the cluster this node belongs to, if any, and its streams."""

    cluster: effects.SetCluster = effects.NO_CLUSTER
    states: tuple[State, ...] = ()


class Node:
    """All that one node decides.

    Args:
        node: this node, as the others are to know it.
        initial_cluster: the addresses of the nodes that form the cluster, by node id; or empty.
        join: the addresses of nodes of the cluster that this one is to join; or empty.
        describe_process: what the driver adds to this node's status.
    """

    def __init__(
        self,
        context: Context,
        *,
        node: NodeRecord,
        initial_cluster: dict[str, str],
        join: tuple[str, ...] = (),
        recovered: Recovered,
        describe_process: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self.context = context
        self.node = node
        self.cluster = ClusterState()
        self.members: dict[int, Member] = {}
        self.handshake = Handshake(context.node_id, node.identity, self.cluster, joins=bool(join))
        self._first_peers = initial_cluster or {address: address for address in join}
        self._describe_process = describe_process
        self._bootstrap = Bootstrap(
            context,
            node=node,
            cluster=self.cluster,
            initial_cluster=initial_cluster,
            on_formed=lambda *formed: self._on_cluster(effects.SetCluster(*formed)),
        )
        self._registration = Registration(
            context, node=node, cluster=self.cluster, join=join, on_joined=self._on_cluster
        )
        self._kept = effects.NO_CLUSTER
        self._begun_id = 0
        self.manager: Manager | None = None
        self._follower: Follower | None = None
        self._news = News(context, self.members)
        self._writers = Writers(context, self.cluster, self.members, self._catch_up)
        self._forwarding = Forwarding(context, self.cluster, self.members, lambda: self.manager)
        self._node_sessions: dict[int, bytes] = {}
        self._requests = self._dispatch_table()
        if recovered.cluster != effects.NO_CLUSTER:
            self.cluster.know(recovered.cluster)
            self._kept = self.cluster.known()
        for state in recovered.states:
            self._add_member(state)

    # --- what the driver calls --------------------------------------------------------------------

    def start(self) -> None:
        """Takes up work: forms the cluster, follows it, closes gaps."""
        for member in self.members.values():
            member.start()
        if self.cluster.cluster_id != NO_IDENTITY:
            self._start_cluster()
        self._bootstrap.start()
        self._registration.start()
        self._news.ask()
        self._settle()

    def receive(
        self, sender: Address, request_id: int, message: Message, batch: Batch | None
    ) -> None:
        """A message has arrived.

        sender: the session it came on; or the node that answers, for an answer.
        batch: the frame's records, checked.
        """
        self._receive(sender, request_id, message, batch)
        if self.context.outbox.own:
            self._settle()

    def damaged(self, stream_id: int, after: Position, last: Position) -> None:
        """Storage has found that a stream's entries behind `after`, up to `last`, are damaged; all
        of them are committed."""
        member = self.members.get(stream_id)
        if member is not None:
            member.backfill.open_gap(after, last)
        self._settle()

    def tick(self) -> None:
        """Runs the alarms that are due."""
        self.context.timers.run_due(self.context.now_ns)
        self._settle()

    def open_session(self, session: int, hello: Hello) -> Welcome | Failure:
        """Someone connected and said hello; after a Failure the session is closed."""
        answer = self.handshake.answer(hello)
        if isinstance(answer, Welcome):
            self.context.sessions.open(session)
            if hello.role == ROLE_NODE:
                self._node_sessions[session] = hello.identity
        elif answer.code == Code.BUSY:
            self._catch_up()
        return answer

    def close_session(self, session: int) -> None:
        """The session has ended, and what was under way for it."""
        self._node_sessions.pop(session, None)
        self.context.sessions.close(session)

    def refused(self, node_id: str, failure: Failure) -> None:
        """The other node refused this one's hello."""
        text = f"{node_id} refuses this node: {failure.text}"
        is_wrong = failure.code == Code.WRONG_CLUSTER and self.cluster.cluster_id == NO_IDENTITY
        if is_wrong or failure.code == Code.REMOVED:
            self.context.outbox.fatal = text
        elif failure.code == Code.BUSY:
            self.context.outbox.note(text)
        else:
            self.context.outbox.alarm(text)

    def stop(self) -> None:
        """Ends in good order: gives up what this node itself holds as a writer."""
        if self.manager is not None:
            self.manager.stop()
        self._settle()

    @property
    def is_releasing(self) -> bool:
        """Whether `stop` still waits for a majority to hear of it."""
        return self.manager is not None and self.manager.is_releasing

    def peers(self) -> dict[str, str]:
        """The addresses of the nodes to be connected with, by node id."""
        known = {node.node_id: node.address for node in self.cluster.nodes.values()}
        peers = known or dict(self._first_peers)
        peers.pop(self.context.node_id, None)
        return peers

    # --- dispatch ---------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Handles the messages that this node has sent to itself."""
        outbox = self.context.outbox
        while outbox.own:
            own, outbox.own = outbox.own, []
            for send in own:
                self._receive(send.to, send.request_id, send.message, send.batch)

    def _dispatch_table(self) -> dict[type[Any], Callable[..., None]]:
        return {
            Put: self._on_put,
            Claim: self._on_claim,
            Release: self._on_release,
            WriterStatus: lambda sender, rid, m: self._with_member(
                sender, rid, m, lambda member: member.watching.status(sender, rid, m)
            ),
            Read: lambda sender, rid, m: self._with_member(
                sender, rid, m, lambda member: member.reading.read(sender, rid, m)
            ),
            Describe: self._on_describe,
            ListStreams: self._on_list_streams,
            CreateStream: self._forwarding.change,
            SetStream: self._forwarding.change,
            TrimStream: self._forwarding.change,
            SetMembers: self._forwarding.change,
            DescribeChange: self._forwarding.change,
            RecoverStream: self._forwarding.change,
            DeleteStream: self._forwarding.change,
            RegisterNode: self._forwarding.change,
            RemoveNode: self._forwarding.change,
            ListNodes: self._on_list_nodes,
            Status: self._on_status,
            NewWriter: self._to_member(Member.new_writer),
            ReadTail: self._to_member(Member.read_tail),
            Sync: self._to_member(_sync),
            Stamp: self._to_member(Member.stamp),
            AskWriter: self._to_member(lambda member, *asked: member.adoption.answer(*asked)),
            Fetch: lambda sender, rid, m: self._with_member(
                sender, rid, m, lambda member: member.reading.fetch(sender, rid, m)
            ),
            AskOldest: lambda sender, rid, m: self._with_member(
                sender, rid, m, lambda member: member.reading.find_oldest(sender, rid, m)
            ),
            Adopt: self._on_adopt,
            Confirm: self._to_member(lambda member, *asked: member.joining.confirm(*asked)),
            AskHeld: self._to_member(lambda member, *asked: member.joining.tell_held(*asked)),
            AskCommitted: self._news.answer,
            Probe: lambda sender, rid, _message: self._bootstrap.probed(sender, rid),
            Form: self._bootstrap.form,
        }

    def _receive(
        self, sender: Address, request_id: int, message: Message, batch: Batch | None
    ) -> None:
        kind = type(message)
        if kind is Put and message.stream_id != STREAM_CLUSTER:  # nearly always; all may put
            self._on_put(sender, request_id, message, batch)
            return
        handler = self._requests.get(kind)
        if handler is None:
            if isinstance(sender, str):
                self.context.calls.receive(sender, request_id, message, batch)
            else:
                self._fail(sender, request_id, Code.BAD_REQUEST, "an answer to no question")
        elif not self._may_ask(sender, message):
            why = f": they alone write {CLUSTER_STREAM_NAME}" if kind in WRITERS_REQUESTS else ""
            self._fail(sender, request_id, Code.BAD_REQUEST, f"only nodes may ask that{why}")
        elif kind is Put:
            self._on_put(sender, request_id, message, batch)
        else:
            handler(sender, request_id, message)

    def _may_ask(self, sender: Address, message: Message) -> bool:
        """Whether a client, too, may ask that: not what members ask of each other, and nothing
        that changes `/cluster`."""
        kind = type(message)
        is_open = kind not in NODE_ONLY and (
            kind not in WRITERS_REQUESTS or message.stream_id != STREAM_CLUSTER
        )
        return is_open or isinstance(sender, str) or sender in self._node_sessions

    def _fail(self, to: Address, request_id: int, code: Code, text: str) -> None:
        self.context.send(to, Failure(code, text), request_id)

    def _with_member(
        self,
        sender: Address,
        request_id: int,
        message: Message,
        then: Callable[[Member], None],
        *,
        is_labelled: bool = False,
    ) -> None:
        """Calls `then` with the stream's member here, or answers why there is none.

        is_labelled: the request has the stream's version. What once was a member answers, too.
        """
        member = self.members.get(message.stream_id)
        if member is None:
            self.context.send(sender, self._why_no_member(message.stream_id), request_id)
        elif member.is_named or is_labelled:
            then(member)
        else:
            self.context.send(sender, member.joining.refusal(), request_id)

    def _why_no_member(self, stream_id: int) -> Failure:
        record, node = self.cluster.streams.get(stream_id), self.context.node_id
        if self.cluster.is_deleted(stream_id):
            return was_deleted(str(stream_id))
        if record is None:
            self._catch_up()
            return Failure(Code.BUSY, f"{node} does not know stream {stream_id} yet")
        members = ", ".join(record.topology.everyone)
        text = f"{node} is not a member of {record.name}; its members are {members}"
        return Failure(Code.NOT_A_MEMBER, text)

    def _to_member(
        self, method: Callable[[Member, Address, int, Any], None]
    ) -> Callable[[Address, int, Message], None]:
        def handle(sender: Address, request_id: int, message: Message) -> None:
            self._with_member(
                sender,
                request_id,
                message,
                lambda member: method(member, sender, request_id, message),
                is_labelled=True,
            )

        return handle

    # --- members ----------------------------------------------------------------------------------

    def _add_member(self, state: State) -> Member:
        member = Member(
            self.context, state, on_change=self._on_member_changed, on_stale=self._catch_up
        )
        self.members[state.stream_id] = member
        self._news.watch(state.stream_id)
        return member

    def _create_member(self, record: StreamRecord) -> None:
        """This node has become a member of the stream."""
        origin = record.topology.origin
        history = History(origin=origin, committed=origin, base=origin)
        member = self._add_member(State(*record[:3], history))
        member.order(effects.SetTopology(*record[:3]))
        if record.stream_id == STREAM_CLUSTER:
            self._start_manager(member)

    def _on_member_changed(self, member: Member) -> None:
        self._writers.on_change(member)
        if member.stream_id == STREAM_CLUSTER and self._follower is not None:
            self._follower.follow()

    # --- the cluster ------------------------------------------------------------------------------

    def _on_cluster(self, cluster: effects.SetCluster) -> None:
        """This node has become one of a cluster's."""
        self.context.outbox.order(cluster)
        self.cluster.know(cluster)
        self._kept = self.cluster.known()
        self._start_cluster()

    def _start_cluster(self) -> None:
        """Begins to follow `/cluster`. Who has formed the cluster is a member of it."""
        if not self.cluster.known_id and STREAM_CLUSTER not in self.members:
            self._create_member(self.cluster.streams[STREAM_CLUSTER])
        elif STREAM_CLUSTER in self.members:
            self._start_manager(self.members[STREAM_CLUSTER])
        self._follower = Follower(
            self.context,
            self.members,
            self.cluster,
            self._news,
            on_stream=self._on_stream,
            on_applied=self._on_applied,
        )
        self._follower.follow()

    def _start_manager(self, member: Member) -> None:
        self.manager = Manager(self.context, member, self.cluster)
        self.manager.watch()

    def _on_applied(self) -> None:
        """Entries of `/cluster` have been applied, whatever they tell."""
        known = self.cluster.known()
        if known._replace(applied_id=0) != self._kept._replace(applied_id=0):
            self._kept = known
            self.context.outbox.order(known)
        if self.cluster.begun_id != self._begun_id:
            self._begun_id = self.cluster.begun_id
            self._on_snapshot()
        removed = self.cluster.removed
        if self.node.identity in removed:
            self.context.outbox.fatal = refuse_removed(self.cluster, self.context.node_id).text
        for session, identity in list(self._node_sessions.items()):
            if identity in removed:
                del self._node_sessions[session]
        self._registration.check()
        if self.manager is not None:
            self.manager.on_applied()

    def _on_snapshot(self) -> None:
        """What has happened to streams meanwhile is not told one by one."""
        for member in list(self.members.values()):
            if self.cluster.is_deleted(member.stream_id):
                self._on_stream(StreamRecord(member.stream_id, member.name, DELETED))
        for record in list(self.cluster.streams.values()):
            self._on_stream(record)

    def _on_stream(self, record: StreamRecord) -> None:
        """`/cluster` tells of a new stream, of new members, of a trim, or of a deletion. Before
        it has registered this node, that is about an older one of the same name."""
        stream_id = record.stream_id
        member = self.members.get(stream_id)
        if member is not None:
            member.joining.adopt(record.topology)
        elif (
            self.context.node_id in record.topology.everyone
            and self.node.identity in self.cluster.registered
        ):
            self._create_member(record)
        if stream_id == STREAM_CLUSTER and self.manager is not None:
            self.manager.on_topology()
        if self.cluster.is_deleted(stream_id):
            self.members.pop(stream_id, None)

    def _on_adopt(self, sender: Address, request_id: int, message: Adopt) -> None:
        """The manager tells what is committed in `/cluster`, which this node may not have yet."""
        topology = StreamTopology(*message[2:])
        known = self.cluster.streams.get(message.stream_id)
        is_older = known is not None and known.topology.version > topology.version
        is_deleted = self.cluster.is_deleted(message.stream_id)
        if not is_deleted and not is_older:
            self._on_stream(StreamRecord(message.stream_id, message.name, topology))
        is_named = self.context.node_id in topology.everyone
        if is_named and not is_deleted and message.stream_id not in self.members:
            text = f"{self.context.node_id} has not read yet that it belongs to the cluster"
            self._fail(sender, request_id, Code.BUSY, text)
            return
        self._with_member(
            sender,
            request_id,
            message,
            lambda member: member.joining.adopted(sender, request_id),
            is_labelled=True,
        )

    def _catch_up(self) -> None:
        if self._follower is not None:
            self._follower.catch_up()

    # --- writers' requests ------------------------------------------------------------------------

    def _on_put(self, sender: Address, request_id: int, put: Put, batch: Batch | None) -> None:
        member = self.members.get(put.stream_id)
        if member is None:
            self._refuse_put(sender, request_id, put)
        elif put.relay:
            self._writers.relay(sender, request_id, put, batch, member)
        else:
            self._news.stir(put.stream_id)
            member.put(sender, request_id, put, batch)

    def _refuse_put(self, sender: Address, request_id: int, put: Put) -> None:
        """There is no member here."""
        code, version = Code(self._why_no_member(put.stream_id).code), 0
        if self.cluster.is_deleted(put.stream_id):
            code, version = Code.NOT_A_MEMBER, DELETED.version
        reply = PutReply(
            put.stream_id, code, version, put.writer, put.transmission, ORIGIN, ORIGIN, ""
        )
        self.context.send(sender, reply, request_id)

    def _on_claim(self, sender: Address, request_id: int, request: Claim) -> None:
        record = self.cluster.streams.get(request.stream_id)
        if record is None:
            self.context.send(sender, self._why_no_member(request.stream_id), request_id)
        else:
            self._writers.claim(sender, request_id, request, record)

    def _on_release(self, sender: Address, request_id: int, release: Release) -> None:
        handle = self._writers.release if release.relay else _release
        self._with_member(
            sender,
            request_id,
            release,
            lambda member: handle(sender, request_id, release, member),
            is_labelled=True,
        )

    # --- streams ----------------------------------------------------------------------------------

    def _on_describe(self, sender: Address, request_id: int, describe: Describe) -> None:
        """A name that this node does not know may be new: it looks again once it is up to date."""
        name = describe.name

        def answer() -> None:
            record = self.cluster.find(name)
            if record is not None:
                self.context.send(sender, self.cluster.info(record), request_id)
            else:
                self._fail(sender, request_id, *no_stream(name))

        def give_up() -> None:
            text = "the cluster's topology cannot be read at the moment"
            self._fail(sender, request_id, Code.BUSY, text)

        wrong = check_name(name)
        if self.cluster.find(name) is not None:
            answer()
        elif wrong is not None:
            self._fail(sender, request_id, Code.BAD_REQUEST, wrong)
        elif self._follower is None:
            give_up()
        else:
            self._follower.when_fresh(answer, give_up)

    def _on_list_nodes(self, sender: Address, request_id: int, _ask: ListNodes) -> None:
        if self.cluster.cluster_id == NO_IDENTITY:
            text = f"{self.context.node_id} belongs to no cluster yet: too few of its nodes run"
            self._fail(sender, request_id, Code.BUSY, text)
        else:
            self.context.send(sender, describe_cluster(self.cluster), request_id)

    def _on_list_streams(self, sender: Address, request_id: int, ask: ListStreams) -> None:
        infos = (
            self.cluster.info(self.cluster.streams[stream_id])
            for stream_id in sorted(self.cluster.streams)
            if stream_id > ask.after
        )
        streams, more = page(infos, encoded_size)
        self.context.send(sender, StreamList(more, tuple(streams)), request_id)

    # --- status -----------------------------------------------------------------------------------

    def _on_status(self, sender: Address, request_id: int, ask: Status) -> None:
        now_ns = self.context.now_ns
        reply = describe_node(self._status(), self.members, after=ask.after, now_ns=now_ns)
        self.context.send(sender, reply, request_id)

    def _status(self) -> dict[str, Any]:
        """This node's own view, but its streams; docs/wire.md describes it."""
        return {
            "cluster": self.cluster.cluster_id.hex(),
            "id": self.context.node_id,
            "identity": self.node.identity.hex(),
            "address": self.node.address,
            "nodes": [node_to_json(node) for node in self.cluster.nodes.values()],
            "has_space": self.context.has_space,
            **self._describe_process(),
        }


def _sync(member: Member, sender: Address, request_id: int, sync: Sync) -> None:
    member.syncing.sync(sender, request_id, sync)


def _release(sender: Address, request_id: int, release: Release, member: Member) -> None:
    member.release(sender, request_id, release)
