"""The storage process: carries out orders, a round of group commit at a time.

It takes all orders that wait, carries them out, makes them durable by one round of syncs, and only
then hands on the messages that were ordered among them. It does not understand those messages.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from walle import frame
from walle.core import effects
from walle.core.timers import NEVER
from walle.errors import Code, CorruptionError
from walle.messages import Failure
from walle.process import mail, orders
from walle.process.mail import ArenaPayload
from walle.ring.region import SYNCED

if TYPE_CHECKING:
    from walle.process.loop import Loop
    from walle.process.mail import Place
    from walle.ring.region import Region
    from walle.storage.store import Store

log = logging.getLogger("walle.storage")


class Storage:
    """Drives a `Store`."""

    def __init__(self, loop: Loop, region: Region, store: Store) -> None:
        self._loop = loop
        self._region = region
        self._store = store
        self._to_consensus: deque[list[Any]] = deque(orders.pack_recovered(store.recovered()))

    def do_work(self) -> int:
        """One round: all orders that wait."""
        region = self._region
        views = region.orders.consume()
        if views:
            self._carry_out(views)
            if region.orders.release():
                region.consensus_bell.ring()
        self._tell_consensus()
        if region.durable.publish():
            region.network_bell.ring()
        return len(views)

    def may_sleep(self) -> bool:
        """Arms the ring of orders, and waits for room for what consensus has not been told."""
        waits = self._to_consensus and self._region.results.arm_producer(
            sum(len(part) for part in self._to_consensus[0])
        )
        return (not self._to_consensus or bool(waits)) and self._region.orders.arm_consumer()

    def next_ns(self) -> int:
        """Nothing happens here by itself."""
        return NEVER

    def _carry_out(self, views: list[memoryview]) -> None:
        forwards = []
        places: list[Place] = []
        sequence = 0
        for view in views:
            sequence, action = orders.unpack_order(view, self._region.arena)
            if isinstance(action, effects.Forward):
                forwards.append(action.send)
            elif isinstance(action, effects.ReadRecords):
                self._read(action)
            else:
                self._store.execute(action)
                batch = getattr(action, "batch", None)
                if batch is not None and isinstance(batch.payload, ArenaPayload):
                    places.append(batch.payload.place)
        if self._store.is_dirty:
            self._store.sync()
        self._region.counters[SYNCED] = sequence
        for send in forwards:
            self._send(send.to, send.message, [])
        for place in places:
            self._to_network(mail.pack_release(place))

    def _read(self, read: effects.ReadRecords) -> None:
        head: bytes = read.send.message
        try:
            records = self._store.read(read)
        except CorruptionError as error:
            log.error("a read found damage: %s", error)  # noqa: TRY400 - it says all there is
            request_id = frame.request_id_of(head)
            failure = Failure(Code.DAMAGED, f"entry {read.start} is damaged here: {error}")
            self._send(read.send.to, frame.encode_head(failure, request_id), [])
            return
        if records:
            head = frame.with_records(head, sum(len(part) for part in records))
        self._send(read.send.to, head, records)

    def _send(self, to: Any, head: bytes, records: list[memoryview]) -> None:
        parts = mail.pack_mail(to, head, records=records)
        if to.kind == mail.SELF:
            self._to_consensus.append([bytes(part) for part in parts])
        else:
            self._to_network(parts)

    def _to_network(self, parts: list[Any]) -> None:
        self._loop.write(self._region.durable, self._region.network_bell, parts)

    def _tell_consensus(self) -> None:
        results = self._region.results
        while self._to_consensus and results.try_write(*self._to_consensus[0]):
            self._to_consensus.popleft()
        if results.publish():
            self._region.consensus_bell.ring()
