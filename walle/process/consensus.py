"""The consensus process: runs the node's core between the rings.

Frames come in and are decoded; the core's effects go out, encoded. Payload bytes are not copied:
what lies in the arena is handed on by its place, to whoever reads it first; a second reader gets a
copy in its ring.
"""

from __future__ import annotations

import logging
import os
import random
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from walle import frame, record
from walle.core import effects
from walle.core.context import Context
from walle.core.node import Node
from walle.errors import Code, ConfigError, RemoteProtocolError
from walle.ids import new_tuple
from walle.limits import FRAME_HEAD_BYTES_MAX
from walle.messages import Failure, Hello, NodeRecord, Welcome
from walle.process import mail, orders
from walle.process.loop import now_ns
from walle.process.mail import ArenaPayload, Destination, RingPayload
from walle.ring.region import (
    DAMAGE_COUNT,
    FREE_BYTES,
    HAS_RESERVE,
    HAS_SPACE,
    PID_CONSENSUS,
    PID_NETWORK,
    PID_STORAGE,
    SCRUB_DONE_BYTES,
    SCRUB_ENDED_US,
    SCRUB_PASSES,
    SCRUB_TOTAL_BYTES,
    SYNCED,
)

if TYPE_CHECKING:
    from walle.config import NodeConfig
    from walle.core.effects import Address, Send
    from walle.core.member import State
    from walle.core.node import Recovered
    from walle.process.loop import Loop
    from walle.process.mail import Mail
    from walle.record import Batch
    from walle.ring.region import Region

log = logging.getLogger("walle.consensus")

STOP_MS_MAX = 1_000


class Consensus:
    """Drives a `Node`."""

    def __init__(self, loop: Loop, region: Region, config: NodeConfig, identity: bytes) -> None:
        self._loop = loop
        self._region = region
        self._to_network = partial(loop.write, region.outgoing, region.network_bell)
        self._to_storage = partial(loop.write, region.orders, region.storage_bell)
        self._config = config
        self._sequence = 0
        self._open_sessions: set[int] = set()
        self._peer_numbers: dict[str, int] = {}
        self._peer_names: dict[int, str] = {}
        self._told_as_of: tuple[bytes, int, int] | None = None
        self._told_peers: tuple[Hello, dict[str, str]] | None = None
        self._wrong: dict[int, str | None] = {}  # by peer: why it is not the one it should be
        # The places of what has arrived, by offset, that nobody was given yet.
        self._arrived: set[int] = set()
        context = Context(
            config.node,
            random.Random(),
            backfill_bytes_per_second=config.backfill_bytes_per_second,
        )
        self._context = context
        self._set_time()
        self.node = Node(
            context,
            node=NodeRecord(config.node, config.address, identity, config.zone, config.capacity),
            initial_cluster=config.initial_cluster,
            join=config.join,
            recovered=self._wait_for_recovery(),
            describe_process=self._describe_process,
        )

    def start(self) -> None:
        """Lets the node take up its work."""
        self._set_time()
        self.node.start()
        self._flush()

    def stop(self) -> None:
        """Releases what this node holds as a writer, waiting a little for a majority."""
        self._set_time()
        self.node.stop()
        self._flush()
        until_ns = self._context.after_ms(STOP_MS_MAX)
        while self.node.is_releasing and now_ns() < until_ns:
            if not self.do_work() and self.may_sleep():
                self._loop.sleep(min(10.0, (until_ns - now_ns()) / 1e6))

    def _set_time(self) -> None:
        self._context.now_ns = now_ns()
        self._context.wall_us = time.time_ns() // 1000
        counters = self._region.counters
        self._context.outbox.synced = counters[SYNCED]
        self._context.has_space = bool(counters[HAS_SPACE])
        self._context.has_reserve = bool(counters[HAS_RESERVE])

    def _wait_for_recovery(self) -> Recovered:
        """What storage found on disk; it sends that before anything else."""
        results = self._region.results
        states: list[State] = []
        while True:
            for view in results.consume():
                part, is_last = orders.unpack_recovered(view)
                states += part.states
                if is_last:
                    results.release()
                    return part._replace(states=tuple(states))
            if results.release():
                self._region.storage_bell.ring()
            if results.arm_consumer():
                self._loop.sleep(1_000)

    # --- the loop ---------------------------------------------------------------------------------

    def do_work(self) -> int:
        """One pass: all that has arrived, then the alarms that are due, then the effects."""
        region = self._region
        requests = region.requests.consume()
        results = region.results.consume()
        # Not before: this process may be paused between any two steps, and a lease must not be
        # renewed as of a time at which the heartbeat had not come yet.
        self._set_time()
        for view in requests:
            if view[0] == mail.ARRIVED:
                self._on_arrived(*mail.unpack_arrived(view, region.arena))
            else:
                self._on_closed(mail.unpack_closed(view))
        for view in results:
            if view[0] == orders.DAMAGED:
                self.node.damaged(*orders.unpack_damaged(view))
            else:
                self._on_result(mail.unpack_mail(view))
        work = len(requests) + len(results)
        if self._context.timers.next_ns() <= self._context.now_ns:
            self.node.tick()
            work += 1
        if work:
            self._flush()
        if requests and region.requests.release():
            region.network_bell.ring()
        if results and region.results.release():
            region.storage_bell.ring()
        return work

    def may_sleep(self) -> bool:
        """Arms both rings."""
        return self._region.requests.arm_consumer() and self._region.results.arm_consumer()

    def next_ns(self) -> int:
        """When the next alarm is due."""
        return self._context.timers.next_ns()

    # --- what arrives -----------------------------------------------------------------------------

    def _on_arrived(self, source: Destination, head: memoryview, batch: Batch | None) -> None:
        if batch is not None and type(batch.payload) is ArenaPayload:
            self._arrived.add(batch.payload.offset)
        try:
            request_id, message = frame.decode_head(head)
        except RemoteProtocolError as error:
            self._mail(source, Failure(Code.BAD_REQUEST, str(error)), 0, None)
            self._close(source)
            return
        if source.kind == mail.PEER:
            self._on_peer(source, request_id, message, batch)
        else:
            self._on_session(source, request_id, message, batch)

    def _on_session(
        self, source: Destination, request_id: int, message: Any, batch: Batch | None
    ) -> None:
        session = source.number
        if type(message) is Hello:
            answer = self.node.open_session(session, message)
            self._mail(source, answer, request_id, None)
            if isinstance(answer, Welcome):
                self._open_sessions.add(session)
            else:
                self._close(source)
        elif session in self._open_sessions:
            self.node.receive(session, request_id, message, batch)

    def _on_peer(
        self, source: Destination, request_id: int, message: Any, batch: Batch | None
    ) -> None:
        node_id = self._peer_names.get(source.number)
        if node_id is None:
            return
        if isinstance(message, Welcome):
            wrong = self.node.handshake.check_welcome(node_id, message)
            if wrong is not None:
                if wrong != self._wrong.get(source.number):  # once, however often it answers
                    log.error("%s", wrong)
                self._close(source)
            self._wrong[source.number] = wrong
        elif isinstance(message, Failure) and not request_id:
            self.node.refused(node_id, message)
        else:
            self.node.receive(node_id, request_id, message, batch)

    def _on_closed(self, session: int) -> None:
        self._open_sessions.discard(session)
        self.node.close_session(session)
        self._to_storage(orders.pack_ended(session))

    def _on_result(self, result: Mail) -> None:
        """A message of this node to itself that went by way of storage."""
        request_id, message = frame.decode_head(result.head)
        batch = None
        if result.records:
            batch = record.check(RingPayload(result.records), where="records from storage")
        self.node.receive(self._context.node_id, request_id, message, batch)

    # --- effects ----------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Hands on all effects, then gives back the places that nobody took."""
        region, outbox = self._region, self._context.outbox
        sends, actions = outbox.take()
        if outbox.alarms or outbox.notes:
            self._log()
        if outbox.fatal is not None:
            key = "join" if self._config.join else "initial_cluster"
            raise ConfigError(key, outbox.fatal)
        if self.node.cluster.as_of != self._told_as_of:
            self._tell_peers()
        answers: dict[Address, bytearray] = {}
        for action in actions:
            if type(action) is effects.Forward and action.send.to != self._context.node_id:
                # What waits to be durable goes behind all that is, in order, as one message to each
                # receiver: storage hands on after a sync of everything anyway.
                to, request_id, message, _ = action.send
                heads = answers.setdefault(to, bytearray())
                heads += frame.encode_head(message, request_id)
                if len(heads) > FRAME_HEAD_BYTES_MAX:
                    self._forward(to, answers.pop(to))
                continue
            if type(action) not in effects.UNSYNCED:
                self._sequence += 1
            parts = orders.pack_order(
                self._sequence, action, gives_place=self._gives_place, to_frame=self._to_frame
            )
            self._to_storage(parts)
        for to, heads in answers.items():
            self._forward(to, heads)
        for send in sends:
            destination, head = self._to_frame(send)
            self._mail_frame(destination, head, send.batch)
        if self._arrived:
            self._to_network(mail.pack_release(self._arrived))
            self._arrived.clear()
        if region.orders.publish():
            region.storage_bell.ring()
        if region.outgoing.publish():
            region.network_bell.ring()

    def _log(self) -> None:
        outbox = self._context.outbox
        for level, texts in ((logging.ERROR, outbox.alarms), (logging.INFO, outbox.notes)):
            for text in texts:
                log.log(level, "%s", text)
            texts.clear()

    def _forward(self, to: Address, heads: bytearray) -> None:
        self._to_storage(orders.pack_forward(self._destination(to), heads))

    def _gives_place(self, batch: Batch) -> bool:
        """Whether the batch lies in the arena and this is its first reader, who is given the
        place."""
        payload = batch.payload
        if type(payload) is not ArenaPayload or payload.offset not in self._arrived:
            return False
        self._arrived.remove(payload.offset)
        return True

    def _to_frame(self, send: Send) -> tuple[Destination, bytes]:
        size = send.batch.payload.size if send.batch is not None else 0
        return self._destination(send.to), frame.encode_head(send.message, send.request_id, size)

    def _destination(self, to: Address) -> Destination:
        if type(to) is int:
            return new_tuple(Destination, (mail.SESSION, to))
        if to == self._context.node_id:
            return Destination(mail.SELF, 0)
        return Destination(mail.PEER, self._peer_numbers.get(str(to), 0))

    def _mail(self, to: Destination, message: Any, request_id: int, batch: Batch | None) -> None:
        self._mail_frame(to, frame.encode_head(message, request_id), batch)

    def _mail_frame(self, to: Destination, head: bytes, batch: Batch | None) -> None:
        if batch is None:
            self._to_network(mail.pack_mail(to, head))
            return
        payload: Any = batch.payload
        if self._gives_place(batch):
            self._to_network(mail.pack_mail(to, head, mail.Place(payload.offset, payload.size)))
        else:
            self._to_network(mail.pack_mail(to, head, records=[payload.view()]))

    def _close(self, whom: Destination) -> None:
        self._to_network(mail.pack_close(whom))

    def _tell_peers(self) -> None:
        """Tells the network which nodes to be connected with, when that has changed."""
        self._told_as_of = self.node.cluster.as_of
        hello, addresses = self.node.handshake.hello(), self.node.peers()
        if (hello, addresses) == self._told_peers:
            return
        self._told_peers = hello, addresses
        for node_id in addresses:
            number = self._peer_numbers.setdefault(node_id, len(self._peer_numbers) + 1)
            self._peer_names[number] = node_id
        peers = mail.Peers(
            frame.encode_head(hello, 0),
            tuple(
                mail.Peer(self._peer_numbers[node_id], node_id, address)
                for node_id, address in sorted(addresses.items())
            ),
        )
        self._to_network(mail.pack_peers(peers))

    def _describe_process(self) -> dict[str, Any]:
        counters = self._region.counters
        return {
            "pid": os.getppid(),
            "children": {
                "network": counters[PID_NETWORK],
                "consensus": counters[PID_CONSENSUS],
                "storage": counters[PID_STORAGE],
            },
            "free_bytes": counters[FREE_BYTES],
            "damage_count": counters[DAMAGE_COUNT],
            "scrub": {
                "pass": counters[SCRUB_PASSES] + 1,
                "done_bytes": counters[SCRUB_DONE_BYTES],
                "total_bytes": counters[SCRUB_TOTAL_BYTES],
                "ended_us": counters[SCRUB_ENDED_US],
            }
            if self._config.scrub_bytes_per_second
            else None,
        }
