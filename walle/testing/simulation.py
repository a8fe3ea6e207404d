"""One run from one seed: clients that claim, put, read and vanish, over nodes that crash and are
replaced, and a network that loses, repeats and reorders. After every event the invariants are
checked; at the end comes a quiet phase, in which there must be progress.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from walle.core.effects import Action, CloseGap, Cut, Fill, Jump, Leave, Truncate
from walle.errors import Outcome
from walle.ids import CLUSTER_STREAM_NAME, STREAM_CLUSTER
from walle.messages import CreateStream, DeleteStream, SetMembers, StreamInfo, TrimStream
from walle.testing.cluster import MS, Clock, Cluster
from walle.testing.disk import Disk
from walle.testing.faults import SMALL, Faults
from walle.testing.stream import CLIENTS_COUNT, SimulatedStream
from walle.testing.violation import require

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from walle.core.manager import Manager
    from walle.testing.clients import Client
    from walle.testing.cluster import Mail
    from walle.testing.trace import Trace

CLAIM_MS = 2_000
QUIET_MS = 30_000
CHANGE_MS = 30_000
STEPS_MS = (0.0, 0.3, 2.0, 10.0, 40.0)
WALL_JUMP_US = 3_600_000_000
COUNTED_ACTIONS: dict[type[Action], str] = {
    Jump: "jumps",
    Fill: "backfills",
    CloseGap: "gaps closed",
    Truncate: "suffixes cut",
    Cut: "damages cut out",
    Leave: "members left",
}
SCRUB = 0.02
"""How likely a node looks for damage when its turn comes."""
RESUME = 0.2
"""How likely a client, or a node, that stands still goes on when its turn comes."""
TRACE_LINES = 40
"""So many of each stream are in a report."""
REMEMBERED_MAX = 40
"""So many messages of each kind may be replayed."""


class Simulation:
    """A cluster, some streams on it, and their clients.

    size: how many nodes there are; each stream begins on `replicas` of them.
    make_disk: what the nodes have for a disk.
    steps: which steps are done; the others only let time pass.
    """

    def __init__(
        self,
        seed: int,
        *,
        size: int = 3,
        replicas: int | None = None,
        streams: int = 1,
        faults: Faults | None = None,
        make_disk: Callable[[], Disk] = Disk,
        steps: Collection[int] = range(1_000),
    ) -> None:
        self.seed = seed
        self.rng = random.Random(f"{seed} world")
        self._network_rng = random.Random(f"{seed} network")
        self.faults = faults or Faults.draw(self.rng)
        self.steps = steps
        self.counts: Counter[str] = Counter()
        self.trace: Trace | None = None
        self.cluster = Cluster(size, seed, is_started=False, make_disk=make_disk)
        self._blocked: set[tuple[int | str, str]] = set()
        self._closed: set[tuple[str, str]] = set()
        self._slow: set[str] = set()
        self._sent: dict[str, deque[Mail]] = {}
        self._applied = 0
        self._are_clocks_as_assumed = self.faults.are_clocks_as_assumed
        self._rotten = self.rng.choice(self.cluster.names)
        self._all: dict[int, SimulatedStream] = {}
        self._looked_at: SimulatedStream | None = None
        self._add_stream(STREAM_CLUSTER, CLUSTER_STREAM_NAME)
        self.cluster.on_post = self._saw
        for name in self.cluster.names:
            self.cluster.clocks[name] = self._draw_clock()
            self.cluster.disks[name].journal_lag_entries = self.faults.journal_lag_entries
            self.cluster.start(name)
        self.streams = [self._create_stream(n, replicas or size) for n in range(streams)]
        self.clients = [client for stream in self.streams for client in stream.clients]
        self._sessions = {client.session: client for client in self.clients}
        self.cluster.on_answer = self._on_answer
        self.cluster.on_action = self._on_action
        self.cluster.on_step = self._check
        self.cluster.on_failure = self._fail

    def _draw_clock(self) -> Clock:
        return Clock(self.rng.choice(self.faults.rates))

    def _add_stream(self, stream_id: int, name: str) -> SimulatedStream:
        stream = self._all[stream_id] = SimulatedStream(self.cluster, self.rng, stream_id, name)
        return stream

    def _create_stream(self, number: int, replicas: int) -> SimulatedStream:
        cluster, name = self.cluster, f"/s{number}"
        first = number % len(cluster.names)
        members = (*cluster.names[first:], *cluster.names[:first])[:replicas]
        request, request_id = CreateStream(name, members), number + 1
        while not any(isinstance(each, StreamInfo) for each in cluster.answers_to(request_id)):
            cluster.ask("n1", request, request_id)
            cluster.run(500)
        stream_id: int = cluster.answer(request_id).stream_id
        stream = self._add_stream(stream_id, name)
        cluster.run_until(lambda: all(stream_id in cluster.nodes[each].members for each in members))
        cluster.run_until(
            lambda: all(stream_id in node.cluster.streams for node in cluster.nodes.values())
        )
        stream.connect(2 + number * CLIENTS_COUNT, self._draw_clock)
        return stream

    # --- watching ---------------------------------------------------------------------------------

    def _saw(self, mail: Mail) -> None:
        self.counts["messages"] += 1
        if self.trace is not None:
            self.trace.saw(self.cluster.now_ns, mail)
        if self.faults.replay and mail.source != mail.target:
            kind = type(mail.message).__name__
            self._sent.setdefault(kind, deque(maxlen=REMEMBERED_MAX)).append(mail)
        stream = self._all.get(getattr(mail.message, "stream_id", 0))
        if stream is not None:
            stream.saw(mail)

    def _on_action(self, action: Action) -> None:
        stream = self._all.get(getattr(action, "stream_id", 0))
        if stream is not None:
            stream.changed(is_suspect=isinstance(action, Jump | Cut))
        what = COUNTED_ACTIONS.get(type(action))
        if what is not None:
            self.counts[what] += 1

    def _note(self, text: str) -> None:
        if self.trace is not None:
            self.trace.note(self.cluster.now_ns, text)

    def _on_answer(self, mail: Mail) -> None:
        client = self._sessions.get(mail.sender) if isinstance(mail.sender, int) else None
        if client is not None:
            client.receive(mail)

    def _check(self) -> None:
        self.counts["events"] += 1
        applied = sum(node.cluster.applied_id for node in self.cluster.nodes.values())
        if applied != self._applied:
            self._applied = applied
            for stream in self._all.values():
                stream.changed()
        for stream in self._all.values():
            self._looked_at = stream
            stream.check(are_clocks_as_assumed=self._are_clocks_as_assumed)
        self._looked_at = None
        require(not self.cluster.alarms, f"alarm: {self.cluster.alarms}")

    def report(self) -> list[str]:
        """Stream by stream, member by member: what there is, and how it came to that; only of the
        stream in which something was found, if that is known."""
        lines = []
        for stream in [self._looked_at] if self._looked_at else self._all.values():
            lines += ["", *stream.describe()]
            if self.trace is not None:
                lines += self.trace.of(stream.stream_id, TRACE_LINES)
        return lines

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
                self._network_rng.seed(f"{self.seed} network {step}")
                pause_ms = self.rng.choice(STEPS_MS)
                if step in self.steps:
                    self._act()
                self._pass_ms(pause_ms)
            self.quiet()
        self.counts["steps"] += len(self.steps)
        for client in self.clients:
            self.counts["acknowledged"] += client.acknowledged_count
            self.counts["claims"] += client.claims_count
        self.counts["entries of /cluster trimmed"] += (
            self._all[STREAM_CLUSTER].newest().first_entry_id - 1
        )
        self.counts["changes of /cluster"] += self._all[STREAM_CLUSTER].changes_count
        for stream in self.streams:
            self.counts["changes"] += stream.changes_count
            self.counts["deletions"] += stream.is_deleted
            self.counts["entries trimmed"] += stream.newest().first_entry_id - 1
            for outcome in Outcome:
                self.counts[f"operations {outcome.value}"] += stream.operations.count(outcome)

    def _make_faulty(self) -> None:
        rng, faults, cluster = self._network_rng, self.faults, self.cluster

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
        cluster.sync_ms = lambda name: rng.uniform(
            0, faults.slow_ms if name in self._slow else faults.sync_ms
        )

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
        stream = rng.choice(self.streams)
        if name not in cluster.nodes:
            if rng.random() < faults.restart and name not in stream.lost:
                self._start(name)
        elif rng.random() < faults.crash:
            self._crash(name)
        self._act_on_machine(name)
        self._act_on_network(name)
        writers = [client for client in stream.clients if client.is_writer]
        client = rng.choice(writers if writers and rng.random() < 0.5 else stream.clients)
        if rng.random() < faults.blocked:
            self._blocked ^= {(client.session, name)}
        if rng.random() < faults.change:
            self._change_members(stream)
        if rng.random() < faults.change / 4:
            self._change_cluster()
        if rng.random() < faults.trim:
            self._trim(stream)
        if rng.random() < faults.delete:
            self._delete(stream)
        self._pause_or_resume(client, name)
        if not client.is_paused:
            self._act_as(client, name)

    def _act_on_machine(self, name: str) -> None:
        """What may happen to the node's disk and its wall clock."""
        rng, faults = self.rng, self.faults
        if rng.random() < faults.slow:
            self._slow ^= {name}
            self.counts["disks slow"] += name in self._slow
        if rng.random() < faults.sync_error:
            self.cluster.disks[name].is_failing = name in self.cluster.nodes
        if rng.random() < faults.full:
            self.cluster.full ^= {name}
            self.counts["disks full"] += name in self.cluster.full
            self._note(f"disks full: {sorted(self.cluster.full)}")
        if name == self._rotten and name in self.cluster.nodes and rng.random() < faults.rot / 10:
            stream = rng.choice(self.streams)
            if self.cluster.disks[name].rot_running(stream.stream_id, rng):
                self._has_rotted(stream, name)
        if name in self.cluster.nodes and rng.random() < SCRUB:
            self.cluster.scrub(name)
        if rng.random() < faults.wall_jump:
            self.counts["wall clocks moved"] += 1
            self.cluster.wall_ahead_us[name] = rng.randint(-WALL_JUMP_US, WALL_JUMP_US)

    def _act_on_network(self, name: str) -> None:
        rng, cluster, faults = self.rng, self.cluster, self.faults
        if rng.random() < faults.cut_off:
            cluster.cut_off = set(rng.choice([(), (name,)]))
            self._note(f"cut off: {sorted(cluster.cut_off)}")
            self.counts["nodes cut off"] += bool(cluster.cut_off)
        if rng.random() < faults.links:
            self._closed ^= {(name, rng.choice(cluster.names))}
            self.counts["links changed"] += 1
        if rng.random() < faults.mask:
            share = rng.choice([0.0, 0.0, 0.2, 0.5])
            pairs = [(source, target) for source in cluster.names for target in cluster.names]
            self._closed = {pair for pair in pairs if rng.random() < share}
            self._note(f"closed: {sorted(self._closed)}")
            self.counts["masks of links"] += 1
        if rng.random() < faults.replay and self._sent:
            self._replay()

    def _replay(self) -> None:
        """A message from a while ago comes once more, though not to another life's question."""
        kinds = sorted(self._sent.keys() & set(self.faults.replayed)) or sorted(self._sent)
        mail = self.rng.choice(self._sent[self.rng.choice(kinds)])
        self._note(f"a {type(mail.message).__name__} is replayed to {mail.target}")
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
        rng, truth = self.rng, client.world.truth
        roll = rng.random()
        if not client.is_writer:
            if roll < self.faults.claim:
                lease_ms = rng.choice(self.faults.leases_ms)
                is_forced = rng.random() < self.faults.force
                client.claim(name, lease_ms, rng.choice([200, CLAIM_MS]), is_forced=is_forced)
            elif roll < self.faults.claim + 0.1 and name in self.cluster.nodes:
                self.counts["reads"] += 1
                client.read(
                    name,
                    rng.randint(1, truth.tip.entry_id + 1),
                    linearizable=rng.random() < 0.7,
                    wait_ms=rng.choice([0, 0, 50]),
                )
        elif roll < 0.01:
            client.vanish()
        elif roll < 0.03:
            client.release()
        elif roll < 0.2:
            client.use_lease()
        else:
            self.counts["puts"] += 1
            client.put(rng.choice([1, 1, 3]))

    # --- faults -----------------------------------------------------------------------------------

    def _crash(self, name: str) -> None:
        self.counts["crashes"] += 1
        self._end(name)
        if name == self._rotten:
            self._damage(name)

    def _fail(self, name: str) -> None:
        self.counts["nodes failed"] += 1
        self._end(name)

    def _fail_and_start(self, name: str) -> None:
        """At the end a node that could not live with what it has found comes back at once."""
        self._fail(name)
        self._start(name)

    def _end(self, name: str) -> None:
        disk = self.cluster.disks[name]
        self._note(f"{name} ends; {disk.unsynced_count} actions are not synced")
        self.cluster.crash(name, self.rng)
        for stream in self._all.values():
            stream.changed(is_suspect=True)

    def _damage(self, name: str) -> None:
        """What lies on the crashed node's disk may suffer."""
        stream, disk = self.rng.choice(self.streams), self.cluster.disks[name]
        if self.rng.random() < self.faults.ruin:
            self._note(f"{name}: its journal is lost; it will not come back")
            self.counts["nodes lost"] += 1
            for each in self._all.values():
                each.lost.add(name)
                each.has_damage = True
        elif self.rng.random() < self.faults.rot and disk.rot(stream.stream_id, self.rng):
            self._has_rotted(stream, name)

    def _has_rotted(self, stream: SimulatedStream, name: str) -> None:
        self._note(f"{name}: something of {stream.stream_name} is damaged")
        self.counts["damages"] += 1
        stream.has_damage = True

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

    def _change_members(self, stream: SimulatedStream) -> None:
        """Asks the manager for other members, or, while they change, for the old ones again; it may
        refuse. Whoever is lost is replaced first."""
        manager, topology = self._manager(), stream.newest()
        if manager is None:
            return
        if topology.old_members:
            self._note(f"members of {stream.stream_name}: back to {sorted(topology.old_members)}")
            self.counts["changes taken back"] += 1
            request = SetMembers(stream.stream_name, topology.old_members, "", force=0)
            manager.change(request, lambda _answer: None)
            return
        present, count = stream.present(), len(topology.members)
        others = [
            name
            for name in self.cluster.names
            if name not in topology.members and name not in stream.lost
        ]
        leaving = min(self.rng.randint(0, len(present)), len(others))
        kept = self.rng.sample(present, len(present) - leaving)
        members = (*kept, *self.rng.sample(others, min(count - len(kept), len(others))))
        self._note(f"members of {stream.stream_name}: {sorted(topology.members)} to {members}")
        self.counts["changes asked"] += 1
        request = SetMembers(stream.stream_name, members, "", force=0)
        manager.change(request, lambda _answer: None)

    def _change_cluster(self) -> None:
        """Asks the manager for other members of `/cluster`, three at the least."""
        manager, stream = self._manager(), self._all[STREAM_CLUSTER]
        names = [name for name in self.cluster.names if name not in stream.lost]
        if manager is not None:
            members = self.rng.sample(names, self.rng.randint(min(3, len(names)), len(names)))
            self._note(f"members of /cluster: to {sorted(members)}")
            self.counts["changes of /cluster asked"] += 1
            request = SetMembers(CLUSTER_STREAM_NAME, tuple(members), "", force=0)
            manager.change(request, lambda _answer: None)

    def _trim(self, stream: SimulatedStream) -> None:
        """Asks the manager to drop the oldest entries; it may refuse."""
        manager, tip_id = self._manager(), stream.truth.tip.entry_id
        if manager is not None and tip_id:
            entry_id = self.rng.randint(1, tip_id + 1)
            self._note(f"{stream.stream_name} is to begin at entry {entry_id}")
            self.counts["trims asked"] += 1
            request = TrimStream(stream.stream_name, entry_id, 0)
            manager.change(request, lambda _answer: None)

    def _delete(self, stream: SimulatedStream) -> None:
        """Asks the manager to delete the stream."""
        manager = self._manager()
        if manager is not None:
            self._note(f"{stream.stream_name} is to be deleted")
            self.counts["deletions asked"] += 1
            request = DeleteStream(stream.stream_name, stream.stream_id)
            manager.change(request, lambda _answer: None)

    # --- the quiet end ----------------------------------------------------------------------------

    def quiet(self) -> None:
        """No more faults: changes end, claims succeed, puts commit, gaps close, replicas are
        identical, and one history explains all that clients were told."""
        cluster = self.cluster
        self._note("quiet")
        cluster.lose = lambda _mail: False
        cluster.delays_ms = lambda _mail: (0.2,)
        cluster.sync_ms = lambda _name: 0.2
        cluster.cut_off = set()
        cluster.full = set()
        for client in self.clients:
            client.vanish()
            client.resume()
        for name in cluster.names:
            cluster.disks[name].is_failing = False
            cluster.resume(name)
            if name not in cluster.nodes and name not in self._all[STREAM_CLUSTER].lost:
                self._start(name)
        cluster.on_failure = self._fail_and_start
        for name in list(cluster.nodes):
            cluster.scrub(name)
        self._pass_ms(CLAIM_MS + 1_000)  # what was asked before has ended
        self._pass_until(
            lambda: not any(stream.newest().old_members for stream in self._all.values()),
            CHANGE_MS,
            "a change of members",
        )
        for stream in self.streams:
            self._end_stream(stream)
        self._pass_ms(1_000)
        cluster_stream = self._all[STREAM_CLUSTER]
        self._pass_until(cluster_stream.is_whole, QUIET_MS, "the closing of gaps in /cluster")
        self._pass_ms(12_000)
        for stream in self._all.values():
            self._looked_at = stream
            stream.judge()
        self._looked_at = None
        for disk in cluster.disks.values():
            disk.compare()
        self._check_topologies()
        self._check_leftovers()

    def _end_stream(self, stream: SimulatedStream) -> None:
        writer = stream.clients[0]

        def is_claimed() -> bool:
            if not writer.is_writer and not writer.is_claiming:  # refused as busy: repeats
                writer.claim(self.rng.choice(list(self.cluster.nodes)), 200, 5_000, is_forced=False)
            return writer.is_writer or stream.is_deleted

        def is_durable() -> bool:
            return writer.pipeline is not None and writer.committed == writer.pipeline.tail

        self._pass_until(is_claimed, QUIET_MS, "the claim")
        if stream.is_deleted:
            self._pass_until(stream.is_gone, QUIET_MS, "the leaving of all members")
            return
        writer.put(3)
        self._pass_until(is_durable, 5_000, "the put")
        writer.put(2)
        self._pass_until(stream.is_whole, QUIET_MS, "the closing of gaps")
        writer.release()

    def _pass_until(self, condition: Callable[[], bool], ms: float, what: str) -> None:
        end_ns = self.cluster.now_ns + int(ms * MS)
        while not condition():
            require(self.cluster.now_ns < end_ns, f"progress: {what} takes longer than {ms} ms")
            self._pass_ms(5)

    def _check_topologies(self) -> None:
        """All nodes know the same, whether from a snapshot or from every entry."""
        states = [node.cluster for node in self.cluster.nodes.values()]
        for state in states:
            for name in ("applied_id", "nodes", "streams", "snapshot", "registered", "removed"):
                known, expected = getattr(state, name), getattr(states[0], name)
                require(known == expected, f"nodes know different {name}: {known}, {expected}")
            self.counts["nodes begun with a snapshot"] += state.begun_id > 0

    def _check_leftovers(self) -> None:
        """Nothing goes on that should have ended: no question, no relay."""
        for name, node in self.cluster.nodes.items():
            require(not node._writers._relays, f"progress: {name} still relays")
            require(not node._writers._claims, f"progress: {name} still claims")
            keys = [key for key in node.context.timers._alarms if isinstance(key, tuple)]
            calls = {key[1] for key in keys if key[0] in ("call repeats", "call ends")}
            require(
                calls == set(node.context.calls._calls),
                f"progress: {name} asks a question without end",
            )


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
