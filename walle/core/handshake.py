"""Who may speak with this node: the cluster and the identities must be the right ones.

A node's identity is random and made with its data directory, so a wiped node is another node: it
can never vote again under its old identity without its promises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.errors import Code
from walle.ids import NO_IDENTITY
from walle.messages import PROTOCOL_VERSION, ROLE_CLIENT, ROLE_NODE, Failure, Hello, Welcome

if TYPE_CHECKING:
    from walle.core.cluster import ClusterState


class Handshake:
    """Both sides of the first exchange on a connection."""

    def __init__(self, node_id: str, identity: bytes, cluster: ClusterState) -> None:
        self._node_id = node_id
        self._identity = identity
        self._cluster = cluster

    def hello(self) -> Hello:
        """What this node says first when it connects to another."""
        return Hello(
            PROTOCOL_VERSION, ROLE_NODE, self._cluster.cluster_id, self._node_id, self._identity
        )

    def answer(self, hello: Hello) -> Welcome | Failure:
        """The answer to whoever connected; after a Failure the connection is closed."""
        refusal = self._refusal(hello)
        if refusal is not None:
            return refusal
        return Welcome(PROTOCOL_VERSION, self._cluster.cluster_id, self._node_id, self._identity)

    def _refusal(self, hello: Hello) -> Failure | None:
        cluster = self._cluster
        if hello.protocol != PROTOCOL_VERSION:
            return Failure(
                Code.BAD_REQUEST,
                f"this node speaks protocol version {PROTOCOL_VERSION}, not {hello.protocol}",
            )
        if hello.role not in (ROLE_CLIENT, ROLE_NODE):
            return Failure(Code.BAD_REQUEST, f"no role has number {hello.role}")
        if cluster.cluster_id == NO_IDENTITY:
            return None
        if hello.cluster_id not in (NO_IDENTITY, cluster.cluster_id):
            return Failure(
                Code.WRONG_CLUSTER,
                f"{self._node_id} belongs to cluster {cluster.cluster_id.hex()}, "
                f"not to {hello.cluster_id.hex()}",
            )
        if hello.role == ROLE_CLIENT:
            return None
        known = cluster.nodes.get(hello.node_id)
        if known is None:
            return Failure(
                Code.WRONG_CLUSTER,
                f"{self._node_id} belongs to cluster {cluster.cluster_id.hex()}, which has no node "
                f"{hello.node_id}: it must join that cluster, not form one",
            )
        if known.identity != hello.identity:
            return Failure(
                Code.WRONG_CLUSTER,
                f"the cluster {cluster.cluster_id.hex()} knows {hello.node_id} by another identity:"
                " its data directory was replaced; restore that directory, or let it join the "
                "cluster as a new node under a new name",
            )
        return None

    def check_welcome(self, node_id: str, welcome: Welcome) -> str | None:
        """Why whoever answered at `node_id`'s address is not that node; None if it is."""
        cluster = self._cluster
        if welcome.node_id != node_id:
            return f"{welcome.node_id} answers at the address of {node_id}"
        if NO_IDENTITY in (cluster.cluster_id, welcome.cluster_id):
            return None
        if welcome.cluster_id != cluster.cluster_id:
            return (
                f"{node_id} belongs to cluster {welcome.cluster_id.hex()}, "
                f"not to {cluster.cluster_id.hex()}"
            )
        known = cluster.nodes.get(node_id)
        if known is not None and known.identity != welcome.identity:
            return f"{node_id} answers with another identity: its data directory was replaced"
        return None
