"""One run from one seed: clients that claim, put, read and vanish, over nodes that crash and are
replaced, and a network that loses, repeats and reorders. After every event the invariants are
checked; at the end comes a quiet phase, in which there must be progress.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from walle.core import quorum
from walle.core.effects import Action, CloseGap, Fill, Jump, Truncate
from walle.messages import CreateStream, StreamInfo
from walle.testing.clients import Client, ThinClient
from walle.testing.cluster import MS, Clock, Cluster
from walle.testing.disk import shape
from walle.testing.faults import SMALL, Faults
from walle.testing.truth import Truth
from walle.testing.violation import require

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from walle.core.manager import Manager
    from walle.core.topology import StreamTopology
    from walle.messages import Message
    from walle.testing.cluster import Mail
    from walle.testing.disk import Stream

CLAIM_MS = 2_000
QUIET_MS = 20_000
CHANGE_MS = 30_000
STEPS_MS = (0.0, 0.3, 2.0, 10.0, 40.0)
COUNTED_ACTIONS: dict[type[Action], str] = {
    Jump: "jumps",
    Fill: "backfills",
    CloseGap: "gaps closed",
    Truncate: "suffixes cut",
}
RESUME = 0.2
"""How likely a client, or a node, that stands still goes on when its turn comes."""
REMEMBERED_MAX = 40
"""So many messages of each kind may be replayed."""
FORESIGHT_EVERY = 4
RECORDS_EVERY = 16


class Simulation:
    """A cluster, one stream on it, and its clients.

    size: how many nodes there are; the stream begins on `replicas` of them.
    steps: which steps are done; the others only let time pass.
    """

    def __init__(
        self,
        seed: int,
        *,
        size: int = 3,
        replicas: int | None = None,
        faults: Faults | None = None,
        steps: Collection[int] = range(1_000),
    ) -> None:
        self.seed = seed
        self.rng = random.Random(f"{seed} world")
        self.faults = faults or Faults.draw(self.rng)
        self.steps = steps
        self.counts: Counter[str] = Counter()
        self.trace: list[str] | None = None
        self.cluster = Cluster(size, seed, is_started=False)
        for name in self.cluster.names:
            self.cluster.clocks[name] = self._draw_clock()
            self.cluster.disks[name].note_entries = self.faults.note_entries
            self.cluster.start(name)
        self.stream_name = "/s"
        self.stream_id = self._create_stream(replicas or size)
        self._topologies: dict[int, StreamTopology] = {}
        self.truth = Truth(self.stream_id, self._topology_of)
        first = self._newest()
        self.clients = [Client(self, session, self._draw_clock(), first) for session in (2, 3, 4)]
        self.clients.append(ThinClient(self, 5, self._draw_clock(), first))
        self._events = 0
        self._actions = 0
        self._checked = (0, 0)
        self._blocked: set[tuple[int | str, str]] = set()
        self._closed: set[tuple[str, str]] = set()
        self._sent: dict[str, deque[Mail]] = {}
        self._rotten = self.rng.choice(self.cluster.names)
        self.cluster.on_post = self._saw
        self.cluster.on_answer = self._on_answer
        self.cluster.on_action = self._count_action
        self.cluster.on_step = self._check

    def _draw_clock(self) -> Clock:
        return Clock(self.rng.choice([1.0, 1.15, 1.32]) if self.faults.fast_clocks else 1.0)

    def _create_stream(self, replicas: int) -> int:
        cluster = self.cluster
        members = tuple(cluster.names[:replicas])
        request = CreateStream(self.stream_name, 0, members)
        while not any(isinstance(answer, StreamInfo) for answer in cluster.answers_to(1)):
            cluster.ask("n1", request, 1)
            cluster.run(500)
        stream_id: int = cluster.answer(1).stream_id
        cluster.run_until(lambda: all(stream_id in cluster.nodes[name].members for name in members))
        cluster.run_until(
            lambda: all(stream_id in node.cluster.streams for node in cluster.nodes.values())
        )
        return stream_id

    # --- watching ---------------------------------------------------------------------------------

    def _newest(self) -> StreamTopology:
        """The stream's newest committed topology."""
        for node in self.cluster.nodes.values():
            record = node.cluster.streams.get(self.stream_id)
            if record is not None:
                self._topologies.setdefault(record.topology.version, record.topology)
        for stream in self._streams().values():
            self._topologies.setdefault(stream.topology.version, stream.topology)
        return self._topologies[max(self._topologies)]

    def _topology_of(self, version: int) -> StreamTopology:
        if version not in self._topologies:
            self._newest()
        return self._topologies[version]

    def _saw(self, mail: Mail) -> None:
        self.counts["messages"] += 1
        client = self._client_of(mail) if mail.target == "client" else None
        if self.trace is not None:
            self._write_trace(mail)
        if self.faults.replay and mail.source != mail.target:
            kind = type(mail.message).__name__
            self._sent.setdefault(kind, deque(maxlen=REMEMBERED_MAX)).append(mail)
        if client is None or not client.is_thin:
            self.truth.saw(mail.source, mail.message, mail.batch)

    def _count_action(self, action: Action) -> None:
        self._actions += 1
        what = COUNTED_ACTIONS.get(type(action))
        if what is not None:
            self.counts[what] += 1

    def _write_trace(self, mail: Mail) -> None:
        if self.trace is not None and getattr(mail.message, "stream_id", 0) == self.stream_id:
            entries = "" if mail.batch is None else f" entries {mail.batch.first_id} to "
            entries += "" if mail.batch is None else f"{mail.batch.last}"
            source = f"client {mail.sender}" if mail.source == "client" else mail.source
            target = f"client {mail.sender}" if mail.target == "client" else mail.target
            at_ms = self.cluster.now_ns / MS
            self.trace.append(
                f"{at_ms:10.3f} {source} -> {target}: {_shown(mail.message)}{entries}"
            )

    def _note(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.cluster.now_ns / MS:10.3f} {text}")

    def _on_answer(self, mail: Mail) -> None:
        client = self._client_of(mail)
        if client is not None:
            client.receive(mail)

    def _client_of(self, mail: Mail) -> Client | None:
        return next((each for each in self.clients if each.session == mail.sender), None)

    def _streams(self) -> dict[str, Stream]:
        disks = self.cluster.disks
        return {
            name: disk.streams[self.stream_id]
            for name, disk in disks.items()
            if self.stream_id in disk.streams
        }

    def _durable_streams(self) -> dict[str, Stream]:
        found = {name: disk.durable(self.stream_id) for name, disk in self.cluster.disks.items()}
        return {name: stream for name, stream in found.items() if stream is not None}

    def _check(self) -> None:
        self._events += 1
        streams, newest = self._streams(), self._newest()
        self.truth.check_members(streams)
        for name, node in self.cluster.nodes.items():
            member = node.members.get(self.stream_id)
            require(
                member is None or shape(member.history) == shape(streams[name].history),
                f"{name}'s storage holds another history than its core believes",
            )
        if self._events % FORESIGHT_EVERY == 0:
            self.truth.check_foresight(streams, newest)
            self.truth.check_foresight(self._durable_streams(), newest)
        held = self._actions, self.truth.tip.entry_id
        if self._events % RECORDS_EVERY == 0 and held != self._checked:
            self._checked = held
            self._check_holdings(streams, newest)
        exclusive = [client.session for client in self.clients if client.is_exclusive]
        require(len(exclusive) <= 1, f"lease: clients {exclusive} are exclusive at once")
        require(not self.cluster.alarms, f"alarm: {self.cluster.alarms}")

    def _check_holdings(self, streams: dict[str, Stream], newest: StreamTopology) -> None:
        self.truth.check_records(streams)
        named = {name: each for name, each in streams.items() if name in newest.everyone}
        is_plain = newest.version == 1 and not self.counts["records damaged"]
        majority = quorum.majority_size(len(newest.members))
        self.truth.check_coverage(named, majority if is_plain else 1)

    # --- running ----------------------------------------------------------------------------------

    def run(self) -> None:
        """All of it: the steps, then the quiet phase.

        Raises:
            Violation: an invariant does not hold, or there is no progress.
        """
        with small_bounds():
            self._make_faulty()
            for step in range(max(self.steps, default=0) + 1):
                self.rng.seed(f"{self.seed} step {step}")
                pause_ms = self.rng.choice(STEPS_MS)
                if step in self.steps:
                    self._act()
                self._pass_ms(pause_ms)
            self.quiet()
        self.counts["steps"] += len(self.steps)
        self.counts["acknowledged"] += sum(each.acknowledged_count for each in self.clients)
        self.counts["claims"] += sum(each.claims_count for each in self.clients)
        self.counts["events"] += self._events
        self.counts["changes"] += (max(self._topologies) - 1) // 2

    def _make_faulty(self) -> None:
        rng, faults, cluster = random.Random(f"{self.seed} network"), self.faults, self.cluster

        def delays_ms(_mail: Mail) -> tuple[float, ...]:
            def delay() -> float:
                if rng.random() < faults.late:
                    self.counts["messages late"] += 1
                    return rng.uniform(0.05, faults.late_ms)
                return rng.uniform(0.05, 0.5)

            if rng.random() < faults.repeated:
                self.counts["messages repeated"] += 1
                return delay(), delay()
            return (delay(),)

        def is_lost(mail: Mail) -> bool:
            is_lost = rng.random() < faults.lost
            if "client" in (mail.source, mail.target):
                node = mail.target if mail.source == "client" else mail.source
                is_lost = is_lost or (mail.sender, node) in self._blocked
            else:
                is_lost = is_lost or (mail.source, mail.target) in self._closed
            self.counts["messages lost"] += is_lost
            return is_lost

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
            if rng.random() < faults.restart:
                self._start(name)
        elif rng.random() < faults.crash:
            self._crash(name)
        if rng.random() < faults.cut_off:
            cluster.cut_off = set(rng.choice([(), (name,)]))
            self._note(f"cut off: {sorted(cluster.cut_off)}")
            self.counts["nodes cut off"] += bool(cluster.cut_off)
        writers = [client for client in self.clients if client.is_writer]
        client = rng.choice(writers if writers and rng.random() < 0.5 else self.clients)
        if rng.random() < faults.blocked:
            self._blocked ^= {(client.session, name)}
        if rng.random() < faults.links:
            self._closed ^= {(name, rng.choice(cluster.names))}
            self.counts["links changed"] += 1
        if rng.random() < faults.change:
            self._change_members()
        if rng.random() < faults.replay and self._sent:
            self._replay()
        self._pause_or_resume(client, name)
        if not client.is_paused:
            self._act_as(client, name)

    def _replay(self) -> None:
        """A message from a while ago comes once more, though not to another life's question."""
        kinds = sorted(self._sent.keys() & set(self.faults.replayed)) or sorted(self._sent)
        mail = self.rng.choice(self._sent[self.rng.choice(kinds)])
        self._note(f"replayed to {mail.target}: {_shown(mail.message)}")
        self.counts["messages replayed"] += 1
        self.cluster.deliver(mail)

    def _pause_or_resume(self, client: Client, name: str) -> None:
        rng, cluster, faults = self.rng, self.cluster, self.faults
        if client.is_paused and rng.random() < RESUME:
            self._note(f"client {client.session} goes on")
            client.resume()
        elif rng.random() < faults.pause:
            self._note(f"client {client.session} stands still")
            self.counts["clients paused"] += 1
            client.pause()
        if cluster.is_paused(name) and rng.random() < RESUME:
            self._note(f"{name} goes on")
            cluster.resume(name)
        elif rng.random() < faults.stall:
            self._note(f"{name} stands still")
            self.counts["nodes paused"] += 1
            cluster.pause(name)

    def _act_as(self, client: Client, name: str) -> None:
        rng = self.rng
        roll = rng.random()
        if not client.is_writer:
            if roll < self.faults.claim:
                lease_ms = rng.choice(self.faults.leases_ms)
                is_forced = rng.random() < self.faults.force
                client.claim(name, lease_ms, rng.choice([200, CLAIM_MS]), is_forced=is_forced)
            elif roll < self.faults.claim + 0.1 and name in self.cluster.nodes:
                self.counts["reads"] += 1
                client.read(name, rng.randint(1, self.truth.tip.entry_id + 1))
        elif roll < 0.01:
            client.vanish()
        elif roll < 0.03:
            client.release()
        else:
            self.counts["puts"] += 1
            client.put(rng.choice([1, 1, 3]))

    # --- faults -----------------------------------------------------------------------------------

    def _crash(self, name: str) -> None:
        disk = self.cluster.disks[name]
        kept = self.rng.randrange(disk.unsynced_count + 1)
        self._note(f"{name} crashes; {kept} of {disk.unsynced_count} unsynced actions are kept")
        self.cluster.crash(name, kept)
        self._checked = (0, 0)  # what it has lost, or will lose to damage, is checked at once
        self.counts["crashes"] += 1
        stream = disk.streams.get(self.stream_id)
        if name == self._rotten and stream is not None and self.rng.random() < self.faults.rot:
            entry_id = self.rng.randint(1, max(stream.history.tail.entry_id, 1))
            if disk.rot(self.stream_id, entry_id):
                self._note(f"{name}: entry {entry_id} is damaged")
                self.counts["records damaged"] += 1

    def _start(self, name: str) -> None:
        self._note(f"{name} starts")
        self.cluster.start(name)
        for client in self.clients:
            client.connected(name)

    def _manager(self) -> Manager | None:
        for node in self.cluster.nodes.values():
            if node.manager is not None and node.manager.is_acting:
                return node.manager
        return None

    def _change_members(self) -> None:
        """Asks the manager for other members; it may refuse."""
        manager, topology = self._manager(), self._newest()
        if manager is None or topology.old_members:
            return
        count = len(topology.members)
        others = [name for name in self.cluster.names if name not in topology.members]
        leaving = self.rng.randint(0, min(count, len(others)))
        kept = self.rng.sample(topology.members, count - leaving)
        members = (*kept, *self.rng.sample(others, leaving))
        self._note(f"members: {sorted(topology.members)} to {sorted(members)}")
        self.counts["changes asked"] += 1
        manager.change_members(self.stream_name, members, lambda _answer: None)

    # --- the quiet end ----------------------------------------------------------------------------

    def quiet(self) -> None:
        """No more faults: a change ends, a claim succeeds, puts commit, gaps close, replicas are
        identical."""
        cluster = self.cluster
        self._note("quiet")
        cluster.lose = lambda _mail: False
        cluster.delays_ms = lambda _mail: (0.2,)
        cluster.sync_ms = lambda: 0.2
        cluster.cut_off = set()
        for client in self.clients:
            client.vanish()
            client.resume()
        for name in cluster.names:
            cluster.resume(name)
            if name not in cluster.nodes:
                self._start(name)
        self._pass_ms(CLAIM_MS + 1_000)  # what was asked before has ended
        self._pass_until(lambda: not self._newest().old_members, CHANGE_MS, "a change of members")
        writer = self.clients[0]

        def is_claimed() -> bool:
            if not writer.is_writer and not writer.is_claiming:  # refused as busy: repeats
                writer.claim(self.rng.choice(cluster.names), 200, 5_000, is_forced=False)
            return writer.is_writer

        self._pass_until(is_claimed, QUIET_MS, "the claim")
        writer.put(3)
        pipeline = writer.pipeline
        if pipeline is not None:
            self._pass_until(lambda: pipeline.committed == pipeline.tail, 5_000, "the put")
        writer.put(2)
        self._pass_until(self._is_whole, QUIET_MS, "the closing of gaps")
        writer.release()
        self._pass_ms(1_000)
        streams, newest = self._streams(), self._newest()
        self.truth.check_records(streams)
        named = {name: streams[name] for name in newest.members}
        self.truth.check_coverage(named, len(newest.members))
        self._check_leftovers()

    def _pass_until(self, condition: Callable[[], bool], ms: float, what: str) -> None:
        end_ns = self.cluster.now_ns + int(ms * MS)
        while not condition():
            require(self.cluster.now_ns < end_ns, f"progress: {what} takes longer than {ms} ms")
            self._pass_ms(5)

    def _is_whole(self) -> bool:
        """Whether all replicas are identical, complete and committed."""
        streams, newest = self._streams(), self._newest()
        members = [streams[name] for name in newest.members if name in streams]
        return len(members) == len(newest.members) and all(
            stream.history.committed == stream.history.tail == self.truth.tip
            and not stream.history.gaps()
            and not stream.aside
            and stream.runs == members[0].runs
            for stream in members
        )

    def _check_leftovers(self) -> None:
        """Nothing goes on that should have ended: no question, no relay, no reader."""
        self._pass_ms(12_000)
        for name, node in self.cluster.nodes.items():
            require(not node._writers._relays, f"progress: {name} still relays")
            require(not node._writers._claims, f"progress: {name} still claims")
            member = node.members.get(self.stream_id)
            if member is not None:
                require(not member.reading._waiting, f"progress: reads still wait at {name}")
                require(not member.watching._watches, f"progress: watches still wait at {name}")
            keys = [key for key in node.context.timers._alarms if isinstance(key, tuple)]
            calls = {key[1] for key in keys if key[0] in ("call repeats", "call ends")}
            require(
                calls == set(node.context.calls._calls),
                f"progress: {name} asks a question without end",
            )


def _shown(message: Message) -> str:
    fields = ", ".join(
        f"{name}={value}"
        for name, value in message._asdict().items()
        if name not in ("stream_id", "chains", "address") and value not in ("", 0)
    )
    return f"{type(message).__name__}({fields})"


@contextmanager
def small_bounds() -> Iterator[None]:
    """Makes bounds so small that a simulation comes upon them."""
    before = [getattr(module, name) for module, name, _ in SMALL]
    for module, name, value in SMALL:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(SMALL, before, strict=True):
            setattr(module, name, value)
