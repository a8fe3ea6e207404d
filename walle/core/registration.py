"""Being one of the cluster's nodes: joining it, and telling it what has changed of this node.

    who is there? ─► the cluster's identity ─► register there ─► durable ─► follow `/cluster`

Until it has joined, a node speaks to the others as a client does: nobody takes its word for
anything. All of that may be repeated: what is registered is the identity of the data directory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core.effects import SetCluster
from walle.core.timers import NEVER
from walle.core.topology import StreamTopology
from walle.ids import NO_IDENTITY
from walle.messages import ClusterInfo, Failure, ListNodes, RegisterNode

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.calls import Call
    from walle.core.cluster import ClusterState
    from walle.core.context import Context
    from walle.messages import Message, NodeRecord
    from walle.record import Batch

REGISTER_MS = 10_000


class Registration:
    """node: this node, as its settings describe it.
    join: the addresses of nodes of the cluster that it is to join.
    on_joined: makes the cluster durable, and follows it.
    """

    def __init__(
        self,
        context: Context,
        *,
        node: NodeRecord,
        cluster: ClusterState,
        join: tuple[str, ...],
        on_joined: Callable[[SetCluster], None],
    ) -> None:
        self._context = context
        self._node = node
        self._cluster = cluster
        self._join = join
        self._on_joined = on_joined
        self._found: dict[str, bytes] = {}
        self._is_telling = False

    def start(self) -> None:
        """Joins the cluster; or tells it of other settings, if this node belongs to one."""
        if self._cluster.cluster_id != NO_IDENTITY:
            self.check()
        elif self._join:
            self._look()

    def check(self) -> None:
        """The cluster is to know this node as it is now."""
        known = self._cluster.nodes.get(self._node.node_id)
        if known is None or known == self._node or self._is_telling:
            return
        self._is_telling = True

        def on_reply(_node: str, reply: Message, _batch: Batch | None) -> None:
            self._is_telling = False
            if isinstance(reply, Failure):
                self._context.outbox.fatal = reply.text

        # To itself: it knows where the manager is, and asks again while there is none.
        self._context.calls.ask(
            [self._context.node_id], RegisterNode(self._node), on_reply, until_ns=NEVER
        )

    # --- joining ----------------------------------------------------------------------------------

    def _look(self) -> None:
        """Asks everybody named in the settings for the cluster, until all have told."""

        def on_reply(address: str, reply: Message, _batch: Batch | None) -> None:
            if isinstance(reply, ClusterInfo):
                self._on_found(address, reply.cluster_id, looking)

        self._context.outbox.note(f"looks for the cluster at {', '.join(self._join)}")
        looking = self._context.calls.ask(self._join, ListNodes(), on_reply, until_ns=NEVER)

    def _on_found(self, address: str, cluster_id: bytes, looking: Call) -> None:
        self._found[address] = cluster_id
        if len(set(self._found.values())) > 1:
            found = ", ".join(f"{each} to {self._found[each].hex()}" for each in self._found)
            self._context.outbox.fatal = f"these nodes belong to different clusters: {found}"
        elif len(self._found) == 1:
            self._register(address, looking)

    def _register(self, address: str, looking: Call) -> None:
        """Registers there; at the next address that has answered, if that takes too long."""

        def on_reply(_node: str, reply: Message, _batch: Batch | None) -> None:
            call.finish()
            if isinstance(reply, ClusterInfo):
                looking.finish()
                self._context.outbox.note(f"joins the cluster {reply.cluster_id.hex()}")
                self._on_joined(
                    SetCluster(
                        reply.cluster_id, reply.nodes, StreamTopology(*reply[3:]), reply.applied_id
                    )
                )
            else:
                self._context.outbox.fatal = f"{address} refuses this node: {reply.text}"

        def on_end() -> None:
            order = list(self._found)
            self._register(order[(order.index(address) + 1) % len(order)], looking)

        call = self._context.calls.ask(
            [address],
            RegisterNode(self._node),
            on_reply,
            until_ns=self._context.after_ms(REGISTER_MS),
            on_end=on_end,
        )
