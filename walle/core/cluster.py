"""The topology of all streams: what the entries of `/cluster` say, applied in their order.

An entry is one change, as a JSON object: readable with any tool, and never in a hot path.

    {"change": "form", "cluster": HEX, "nodes": [NODE_RECORD, ...]}
    {"change": "create_stream", "name": NAME, "members": [NODE, ...],
     "settings": {KEY: VALUE, ...}, "first": ENTRY, "chain": HEX}
    {"change": "settings", "stream": ID, "settings": {KEY: VALUE, ...}}
    {"change": "members", "stream": ID, "version": V, "members": [NODE, ...], "old": [NODE, ...]}
    {"change": "trim", "stream": ID, "first": ENTRY, "chain": HEX}
    {"change": "delete_stream", "stream": ID}
    {"change": "node", "node": NODE_RECORD}
    {"change": "remove_node", "id": NODE, "identity": HEX}
    {"change": "snapshot", ...}: a part of all that the entries before have led to; snapshot.py

A NODE_RECORD is {"id": NODE, "address": ADDRESS, "identity": HEX, "zone": ZONE, "capacity": N}.
"members" is written twice for each change of a stream's members: joint, with the old ones in "old",
and, when the change may end, without them; for a version that was reached meanwhile it has no
effect. "first" is a stream's first entry, "chain" the chain of the one before it. A stream's id is
the id of the entry that created it. What comes for one that was deleted meanwhile has no effect.
Entry 1 forms the cluster and creates `/cluster` itself, with all forming nodes as its members.
"node" registers a node, or what has changed of it. An identity that was removed is never registered
again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from walle.core.effects import SetCluster
from walle.core.names import check_name, shown
from walle.core.placement import REPLICAS_DEFAULT, place
from walle.core.topology import DELETED, StreamTopology
from walle.errors import Code, InvariantError
from walle.ids import CLUSTER_STREAM_NAME, NO_IDENTITY, ORIGIN, STREAM_CLUSTER, Position
from walle.limits import (
    ENTRY_ID_MAX,
    LEASE_MS_MAX,
    LEASE_MS_MIN,
    MEMBERS_COUNT_MAX,
)
from walle.messages import (
    COMPRESSIONS,
    UNCHANGED,
    CreateStream,
    DeleteStream,
    NodeAddress,
    NodeRecord,
    RecoverStream,
    SetMembers,
    SetStream,
    StreamInfo,
    StreamSettings,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

NO_SETTINGS = StreamSettings()
RECOVERED_MAX = 2
"""All of so few are needed for a majority."""


class StreamRecord(NamedTuple):
    """One stream, as `/cluster` has it."""

    stream_id: int
    name: str
    topology: StreamTopology
    settings: StreamSettings = NO_SETTINGS


class Snapshot(NamedTuple):
    """A complete one: the position before its first part, and its last part's entry id."""

    before: Position
    last_id: int


class Refusal(NamedTuple):
    """Why a change cannot be made."""

    code: Code
    text: str


def encode_form(cluster_id: bytes, nodes: Iterable[NodeRecord]) -> bytes:
    """Entry 1."""
    records = [node_to_json(node) for node in nodes]
    return _encode({"change": "form", "cluster": cluster_id.hex(), "nodes": records})


def node_to_json(node: NodeRecord) -> dict[str, Any]:
    """The node as an entry has it, and a status."""
    return {
        "id": node.node_id,
        "address": node.address,
        "identity": node.identity.hex(),
        "zone": node.zone,
        "capacity": node.capacity,
    }


def node_from_json(node: dict[str, Any]) -> NodeRecord:
    """The node that an entry has."""
    return NodeRecord(
        node["id"],
        node["address"],
        bytes.fromhex(node["identity"]),
        node["zone"],
        node["capacity"],
    )


def _stream_from_json(stream: dict[str, Any]) -> StreamRecord:
    members, old_members = tuple(stream["members"]), tuple(stream["old"])
    topology = StreamTopology(stream["version"], members, old_members).trimmed(_origin(stream))
    settings = StreamSettings(**stream["settings"])
    return StreamRecord(stream["id"], stream["name"], topology, settings)


def beginning(origin: Position) -> dict[str, Any]:
    """Where a stream begins, as an entry has it."""
    return {"first": origin.entry_id + 1, "chain": f"{origin.chain:016x}"}


def _origin(change: dict[str, Any]) -> Position:
    return Position(change["first"] - 1, int(change["chain"], 16))


def encode_create_stream(
    name: str,
    members: Iterable[str],
    settings: StreamSettings = NO_SETTINGS,
    origin: Position = ORIGIN,
) -> bytes:
    """The entry that creates a stream."""
    return _encode(
        {
            "change": "create_stream",
            "name": name,
            "members": list(members),
            "settings": settings._asdict(),
            **beginning(origin),
        }
    )


def encode_members(stream_id: int, topology: StreamTopology) -> bytes:
    """The entry that makes the topology the stream's, joint or not."""
    return _encode(
        {
            "change": "members",
            "stream": stream_id,
            "version": topology.version,
            "members": list(topology.members),
            "old": list(topology.old_members),
        }
    )


def encode_settings(stream_id: int, settings: StreamSettings) -> bytes:
    """The entry that makes these settings the stream's."""
    return _encode({"change": "settings", "stream": stream_id, "settings": settings._asdict()})


def encode_trim(stream_id: int, origin: Position) -> bytes:
    """The entry that lets the stream begin behind `origin`."""
    return _encode({"change": "trim", "stream": stream_id, **beginning(origin)})


def encode_delete_stream(stream_id: int) -> bytes:
    """The entry that deletes the stream."""
    return _encode({"change": "delete_stream", "stream": stream_id})


def encode_node(node: NodeRecord) -> bytes:
    """The entry that registers the node, or what has changed of it."""
    return _encode({"change": "node", "node": node_to_json(node)})


def encode_remove_node(node: NodeRecord) -> bytes:
    """The entry that removes the node, for good."""
    return _encode({"change": "remove_node", "id": node.node_id, "identity": node.identity.hex()})


def cluster_topology(nodes: Iterable[NodeRecord]) -> StreamTopology:
    """The topology of `/cluster` itself, from the nodes that form the cluster."""
    return StreamTopology(version=1, members=tuple(sorted(node.node_id for node in nodes)))


def _encode(change: dict[str, Any]) -> bytes:
    return json.dumps(change, separators=(",", ":"), sort_keys=True).encode()


class ClusterState:
    """The nodes and streams of the cluster, up to `applied_id`.

    known_id: up to this entry, the nodes and the topology of `/cluster` were known before the
        entries were read; they do not go back to what they were in between.
    joint: the streams whose members are being changed.
    snapshot: the last complete one; the entry that forms the cluster counts as one.
    begun_id: the snapshot from which this state was taken, by its last entry; 0: from none.
    registered: the identities of all nodes that the entries applied so far have registered.
    removed: those of removed nodes, with their ids.
    """

    def __init__(self) -> None:
        self.applied_id = 0
        self.known_id = 0
        self.cluster_id = NO_IDENTITY
        self.nodes: dict[str, NodeRecord] = {}
        self.streams: dict[int, StreamRecord] = {}
        self.joint: set[int] = set()
        self.snapshot = Snapshot(ORIGIN, 1)
        self.begun_id = 0
        self._parts: list[dict[str, Any]] = []
        self.registered: set[bytes] = set()
        self.removed: dict[bytes, str] = {}
        self._ids: dict[str, int] = {}

    def form(self, cluster_id: bytes, nodes: Iterable[NodeRecord]) -> None:
        """The cluster as these nodes form it."""
        self.cluster_id = cluster_id
        self.nodes = {node.node_id: node for node in nodes}
        self._set_cluster_topology(cluster_topology(self.nodes.values()))

    def know(self, cluster: SetCluster) -> None:
        """What a node knows of its cluster before it has read an entry."""
        self.form(cluster.cluster_id, cluster.nodes)
        self.known_id = cluster.applied_id
        if cluster.topology.version:
            self._set_cluster_topology(cluster.topology)

    def known(self) -> SetCluster:
        """What is to be kept of that for the next start."""
        return SetCluster(
            self.cluster_id,
            tuple(self.nodes[node] for node in sorted(self.nodes)),
            self.streams[STREAM_CLUSTER].topology,
            max(self.applied_id, self.known_id),
        )

    @property
    def as_of(self) -> tuple[bytes, int, int]:
        """While this is the same, so is all that there is here of the cluster."""
        return self.cluster_id, self.applied_id, self.known_id

    def _set_cluster_topology(self, topology: StreamTopology) -> None:
        self._add(StreamRecord(STREAM_CLUSTER, CLUSTER_STREAM_NAME, topology))

    def apply(self, entry_id: int, data: bytes) -> StreamRecord | None:
        """Applies the next committed entry; returns the stream it created or changed, if any."""
        change = json.loads(data)
        if change["change"] == "snapshot":
            self._apply_part(entry_id, change)
            return None
        self.applied_id = entry_id
        is_known = entry_id <= self.known_id
        match change["change"]:
            case "form" | "node" | "remove_node":
                self._apply_to_nodes(change, is_known=is_known)
                return None
            case "members" | "trim" if is_known and change["stream"] == STREAM_CLUSTER:
                return None
            case "create_stream":
                topology = StreamTopology(1, tuple(change["members"])).trimmed(_origin(change))
                settings = StreamSettings(**change["settings"])
                return self._add(StreamRecord(entry_id, change["name"], topology, settings))
            case "settings" | "trim" | "members" | "delete_stream":
                return None if self.is_deleted(change["stream"]) else self._change(change)
            case unknown:
                raise InvariantError(f"{CLUSTER_STREAM_NAME} entry {entry_id}: change {unknown!r}")

    def _change(self, change: dict[str, Any]) -> StreamRecord | None:
        """Applies what concerns one stream that there is; returns it, if it has changed."""
        record = self.streams[change["stream"]]
        match change["change"]:
            case "settings":
                settings = StreamSettings(**change["settings"])
                return self._add(record._replace(settings=settings))
            case "trim":
                topology = record.topology.trimmed(_origin(change))
                return self._add(record._replace(topology=topology))
            case "members":
                topology = record.topology._replace(
                    version=change["version"],
                    members=tuple(change["members"]),
                    old_members=tuple(change["old"]),
                )
                if topology.version <= record.topology.version:
                    return None  # it was put before the newer one was known
                return self._add(record._replace(topology=topology))
            case _:
                return self._delete(record)

    def _apply_to_nodes(self, change: dict[str, Any], *, is_known: bool) -> None:
        if change["change"] == "remove_node":
            self.removed[bytes.fromhex(change["identity"])] = change["id"]
            if not is_known:
                del self.nodes[change["id"]]
            return
        is_form = change["change"] == "form"
        nodes = [
            node_from_json(each) for each in (change["nodes"] if is_form else [change["node"]])
        ]
        self.registered |= {node.identity for node in nodes}
        if is_known:
            return
        if is_form:
            self.form(bytes.fromhex(change["cluster"]), nodes)
        self.nodes |= {node.node_id: node for node in nodes}

    def _apply_part(self, entry_id: int, part: dict[str, Any]) -> None:
        """A part of a snapshot: nothing new, unless the entries before it were trimmed unread. Then
        all parts together take the place of what was known."""
        if entry_id == part["first"]:
            self._parts = []
        if self.applied_id == entry_id - 1:
            self.applied_id = entry_id
        else:
            self._parts.append(part)
        if entry_id == part["first"] + part["parts"] - 1:  # each part builds on the one before
            self.snapshot = Snapshot(_origin(part), entry_id)
            if self._parts:
                self._begin(entry_id, self._parts)

    def _begin(self, entry_id: int, parts: list[dict[str, Any]]) -> None:
        """The state that these parts have; but nodes, and the topology of `/cluster`, do not go
        back to what they were."""
        known = (self.nodes, self.streams[STREAM_CLUSTER])
        self._parts = []
        self.applied_id = self.begun_id = entry_id
        self.cluster_id = bytes.fromhex(parts[0]["cluster"])
        nodes = [node_from_json(each) for part in parts for each in part["nodes"]]
        self.nodes = {node.node_id: node for node in nodes}
        removed = [each for part in parts for each in part["removed"]]
        self.removed = {bytes.fromhex(each["identity"]): each["id"] for each in removed}
        self.registered = {node.identity for node in nodes} | set(self.removed)
        self.streams, self.joint, self._ids = {}, set(), {}
        for stream in (each for part in parts for each in part["streams"]):
            self._add(_stream_from_json(stream))
        if entry_id <= self.known_id:
            self.nodes = known[0]
            self._add(known[1])

    def _add(self, record: StreamRecord) -> StreamRecord:
        self.streams[record.stream_id] = record
        self._ids[record.name] = record.stream_id
        if record.topology.old_members:
            self.joint.add(record.stream_id)
        else:
            self.joint.discard(record.stream_id)
        return record

    def _delete(self, record: StreamRecord) -> StreamRecord:
        """The stream without members: whoever was one leaves."""
        del self.streams[record.stream_id], self._ids[record.name]
        self.joint.discard(record.stream_id)
        return record._replace(topology=DELETED)

    def is_deleted(self, stream_id: int) -> bool:
        """Whether the stream is no more. Its id is that of an entry, and so never used again: if
        that is applied, the stream is there or was deleted. The name may be another one's."""
        return stream_id not in self.streams and 0 < stream_id <= self.applied_id

    def find(self, name: str) -> StreamRecord | None:
        """The stream of that name."""
        stream_id = self._ids.get(name)
        return None if stream_id is None else self.streams[stream_id]

    def topology_of(self, stream_id: int) -> StreamTopology:
        """Of a stream that there is, or that was deleted."""
        record = self.streams.get(stream_id)
        return DELETED if record is None else record.topology

    def info(self, record: StreamRecord) -> StreamInfo:
        """The stream's topology with its members' addresses, and its settings."""
        topology = record.topology
        return StreamInfo(
            record.stream_id,
            record.name,
            topology.version,
            tuple(NodeAddress(node, self.address_of(node)) for node in topology.members),
            tuple(NodeAddress(node, self.address_of(node)) for node in topology.old_members),
            topology.first_entry_id,
            record.settings,
        )

    def look_up(self, name: str) -> StreamRecord | Refusal:
        """The stream of that name, or that there is none, or can be none."""
        wrong = check_name(name)
        if wrong is not None:
            return Refusal(Code.BAD_REQUEST, wrong)
        return self.find(name) or no_stream(name)

    def plan_change(self, name: str) -> StreamRecord | Refusal:
        """The stream, if it is one that can be changed in other things than its members."""
        record = self.look_up(name)
        if isinstance(record, StreamRecord) and record.stream_id == STREAM_CLUSTER:
            text = f"{CLUSTER_STREAM_NAME} cannot be changed but in its members"
            return Refusal(Code.BAD_REQUEST, text)
        return record

    def plan_deletion(self, request: DeleteStream) -> StreamRecord | Refusal:
        """The stream to delete; without members, if it was deleted before."""
        if self.is_deleted(request.stream_id):
            return StreamRecord(request.stream_id, request.name, DELETED)
        record = self.plan_change(request.name)
        if isinstance(record, StreamRecord) and record.stream_id != request.stream_id:
            text = f"{request.name} is stream {record.stream_id} now, not {request.stream_id}"
            return Refusal(Code.BAD_REQUEST, text)
        return record

    def plan_settings(self, request: SetStream) -> StreamRecord | Refusal:
        """The stream with the settings that are asked for."""
        record = self.plan_change(request.name)
        if isinstance(record, Refusal):
            return record
        unchanged = UNCHANGED._asdict()
        changes = {
            name: value
            for name, value in request.settings._asdict().items()
            if value != unchanged[name]
        }
        settings = record.settings._replace(**changes)
        return _refuse_settings(settings) or record._replace(settings=settings)

    def plan_trim(self, name: str) -> StreamRecord | Refusal:
        """The stream, if it can be trimmed at the moment."""
        record = self.plan_change(name)
        if isinstance(record, StreamRecord) and record.topology.old_members:
            return _refuse_joint(record)
        return record

    def plan_members(self, request: SetMembers) -> StreamRecord | Refusal:
        """The joint topology with which a change of the stream's members begins; the present one
        if these are its members, or become them, already; the old members alone if it is to go back
        to them: a majority of them holds whatever was committed."""
        record = self.look_up(request.name)
        if isinstance(record, Refusal):
            return record
        if bool(request.members) == bool(request.without):
            text = "a change of members takes either the new ones, or one that is to be replaced"
            return Refusal(Code.BAD_REQUEST, text)
        members = request.members or self._members_without(record, request.without)
        if isinstance(members, Refusal):
            return members
        wrong = self._refuse_members(members)
        if wrong is not None:
            return wrong
        topology = record.topology
        if set(topology.members) == set(members):
            return record
        is_joint = bool(topology.old_members)
        if is_joint and set(topology.old_members) != set(members):
            return _refuse_joint(record)
        return record._replace(
            topology=topology._replace(
                version=topology.version + 1,
                members=tuple(sorted(members)),
                old_members=() if is_joint else topology.members,
            )
        )

    def _members_without(self, record: StreamRecord, node: str) -> tuple[str, ...] | Refusal:
        """The stream's members, with another node in the place of that one."""
        topology = record.topology
        if node not in topology.members:
            return topology.members if node in self.nodes else self._no_node(node)
        others = [each for each in self.nodes.values() if each.node_id not in topology.everyone]
        stay = [member for member in topology.members if member != node]
        if not others and record.stream_id == STREAM_CLUSTER and stay:
            return tuple(stay)
        if not others:
            text = (
                f"no other node can take the place of {node} in {record.name}: all are members of "
                "it; let one join, or name fewer members"
            )
            return Refusal(Code.BAD_REQUEST, text)
        beside = [self.nodes[member] for member in stay if member in self.nodes]
        return (*stay, *place(record.name, others, 1, beside=beside))

    def _no_node(self, node: str) -> Refusal:
        known = ", ".join(sorted(self.nodes))
        return Refusal(Code.BAD_REQUEST, f"no node {shown(node)}; the nodes are {known}")

    def plan_recovery(self, request: RecoverStream) -> StreamRecord | Refusal:
        """The stream with what is left of its members; as it is, if that was done already."""
        record = self.plan_change(request.name)
        if isinstance(record, Refusal):
            return record
        topology, members = record.topology, tuple(sorted(set(request.members)))
        if not set(members) <= set(topology.everyone) or not 1 <= len(members) <= RECOVERED_MAX:
            text = f"{request.name} is recovered with one or two of {', '.join(topology.everyone)}"
            return Refusal(Code.BAD_REQUEST, text)
        if (topology.members, topology.old_members) == (members, ()):
            return record
        if topology.version != request.version:
            text = f"{request.name} has version {topology.version}, not {request.version} any more"
            return Refusal(Code.BAD_REQUEST, f"{text}; look again at what would be lost")
        version = topology.version + 1
        return record._replace(
            topology=topology._replace(version=version, members=members, old_members=())
        )

    def _refuse_members(self, members: tuple[str, ...]) -> Refusal | None:
        unknown = [node for node in members if node not in self.nodes]
        if unknown:
            return self._no_node(unknown[0])
        if len(set(members)) != len(members):
            return Refusal(Code.BAD_REQUEST, "a node is named twice among the members")
        if not 1 <= len(members) <= MEMBERS_COUNT_MAX:
            text = f"{len(members)} members; 1 to {MEMBERS_COUNT_MAX} are possible"
            return Refusal(Code.BAD_REQUEST, text)
        return None

    def address_of(self, node_id: str) -> str:
        """Where the node listens; empty when it is not known."""
        node = self.nodes.get(node_id)
        return node.address if node is not None else ""

    def plan_stream(self, request: CreateStream) -> CreateStream | Refusal:
        """The stream to create, with its members placed, or why it cannot be created."""
        wrong = check_name(request.name)
        if wrong is not None:
            return Refusal(Code.BAD_REQUEST, wrong)
        refusal = self._refuse_members(request.members) if request.members else None
        refusal = refusal or _refuse_settings(request.settings) or _refuse_origin(request.origin)
        if refusal is not None:
            return refusal
        replicas = request.settings.replicas or len(request.members)
        members = request.members or self.place(request.name, request.settings)
        if replicas and len(members) != replicas:
            text = f"{replicas} replicas cannot be on {len(members)} nodes: {', '.join(members)}"
            return Refusal(Code.BAD_REQUEST, text)
        existing = self.find(request.name)
        if existing is not None and not _fits(existing, request):
            held_by = ", ".join(existing.topology.members)
            text = f"stream {request.name} exists already, on {held_by}, {_describe(existing)}"
            remedy = "`walle stream set` and `walle stream members` change it"
            return Refusal(Code.STREAM_EXISTS, f"{text}; {remedy}")
        return request._replace(
            members=tuple(sorted(members)), settings=request.settings._replace(replicas=replicas)
        )

    def place(self, name: str, settings: StreamSettings) -> tuple[str, ...]:
        """The nodes that are to hold a stream of that name; fewer than it wants, if there are."""
        return place(name, self.nodes.values(), settings.replicas or REPLICAS_DEFAULT)


def no_stream(name: str) -> Refusal:
    """There is none of that name."""
    return Refusal(Code.UNKNOWN_STREAM, f"no stream {name}: `walle stream create {name}` makes it")


def _refuse_joint(record: StreamRecord) -> Refusal:
    members = ", ".join(record.topology.members)
    text = f"{record.name} is being moved to {members}; one change at a time: `walle stream members"
    return Refusal(Code.BUSY, f"{text} {record.name}` shows what that one waits for")


def _refuse_settings(settings: StreamSettings) -> Refusal | None:
    """Why no stream can have these settings."""
    if settings.compression not in COMPRESSIONS:
        text = f"compression {shown(settings.compression)}; it is one of {', '.join(COMPRESSIONS)}"
        return Refusal(Code.BAD_REQUEST, text)
    if settings.replicas > MEMBERS_COUNT_MAX:
        text = f"{settings.replicas} replicas; {MEMBERS_COUNT_MAX} are possible"
        return Refusal(Code.BAD_REQUEST, text)
    shortest, longest = settings.lease_bounds_ms
    if not LEASE_MS_MIN <= shortest <= longest <= LEASE_MS_MAX:
        text = f"leases from {shortest} to {longest} ms; they lie between {LEASE_MS_MIN} and"
        return Refusal(Code.BAD_REQUEST, f"{text} {LEASE_MS_MAX} ms, the shortest first")
    return None


def _refuse_origin(origin: Position) -> Refusal | None:
    """Why no stream can begin there."""
    if origin.entry_id >= ENTRY_ID_MAX or (origin.chain and not origin.entry_id):
        return Refusal(Code.BAD_REQUEST, f"no stream can begin behind {origin}")
    return None


def _describe(record: StreamRecord) -> str:
    """What else than members a request to create the stream may differ in."""
    settings = [f"{name} {value}" for name, value in record.settings._asdict().items()]
    return ", ".join([*settings, f"from entry {record.topology.first_entry_id} on"])


def _fits(existing: StreamRecord, request: CreateStream) -> bool:
    """Whether the existing stream is what the request asks for, so that it may be repeated."""
    topology = existing.topology
    settings = zip(request.settings, NO_SETTINGS, existing.settings, strict=True)
    if not all(wanted in (default, found) for wanted, default, found in settings):
        return False
    if request.origin not in (ORIGIN, topology.origin):
        return False
    return not request.members or set(request.members) == set(topology.members)
