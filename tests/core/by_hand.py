"""A stream's members, driven by hand: a test says which message arrives where, and when.

    stage = Stage()                         # n1, n2, n3, who have promised and accepted w1
    w1 = stage.writer(1)
    w1.put(1, to="n1")                      # Put(w1, id 1) -> n1
    c2 = stage.claim(2)
    c2.promise("n2"); c2.promise("n3")      # NewWriter(w2) -> n2, with the reading of its tail
    c2.sync("n3"); c2.stamp("n3")
    w2 = c2.returns()

The members are real, and so are the coordinators. Members fetch records from each other and ask
each other at once; a claim's messages wait until the test delivers them, as often as it likes.
Disks sync at once, unless the test says otherwise. After every step the checks of `Truth` are
made. Nothing is owed to older leases, unless the stage is made with `has_leases`.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from walle.core import effects
from walle.core.change import Change
from walle.core.claim import Claim, Claimed
from walle.core.cluster import StreamRecord
from walle.core.context import Context
from walle.core.effects import Promise
from walle.core.member import Member
from walle.core.quorum import majority_size
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import NO_WRITER, ORIGIN, Position, WriterId
from walle.limits import LEASE_MS_MIN, NS_PER_MS
from walle.messages import (
    Adopt,
    AskHeld,
    AskWriter,
    Confirm,
    Fetch,
    NewWriter,
    NewWriterReply,
    Put,
    PutReply,
    ReadTail,
    ReadTailReply,
    Release,
    Stamp,
    StampReply,
    Sync,
    SyncReply,
)
from walle.record import Encoder, decode
from walle.testing.disk import Disk, shape
from walle.testing.truth import Truth

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.effects import Send
    from walle.messages import Message
    from walle.record import Batch

STREAM = 7
VERSION = 1
JUMP_MS = LEASE_MS_MIN / 4
CLAIM_MS = 1_000_000
QUIET_MS = 10_000

T = TypeVar("T")


class NoAnswer(Exception):
    """A member did not answer."""


class Letter(NamedTuple):
    """A message from `source` to the member `target`."""

    source: str
    target: str
    request_id: int
    message: Message


class Place:
    """One member on its node."""

    def __init__(self, stage: Stage, name: str, first: WriterId) -> None:
        self.context = Context(name, random.Random(name))
        self.disk = Disk()
        for action in (
            effects.SetTopology(STREAM, "/s", stage.newest),
            effects.SetPromise(STREAM, Promise(first, "", LEASE_MS_MIN, 0)),
            effects.SetAccepted(STREAM, first),
        ):
            if first != NO_WRITER or isinstance(action, effects.SetTopology):
                self.disk.execute(action)
        self.disk.sync()
        self.start(0)

    def start(self, now_ns: int) -> None:
        """Starts the member from what the disk holds."""
        state = self.disk.recover_stream(STREAM)
        self.context = Context(self.context.node_id, random.Random(1))
        self.context.now_ns = now_ns
        self.member = Member(
            self.context, state, on_change=lambda _member: None, on_stale=lambda: None
        )
        self.member.start()


class Stage:
    """The members, the coordinators' contexts, and the clock they share."""

    def __init__(
        self,
        size: int = 3,
        *,
        members: tuple[str, ...] | None = None,
        is_fresh: bool = False,
        has_leases: bool = False,
    ) -> None:
        self._has_leases = has_leases
        self._has_damage = False
        self.names = tuple(f"n{index}" for index in range(1, size + 1))
        self.now_ns = 0
        self.newest = StreamTopology(VERSION, members or self.names)
        self._topologies = {VERSION: self.newest}
        self.places = {
            name: Place(
                self,
                name,
                NO_WRITER if is_fresh or name not in self.newest.members else writer_id(1),
            )
            for name in self.names
        }
        self.truth = Truth(STREAM, self._topologies.__getitem__)
        self.coordinators: dict[str, Coordinator | Boss] = {}
        self.alarms: list[str] = []
        self.lose: Callable[[str, str, Message], bool] = lambda _source, _target, _message: False
        self.is_syncing = True
        self.tails_read: set[tuple[str, str]] = set()
        self._answers: list[tuple[str, str, Message]] = []
        self.settle()

    def __getitem__(self, name: str) -> Member:
        return self.places[name].member

    def writer(self, number: int, tail: Position = ORIGIN) -> Writer:
        """The writer of that number, whose claim found the history to end at `tail`."""
        return Writer(self, writer_id(number), tail)

    def history(self, name: str) -> list[int]:
        """The writers' numbers of the entries that a member holds, proved or in its live run."""
        runs = self.places[name].disk.streams[STREAM].runs
        return [decode(runs[entry_id]).writer.ts for entry_id in sorted(runs)]

    def publish(self, topology: StreamTopology) -> None:
        """The topology is committed in `/cluster`; nobody has heard of it yet."""
        self.newest = self._topologies[topology.version] = topology

    def check_storage(self) -> None:
        """Storage holds what the core believes."""
        for name, place in self.places.items():
            found = shape(place.disk.streams[STREAM].history)
            assert found == shape(place.member.history), name

    def crash_unsynced(self, name: str, step: Callable[[], object], kept_actions: int) -> None:
        """The node crashes right after a step, when only its first actions are durable; an append's
        entries and its `accepted` count as two."""
        self.is_syncing = False
        with suppress(NoAnswer):
            step()
        self.is_syncing = True
        unsynced = self.places[name].disk._unsynced
        unsynced[:] = [part for action in unsynced for part in parts(action)]
        self.crash(name, kept_actions)

    def claim(self, number: int, lease_ms: int = LEASE_MS_MIN) -> Coordinator:
        """Begins a claim; its messages wait to be delivered."""
        name = f"c{number}"
        coordinator = self.coordinators[name] = Coordinator(self, name, number, lease_ms)
        self.settle()
        return coordinator

    def crash(self, name: str, kept_actions: int = 1 << 30) -> None:
        """The node restarts; of what was not synced, the first `kept_actions` are kept."""
        self.places[name].disk.crash(kept_actions)
        self.places[name].start(self.now_ns)
        self.settle()

    def damage(self, name: str, entry_id: int) -> None:
        """The node restarts, and finds the record of that entry damaged."""
        disk = self.places[name].disk
        disk._durable[STREAM].rot(entry_id)
        self._has_damage = True
        self.crash(name)

    def pass_ms(self, ms: float) -> None:
        """Lets time pass."""
        end_ns = self.now_ns + int(ms * NS_PER_MS)
        while True:
            due = min(place.context.timers.next_ns() for place in self.places.values())
            if due > end_ns:
                break
            self.now_ns = max(due, self.now_ns)
            for place in self.places.values():
                place.context.now_ns = self.now_ns
                place.context.timers.run_due(self.now_ns)
            self.settle()
        self.now_ns = end_ns

    def end_whole(self) -> None:
        """The quiet phase: nothing is lost any more. A claim returns with all that is committed,
        its put is committed too, and in the end every member holds the same, without a gap."""
        self.lose = lambda *_: False
        names, version = self.newest.members, self.newest.version
        claim = self.claim(99)
        for name in names:
            claim.promise(name)
        self.pass_ms(QUIET_MS)
        for name in names:
            if claim.claimed is None:
                claim.bring_in(name)
        writer = claim.returns()
        assert writer.tail >= self.truth.tip
        last_id = writer.tail.entry_id + 1
        for name in names:
            assert writer.put(last_id, to=name, version=version).code == Code.OK
        for name in names:
            writer.put(to=name, commit=last_id, version=version)
        self.pass_ms(QUIET_MS)
        self.check()
        self.check_storage()
        ends = {(self[name].history.committed, self[name].accepted) for name in names}
        assert ends == {(writer.position(last_id), writer.id)}
        for name in names:
            assert [run.start for run in self[name].history.runs] == [1]
            assert not self[name].history.aside
        self.truth.check_records({name: self.places[name].disk.streams[STREAM] for name in names})
        assert not self.alarms

    # --- delivery ---------------------------------------------------------------------------------

    def hand(self, source: str, target: str, message: Message, batch: Batch | None = None) -> None:
        """Delivers a message to a member, and lets all that follows from it happen."""
        self._receive(source, target, 0, message, batch)
        self.settle()
        self.check()

    def ask(self, target: str, message: Message, wanted: type[T], batch: Batch | None = None) -> T:
        """Delivers a message and returns the last answer of the wanted type."""
        self._answers.clear()
        self.hand("test", target, message, batch)
        found = [answer for _, to, answer in self._answers if to == "test"]
        if not found:
            raise NoAnswer(f"{target} does not answer {message}")
        answer = found[-1]
        assert isinstance(answer, wanted)
        return answer

    def check(self) -> None:
        streams = {name: place.disk.streams[STREAM] for name, place in self.places.items()}
        self.truth.check_members(streams)
        self.truth.check_foresight(streams, self.newest, self.newest.version)
        is_plain = self.newest.version == VERSION and not self._has_damage
        named = {name: each for name, each in streams.items() if name in self.newest.everyone}
        self.truth.check_coverage(named, majority_size(len(named)) if is_plain else 1)

    def _receive(
        self, source: str, target: str, request_id: int, message: Message, batch: Batch | None
    ) -> None:
        """A request arrives at a member; the session's number tells who asks."""
        place = self.places[target]
        place.context.now_ns = self.now_ns
        member, sender = place.member, self._session(source)
        self.truth.saw(source, message, batch)
        match message:
            case Put():
                member.put(sender, request_id, message, batch)
            case NewWriter():
                member.new_writer(sender, request_id, message)
            case ReadTail():
                member.read_tail(sender, request_id, message)
            case Sync():
                member.syncing.sync(sender, request_id, message)
            case Stamp():
                member.stamp(sender, request_id, message)
            case Release():
                member.release(sender, request_id, message)
            case Fetch():
                member.reading.fetch(sender, request_id, message)
            case AskWriter():
                member.adoption.answer(sender, request_id, message)
            case Adopt():
                member.joining.adopt(StreamTopology(*message[2:]))
                member.joining.adopted(sender, request_id)
            case Confirm():
                member.joining.confirm(sender, request_id, message)
            case AskHeld():
                member.joining.tell_held(sender, request_id, message)
            case _:
                raise AssertionError(message)

    def _session(self, name: str) -> int:
        return [*self.names, "test", *self.coordinators].index(name)

    def settle(self) -> None:
        """Carries out effects until nothing moves but what waits for the test."""
        contexts = {name: place.context for name, place in self.places.items()}
        contexts |= {name: each.context for name, each in self.coordinators.items()}
        is_moving = True
        while is_moving:
            is_moving = False
            for name, context in contexts.items():
                sends, actions = context.outbox.take()
                is_moving |= bool(sends or actions)
                self.alarms += context.outbox.alarms
                context.outbox.alarms.clear()
                for send in sends:
                    self._post(name, send, send.batch)
                for action in actions:
                    self._carry_out(name, action)
                if self.is_syncing:
                    context.outbox.synced = context.outbox.sequence
        for place in self.places.values():
            place.context.timers.cancel(("orphan", STREAM))
            if not self._has_leases:
                place.member.lease.promised_until_ns = place.member.lease.older_until_ns = 0

    def _carry_out(self, name: str, action: effects.Action) -> None:
        disk = self.places[name].disk
        if isinstance(action, effects.Forward):
            if self.is_syncing:
                disk.sync()
                self._post(name, action.send, None)
        elif isinstance(action, effects.ReadRecords):
            batch = disk.read(action)
            for to, request_id in (action.send[:2], *action.others):
                self._post(name, action.send._replace(to=to, request_id=request_id), batch)
        else:
            disk.execute(action)

    def _post(self, source: str, send: Send, batch: Batch | None) -> None:
        self.truth.saw(source, send.message, batch)
        if isinstance(send.to, int):
            target = [*self.names, "test", *self.coordinators][send.to]
            if self.lose(source, target, send.message):
                return
            self._answers.append((source, target, send.message))
            if isinstance(send.message, ReadTailReply):
                self.tails_read.add((source, target))
            if target == "test":
                return
            context = (
                self.places[target].context
                if target in self.places
                else self.coordinators[target].context
            )
            context.now_ns = self.now_ns
            context.calls.receive(source, send.request_id, send.message, batch)
        elif source in self.coordinators and not isinstance(send.message, ReadTail):
            letter = Letter(source, send.to, send.request_id, send.message)
            self.coordinators[source].letters.append(letter)
        elif not self.lose(source, send.to, send.message):
            self._receive(source, send.to, send.request_id, send.message, batch)

    def open(self, letter: Letter, wanted: type[T]) -> T | None:
        """Delivers a letter; returns the answer it led to, if any."""
        self._answers.clear()
        self._receive(letter.source, letter.target, letter.request_id, letter.message, None)
        self.settle()
        self.check()
        for _, to, answer in self._answers:
            if to == letter.source and isinstance(answer, wanted):
                return answer
        return None


class Coordinator:
    """A real claim, whose messages wait in `letters`."""

    def __init__(self, stage: Stage, name: str, number: int, lease_ms: int) -> None:
        self.stage = stage
        self.letters: list[Letter] = []
        self.claimed: Claimed | None = None
        self.failure: str | None = None
        self.context = Context(name, NoNonce(number))
        self.context.wall_us = number
        self._claim = Claim(
            self.context,
            stream_id=STREAM,
            topology=lambda: stage.newest,
            above=NO_WRITER,
            address=name,
            lease_ms=lease_ms,
            until_ns=CLAIM_MS * NS_PER_MS,
            force=True,
            on_stale=lambda: None,
            on_claimed=self._on_claimed,
            on_failed=self._on_failed,
        )
        self._claim.start()

    def _on_claimed(self, claimed: Claimed) -> None:
        assert self.claimed is None
        self.claimed = claimed

    def _on_failed(self, why: str) -> None:
        assert self.failure is None
        self.failure = why

    def letter(self, kind: type[Message], to: str) -> Letter | None:
        """The newest message of that kind to that member."""
        found = [each for each in self.letters if each.target == to]
        return next((each for each in reversed(found) if isinstance(each.message, kind)), None)

    @property
    def promised(self) -> set[str]:
        """The members whose promises have been answered: their tails were read."""
        return {source for source, to in self.stage.tails_read if to == self.context.node_id}

    def _open(self, kind: type[Message], to: str, wanted: type[T]) -> T | None:
        letter = self.letter(kind, to)
        assert letter is not None, f"no {kind.__name__} was sent to {to}"
        return self.stage.open(letter, wanted)

    def promise(self, to: str) -> int | None:
        """NewWriter arrives; the tail is read at once. Returns the answer's code."""
        answer = self._open(NewWriter, to, NewWriterReply)
        return None if answer is None else answer.code

    def sync(self, to: str) -> int | None:
        """Sync arrives, and is carried out if it is allowed."""
        answer = self._open(Sync, to, SyncReply)
        return None if answer is None else answer.code

    def stamp(self, to: str) -> int | None:
        """Stamp arrives."""
        answer = self._open(Stamp, to, StampReply)
        return None if answer is None else answer.code

    def bring_in(self, *names: str) -> None:
        """Syncs and stamps these members, as far as is needed."""
        for name in names:
            if self.letter(Stamp, name) is None:
                self.sync(name)
            self.stamp(name)

    def pass_ms(self, ms: float) -> None:
        """Lets time pass for the coordinator alone."""
        self.context.now_ns += int(ms * NS_PER_MS)
        self.context.timers.run_due(self.context.now_ns)
        self.stage.settle()

    def returns(self) -> Writer:
        """The writer, now that the claim has returned."""
        assert self.claimed is not None, "the claim has not returned"
        return Writer(self.stage, self.claimed.writer, self.claimed.tail)


class Boss:
    """The manager's side of a real change of members; its messages wait in `letters`."""

    def __init__(self, stage: Stage, wall_us: int = 1) -> None:
        self.stage = stage
        self.letters: list[Letter] = []
        self.has_ended = False
        self.context = Context("boss", NoNonce(1))
        self.context.wall_us = wall_us
        stage.coordinators["boss"] = self
        record = StreamRecord(STREAM, "/s", stage.newest)
        self.change = Change(self.context, record, self._on_end)
        self.change.start()
        stage.settle()

    def _on_end(self) -> None:
        assert not self.has_ended
        self.has_ended = True

    def asks(self, kind: type[Message]) -> bool:
        """Whether it asks that by now."""
        return any(isinstance(letter.message, kind) for letter in self.letters)

    def send(self, kind: type[Message], *names: str) -> None:
        """The newest messages of that kind arrive at these members, and their answers here."""
        for name in names:
            found = [
                each
                for each in self.letters
                if each.target == name and isinstance(each.message, kind)
            ]
            assert found, f"no {kind.__name__} was sent to {name}"
            self.stage.open(found[-1], object)

    def pass_ms(self, ms: float) -> None:
        """Lets time pass for the manager alone."""
        self.context.now_ns += int(ms * NS_PER_MS)
        self.context.wall_us += int(ms * 1_000)
        self.context.timers.run_due(self.context.now_ns)
        self.stage.settle()


class Writer:
    """One writer's history. Its entries from `tail` on are encoded when they are first put; all
    have the same data, so that only the writer's id tells them from another writer's."""

    def __init__(self, stage: Stage, writer: WriterId, tail: Position) -> None:
        self.id = writer
        self.tail = tail
        self.data = b"data"
        self._stage = stage
        self._encoder = Encoder(writer, tail)
        self._positions = {tail.entry_id: tail}
        self._batches: dict[int, Batch] = {}
        self._transmission = 0

    def _entry(self, entry_id: int) -> Batch:
        while self._encoder.tail.entry_id < entry_id:
            self._encoder.add(self.data, 0)
            batch = self._encoder.take()
            self._positions[batch.last_id] = batch.last
            self._batches[batch.last_id] = batch
        return self._batches[entry_id]

    def position(self, entry_id: int) -> Position:
        if entry_id not in self._positions:
            self._entry(entry_id)
        return self._positions[entry_id]

    def batch(self, first_id: int, last_id: int) -> Batch:
        """Several entries in one batch."""
        encoder = Encoder(self.id, self._entry(first_id).before)
        for _ in range(first_id, last_id + 1):
            encoder.add(self.data, 0)
        return encoder.take()

    def put(
        self, *ids: int, to: str, commit: int = 0, version: int = VERSION, mark: int = 0
    ) -> PutReply:
        """Puts one entry, or the entries from the first id to the last, as one batch."""
        batch = self.batch(ids[0], ids[-1]) if ids else None
        return self.put_batch(batch, to=to, commit=commit, version=version, mark=mark)

    def put_batch(
        self,
        batch: Batch | None,
        *,
        to: str,
        commit: int = 0,
        version: int = VERSION,
        mark: int = 0,
    ) -> PutReply:
        """Puts these entries, whoever encoded them."""
        self._transmission += 1
        committed = self.position(commit) if commit else ORIGIN
        put = Put(STREAM, version, self.id, self._transmission, committed, 0, mark)
        return self._stage.ask(to, put, PutReply, batch)

    def heartbeat(self, commit: int, to: str) -> PutReply:
        """Tells the commit point."""
        return self.put(to=to, commit=commit)

    def heartbeat_and_jump(self, commit: int, to: str) -> None:
        """Tells the commit point, and waits until the member has given up waiting for entries."""
        self.heartbeat(commit, to)
        self._stage.pass_ms(JUMP_MS + 1)
        self._stage.check()


def parts(action: effects.Action) -> list[effects.Action]:
    """What of an action may become durable before the rest of it."""
    if isinstance(action, effects.Append) and action.accepted is not None:
        accepted = effects.SetAccepted(action.stream_id, action.accepted)
        return [action._replace(accepted=None), accepted]
    return [action]


class NoNonce:
    """Randomness that makes writer ids easy to read: every nonce is the writer's number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def random(self) -> float:
        return 0.5

    def getrandbits(self, _k: int, /) -> int:
        return self._number


def writer_id(number: int) -> WriterId:
    """The id that the claim of that number gets."""
    return WriterId(number, number)
