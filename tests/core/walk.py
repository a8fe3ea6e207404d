"""A random walk: clients that claim, put, read and vanish, over nodes that crash and a network that
loses, repeats and reorders; all from one seed. After every event the invariants are checked.

    python -m tests.core.walk 1 1000        # the seeds from 1 up to 1000, not included
"""

from __future__ import annotations

import random
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.core.cluster import MS, Clock, Cluster, Mail
from tests.core.disk import shape
from tests.core.truth import Truth
from walle.core import history, member, reorder, syncing
from walle.core.lease import exclusive_until_ns
from walle.core.pipeline import Pipeline
from walle.errors import Code
from walle.messages import (
    Claim,
    ClaimReply,
    CreateStream,
    Failure,
    Put,
    PutReply,
    Read,
    ReadReply,
    Release,
    StreamInfo,
)
from walle.record import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.core.disk import Stream
    from walle.core.topology import StreamTopology
    from walle.ids import Position, WriterId
    from walle.record import Batch

READ_BYTES = 1 << 20
SMALL = (
    (member, "FETCH_BYTES_MAX", 150),
    (member, "TAIL_PAGE_ENTRIES", 3),
    (syncing, "FETCH_BYTES_MAX", 150),
    (reorder, "REORDER_COUNT_MAX", 4),
    (member, "COMMIT_NOTE_ENTRIES", 6),
    (history, "CHAINS_KEPT", 8),
)
"""Bounds made so small that a walk comes upon them: module, name, value."""
CLAIM_MS = 2_000
QUIET_CLAIM_MS = 20_000
THIN_RESEND_NS = 40 * MS


@dataclass(frozen=True)
class Faults:
    """How bad the world is; drawn from the seed."""

    lost: float
    repeated: float
    late: float
    late_ms: float
    sync_ms: float
    note_entries: int
    crash: float
    cut_off: float
    blocked: float
    force: float

    @classmethod
    def draw(cls, rng: random.Random) -> Faults:
        return cls(
            lost=rng.choice([0.0, 0.02, 0.1, 0.3]),
            repeated=rng.choice([0.0, 0.05, 0.3]),
            late=rng.choice([0.0, 0.05, 0.3]),
            late_ms=rng.choice([5.0, 50.0, 400.0]),
            sync_ms=rng.choice([0.0, 1.0, 10.0]),
            note_entries=rng.choice([1, 3, 8]),
            crash=rng.choice([0.0, 0.002, 0.02]),
            cut_off=rng.choice([0.0, 0.02]),
            blocked=rng.choice([0.0, 0.01, 0.1]),
            force=rng.choice([0.0, 0.3, 1.0]),
        )


class Client:
    """A client that claims and, as a writer, puts to all members by itself."""

    is_thin = False

    def __init__(self, walk: Walk, session: int, clock: Clock) -> None:
        self.session = session
        self._walk = walk
        self._clock = clock
        self._requests = 0
        self._claim_id = 0
        self._lease_ms = 0
        self._encoder: Encoder | None = None
        self.pipeline: Pipeline | None = None
        self._reads: dict[int, tuple[Read, int]] = {}

    @property
    def now_ns(self) -> int:
        return self._clock.at(self._walk.cluster.now_ns)

    @property
    def is_writer(self) -> bool:
        return self.pipeline is not None

    @property
    def is_claiming(self) -> bool:
        return self._claim_id != 0

    @property
    def is_exclusive(self) -> bool:
        return self.pipeline is not None and self.now_ns < self.pipeline.exclusive_until_ns()

    def _ask(self, node: str, message: object, batch: Batch | None = None) -> int:
        self._requests += 1
        self._walk.cluster.ask(node, message, self._requests, batch, self.session)
        return self._requests

    # --- what a client does -----------------------------------------------------------------------

    def claim(self, node: str, lease_ms: int, wait_ms: int, *, is_forced: bool) -> None:
        self._lease_ms = lease_ms
        address = f"client:{self.session}"
        claim = Claim(self._walk.stream_id, address, lease_ms, wait_ms, int(is_forced))
        self._claim_id = self._ask(node, claim)

    def put(self, count: int) -> None:
        if self.pipeline is None or self._encoder is None or not self.pipeline.has_room:
            return
        for _ in range(count):
            self._encoder.add(b"x" * self._walk.rng.randrange(20), 0)
        self.pipeline.put(self._encoder.take(), self.now_ns)
        self._flush()

    def tick(self) -> None:
        if self.pipeline is not None and self.pipeline.next_ns() <= self.now_ns:
            self.pipeline.tick(self.now_ns)
            self._flush()

    def connected(self, node: str) -> None:
        """The connection to the node is lost and made again."""
        if self.pipeline is not None:
            self.pipeline.connected(node, self.now_ns)
            self._flush()

    def release(self) -> None:
        """Ends in good order."""
        if self.pipeline is not None:
            pipeline, self.pipeline = self.pipeline, None
            version, committed = pipeline.topology.version, pipeline.committed
            for node in self._walk.cluster.names:
                release = Release(
                    self._walk.stream_id, version, pipeline.writer, committed, relay=0
                )
                self._ask(node, release)

    def vanish(self) -> None:
        """Ends without a word."""
        self.pipeline = None
        self._claim_id = 0

    def read(self, node: str, start: int) -> None:
        """Asks for everything acknowledged before this moment, from `start` on."""
        read = Read(self._walk.stream_id, start, READ_BYTES, 0, linearizable=1, local=0)
        self._reads[self._ask(node, read)] = (read, self._walk.truth.tip.entry_id)

    # --- what it hears ----------------------------------------------------------------------------

    def receive(self, mail: Mail) -> None:
        message = mail.message
        if isinstance(message, ClaimReply) and mail.request_id == self._claim_id:
            self._claim_id = 0
            self._begin(message)
        elif isinstance(message, Failure) and mail.request_id == self._claim_id:
            self._claim_id = 0
        elif isinstance(message, PutReply):
            self._on_put_reply(mail.source, message)
        elif mail.request_id in self._reads:
            self._check_read(*self._reads.pop(mail.request_id), message, mail.batch)

    def _begin(self, claimed: ClaimReply) -> None:
        self.pipeline = Pipeline(
            stream_id=self._walk.stream_id,
            topology=self._walk.topology,
            writer=claimed.writer,
            lease_ms=self._lease_ms,
            tail=claimed.tail,
        )
        self._encoder = Encoder(claimed.writer, claimed.tail)
        for node in self._walk.cluster.names:
            self.pipeline.connected(node, self.now_ns)
        self._flush()

    def _on_put_reply(self, node: str, /, reply: PutReply) -> None:
        if self.pipeline is None or reply.transmission == 0:
            return
        if reply.code == Code.OK and reply.promised != self.pipeline.writer:
            return  # of a former life
        self.pipeline.receive(node, reply, self.now_ns)
        committed = self.pipeline.committed
        assert self._walk.truth.chains[committed.entry_id] == committed.chain
        self._flush()
        if self.pipeline.lost is not None:
            if reply.promised > self.pipeline.writer:
                self.pipeline = None
            else:
                self.pipeline.lost = None

    def _flush(self) -> None:
        assert self.pipeline is not None
        for node, put, batch in self.pipeline.take():
            self._ask(node, put, batch)

    def _check_read(self, read: Read, tip_id: int, message: object, batch: Batch | None) -> None:
        if not isinstance(message, ReadReply):
            return
        truth = self._walk.truth
        assert message.committed.entry_id >= tip_id or batch is not None, "a read lacks the tip"
        if batch is not None:
            assert batch.first_id == read.start
            assert truth.chains[batch.last_id] == batch.last.chain
        elif read.start <= tip_id:
            raise AssertionError(f"a read from {read.start} on lacks {tip_id}")


class ThinClient(Client):
    """A writer whose puts a member relays, one at a time; it repeats them, at any member."""

    is_thin = True

    def __init__(self, walk: Walk, session: int, clock: Clock) -> None:
        super().__init__(walk, session, clock)
        self._writer: WriterId | None = None
        self._committed: Position | None = None
        self._waiting: deque[Batch] = deque()
        self._transmissions: list[int] = []
        self._until_ns = 0
        self._sent_ns = 0

    @property
    def is_writer(self) -> bool:
        return self._writer is not None

    @property
    def is_exclusive(self) -> bool:
        return self._writer is not None and self.now_ns < self._until_ns

    def _begin(self, claimed: ClaimReply) -> None:
        self._writer, self._committed = claimed.writer, claimed.tail
        self._encoder = Encoder(claimed.writer, claimed.tail)
        self._waiting.clear()
        self._until_ns = 0
        self._transmit()

    def put(self, count: int) -> None:
        if self._encoder is not None and self._writer is not None and len(self._waiting) < 5:
            for _ in range(count):
                self._encoder.add(b"thin", 0)
            self._waiting.append(self._encoder.take())
            self._transmit()

    def tick(self) -> None:
        if self._writer is not None and self.now_ns >= self._sent_ns + THIN_RESEND_NS:
            self._transmit()

    def _transmit(self) -> None:
        assert self._writer is not None
        assert self._committed is not None
        self._sent_ns = self.now_ns
        self._transmissions.append(self.now_ns)
        put = Put(
            self._walk.stream_id,
            self._walk.topology.version,
            self._writer,
            len(self._transmissions),
            self._committed,
            relay=1,
        )
        batch = self._waiting[0] if self._waiting else None
        self._ask(self._walk.rng.choice(self._walk.cluster.names), put, batch)

    def _on_put_reply(self, _node: str, /, reply: PutReply) -> None:
        if self._writer is None or self._committed is None:
            return
        if reply.code == Code.FENCED and reply.promised > self._writer:
            self._writer = None
        elif reply.code == Code.OK and reply.promised == self._writer:
            sent_ns = self._transmissions[reply.transmission - 1]
            self._until_ns = max(self._until_ns, exclusive_until_ns(sent_ns, self._lease_ms))
            assert self._walk.truth.chains[reply.held.entry_id] == reply.held.chain
            while self._waiting and self._waiting[0].last_id <= reply.held.entry_id:
                self._committed = self._waiting.popleft().last

    def release(self) -> None:
        if self._writer is not None and self._committed is not None:
            release = Release(
                self._walk.stream_id,
                self._walk.topology.version,
                self._writer,
                self._committed,
                relay=1,
            )
            self._writer = None
            self._ask(self._walk.rng.choice(self._walk.cluster.names), release)

    def vanish(self) -> None:
        super().vanish()
        self._writer = None


class Walk:
    """One run from one seed."""

    def __init__(self, seed: int, size: int = 3) -> None:
        self.rng = random.Random(seed)
        self.faults = Faults.draw(self.rng)
        self.cluster = Cluster(size, seed, is_started=False)
        for name in self.cluster.names:
            self.cluster.clocks[name] = self._draw_clock()
            self.cluster.disks[name].note_entries = self.faults.note_entries
            self.cluster.start(name)
        self.stream_id = self._create_stream()
        self.topology: StreamTopology = self.cluster.nodes["n1"].members[self.stream_id].topology
        self.truth = Truth(self.stream_id, self.cluster.names)
        self.clients = [Client(self, session, self._draw_clock()) for session in (2, 3, 4)]
        self.clients.append(ThinClient(self, 5, self._draw_clock()))
        self._checks = 0
        self._blocked: set[tuple[int | str, str]] = set()
        self.cluster.on_post = self._saw
        self.cluster.on_answer = self._on_answer
        self.cluster.on_step = self._check

    def _draw_clock(self) -> Clock:
        return Clock(self.rng.choice([1.0, 1.15, 1.32]))

    def _create_stream(self) -> int:
        cluster = self.cluster
        request = CreateStream("/s", 0, tuple(cluster.names))
        while not any(isinstance(answer, StreamInfo) for answer in cluster.answers_to(1)):
            cluster.ask("n1", request, 1)
            cluster.run(500)
        stream_id: int = cluster.answer(1).stream_id
        cluster.run_until(lambda: all(stream_id in n.members for n in cluster.nodes.values()))
        return stream_id

    # --- watching ---------------------------------------------------------------------------------

    def _saw(self, mail: Mail) -> None:
        client = self._client_of(mail) if mail.target == "client" else None
        if client is None or not client.is_thin:
            self.truth.saw(mail.source, mail.message, mail.batch)

    def _on_answer(self, mail: Mail) -> None:
        client = self._client_of(mail)
        if client is not None:
            client.receive(mail)

    def _client_of(self, mail: Mail) -> Client | None:
        return next((each for each in self.clients if each.session == mail.sender), None)

    def _streams(self) -> dict[str, Stream]:
        return {name: disk.streams[self.stream_id] for name, disk in self.cluster.disks.items()}

    def _check(self) -> None:
        self._checks += 1
        self.truth.check(self._streams())
        disks = self.cluster.disks
        self.truth.check({name: disk.durable(self.stream_id) for name, disk in disks.items()})
        for name, node in self.cluster.nodes.items():
            assert shape(node.members[self.stream_id].history) == shape(
                disks[name].streams[self.stream_id].history
            ), f"{name}'s storage holds another history than its core believes"
        if self._checks % 64 == 0:
            self.truth.check_coverage(self._streams())
        exclusive = [client for client in self.clients if client.is_exclusive]
        assert len(exclusive) <= 1, "two writers call themselves exclusive"
        assert not self.cluster.alarms

    # --- walking ----------------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        self._make_faulty()
        for _ in range(steps):
            self._act()
            self._pass_ms(self.rng.choice([0.0, 0.3, 2.0, 10.0, 40.0]))
        self.quiet()

    def _make_faulty(self) -> None:
        rng, faults, cluster = self.rng, self.faults, self.cluster

        def delays_ms(_mail: Mail) -> tuple[float, ...]:
            def delay() -> float:
                return rng.uniform(0.05, faults.late_ms if rng.random() < faults.late else 0.5)

            return (delay(), delay()) if rng.random() < faults.repeated else (delay(),)

        def is_lost(mail: Mail) -> bool:
            if "client" in (mail.source, mail.target):
                node = mail.target if mail.source == "client" else mail.source
                if (mail.sender, node) in self._blocked:
                    return True
            return rng.random() < faults.lost

        cluster.lose = is_lost
        cluster.delays_ms = delays_ms
        cluster.sync_ms = lambda: rng.uniform(0, faults.sync_ms)

    def _pass_ms(self, ms: float) -> None:
        end_ns = self.cluster.now_ns + int(ms * MS)
        while self.cluster.now_ns <= end_ns:
            for client in self.clients:
                client.tick()
            if self.cluster.now_ns == end_ns:
                return
            self.cluster.run(min(1.0, (end_ns - self.cluster.now_ns) / MS))

    def _act(self) -> None:
        rng, cluster, faults = self.rng, self.cluster, self.faults
        name = rng.choice(cluster.names)
        if name not in cluster.nodes:
            if rng.random() < 0.1:
                cluster.start(name)
                for client in self.clients:
                    client.connected(name)
        elif rng.random() < faults.crash:
            cluster.crash(name, rng.randrange(cluster.disks[name].unsynced_count + 1))
        if rng.random() < faults.cut_off:
            cluster.cut_off = set(rng.choice([(), (name,)]))
        client = rng.choice(self.clients)
        if rng.random() < faults.blocked:
            self._blocked ^= {(client.session, name)}
        roll = rng.random()
        if not client.is_writer:
            if roll < 0.1:
                lease_ms = rng.choice([100, 200, 800])
                is_forced = rng.random() < faults.force
                client.claim(name, lease_ms, rng.choice([200, CLAIM_MS]), is_forced=is_forced)
            elif roll < 0.2 and name in cluster.nodes:
                client.read(name, rng.randint(1, self.truth.tip.entry_id + 1))
        elif roll < 0.01:
            client.vanish()
        elif roll < 0.03:
            client.release()
        else:
            client.put(rng.choice([1, 1, 3]))

    # --- the quiet end ----------------------------------------------------------------------------

    def quiet(self) -> None:
        """No more faults: a claim succeeds, puts commit, gaps close, replicas are identical."""
        cluster = self.cluster
        cluster.lose = lambda _mail: False
        cluster.delays_ms = lambda _mail: (0.2,)
        cluster.sync_ms = lambda: 0.2
        cluster.cut_off = set()
        for client in self.clients:
            client.vanish()
        for name in cluster.names:
            if name not in cluster.nodes:
                cluster.start(name)
        self._pass_ms(CLAIM_MS + 1_000)  # what was asked before has ended
        writer = self.clients[0]

        def is_claimed() -> bool:
            if not writer.is_writer and not writer.is_claiming:  # refused as busy: repeats
                writer.claim(self.rng.choice(cluster.names), 200, 5_000, is_forced=False)
            return writer.is_writer

        self._pass_until(is_claimed, QUIET_CLAIM_MS, "the claim")
        writer.put(3)
        pipeline = writer.pipeline
        assert pipeline is not None
        self._pass_until(lambda: pipeline.committed == pipeline.tail, 2_000, "the put")
        writer.put(2)
        self._pass_until(self._is_whole, 20_000, "the closing of gaps")
        writer.release()
        self._pass_ms(1_000)
        self.truth.check_coverage(self._streams())
        self._check_leftovers()

    def _pass_until(self, condition: Callable[[], bool], ms: float, what: str) -> None:
        end_ns = self.cluster.now_ns + int(ms * MS)
        while not condition():
            assert self.cluster.now_ns < end_ns, f"{what} takes longer than {ms} ms"
            self._pass_ms(5)

    def _is_whole(self) -> bool:
        """Whether all replicas are identical, complete and committed."""
        streams = list(self._streams().values())
        return all(
            stream.history.committed == stream.history.tail == self.truth.tip
            and not stream.history.gaps()
            and not stream.aside
            and stream.runs == streams[0].runs
            for stream in streams
        )

    def _check_leftovers(self) -> None:
        """Nothing goes on that should have ended: no question, no relay, no reader."""
        self._pass_ms(5_000)
        for node in self.cluster.nodes.values():
            assert not node._writers._relays
            assert not node._writers._claims
            assert not node.members[self.stream_id].reading._waiting
            assert not node.members[self.stream_id].watching._watches
            keys = [key for key in node.context.timers._alarms if isinstance(key, tuple)]
            calls = {key[1] for key in keys if key[0] in ("call repeats", "call ends")}
            assert calls == set(node.context.calls._calls), "a question is asked without end"


def main() -> None:
    """Walks from each seed in a range."""
    first, last = int(sys.argv[1]), int(sys.argv[2])
    for module, name, value in SMALL:
        setattr(module, name, value)
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 2_000
    failures: dict[str, list[int]] = {}
    for seed in range(first, last):
        walk = Walk(seed, size=5 if seed % 3 == 0 else 3)
        try:
            walk.run(steps)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            text = f"{type(error).__name__}: {error}"
            failures.setdefault(text[:60], []).append(seed)
            print(seed, walk.truth.tip.entry_id, text, walk.faults, flush=True)  # noqa: T201
        else:
            print(seed, walk.truth.tip.entry_id, flush=True)  # noqa: T201
    for text, seeds in failures.items():
        print(len(seeds), text, seeds[:10])  # noqa: T201


if __name__ == "__main__":
    main()
