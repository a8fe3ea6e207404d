"""Forming a cluster, once. docs/protocol.md, "Bootstrap".

The seed (the first node of `initial_cluster` by name) asks all the others who they are. Only when
all have answered that their directories are empty does it decide: a random cluster identity, and
the nodes with their identities. The decision is durable at the seed before anybody hears of it;
each node makes it durable before it takes part. From then on `/cluster` has its members, and the
ordinary protocol does the rest: whoever claims it first writes entry 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core.timers import NEVER
from walle.errors import Code
from walle.ids import IDENTITY_SIZE, NO_IDENTITY
from walle.messages import Failure, Form, FormReply, Probe, ProbeReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.cluster import ClusterState
    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.messages import Message, NodeRecord
    from walle.record import Batch


class Bootstrap:
    """This node's part in forming its cluster.

    node: this node.
    initial_cluster: the address of each forming node, this one included, by node id.
    on_formed: makes the cluster durable and creates this node's member of `/cluster`.
    """

    def __init__(
        self,
        context: Context,
        *,
        node: NodeRecord,
        cluster: ClusterState,
        initial_cluster: dict[str, str],
        on_formed: Callable[[bytes, tuple[NodeRecord, ...]], None],
    ) -> None:
        self._context = context
        self._node = node
        self._cluster = cluster
        self._initial_cluster = initial_cluster
        self._on_formed = on_formed
        self._others = [node for node in sorted(initial_cluster) if node != context.node_id]

    def start(self) -> None:
        """The seed asks the others; or, when it has decided already, tells them again."""
        if self._others and self._cluster.cluster_id == NO_IDENTITY:
            others = ", ".join(self._others)
            self._context.outbox.note(f"waits for {others}, to form a cluster together")
        if self._context.node_id != min(self._initial_cluster, default=""):
            return
        if self._cluster.cluster_id != NO_IDENTITY:
            self._announce()
        else:
            self._probe()

    def _probe(self) -> None:
        nodes = {self._context.node_id: self._node}
        if not self._others:
            self._decide(nodes)
            return

        def on_reply(node: str, reply: Message, _batch: Batch | None) -> None:
            if not isinstance(reply, ProbeReply):
                return
            if reply.cluster_id != NO_IDENTITY:
                self._context.outbox.fatal = (
                    f"{node} belongs to cluster {reply.cluster_id.hex()} already, and this node's "
                    "data directory is empty: restore it, or join that cluster as a new node"
                )
                return
            nodes[node] = reply.node
            if len(nodes) == len(self._initial_cluster):
                call.finish()
                self._decide(nodes)

        call = self._context.calls.ask(self._others, Probe(), on_reply, until_ns=NEVER)

    def _decide(self, found: dict[str, NodeRecord]) -> None:
        cluster_id = self._context.random.getrandbits(8 * IDENTITY_SIZE).to_bytes(IDENTITY_SIZE)
        nodes = tuple(
            found[node]._replace(node_id=node, address=self._initial_cluster[node])
            for node in sorted(found)
        )
        self._on_formed(cluster_id, nodes)
        # To itself, by way of storage: the others hear of it once it is durable here.
        outbox = self._context.outbox
        outbox.send_durable(self._context.node_id, Form(cluster_id, nodes), 0, outbox.sequence)

    def _announce(self) -> None:
        """Tells the others; of those that form the cluster, whoever has joined it since."""
        known = self._cluster.nodes
        nodes = tuple(known[node] for node in sorted(self._initial_cluster) if node in known)
        others = [node for node in self._others if node in known]
        if others:
            self._context.calls.ask(
                others,
                Form(self._cluster.cluster_id, nodes),
                lambda *_: None,
                until_ns=NEVER,
            )

    def probed(self, sender: Address, request_id: int) -> None:
        """Another node asks who this one is."""
        reply = ProbeReply(self._node, self._cluster.cluster_id)
        self._context.send(sender, reply, request_id)

    def form(self, sender: Address, request_id: int, form: Form) -> None:
        """The seed's decision has arrived."""
        if sender == self._context.node_id:
            self._announce()
            return
        node_id = self._context.node_id
        mine = next((node for node in form.nodes if node.node_id == node_id), None)
        if self._cluster.cluster_id == NO_IDENTITY:
            if not self._initial_cluster:  # it joins, under the name of one that has formed it
                self._context.send(sender, FormReply(Code.BUSY, NO_IDENTITY), request_id)
                return
            if mine is None or mine.identity != self._node.identity:
                text = (
                    f"the cluster {form.cluster_id.hex()} was formed with another {node_id}: this "
                    "data directory is newer; restore the old one, or join as a new node"
                )
                self._context.outbox.fatal = text
                self._context.send(sender, Failure(Code.WRONG_CLUSTER, text), request_id)
                return
            self._on_formed(form.cluster_id, form.nodes)
        code = Code.OK if self._cluster.cluster_id == form.cluster_id else Code.WRONG_CLUSTER
        outbox = self._context.outbox
        reply = FormReply(code, self._cluster.cluster_id)
        outbox.send_durable(sender, reply, request_id, outbox.sequence)
