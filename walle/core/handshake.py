"""Who may speak with this node: the cluster and the identities must be the right ones.

A node's identity is random and made with its data directory, so a wiped node is another node: it
can never vote again under its old identity without its promises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core.nodes import refuse_removed
from walle.errors import Code
from walle.ids import NO_IDENTITY
from walle.messages import PROTOCOL_VERSION, ROLE_CLIENT, ROLE_NODE, Failure, Hello, Welcome

if TYPE_CHECKING:
    from walle.core.cluster import ClusterState


class Handshake:
    """Both sides of the first exchange on a connection.

    joins: whether this node is to join a cluster; until it has, it is nobody.
    """

    def __init__(
        self, node_id: str, identity: bytes, cluster: ClusterState, *, joins: bool = False
    ) -> None:
        self._node_id = node_id
        self._identity = identity
        self._cluster = cluster
        self._joins = joins

    @property
    def _is_joining(self) -> bool:
        return self._joins and self._cluster.cluster_id == NO_IDENTITY

    def hello(self) -> Hello:
        """What this node says first when it connects to another."""
        if self._is_joining:
            return Hello(PROTOCOL_VERSION, ROLE_CLIENT, NO_IDENTITY, "", NO_IDENTITY)
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
        return self._refusal_of_node(hello)

    def _refusal_of_node(self, hello: Hello) -> Failure | None:
        cluster = self._cluster
        if hello.identity in cluster.removed:
            return Failure(*refuse_removed(cluster, hello.node_id))
        known = cluster.nodes.get(hello.node_id)
        if known is not None and known.identity == hello.identity:
            return None
        if hello.cluster_id == cluster.cluster_id:
            text = f"{self._node_id} does not know {hello.node_id} yet"
            return Failure(Code.BUSY, text)
        if known is None:
            return Failure(
                Code.WRONG_CLUSTER,
                f"{self._node_id} belongs to cluster {cluster.cluster_id.hex()}, which has no node "
                f"{hello.node_id}: it must join that cluster, not form one",
            )
        return Failure(
            Code.WRONG_CLUSTER,
            f"the cluster {cluster.cluster_id.hex()} knows {hello.node_id} by another identity: "
            "its data directory was replaced; restore that directory, or let it join the cluster "
            "as a new node: under a new name, or once the old one is removed",
        )

    def check_welcome(self, node_id: str, welcome: Welcome) -> str | None:
        """Why whoever answered at `node_id`'s address is not that node; None if it is."""
        cluster = self._cluster
        if self._is_joining:
            return None
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
