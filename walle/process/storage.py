"""The storage process: carries out orders, a round of group commit at a time.

It takes all orders that wait, carries them out, makes them durable by one round of syncs, and only
then hands on the messages that were ordered among them. It does not understand those messages.

Reads wait until a round is done, and between two rounds only so much is read: no reader holds up
the writers. A read therefore sees all that was executed before it was ordered, and perhaps more.
What is committed stays as it is, so that makes no difference to a client, whose reads end at the
commit point. A Fetch may get other records above the commit point than there were when it was
ordered, or none: the node that asked checks by their chains whether they are those that it wants.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from walle import frame
from walle.core import effects
from walle.core.timers import NEVER
from walle.errors import Code, CorruptionError
from walle.ids import IdRange
from walle.limits import (
    CONFIRM_MS,
    FRAME_BYTES_MAX,
    MIB,
    NS_PER_MS,
    NS_PER_S,
    READ_COST_BYTES,
    READ_ROUND_BYTES,
    READS_QUEUED_SESSION_MAX,
    RING_MESSAGE_BYTES,
    SCRUB_PAUSE_MS,
    SCRUB_STEP_BYTES,
)
from walle.messages import Failure
from walle.process import mail, orders
from walle.process.loop import now_ns
from walle.process.mail import ArenaPayload, Destination
from walle.process.reads import Reads
from walle.ring.region import (
    DAMAGE_COUNT,
    FREE_BYTES,
    HAS_RESERVE,
    HAS_SPACE,
    SCRUB_DONE_BYTES,
    SCRUB_ENDED_US,
    SCRUB_PASSES,
    SCRUB_TOTAL_BYTES,
    SYNCED,
)

if TYPE_CHECKING:
    from walle.process.loop import Loop
    from walle.ring.region import Region
    from walle.storage.reserve import Reserve
    from walle.storage.store import Store

LOOK_MS = 100
"""How often it is looked how much of the disk is free, while the process is awake."""

log = logging.getLogger("walle.storage")


class Storage:
    """Drives a `Store`."""

    def __init__(
        self,
        loop: Loop,
        region: Region,
        store: Store,
        reserve: Reserve,
        *,
        scrub_bytes_per_second: int,
    ) -> None:
        self._to_network = partial(loop.write, region.durable, region.network_bell)
        self._region = region
        self._store = store
        self._reserve = reserve
        self._look_ns = 0
        self._told_looks = 0
        region.counters[HAS_SPACE] = region.counters[HAS_RESERVE] = True
        self._tell_space()
        self._reads = Reads()
        self._confirm_ns = NEVER
        self._scrub_ns = NEVER
        self._scrub_step_ns = 0
        if scrub_bytes_per_second:
            self._scrub_ns = now_ns() + SCRUB_PAUSE_MS * NS_PER_MS
            self._scrub_step_ns = SCRUB_STEP_BYTES * NS_PER_S // scrub_bytes_per_second
        self._to_consensus: deque[list[Any]] = deque(orders.pack_recovered(store.recovered()))

    def do_work(self) -> int:
        """One round: all orders that wait. Then some of the reads, and some trimmed files."""
        region, store = self._region, self._store
        views = region.orders.consume()
        now = now_ns()
        if self._confirm_ns <= now:
            store.confirm()
            self._confirm_ns = NEVER
        if views or store.is_dirty:
            self._carry_out(views)
        self._publish()
        if views and region.orders.release():
            region.consensus_bell.ring()
        if self._confirm_ns == NEVER and store.has_unconfirmed:
            self._confirm_ns = now + CONFIRM_MS * NS_PER_MS
        if self._look_ns <= now:
            self._look_ns = now + LOOK_MS * NS_PER_MS
            self._look()
        if self._told_looks != self._reserve.looks:
            self._tell_space()
        work = len(views)
        if self._reads:
            work += self._read_some()
        work += store.remove_some()
        if self._scrub_ns <= now:
            self._scrub()
        return work

    def _look(self) -> None:
        """Looks how much of the disk is free."""
        self._reserve.look()
        if not self._reserve.has_space:
            self._store.drop_spare()

    def _tell_space(self) -> None:
        """Tells consensus, and whoever reads the log, whether there is space."""
        reserve, counters = self._reserve, self._region.counters
        self._told_looks = reserve.looks
        if counters[HAS_SPACE] and not reserve.has_space:
            log.warning(
                "the disk is full: %d MiB are free, less than disk_reserve_bytes (%d MiB); no "
                "entries are taken until %d MiB are free",
                *(reserve.left_bytes // MIB, reserve.reserve_bytes // MIB),
                reserve.resume_bytes // MIB,
            )
        elif reserve.has_space and not counters[HAS_SPACE]:
            log.info("the disk has space again: %d MiB are free", reserve.left_bytes // MIB)
        if counters[HAS_RESERVE] and not reserve.has_reserve:
            log.error(
                "the disk has no space left at all, so the reserve was given up: the node stops "
                "once that is used up, too"
            )
        counters[HAS_SPACE], counters[HAS_RESERVE] = reserve.has_space, reserve.has_reserve
        counters[FREE_BYTES] = reserve.left_bytes

    def may_sleep(self) -> bool:
        """Arms the ring of orders, and waits for room for what consensus has not been told, and for
        what was read."""
        if self._can_read() or self._store.has_trimmed_files:
            return False
        waits = self._to_consensus and self._region.results.arm_producer(
            sum(len(part) for part in self._to_consensus[0])
        )
        return (not self._to_consensus or bool(waits)) and self._region.orders.arm_consumer()

    def next_ns(self) -> int:
        """When there may be something to confirm, and when to search for damage again."""
        return min(self._confirm_ns, self._scrub_ns)

    def _carry_out(self, views: list[memoryview]) -> None:
        answers: deque[list[Any]] = deque()
        refused = []
        places: list[int] = []
        sequence = 0
        for view in views:
            kind = view[0]
            if kind == orders.FORWARD:
                forward = view[1:]
                if mail.kind_of(forward) == mail.SELF:
                    self._to_consensus.append([bytes(forward)])
                else:
                    answers.append([forward])
                continue
            if kind == orders.ENDED:
                self._reads.drop(Destination(mail.SESSION, orders.unpack_ended(view)))
                continue
            sequence, action = orders.unpack_order(view, self._region.arena)
            if isinstance(action, effects.ReadAction):
                if not self._reads.add(_reader_of(action), action):
                    refused.append(action)
            else:
                self._store.execute(action)
                batch = getattr(action, "batch", None)
                if batch is not None and isinstance(batch.payload, ArenaPayload):
                    places.append(batch.payload.offset)
        if places:
            answers.append(mail.pack_release(places))
        # They are written before the sync, while the processor's caches are warm, but published
        # after it: nobody sees them before. Those for which there is no room are written after it,
        # too, since who waits for room publishes.
        while answers and self._region.durable.try_write(*answers[0]):
            answers.popleft()
        if self._store.is_dirty:
            self._store.sync()
        if sequence:  # an order was among them
            self._region.counters[SYNCED] = sequence
        for parts in answers:
            self._to_network(parts)
        for read in refused:
            text = f"{READS_QUEUED_SESSION_MAX} reads wait already, or too many of all sessions"
            self._fail(read, Code.BUSY, text)

    # --- reads ------------------------------------------------------------------------------------

    def _read_some(self) -> int:
        """Serves as many reads as may delay the next round; returns how many."""
        count = 0
        left = READ_ROUND_BYTES
        while left > 0 and self._can_read():
            left -= max(self._read(self._reads.take()), READ_COST_BYTES)
            count += 1
            self._publish()
        return count

    def _can_read(self) -> bool:
        """Whether a read waits and its answer, however large, has room: the process must not wait
        for readers. If only the room is lacking, the bell rings once it is there."""
        return (
            len(self._reads) > 0
            and not self._to_consensus
            and not self._region.durable.arm_producer(FRAME_BYTES_MAX + RING_MESSAGE_BYTES)
        )

    def _read(self, read: effects.ReadAction) -> int:
        """Answers a read; returns of how many bytes."""
        head: bytes = read.send.message
        try:
            records = self._store.read(read)
        except CorruptionError as error:
            self._report(read.stream_id, error)
            text = "an entry is damaged here; another member's copy takes its place"
            self._fail(read, Code.BUSY, text)
            return 0
        size = sum(len(part) for part in records)
        if records:
            head = frame.with_records(head, size)
        self._answer(read, head, records)
        return size

    def _fail(self, read: effects.ReadAction, code: Code, text: str) -> None:
        request_id = frame.request_id_of(read.send.message)
        self._answer(read, frame.encode_head(Failure(code, text), request_id), [])

    def _answer(self, read: effects.ReadAction, head: bytes, records: list[memoryview]) -> None:
        if isinstance(read, effects.ReadOldest) or not read.others:
            self._send(read.send.to, head, records)
            return
        whose: Any = read.send.to
        recipients: Any = ((whose.number, frame.request_id_of(head)), *read.others)
        self._to_network(mail.pack_mail_to_many(recipients, head, records))

    # --- damage -----------------------------------------------------------------------------------

    def _scrub(self) -> None:
        """Searches on for damage, one step. What was missed while there was other work is not made
        up for."""
        self._scrub_ns = now_ns() + self._scrub_step_ns
        if self._to_consensus:
            return
        scrubber, counters = self._store.scrubber, self._region.counters
        passes_count = scrubber.passes_count
        suspect = scrubber.step()
        if suspect is not None:
            self._report(*suspect)
            self._publish()
        if scrubber.passes_count > passes_count:
            log.debug("%d bytes were read in search of damage", scrubber.done_bytes)
            counters[SCRUB_ENDED_US] = time.time_ns() // 1000
            self._scrub_ns = now_ns() + SCRUB_PAUSE_MS * NS_PER_MS
        counters[SCRUB_PASSES] = scrubber.passes_count
        counters[SCRUB_DONE_BYTES] = scrubber.done_bytes
        counters[SCRUB_TOTAL_BYTES] = scrubber.total_bytes

    def _report(self, stream_id: int, error: CorruptionError) -> None:
        """Something of a stream did not pass its checks: consensus has to say what becomes of it.

        Each read that meets it repeats that, until it is cut out.

        Raises:
            CorruptionError: only recovery can say that.
        """
        found_count = self._store.scrubber.found_count
        cut = self._store.damage(stream_id, error)
        if cut is None:
            log.warning("%s; on the device, nothing that is needed is damaged", error)
            return
        if self._store.scrubber.found_count > found_count:
            entries = IdRange(cut.after.entry_id + 1, cut.last.entry_id + 1)
            log.error(
                "damage: %s; entries %s of stream %d are lost here", error, entries, stream_id
            )
            self._region.counters[DAMAGE_COUNT] += 1
        self._to_consensus.append(orders.pack_damaged(cut))

    # --- what goes out ----------------------------------------------------------------------------

    def _send(self, to: Any, head: bytes, records: list[memoryview]) -> None:
        parts = mail.pack_mail(to, head, records=records)
        if to.kind == mail.SELF:
            self._to_consensus.append([bytes(part) for part in parts])
        else:
            self._to_network(parts)

    def _publish(self) -> None:
        """Makes visible what was written for the others. What consensus has no room for is kept:
        it may itself be waiting for room for orders. That is not much, for it is short answers of
        this node to itself; while any wait, nothing is read."""
        if self._to_consensus:
            results = self._region.results
            while self._to_consensus and results.try_write(*self._to_consensus[0]):
                self._to_consensus.popleft()
            if results.publish():
                self._region.consensus_bell.ring()
        if self._region.durable.publish():
            self._region.network_bell.ring()


def _reader_of(read: effects.ReadAction) -> Destination:
    if isinstance(read, effects.ReadRecords) and read.others:
        return Destination(mail.FOLLOWERS, read.stream_id)
    to: Any = read.send.to  # what came through the ring is a frame already
    return Destination(*to)
