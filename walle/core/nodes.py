"""Registering and removing nodes: the manager's side.

A name belongs to one identity until that is removed; then a node with an empty directory may have
it. An identity is used once: what a removed node has promised is forgotten with its directory, so
it must never vote again under its old identity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from walle.config import parse_address, parse_node_id
from walle.core.cluster import Refusal, encode_node, encode_remove_node
from walle.core.names import shown
from walle.errors import Code, ConfigError
from walle.ids import NO_IDENTITY
from walle.limits import ADDRESS_BYTES_MAX, CAPACITY_MAX, NODES_COUNT_MAX, ZONE_BYTES_MAX
from walle.messages import ClusterInfo, Failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.cluster import ClusterState
    from walle.messages import NodeRecord, RegisterNode, RemoveNode

STREAMS_SHOWN = 5


class Planned(NamedTuple):
    """An entry that is to be put into `/cluster`.

    key: what it changes; one change of that at a time.
    is_alone: whether no other change may be under way meanwhile.
    """

    key: str
    change: bytes
    is_alone: bool = False


class Nodes:
    """put: puts an entry of `/cluster`, and calls its last argument when that is applied, or with
    why it will not be.
    """

    def __init__(
        self,
        cluster: ClusterState,
        put: Callable[[Planned, Callable[[Failure | None], None]], None],
    ) -> None:
        self._cluster = cluster
        self._put = put

    def register(
        self, request: RegisterNode, answer: Callable[[ClusterInfo | Failure], None]
    ) -> None:
        """Makes the node one of the cluster's, or tells the cluster what has changed of it."""
        node = request.node
        refusal = plan_node(self._cluster, node)
        if refusal is not None:
            answer(Failure(*refusal))
        elif self._cluster.nodes.get(node.node_id) == node:
            answer(describe_cluster(self._cluster))
        else:
            self._change(Planned(node.node_id, encode_node(node)), answer)

    def remove(self, request: RemoveNode, answer: Callable[[ClusterInfo | Failure], None]) -> None:
        """Removes the node, for good. No stream may be created on it meanwhile."""
        node_id = request.node_id
        refusal = plan_removal(self._cluster, node_id)
        if refusal is not None:
            answer(Failure(*refusal))
        elif node_id not in self._cluster.nodes:
            answer(describe_cluster(self._cluster))
        else:
            change = encode_remove_node(self._cluster.nodes[node_id])
            self._change(Planned(node_id, change, is_alone=True), answer)

    def _change(self, planned: Planned, answer: Callable[[ClusterInfo | Failure], None]) -> None:
        self._put(planned, lambda failure: answer(failure or describe_cluster(self._cluster)))


def describe_cluster(cluster: ClusterState) -> ClusterInfo:
    """What is told of the cluster."""
    known = cluster.known()
    return ClusterInfo(known.cluster_id, known.applied_id, known.nodes, *known.topology)


def plan_node(cluster: ClusterState, node: NodeRecord) -> Refusal | None:
    """Why the node cannot be one of the cluster's, just so; None if it can."""
    wrong = _check_node(node)
    if wrong is not None:
        return Refusal(Code.BAD_REQUEST, wrong)
    if node.identity in cluster.removed:
        return refuse_removed(cluster, node.node_id)
    known = cluster.nodes.get(node.node_id)
    if known is not None and known.identity != node.identity:
        return Refusal(
            Code.WRONG_CLUSTER,
            f"the cluster {cluster.cluster_id.hex()} knows {node.node_id} by another identity: its "
            f"data directory was replaced. Restore that directory; or remove the old "
            f"{node.node_id} by `walle node remove {node.node_id}` and start this one again; or "
            "choose another name",
        )
    twin = next((each for each in cluster.nodes.values() if each.identity == node.identity), node)
    if twin.node_id != node.node_id:
        return Refusal(Code.BAD_REQUEST, f"this identity is that of {twin.node_id}")
    if known is None and len(cluster.nodes) >= NODES_COUNT_MAX:
        return Refusal(Code.BAD_REQUEST, f"a cluster has {NODES_COUNT_MAX} nodes at most")
    return None


def refuse_removed(cluster: ClusterState, node_id: str) -> Refusal:
    """What a removed node is told."""
    return Refusal(
        Code.REMOVED,
        f"{node_id} was removed from the cluster {cluster.cluster_id.hex()}: do not start it again;"
        " with an empty data directory, it can join as a new node",
    )


def plan_removal(cluster: ClusterState, node_id: str) -> Refusal | None:
    """Why the node cannot be removed; None if it can, or is removed already."""
    if node_id not in cluster.nodes:
        if node_id in cluster.removed.values():
            return None
        known = ", ".join(sorted(cluster.nodes))
        return Refusal(Code.BAD_REQUEST, f"no node {shown(node_id)}; the nodes are {known}")
    names = [
        record.name for record in cluster.streams.values() if node_id in record.topology.everyone
    ]
    if not names:
        return None
    some = ", ".join(sorted(names)[:STREAMS_SHOWN])
    more = f" and {len(names) - STREAMS_SHOWN} more" if len(names) > STREAMS_SHOWN else ""
    return Refusal(
        Code.BAD_REQUEST,
        f"{node_id} is a member of {some}{more}: `walle node drain {node_id}` moves them to other "
        "nodes; where none can take its place, add a node first",
    )


def _check_node(node: NodeRecord) -> str | None:
    """What is wrong with what a node says of itself."""
    for text in (node.node_id, node.address, node.zone):
        if len(text.encode()) > ADDRESS_BYTES_MAX:
            return f"{shown(text)} is longer than {ADDRESS_BYTES_MAX} bytes"
    try:
        parse_node_id("node", node.node_id)
        parse_address("address", node.address)
    except ConfigError as error:
        return str(error)
    if node.identity == NO_IDENTITY:
        return "a node has an identity that is not all zeros"
    if len(node.zone.encode()) > ZONE_BYTES_MAX or not node.zone.isprintable():
        return f"a zone has at most {ZONE_BYTES_MAX} bytes, and no control characters"
    if not 1 <= node.capacity <= CAPACITY_MAX:
        return f"a capacity of {node.capacity}; 1 to {CAPACITY_MAX} are possible"
    return None
