"""A writer's puts in flight: who acknowledged what, what is committed, until when the lease holds.

The same object serves the client (puts go to every member directly), a node that relays for a thin
client, and the topology manager. It sends nothing itself: `take` gives what is to be sent.

Every sending of anything has a number of its own, the *transmission*; an acknowledgement proves
only the transmission it echoes. A majority is counted only from acknowledgements given under one
and the same stream version. A member that does not keep up is fed from the window, which is
bounded, and then left to jump and backfill: it never holds up the others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from walle.core import quorum
from walle.core.lease import exclusive_until_ns
from walle.core.timers import NEVER
from walle.errors import Code, invariant
from walle.ids import ORIGIN, Position, WriterId
from walle.limits import (
    BATCH_BYTES_MAX,
    MEMBER_BACKLOG_BATCHES_MAX,
    MEMBER_BACKLOG_BYTES_MAX,
    NS_PER_MS,
    PIPELINE_BYTES_MAX,
)
from walle.messages import Put, PutReply
from walle.record import joined

if TYPE_CHECKING:
    from walle.core.topology import StreamTopology
    from walle.record import Batch

COMMIT_NOTICE_MS = 3
"""How soon members hear of a commit point when no put carries it."""
HEARTBEATS_PER_LEASE = 5
HEARTBEAT_STEPS_PER_LEASE = 40
"""Heartbeats are due at multiples of such a part of a lease, so that those of many writers with one
clock go out together."""
LEASES_WITHOUT_MAJORITY = 2
"""How many leases lie between heartbeats while no majority answers."""
RETRY_MS = 50
RESEND_MS = 1_000
"""After so long without progress a member is asked how far it is; what it refused for longer than a
moment is sent again after that."""
RETAINED_BYTES_MAX = MEMBER_BACKLOG_BYTES_MAX
"""How much that is committed stays in the window for members that have not acknowledged it."""
SENDINGS_REMEMBERED_PER_LEASE = 64
STALLED_MS = 3_000
"""After so long without a commit, full disks are taken for the reason if there are any."""


class Outgoing(NamedTuple):
    """One message to one member, with its entries if any."""

    node: str
    put: Put
    batch: Batch | None


class Link:
    """What the writer knows of one member.

    is_paused: the way to it is full, for a moment or for long.
    next, acknowledged: numbers in the window of the next batch to send, and of the first batch
        that is not acknowledged.
    in_flight, unacknowledged_bytes: the last entry and the size of each batch that was sent and is
        not acknowledged; the window may have moved past it.
    held_id: the end of the writer's history at the member, as acknowledged.
    transmission: the newest acknowledged one.
    told, told_ns: the commit point last sent to the member, and when anything was last sent.
    progress_ns: when it last acknowledged something new, or was last asked how far it is.
    lags: it has been sent as much as it may be, and not all there is.
    asked, asked_id: the transmission by which it was asked and has not answered yet, 0 if there is
        none; and the last entry that it had been sent before.
    retry_ns: when what it refused is sent again; 0: nothing was.
    """

    def __init__(self, next_batch: int) -> None:
        self.is_connected = False
        self.is_paused = False
        self.is_fenced = False
        self.next = next_batch
        self.acknowledged = next_batch
        self.in_flight: deque[tuple[int, int]] = deque()
        self.unacknowledged_bytes = 0
        self.held_id = 0
        self.transmission = 0
        self.told = ORIGIN
        self.told_ns = 0
        self.progress_ns = 0
        self.lags = False
        self.asked = 0
        self.asked_id = 0
        self.retry_ns = 0

    @property
    def is_open(self) -> bool:
        """Whether anything may be sent to the member."""
        return self.is_connected and not self.is_paused and not self.is_fenced


class Pipeline:
    """One writer's claim at work.

    Args:
        tail: where the claim found the stream's history to end; all of it is committed.

    is_put_near: a put is to follow soon: it will tell the commit point, no message of its own does.
    full: the members whose disks have no space, and the last entry they held when they said so.
        They are sent heartbeats and, to see whether there is space again, one batch at a time.
    """

    def __init__(
        self,
        *,
        stream_id: int,
        topology: StreamTopology,
        writer: WriterId,
        lease_ms: int,
        tail: Position,
    ) -> None:
        self.stream_id = stream_id
        self.topology = topology
        self.writer = writer
        self.lease_ms = lease_ms
        self.tail = tail
        self.committed = tail
        self.lost: PutReply | None = None
        self.stale_version = 0
        self.mark = 0
        self.is_put_near = False
        self.full: dict[str, int] = {}
        self._window: deque[Batch] = deque()
        self._window_start = 0  # the number of the first batch in the window
        self._window_bytes = 0
        self._committed_bytes = 0
        self._committed_count = 0
        self._transmission = 0
        # (first transmission, sent ns), sampled; those that no majority has acknowledged yet.
        self._sendings: deque[tuple[int, int]] = deque()
        self._remembered_ns = -NEVER
        self._exclusive_until_ns = 0
        self._begun_ns = 0
        self._progress_ns = 0
        self._outgoing: list[Outgoing] = []
        self._links = {node: Link(0) for node in topology.everyone}

    # --- what the owner asks ----------------------------------------------------------------------

    @property
    def batches_in_flight(self) -> int:
        """How many batches are not committed."""
        return len(self._window) - self._committed_count

    @property
    def has_room(self) -> bool:
        """Whether more may be put in flight."""
        return self._window_bytes - self._committed_bytes < PIPELINE_BYTES_MAX

    @property
    def transmission(self) -> int:
        """The newest transmission's number."""
        return self._transmission

    @property
    def acknowledged_transmission(self) -> int:
        """The newest transmission that a majority has acknowledged, it or a later one."""
        return quorum.majority_value(
            self.topology, {node: link.transmission for node, link in self._links.items()}
        )

    def exclusive_until_ns(self) -> int:
        """Until when the writer may call itself exclusive, on the clock given as `now_ns`."""
        return self._exclusive_until_ns

    def blocked_by(self, now_ns: int) -> list[str]:
        """The members whose full disks keep what is in flight from a majority; none if one can be
        had."""
        if not self.full or self.committed == self.tail:
            return []
        is_stalled = now_ns >= self._progress_ns + STALLED_MS * NS_PER_MS
        if is_stalled or not quorum.can_be_majority(self.topology, self.full):
            return sorted(self.full)
        return []

    def uncommitted(self) -> list[Batch]:
        """The batches that are in flight, oldest first."""
        return list(self._window)[self._committed_count :]

    @property
    def has_outgoing(self) -> bool:
        """Whether `take` would give anything."""
        return bool(self._outgoing)

    def take(self) -> list[Outgoing]:
        """What is to be sent now."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    # --- what the owner tells ---------------------------------------------------------------------

    def put(self, batch: Batch, now_ns: int) -> None:
        """Sends the next entries to every member that keeps up."""
        invariant(batch.before == self.tail, "a put builds on the tail", tail=self.tail)
        if self.committed == self.tail:
            self._progress_ns = now_ns
        self.tail = batch.last
        self._window.append(batch)
        self._window_bytes += batch.payload.size
        self._new_transmission(now_ns)
        for node, link in self._links.items():
            self._feed(node, link, now_ns)

    def heartbeat(self, now_ns: int) -> None:
        """Renews the lease and tells the commit point, at once."""
        self._new_transmission(now_ns)
        for node, link in self._links.items():
            if link.is_open:
                self._send(node, link, None, now_ns)

    def connected(self, node: str, now_ns: int) -> None:
        """The member can be reached, perhaps again: what it has not acknowledged is sent anew."""
        link = self._links.get(node)
        if link is not None:
            link.is_connected, link.is_paused = True, False
            self._new_transmission(now_ns)
            self._resend(node, link, now_ns)

    def disconnected(self, node: str) -> None:
        """The member cannot be reached."""
        if node in self._links:
            self._links[node].is_connected = False

    def paused(self, node: str, *, is_paused: bool) -> None:
        """The way to the member is full, or is free again."""
        if node in self._links:
            self._links[node].is_paused = is_paused

    def feed(self, now_ns: int) -> None:
        """Sends the members what they were not sent while the ways to them were full."""
        for node, link in self._links.items():
            self._feed(node, link, now_ns)

    def adopt(self, topology: StreamTopology, now_ns: int) -> None:
        """A newer version: what was acknowledged under the older one is asked for again."""
        if topology.version <= self.topology.version:
            return
        self.topology = topology
        self.stale_version = self.mark = 0  # marks are made anew under each version
        self._exclusive_until_ns, self._begun_ns = 0, now_ns
        self._remembered_ns = -NEVER  # the next sending is to count
        self.full.clear()
        former, self._links = self._links, {}
        for node in topology.everyone:
            link = self._links[node] = Link(self._window_start)
            if node in former:
                link.is_connected, link.is_paused = (
                    former[node].is_connected,
                    former[node].is_paused,
                )
        for node, link in self._links.items():
            if link.is_open:
                self.connected(node, now_ns)

    def receive(self, node: str, reply: PutReply, now_ns: int) -> None:
        """A member's answer."""
        link = self._links.get(node)
        if link is None or reply.stream_id != self.stream_id:
            return
        if reply.code == Code.FENCED:
            self._on_fenced(link, reply)
        elif reply.code in (Code.STALE_VERSION, Code.NOT_A_MEMBER):
            if reply.version > self.topology.version:
                self.stale_version = max(self.stale_version, reply.version)
        elif reply.code == Code.OK:
            if reply.version == self.topology.version:
                self.mark = max(self.mark, reply.mark)
                self._on_acknowledged(node, link, reply, now_ns)
        else:
            if reply.code == Code.NO_SPACE:
                self.full[node] = reply.held.entry_id
            ms = RETRY_MS if reply.code == Code.BUSY else RESEND_MS
            link.retry_ns = link.retry_ns or now_ns + ms * NS_PER_MS

    def tick(self, now_ns: int) -> None:
        """Sends the heartbeats, questions and repetitions that are due."""
        links = [each for each in self._links.items() if now_ns >= self._due_ns(each[1])]
        if links:
            self._new_transmission(now_ns)
        for node, link in links:
            if now_ns >= (link.retry_ns or NEVER):
                self._resend(node, link, now_ns)
                continue
            if now_ns >= self._silent_ns(link):
                link.progress_ns = now_ns
                if not link.asked:  # else this is no new question: its answer may take longer
                    link.asked, link.asked_id = self._transmission, link.in_flight[-1][0]
            self._send(node, link, None, now_ns)

    def next_ns(self) -> int:
        """When `tick` has something to do."""
        return min(self._due_ns(link) for link in self._links.values())

    # --- sending ----------------------------------------------------------------------------------

    def _due_ns(self, link: Link) -> int:
        if not link.is_open:
            return NEVER
        return min(self._heartbeat_due_ns(link), self._silent_ns(link), link.retry_ns or NEVER)

    def _heartbeat_due_ns(self, link: Link) -> int:
        lease_ns = self.lease_ms * NS_PER_MS
        if link.told_ns > max(self._exclusive_until_ns, self._begun_ns) + lease_ns:
            # No majority answers. Those who do must not owe a lease for ever: others may claim.
            return link.told_ns + LEASES_WITHOUT_MAJORITY * lease_ns
        due_ns = link.told_ns + lease_ns // HEARTBEATS_PER_LEASE
        due_ns -= due_ns % (lease_ns // HEARTBEAT_STEPS_PER_LEASE)
        if self.committed != link.told and not self.is_put_near:
            due_ns = min(due_ns, link.told_ns + COMMIT_NOTICE_MS * NS_PER_MS)
        return due_ns

    def _silent_ns(self, link: Link) -> int:
        """When the member is asked how far it is. A heartbeat asks that. What was sent before it is
        on its way, or waits for the member's disk, until the answer shows that it was lost: sending
        all of it again to a member that is only slow would make it slower, and this writer, too."""
        return link.progress_ns + RESEND_MS * NS_PER_MS if link.in_flight else NEVER

    def _new_transmission(self, now_ns: int) -> None:
        """Numbers the sending that follows. Its time is remembered, in steps of a part of a lease:
        a later one counts as sent at the step's begin, which only makes the lease shorter."""
        self._transmission += 1
        self._begun_ns = self._begun_ns or now_ns
        step_ns = self.lease_ms * NS_PER_MS // SENDINGS_REMEMBERED_PER_LEASE
        if now_ns >= self._remembered_ns + step_ns:
            self._remembered_ns = now_ns
            self._sendings.append((self._transmission, now_ns))
            if len(self._sendings) > 2 * SENDINGS_REMEMBERED_PER_LEASE:
                self._sendings.popleft()

    def _send(self, node: str, link: Link, batch: Batch | None, now_ns: int) -> None:
        link.told, link.told_ns = self.committed, now_ns
        put = Put(
            self.stream_id,
            self.topology.version,
            self.writer,
            self._transmission,
            self.committed,
            relay=0,
            mark=self.mark,
        )
        self._outgoing.append(Outgoing(node, put, batch))

    def _feed(self, node: str, link: Link, now_ns: int) -> None:
        """Sends the member what of the window it has not been sent, up to its bounds. One that has
        come to a bound is given much at once, in large batches, as soon as it has acknowledged
        half: what it lags behind by would else be as many messages as there were puts."""
        if not link.is_open:
            return
        link.next = max(link.next, self._window_start)
        end = self._window_start + len(self._window)
        bytes_max = 1 if node in self.full else MEMBER_BACKLOG_BYTES_MAX
        count_max = MEMBER_BACKLOG_BATCHES_MAX
        if link.lags and (
            link.unacknowledged_bytes > bytes_max // 2 or len(link.in_flight) > count_max // 2
        ):
            return
        while (
            link.next < end
            and link.unacknowledged_bytes < bytes_max
            and len(link.in_flight) < count_max
        ):
            batch = self._next_batch(link, end, min(bytes_max, BATCH_BYTES_MAX))
            if not link.unacknowledged_bytes:
                link.progress_ns = now_ns
            link.in_flight.append((batch.last_id, batch.payload.size))
            link.unacknowledged_bytes += batch.payload.size
            self._send(node, link, batch, now_ns)
        link.lags = link.next < end

    def _next_batch(self, link: Link, end: int, bytes_max: int) -> Batch:
        """What of the window the member is sent next: one batch of it, or several as one."""
        first = self._window[link.next - self._window_start]
        link.next += 1
        if link.next == end:
            return first
        taken = [first]
        size = first.payload.size
        while link.next < end:
            batch = self._window[link.next - self._window_start]
            size += batch.payload.size
            if size > bytes_max:
                break
            taken.append(batch)
            link.next += 1
        return joined(taken)

    def _resend(self, node: str, link: Link, now_ns: int) -> None:
        """Sends again what the member has not acknowledged, after a heartbeat."""
        if not link.is_open:
            return
        link.next = link.acknowledged = max(link.acknowledged, self._window_start)
        link.in_flight.clear()
        link.unacknowledged_bytes = 0
        link.progress_ns = now_ns
        link.asked = link.retry_ns = 0
        self._send(node, link, None, now_ns)
        self._feed(node, link, now_ns)

    # --- answers ----------------------------------------------------------------------------------

    def _on_fenced(self, link: Link, reply: PutReply) -> None:
        """A newer writer is promised there. Lost is the stream once no majority is left: a claim
        that died after one promise must not end this writer."""
        link.is_fenced = True
        fenced = [node for node, link in self._links.items() if link.is_fenced]
        if not quorum.can_be_majority(self.topology, fenced):
            self.lost = reply

    def _on_acknowledged(self, node: str, link: Link, reply: PutReply, now_ns: int) -> None:
        if reply.transmission > link.transmission:
            link.transmission = reply.transmission
            self._count_lease(reply.transmission)
        held_id = self._confirmed_id(reply.held)
        if held_id > link.held_id:
            link.held_id = held_id
            link.progress_ns = now_ns
            if held_id > self.full.get(node, held_id):
                del self.full[node]
            while link.in_flight and link.in_flight[0][0] <= held_id:
                link.unacknowledged_bytes -= link.in_flight.popleft()[1]
            link.acknowledged = max(link.acknowledged, self._window_start)
            end = self._window_start + len(self._window)
            while (
                link.acknowledged < end
                and self._window[link.acknowledged - self._window_start].last_id <= held_id
            ):
                link.acknowledged += 1
            link.next = max(link.next, link.acknowledged)
            if held_id > self.committed.entry_id and self._advance():
                self._progress_ns = now_ns
        if link.asked and reply.transmission >= link.asked:
            link.asked = 0
            if link.in_flight and link.in_flight[0][0] <= link.asked_id:
                self._new_transmission(now_ns)
                self._resend(node, link, now_ns)
        if link.lags or link.next < self._window_start + len(self._window):
            self._feed(node, link, now_ns)

    def _count_lease(self, acknowledged: int) -> None:
        """The lease counts from the sending of what a majority has acknowledged.

        acknowledged: the transmission that one member has acknowledged now.
        """
        sendings = self._sendings
        if not sendings or acknowledged < sendings[0][0]:
            return
        transmission = self.acknowledged_transmission
        while sendings and sendings[0][0] <= transmission:
            _, sent_ns = sendings.popleft()
            self._exclusive_until_ns = exclusive_until_ns(sent_ns, self.lease_ms)

    def _confirmed_id(self, held: Position) -> int:
        """How far `held` shows the member to hold this writer's history; 0 if it does not.

        A member may be ahead of this pipeline, when the thin client's puts came another way before:
        that shows once the client has sent them here, too.
        """
        if held.entry_id <= self.committed.entry_id:
            return held.entry_id
        index = bisect_right(
            self._window, held.entry_id, lo=self._committed_count, key=lambda each: each.first_id
        )
        if index > self._committed_count:
            batch = self._window[index - 1]
            if held.entry_id <= batch.last_id and batch.chain_at(held.entry_id) == held.chain:
                return held.entry_id
        return 0

    def _advance(self) -> bool:
        """Moves the commit point to what a majority holds, and the window behind it; returns
        whether that is news."""
        held = {node: link.held_id for node, link in self._links.items()}
        committed_id = quorum.majority_value(self.topology, held)
        if committed_id <= self.committed.entry_id:
            return False
        while self._committed_count < len(self._window):
            batch = self._window[self._committed_count]
            if batch.first_id > committed_id:
                break
            last_id = min(batch.last_id, committed_id)
            self.committed = batch.position_at(last_id)
            if last_id < batch.last_id:
                break
            self._committed_count += 1
            self._committed_bytes += batch.payload.size
        self._trim_window()
        return True

    def _trim_window(self) -> None:
        """Drops what is committed and acknowledged by all that keep up, or is too much to keep."""
        kept_from = min(
            (link.acknowledged for link in self._links.values() if link.is_connected),
            default=1 << 62,
        )
        while self._committed_count and (
            self._window_start < kept_from or self._committed_bytes > RETAINED_BYTES_MAX
        ):
            size = self._window.popleft().payload.size
            self._window_start += 1
            self._window_bytes -= size
            self._committed_bytes -= size
            self._committed_count -= 1
