"""The simulated clients: writers that put to all members or through a relay, and readers.

What they do and are told goes into the stream's `Operations`. A client that has lost its claim
finds out what became of its puts, as the real one does: once a newer claim has returned, it reads.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from walle.core.lease import exclusive_until_ns
from walle.core.pipeline import Pipeline
from walle.core.topology import StreamTopology
from walle.errors import Code, Outcome
from walle.ids import NO_WRITER
from walle.messages import (
    Claim,
    ClaimReply,
    Describe,
    Failure,
    Put,
    PutReply,
    Read,
    ReadReply,
    Release,
    StreamInfo,
    WriterStatus,
    WriterStatusReply,
)
from walle.record import Encoder
from walle.testing.cluster import MS
from walle.testing.violation import require

if TYPE_CHECKING:
    import random

    from walle.ids import Position, WriterId
    from walle.record import Batch
    from walle.testing.cluster import Clock, Cluster, Mail
    from walle.testing.operations import Operation, Operations
    from walle.testing.truth import Truth

READ_BYTES = 1 << 20
THIN_RESEND_NS = 40 * MS
DESCRIBE_NS = 20 * MS
RESOLVE_NS = 50 * MS


class World(Protocol):
    """What a client sees of the simulation: its stream."""

    rng: random.Random
    cluster: Cluster
    truth: Truth
    operations: Operations
    stream_id: int
    stream_name: str


class Reading(NamedTuple):
    """A read under way.

    tip_id: what a majority had acknowledged when it began.
    settles: of which lost writer's puts it tells what became; it began when a newer claim had
        returned.
    """

    read: Read
    tip_id: int
    begun_ns: int
    settles: WriterId | None


class Section(NamedTuple):
    """An exclusive section under way, of that writer, which knows the history up to `position`."""

    writer: WriterId
    position: Position
    begun_ns: int


class Client:
    """A client that claims and, as a writer, puts to all members by itself."""

    is_thin = False

    def __init__(self, world: World, session: int, clock: Clock, topology: StreamTopology) -> None:
        self.session = session
        self.topology = topology
        self.claims_count = 0
        self.acknowledged_count = 0
        self._describe_ns = 0
        self.world = world
        self._clock = clock
        self._requests = 0
        self._claim_id = 0
        self._lease_ms = 0
        self._encoder: Encoder | None = None
        self.pipeline: Pipeline | None = None
        self._reads: dict[int, Reading] = {}
        self._paused_mail: list[Mail] | None = None
        self._puts: deque[Operation] = deque()
        self._unresolved: deque[Operation] = deque()
        self._lost_writer: WriterId | None = None
        self._resolve_ns = 0
        self._section: Section | None = None

    @property
    def now_ns(self) -> int:
        return self._clock.at(self.world.cluster.now_ns)

    @property
    def is_writer(self) -> bool:
        return self.writer is not None

    @property
    def writer(self) -> WriterId | None:
        return None if self.pipeline is None else self.pipeline.writer

    @property
    def committed(self) -> Position | None:
        """The last entry that the writer knows to be durable."""
        return None if self.pipeline is None else self.pipeline.committed

    @property
    def is_claiming(self) -> bool:
        return self._claim_id != 0

    @property
    def is_exclusive(self) -> bool:
        return self.pipeline is not None and self.now_ns < self.pipeline.exclusive_until_ns()

    def _ask(self, node: str, message: object, batch: Batch | None = None) -> int:
        self._requests += 1
        self.world.cluster.ask(node, message, self._requests, batch, self.session)
        return self._requests

    # --- what a client does -----------------------------------------------------------------------

    def claim(self, node: str, lease_ms: int, wait_ms: int, *, is_forced: bool) -> None:
        self._lease_ms = lease_ms
        address = f"client:{self.session}"
        claim = Claim(self.world.stream_id, address, lease_ms, wait_ms, int(is_forced))
        self._claim_id = self._ask(node, claim)

    def put(self, count: int) -> None:
        if self.pipeline is None or self._encoder is None or not self.pipeline.has_room:
            return
        for _ in range(count):
            self._encoder.add(b"x" * self.world.rng.randrange(20), 0)
        self.pipeline.put(self._take(self._encoder), self.now_ns)
        self._flush()

    def _take(self, encoder: Encoder) -> Batch:
        """What was added; it is put from now on."""
        batch = encoder.take()
        what = f"client {self.session}'s put"
        now_ns = self.world.cluster.now_ns
        for entry_id in range(batch.first_id, batch.last_id + 1):
            position = batch.position_at(entry_id)
            self._puts.append(self.world.operations.begin_put(what, position, now_ns))
        return batch

    def use_lease(self) -> None:
        """Begins an exclusive section, or ends it: then what it saw is the stream's state, unless
        the lease has lapsed meanwhile."""
        section, self._section = self._section, None
        if not self.is_exclusive or self.writer is None or self.committed is None:
            return
        if section is None or section.writer != self.writer:
            if self.is_thin and self._puts:
                return  # others may have read already what the relay has not told this client
            self._section = Section(self.writer, self.committed, self.world.cluster.now_ns)
            return
        what = f"client {self.session}'s exclusive section"
        now_ns = self.world.cluster.now_ns
        self.world.operations.saw(what, section.position, section.begun_ns, now_ns)

    def pause(self) -> None:
        """Stands still: the clock goes on, and what comes waits."""
        self._paused_mail = self._paused_mail or []

    def resume(self) -> None:
        """Goes on, first with what has waited."""
        waiting, self._paused_mail = self._paused_mail or [], None
        for mail in waiting:
            self.receive(mail)

    @property
    def is_paused(self) -> bool:
        return self._paused_mail is not None

    def tick(self) -> None:
        if self.is_paused:
            return
        self._resolve()
        if self.pipeline is not None and self.pipeline.next_ns() <= self.now_ns:
            self.pipeline.tick(self.now_ns)
            self._flush()

    def _look_for_members(self) -> None:
        """The stream's members have changed: asks any node who they are."""
        if self.now_ns >= self._describe_ns + DESCRIBE_NS:
            self._describe_ns = self.now_ns
            name = self.world.rng.choice(self.world.cluster.names)
            self._ask(name, Describe(self.world.stream_name))

    def _on_info(self, info: StreamInfo) -> None:
        if info.version <= self.topology.version:
            return
        self.topology = StreamTopology.of(info)
        if self.pipeline is not None:
            self.pipeline.adopt(self.topology, self.now_ns)
            for node in self.topology.everyone:
                self.pipeline.connected(node, self.now_ns)
            self._flush()

    def connected(self, node: str) -> None:
        """The connection to the node is lost and made again."""
        if self.pipeline is not None:
            self.pipeline.connected(node, self.now_ns)
            self._flush()

    def release(self) -> None:
        """Ends in good order, without waiting for its puts."""
        self._puts.clear()
        if self.pipeline is not None:
            pipeline, self.pipeline = self.pipeline, None
            version, committed = pipeline.topology.version, pipeline.committed
            for node in pipeline.topology.everyone:
                release = Release(
                    self.world.stream_id, version, pipeline.writer, committed, relay=0
                )
                self._ask(node, release)

    def vanish(self) -> None:
        """Ends without a word; what comes next is another process."""
        self.pipeline = None
        self._claim_id = 0
        self._puts.clear()
        self._unresolved.clear()

    def read(
        self,
        node: str,
        start: int,
        *,
        linearizable: bool,
        wait_ms: int,
        settles: WriterId | None = None,
    ) -> None:
        """Asks for what is committed from `start` on: all that was acknowledged before this
        moment, if the read is linearizable."""
        read = Read(self.world.stream_id, start, READ_BYTES, wait_ms, int(linearizable), local=0)
        tip_id, now_ns = self.world.truth.tip.entry_id, self.world.cluster.now_ns
        reading = Reading(read, tip_id, now_ns, settles)
        self._reads[self._ask(node, read)] = reading

    # --- puts that nobody has acknowledged --------------------------------------------------------

    def _on_durable(self, last_id: int) -> None:
        """The writer's entries up to that one are durable."""
        while self._puts and self._puts[0].position.entry_id <= last_id:
            self._end(self._puts.popleft(), Outcome.DURABLE)

    def _end(self, put: Operation, outcome: Outcome) -> None:
        self.world.operations.end(put, outcome, self.world.cluster.now_ns)

    def _on_lost(self, writer: WriterId) -> None:
        """A newer writer is there. Of an even older claim's puts nothing more will be known."""
        self._lost_writer = writer
        self._unresolved, self._puts = self._puts, deque()

    def _resolve(self) -> None:
        """Asks whether a newer claim has returned."""
        if self._unresolved and self.now_ns >= self._resolve_ns + RESOLVE_NS:
            self._resolve_ns = self.now_ns
            node = self.world.rng.choice(self.topology.everyone)
            self._ask(node, WriterStatus(self.world.stream_id, 0, NO_WRITER, 0))

    def _on_status(self, status: WriterStatusReply) -> None:
        if (
            self._unresolved
            and self._lost_writer is not None
            and status.established
            and status.writer > self._lost_writer
        ):
            node = self.world.rng.choice(self.topology.everyone)
            start = self._unresolved[0].position.entry_id
            settles = self._lost_writer
            self.read(node, start, linearizable=True, wait_ms=0, settles=settles)

    def _on_settled(self, start: int, batch: Batch | None) -> None:
        """The stream's history, settled, goes on from `start` with the batch; or ends there."""
        while self._unresolved and self._unresolved[0].position.entry_id >= start:
            put = self._unresolved[0].position
            if batch is not None and put.entry_id > batch.last_id:
                return  # the next read will tell
            is_there = batch is not None and batch.chain_at(put.entry_id) == put.chain
            self._end(
                self._unresolved.popleft(), Outcome.DURABLE if is_there else Outcome.NOT_WRITTEN
            )

    # --- what it hears ----------------------------------------------------------------------------

    def receive(self, mail: Mail) -> None:
        if self._paused_mail is not None:
            self._paused_mail.append(mail)
            return
        message = mail.message
        if isinstance(message, ClaimReply) and mail.request_id == self._claim_id:
            self._claim_id = 0
            self._begin(message)
        elif isinstance(message, Failure) and mail.request_id == self._claim_id:
            self._claim_id = 0
        elif isinstance(message, StreamInfo):
            self._on_info(message)
        elif isinstance(message, PutReply):
            self._on_put_reply(mail.source, message)
        elif isinstance(message, WriterStatusReply):
            self._on_status(message)
        elif isinstance(message, ReadReply) and mail.request_id in self._reads:
            self._on_read(self._reads.pop(mail.request_id), message, mail.batch)

    def _begin(self, claimed: ClaimReply) -> None:
        self.claims_count += 1
        self.pipeline = Pipeline(
            stream_id=self.world.stream_id,
            topology=self.topology,
            writer=claimed.writer,
            lease_ms=self._lease_ms,
            tail=claimed.tail,
        )
        self._encoder = Encoder(claimed.writer, claimed.tail)
        for node in self.topology.everyone:
            self.pipeline.connected(node, self.now_ns)
        self._flush()

    def _on_put_reply(self, node: str, /, reply: PutReply) -> None:
        if self.pipeline is None or reply.transmission == 0:
            return
        if reply.code == Code.OK and reply.promised != self.pipeline.writer:
            return  # of a former life
        before_id = self.pipeline.committed.entry_id
        self.pipeline.receive(node, reply, self.now_ns)
        committed = self.pipeline.committed
        self.acknowledged_count += committed.entry_id - before_id
        self._on_durable(committed.entry_id)
        require(
            self.world.truth.chains.get(committed.entry_id) == committed.chain,
            f"durability: a writer takes {committed} for acknowledged, which is not",
        )
        if self.pipeline.stale_version:
            self._look_for_members()
        self._flush()
        if self.pipeline.lost is not None:
            if reply.promised > self.pipeline.writer:
                self._on_lost(self.pipeline.writer)
                self.pipeline = None
            else:
                self.pipeline.lost = None

    def _flush(self) -> None:
        if self.pipeline is None:
            return
        for node, put, batch in self.pipeline.take():
            self._ask(node, put, batch)

    def _on_read(self, reading: Reading, reply: ReadReply, batch: Batch | None) -> None:
        read, truth = reading.read, self.world.truth
        if batch is not None:
            require(
                batch.first_id == read.start and truth.chains[batch.last_id] == batch.last.chain,
                "honest storage: a read brings what is not committed",
            )
        if not read.linearizable:
            return
        require(
            reply.committed.entry_id >= reading.tip_id,
            "linearizability: a read lacks what was acknowledged before it",
        )
        is_trimmed = read.start < reply.first_entry_id
        require(
            batch is not None or read.start > reading.tip_id or is_trimmed,
            f"linearizability: a read from {read.start} on lacks entry {reading.tip_id}",
        )
        now_ns = self.world.cluster.now_ns
        what = f"client {self.session}'s read"
        self.world.operations.saw(what, reply.committed, reading.begun_ns, now_ns)
        if reading.settles is not None and reading.settles == self._lost_writer:
            if is_trimmed:
                self._unresolved.clear()  # nobody can tell any more
            self._on_settled(read.start, batch)


class ThinClient(Client):
    """A writer whose puts a member relays, one at a time; it repeats them, at any member."""

    is_thin = True

    def __init__(self, world: World, session: int, clock: Clock, topology: StreamTopology) -> None:
        super().__init__(world, session, clock, topology)
        self._writer: WriterId | None = None
        self._committed: Position | None = None
        self._waiting: deque[Batch] = deque()
        self._transmissions: list[int] = []
        self._until_ns = 0
        self._sent_ns = 0

    @property
    def writer(self) -> WriterId | None:
        return self._writer

    @property
    def committed(self) -> Position | None:
        return self._committed

    @property
    def is_exclusive(self) -> bool:
        return self._writer is not None and self.now_ns < self._until_ns

    def _begin(self, claimed: ClaimReply) -> None:
        self.claims_count += 1
        self._writer, self._committed = claimed.writer, claimed.tail
        self._encoder = Encoder(claimed.writer, claimed.tail)
        self._waiting.clear()
        self._until_ns = 0
        self._transmit()

    def put(self, count: int) -> None:
        if self._encoder is not None and self._writer is not None and len(self._waiting) < 5:
            for _ in range(count):
                self._encoder.add(b"thin", 0)
            self._waiting.append(self._take(self._encoder))
            self._transmit()

    def tick(self) -> None:
        if self.is_paused:
            return
        self._resolve()
        if self._writer is not None and self.now_ns >= self._sent_ns + THIN_RESEND_NS:
            self._transmit()

    def _transmit(self) -> None:
        if self._writer is None or self._committed is None:
            return
        self._sent_ns = self.now_ns
        self._transmissions.append(self.now_ns)
        put = Put(
            self.world.stream_id,
            self.topology.version,
            self._writer,
            len(self._transmissions),
            self._committed,
            relay=1,
        )
        batch = self._waiting[0] if self._waiting else None
        self._ask(self.world.rng.choice(self.topology.everyone), put, batch)

    def _on_put_reply(self, _node: str, /, reply: PutReply) -> None:
        if self._writer is None or self._committed is None:
            return
        if reply.code in (Code.STALE_VERSION, Code.NOT_A_MEMBER):
            self._look_for_members()
        elif reply.code == Code.FENCED and reply.promised > self._writer:
            self._on_lost(self._writer)
            self._writer = None
        elif reply.code == Code.OK and reply.promised == self._writer:
            sent_ns = self._transmissions[reply.transmission - 1]
            self._until_ns = max(self._until_ns, exclusive_until_ns(sent_ns, self._lease_ms))
            require(
                self.world.truth.chains.get(reply.held.entry_id) == reply.held.chain,
                f"durability: a relay calls {reply.held} durable, which is not",
            )
            self.acknowledged_count += max(reply.held.entry_id - self._committed.entry_id, 0)
            self._on_durable(reply.held.entry_id)
            while self._waiting and self._waiting[0].last_id <= reply.held.entry_id:
                self._committed = self._waiting.popleft().last

    def release(self) -> None:
        self._puts.clear()
        if self._writer is not None and self._committed is not None:
            release = Release(
                self.world.stream_id,
                self.topology.version,
                self._writer,
                self._committed,
                relay=1,
            )
            self._writer = None
            self._ask(self.world.rng.choice(self.topology.everyone), release)

    def vanish(self) -> None:
        super().vanish()
        self._writer = None
