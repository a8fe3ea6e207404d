"""A cluster of real node cores on a virtual clock, over a simulated network and simulated disks.

By default the network is reliable, every message takes `delay_ms`, and disks sync at once. A test
takes from that what it wants to:

    cluster.hold = lambda mail: is_stamp(mail)         # kept in `held`
    cluster.deliver(cluster.held.pop())                # by hand, in any order, or twice
    cluster.lose = lambda mail: ...                                 # lost on the way
    cluster.delays_ms = lambda mail: (0.1, 7.0)                     # arrives twice
    cluster.sync_ms = lambda name: 2.0                              # its disk takes a while to sync
    cluster.crash("n2", kept=3)                                     # the rest was not synced
    cluster.disks["n2"].is_failing = True                           # the node ends
"""

from __future__ import annotations

import heapq
import random
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from walle import frame
from walle.core import effects
from walle.core.context import Context
from walle.core.effects import Outbox
from walle.core.node import Node
from walle.core.timers import NEVER
from walle.errors import Code, CorruptionError
from walle.ids import NO_IDENTITY
from walle.messages import (
    PROTOCOL_VERSION,
    ROLE_CLIENT,
    ROLE_NODE,
    Failure,
    Hello,
    Message,
    NodeRecord,
)
from walle.testing.disk import DamageFound, Disk
from walle.testing.violation import require

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.effects import Action, Address, Send
    from walle.record import Batch

MS = 1_000_000
START_NS = 1_000_000_000
WALL_US = 1_700_000_000_000_000
"""What wall clocks show at the beginning, but for what `wall_ahead_us` adds."""
CLIENT_SESSIONS = 40
PEER_SESSIONS = 1_000
"""Sessions from this number on are other nodes'; those below are clients'."""
IDLE_STEPS_MAX = 20_000
"""So many events at one moment mean that something goes round in circles."""


class Mail(NamedTuple):
    """One message on its way.

    source, target: a node's name, or "client".
    sender: as the target's core sees it: a session's number, or the node that answers.
    life: the target node's life for which this is; an answer does not outlive its connection.
    """

    source: str
    target: str
    sender: int | str
    request_id: int
    message: Message
    batch: Batch | None
    life: int | None = None


class Clock(NamedTuple):
    """A node's clock: it runs at `rate` times the true one."""

    rate: float = 1.0

    def at(self, true_ns: int) -> int:
        return START_NS + int((true_ns - START_NS) * self.rate)

    def true_at(self, node_ns: int) -> int:
        """The first true time at which the node's clock shows at least that."""
        if self.rate == 1.0 or node_ns >= NEVER:
            return node_ns
        true_ns = START_NS + int((node_ns - START_NS) / self.rate)
        while self.at(true_ns) < node_ns:
            true_ns += 1
        return true_ns


class WatchedOutbox(Outbox):
    """Shows what a node sends to itself at once; all else is shown when the cluster gets it."""

    def __init__(self, name: str, on_post: Callable[[Mail], None]) -> None:
        super().__init__(name)
        self._name = name
        self._on_post = on_post

    def send(
        self, to: Address, message: Message, request_id: int = 0, batch: Batch | None = None
    ) -> None:
        super().send(to, message, request_id, batch)
        if to == self._name:
            self._on_post(Mail(self._name, self._name, self._name, request_id, message, batch))

    def send_durable(self, to: Address, message: Message, request_id: int, sequence: int) -> None:
        super().send_durable(to, message, request_id, sequence)
        if to == self._name and sequence <= self.synced:
            self._on_post(Mail(self._name, self._name, self._name, request_id, message, None))


class Cluster:
    """Nodes n1, n2, ... and clients, which are sessions 1, 2, ... of every node."""

    def __init__(
        self,
        size: int = 3,
        seed: int = 1,
        delay_ms: float = 0.1,
        *,
        is_started: bool = True,
        make_disk: Callable[[], Disk] = Disk,
    ) -> None:
        self.random = random.Random(seed)
        self.now_ns = START_NS
        self.names = [f"n{index}" for index in range(1, size + 1)]
        self.addresses = {name: f"{name}:1" for name in self.names}
        self._initial_cluster = dict(self.addresses)
        self.identities = {name: name.encode().ljust(16, b"\0") for name in self.names}
        self.clocks = dict.fromkeys(self.names, Clock())
        self.wall_ahead_us = dict.fromkeys(self.names, 0)
        self._make_disk = make_disk
        self.disks = {name: make_disk() for name in self.names}
        self.nodes: dict[str, Node] = {}
        self.alarms: list[str] = []
        self.answers: list[Mail] = []
        self.held: list[Mail] = []
        self.cut_off: set[str] = set()
        self.full: set[str] = set()  # the nodes whose disks have no space for entries
        self._paused: dict[str, list[Mail | str]] = {}
        self.hold: Callable[[Mail], bool] = lambda _mail: False
        self.lose: Callable[[Mail], bool] = lambda _mail: False
        self.delays_ms: Callable[[Mail], tuple[float, ...]] = lambda _mail: (delay_ms,)
        self.sync_ms: Callable[[str], float] = lambda _name: 0.0
        self.on_post: Callable[[Mail], None] = lambda _mail: None
        self.on_answer: Callable[[Mail], None] = self.answers.append
        self.on_action: Callable[[Action], None] = lambda _action: None
        self.on_step: Callable[[], None] = lambda: None
        self.on_failure: Callable[[str], None] = self.crash
        self._events: list[tuple[int, int, Mail | str]] = []  # a name: that node's disk syncs
        self._count = count()
        self._idle_steps = 0
        self._lives = dict.fromkeys(self.names, 0)
        self._joins: dict[str, tuple[str, ...]] = {}  # the addresses that nodes join at
        self._greeted: dict[tuple[str, str], tuple[int, int, Hello]] = {}
        self.fatal: dict[str, str] = {}  # why nodes have ended, that must not run
        self._alarms_ns: dict[str, int] = {}  # in true time, of the nodes that run
        self._is_syncing: set[str] = set()
        self._forwards: dict[str, list[Send]] = {name: [] for name in self.names}
        if is_started:
            for name in self.names:
                self.start(name)

    # --- lives ------------------------------------------------------------------------------------

    def start(self, name: str) -> Node:
        """Starts the node from what its disk holds."""
        self._lives[name] += 1
        context = Context(name, random.Random(self.random.random()))
        context.outbox = WatchedOutbox(name, self._show)
        self._set_clock(context)
        node = self.nodes[name] = Node(
            context,
            node=NodeRecord(name, self.addresses[name], self.identities[name]),
            initial_cluster={} if name in self._joins else dict(self._initial_cluster),
            join=self._joins.get(name, ()),
            recovered=self.disks[name].recover(),
        )
        for session in range(1, CLIENT_SESSIONS + 1):
            node.open_session(session, client_hello())
        for number, peer in enumerate(self.names, start=PEER_SESSIONS):
            node.open_session(number, self.peer_hello(peer))
        node.start()
        self.collect(name)
        return node

    def join(self, name: str, *at: str, identity: bytes | None = None) -> Node:
        """Starts a new node, with an empty disk, that joins at those nodes' addresses."""
        if name not in self.names:
            self.names.append(name)
            self.clocks[name], self.wall_ahead_us[name] = Clock(), 0
            self._lives[name], self._forwards[name] = 0, []
        self.addresses.setdefault(name, f"{name}:1")
        self.identities[name] = identity or name.encode().ljust(16, b"\0")
        self.disks[name] = self._make_disk()
        self._joins[name] = tuple(self.addresses[each] for each in at)
        return self.start(name)

    def peer_hello(self, name: str) -> Hello:
        """What that node says when it connects to another."""
        cluster = self.disks[name].cluster
        cluster_id = NO_IDENTITY if cluster is None else cluster.cluster_id
        return Hello(PROTOCOL_VERSION, ROLE_NODE, cluster_id, name, self.identities[name])

    def crash(self, name: str, kept: int | random.Random = 1 << 30) -> None:
        """Ends the node; of what its disk has not synced, the first `kept` actions are kept, or
        what chance says."""
        del self.nodes[name]
        self._alarms_ns.pop(name, None)
        self.disks[name].crash(kept)
        self._forwards[name].clear()
        self._is_syncing.discard(name)
        self._paused.pop(name, None)

    def pause(self, name: str) -> None:
        """The node's process stands still: its clock goes on, and what comes to it waits."""
        if name in self.nodes:
            self._paused.setdefault(name, [])
            self._alarms_ns.pop(name, None)

    def resume(self, name: str) -> None:
        """The process goes on, first with what has waited."""
        for event in self._paused.pop(name, []):
            self._schedule(self.now_ns, event)
        if name in self.nodes:
            self._set_alarm(name)

    def is_paused(self, name: str) -> bool:
        return name in self._paused

    def restart(self, name: str) -> None:
        self.crash(name)
        self.start(name)

    # --- what a test does -------------------------------------------------------------------------

    def ask(
        self,
        name: str,
        message: Message,
        request_id: int = 1,
        batch: Batch | None = None,
        session: int = 1,
    ) -> None:
        """A client's request to a node."""
        self.send(Mail("client", name, session, request_id, message, batch))

    def send(self, mail: Mail) -> None:
        """Puts a message on its way."""
        self.on_post(mail)
        size = mail.batch.payload.size if mail.batch is not None else 0
        frame.encode_head(mail.message, mail.request_id, size)  # whatever is sent must be sendable
        if mail.source != mail.target:
            if {mail.source, mail.target} & self.cut_off or self.lose(mail):
                return
            if self.hold(mail):
                self.held.append(mail)
                return
        for ms in self.delays_ms(mail):
            self._schedule(self.now_ns + int(ms * MS), mail)

    def deliver(self, mail: Mail) -> None:
        """Delivers a message at once."""
        if mail.target == "client":
            self.on_answer(mail)
            return
        if mail.target in self._paused:
            self._paused[mail.target].append(mail)
            return
        node = self.nodes.get(mail.target)
        if node is not None and mail.life in (None, self._lives[mail.target]):
            if not self._is_welcome(mail, node):
                return
            self._set_clock(node.context)
            node.receive(mail.sender, mail.request_id, mail.message, mail.batch)
            self.collect(mail.target)

    def _is_welcome(self, mail: Mail, node: Node) -> bool:
        """Whether a node that joins may send that; it says hello first. (The others have.)"""
        source, target = mail.source, mail.target
        if source not in self._joins or source == target or isinstance(mail.sender, str):
            return True
        if source not in self.nodes:
            return False
        hello = self.nodes[source].handshake.hello()
        greeting = (self._lives[source], self._lives[target], hello)
        if self._greeted.get((source, target)) == greeting:
            return True
        answer = node.open_session(mail.sender, hello)
        self.collect(target)
        if isinstance(answer, Failure):
            self.nodes[source].refused(target, answer)
            self.collect(source)
            return False
        self._greeted[source, target] = greeting
        return True

    def answer(self, request_id: int) -> Message:
        """The newest answer to that request of a client."""
        found = self.answers_to(request_id)
        require(found, f"no answer to request {request_id}")
        return found[-1]

    def answers_to(self, request_id: int) -> list[Message]:
        return [mail.message for mail in self.answers if mail.request_id == request_id]

    def run(self, ms: float) -> None:
        """Lets that much time pass."""
        end_ns = self.now_ns + int(ms * MS)
        while self.step(end_ns):
            self.on_step()
        self.now_ns = end_ns

    def run_until(self, condition: Callable[[], bool], ms: float = 60_000) -> None:
        """Lets time pass until the condition holds."""
        end_ns = self.now_ns + int(ms * MS)
        while not condition():
            require(self.step(end_ns), f"not within {ms} ms")
            self.on_step()

    def step(self, end_ns: int) -> bool:
        """Goes on to whatever happens next; False if that is behind `end_ns`."""
        name = min(self._alarms_ns, key=self._alarms_ns.__getitem__, default="")
        alarm_ns = self._alarms_ns.get(name, end_ns + 1)
        event_ns = self._events[0][0] if self._events else end_ns + 1
        at_ns = max(min(alarm_ns, event_ns), self.now_ns)
        if at_ns > end_ns:
            return False
        self._idle_steps = self._idle_steps + 1 if at_ns == self.now_ns else 0
        require(self._idle_steps < IDLE_STEPS_MAX, f"{name} is busy without end")
        self.now_ns = at_ns
        if event_ns <= alarm_ns:
            event = heapq.heappop(self._events)[2]
            if isinstance(event, Mail):
                self.deliver(event)
            elif event in self._paused:
                self._paused[event].append(event)
            elif event in self._is_syncing:
                self._sync(event)
        else:
            self._set_clock(self.nodes[name].context)
            self.nodes[name].tick()
            self.collect(name)
        return True

    # --- inside -----------------------------------------------------------------------------------

    def _show(self, mail: Mail) -> None:
        self.on_post(mail)

    def _set_clock(self, context: Context) -> None:
        context.now_ns = self.clocks[context.node_id].at(self.now_ns)
        context.has_space = context.node_id not in self.full
        context.wall_us = WALL_US + self.now_ns // 1000 + self.wall_ahead_us[context.node_id]

    def _set_alarm(self, name: str) -> None:
        if name not in self._paused:
            due_ns = self.nodes[name].context.timers.next_ns()
            self._alarms_ns[name] = self.clocks[name].true_at(due_ns)

    def _schedule(self, at_ns: int, event: Mail | str) -> None:
        heapq.heappush(self._events, (at_ns, next(self._count), event))

    def collect(self, name: str) -> None:
        """Carries out what the node's core asked for."""
        self._set_alarm(name)
        outbox = self.nodes[name].context.outbox
        self.alarms += outbox.alarms
        outbox.alarms.clear()
        sends, actions = outbox.take()
        if outbox.fatal is not None:
            self.fatal[name] = outbox.fatal
            self.on_failure(name)
            return
        for send in sends:
            self._post(name, send, send.batch)
        try:
            for action in actions:
                self.on_action(action)
                self._carry_out(name, action)
        except CorruptionError:
            self.on_failure(name)
            return
        if actions and name not in self._is_syncing:
            self._is_syncing.add(name)
            delay_ms = self.sync_ms(name)
            if delay_ms:
                self._schedule(self.now_ns + int(delay_ms * MS), name)
            else:
                self._sync(name)
        self._tell_damage(name)

    def _carry_out(self, name: str, action: Action) -> None:
        disk = self.disks[name]
        if isinstance(action, effects.Forward):
            self._forwards[name].append(action.send)
        elif isinstance(action, effects.ReadRecords):
            try:
                batch, send = disk.read(action), action.send
            except DamageFound:
                failure = Failure(Code.BUSY, "an entry is damaged here")
                batch, send = None, action.send._replace(message=failure)
            for to, request_id in (send[:2], *action.others):
                self._post(name, send._replace(to=to, request_id=request_id), batch)
        else:
            disk.execute(action)

    def scrub(self, name: str) -> None:
        """The node looks for damage everywhere on its disk. It ends if it cannot live with it."""
        try:
            self.disks[name].scrub()
        except CorruptionError:
            self.on_failure(name)
        else:
            self.collect(name)

    def _tell_damage(self, name: str) -> None:
        cuts = self.disks[name].take_damage()
        if cuts and name in self.nodes:
            node = self.nodes[name]
            self._set_clock(node.context)
            for cut in cuts:
                node.damaged(cut.stream_id, cut.after, cut.last)
            self.collect(name)

    def _sync(self, name: str) -> None:
        """A round of group commit. One that fails is the end of the node."""
        self._is_syncing.discard(name)
        try:
            self.disks[name].sync()
        except OSError:
            self.on_failure(name)
            return
        outbox = self.nodes[name].context.outbox
        outbox.synced = outbox.sequence
        forwards, self._forwards[name] = self._forwards[name], []
        for send in forwards:
            self._post(name, send, None)

    def _post(self, source: str, send: Send, batch: Batch | None) -> None:
        to = send.to
        if isinstance(to, int) and to < PEER_SESSIONS:
            mail = Mail(source, "client", to, send.request_id, send.message, batch)
        elif isinstance(to, int):
            target = self.names[to - PEER_SESSIONS]
            life = self._lives[target]
            hello = self._greeted.get((target, source), (0, 0, None))[2]
            is_client = hello is not None and hello.role == ROLE_CLIENT
            whose = self.addresses[source] if is_client else source
            mail = Mail(source, target, whose, send.request_id, send.message, batch, life)
        else:
            own = to == source
            to = next((name for name, each in self.addresses.items() if each == to), to)
            sender: int | str = source if own else PEER_SESSIONS + self.names.index(source)
            life_wanted = self._lives[source] if own else None
            mail = Mail(source, to, sender, send.request_id, send.message, batch, life_wanted)
        self.send(mail)


def client_hello() -> Hello:
    return Hello(PROTOCOL_VERSION, ROLE_CLIENT, NO_IDENTITY, "", NO_IDENTITY)
