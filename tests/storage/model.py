"""What a store must do, in plain Python: a model that keeps records in dictionaries, and a driver
that orders valid actions of both."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from walle.core import effects
from walle.core.effects import NO_PROMISE, Promise, Send
from walle.core.history import History
from walle.core.topology import StreamTopology
from walle.ids import NO_WRITER, ORIGIN, Position, WriterId
from walle.record import Batch, Bytes, check, decode_all, encode, size_of

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable

    from walle.core.effects import Action
    from walle.core.member import State
    from walle.core.node import Recovered
    from walle.storage.store import Store

CLUSTER_ID = b"cluster-identity"
WRITER = WriterId(1_000, 7)
NOBODY = Send(0, 0, None)


def records_of(before: Position, sizes: Iterable[int], writer: WriterId = WRITER) -> list[bytes]:
    """Consecutive records behind `before`, with data of these sizes."""
    records = []
    entry_id, chain = before
    for size in sizes:
        entry_id += 1
        data = bytes((entry_id * 7 + place) % 251 + 1 for place in range(min(size, 64)))
        data = (data * (size // max(1, len(data)) + 1))[:size]
        record, chain = encode(entry_id, writer, entry_id, data, chain)
        records.append(record)
    return records


def batch_of(records: Iterable[bytes]) -> Batch:
    return check(Bytes(b"".join(records)), where="test")


def by_position(data: bytes) -> dict[Position, bytes]:
    """Consecutive records, each by the position it leads to."""
    records = {}
    offset = 0
    for entry in decode_all(check(Bytes(data), where="test")) if data else ():
        size = size_of(len(entry.data))
        records[Position(entry.entry_id, entry.chain)] = data[offset : offset + size]
        offset += size
    return records


def read_action(
    stream_id: int,
    start: int,
    end: int = 1 << 40,
    *,
    bytes_max: int = 1 << 30,
    after: int | None = None,
    aside: bool = False,
) -> effects.ReadRecords:
    return effects.ReadRecords(stream_id, start, end, bytes_max, after, aside, NOBODY)


def read_bytes(store: Store, action: effects.ReadRecords) -> bytes:
    return b"".join(store.read(action))


@dataclass
class Stream:
    """One stream: the toy storage's view of it.

    runs, fill: records by entry id. aside: the same for each aside run, oldest first.
    """

    name: str
    topology: StreamTopology
    history: History
    promise: Promise = NO_PROMISE
    accepted: WriterId = NO_WRITER
    runs: dict[int, bytes] = field(default_factory=dict)
    aside: list[dict[int, bytes]] = field(default_factory=list)
    fill: dict[int, bytes] = field(default_factory=dict)

    def set_topology(self, name: str, topology: StreamTopology) -> None:
        """What lies below its origin goes."""
        self.name, self.topology = name, topology
        history = self.history
        history.trim(topology.origin)
        self.runs = {each: self.runs[each] for each in self.runs if history.run_with(each)}
        first_id = topology.first_entry_id
        self.fill = {each: record for each, record in self.fill.items() if each >= first_id}
        self.drop_aside()

    def drop_aside(self) -> None:
        """Drops the aside runs that the history has dropped."""
        kept = [(run.start, run.last.entry_id) for run in self.history.aside]
        self.aside = [each for each in self.aside if (min(each), max(each)) in kept]

    def add(self, records: dict[int, bytes], batch: Batch, skip: int = 0) -> None:
        for position, record in by_position(bytes(batch.payload.view())).items():
            if position.entry_id >= batch.first_id + skip:
                records[position.entry_id] = record

    def take_above(self, entry_id: int) -> dict[int, bytes]:
        """Removes the entries above that one from the runs."""
        return {each: self.runs.pop(each) for each in sorted(self.runs) if each > entry_id}

    def read(self, action: effects.ReadRecords) -> bytes:
        """What `Store.read` must return."""
        for place in [self.runs, *(self.aside if action.aside else [])]:
            first = place.get(action.start)
            if first is None or (
                action.after is not None and int.from_bytes(first[4:12], "little") != action.after
            ):
                continue
            found = bytearray(first)
            for entry_id in range(action.start + 1, action.end):
                if entry_id not in place or len(found) >= action.bytes_max:
                    break
                found += place[entry_id]
            return bytes(found)
        return b""


class Model:
    """The toy storage: everything is durable at once."""

    def __init__(self) -> None:
        self.cluster: effects.SetCluster | None = None
        self.streams: dict[int, Stream] = {}

    def copy(self) -> Model:
        return copy.deepcopy(self)

    def execute(self, action: Action) -> None:
        if isinstance(action, effects.SetCluster):
            self.cluster = action
            return
        stream = self.streams.get(action.stream_id)  # type: ignore[union-attr]
        if isinstance(action, effects.SetTopology):
            if stream is None:
                origin = action.topology.origin
                history = History(origin, committed=origin, base=origin)
                stream = Stream(action.name, action.topology, history)
                self.streams[action.stream_id] = stream
            stream.set_topology(action.name, action.topology)
            return
        assert stream is not None
        self._change(stream, action)

    def _change(self, stream: Stream, action: Action) -> None:
        history = stream.history
        match action:
            case effects.SetPromise():
                stream.promise = action.promise
            case effects.SetAccepted():
                stream.accepted = action.accepted
            case effects.Append():
                history.append(action.batch, action.skip)
                stream.add(stream.runs, action.batch, action.skip)
                stream.accepted = action.accepted or stream.accepted
            case effects.Truncate():
                history.truncate(action.tail)
                stream.take_above(action.tail.entry_id)
            case effects.Jump():
                suffix = stream.take_above(history.committed.entry_id)
                history.jump(action.batch, action.skip, action.committed)
                if suffix:
                    stream.aside.append(suffix)
                stream.add(stream.runs, action.batch, action.skip)
                stream.accepted = action.accepted or stream.accepted
            case effects.Fill():
                history.add_fill(action.batch)
                stream.add(stream.fill, action.batch)
            case effects.CloseGap():
                history.close_gap()
                stream.runs.update(stream.fill)
                stream.fill.clear()
                stream.drop_aside()
            case effects.DropFill():
                history.fill = None
                stream.fill.clear()
            case effects.Cut():
                history.cut(action.after, action.last)
                for entry_id in range(action.after.entry_id + 1, action.last.entry_id + 1):
                    del stream.runs[entry_id]
            case effects.Leave():
                origin = stream.topology.origin
                stream.history = History(origin, committed=origin, base=origin)
                stream.accepted = NO_WRITER
                stream.runs, stream.aside, stream.fill = {}, [], {}
            case effects.Commit():
                history.commit(action.committed)
                history.drop_covered_aside()
                stream.drop_aside()


# --- comparing ------------------------------------------------------------------------------------


def check_recovered(recovered: Recovered, model: Model) -> None:
    """The store has recovered exactly what the model holds; the commit point may lag."""
    assert recovered.cluster == (model.cluster or effects.NO_CLUSTER)
    assert sorted(state.stream_id for state in recovered.states) == sorted(model.streams)
    for state in recovered.states:
        check_state(state, model.streams[state.stream_id])


def check_state(state: State, stream: Stream) -> None:
    assert (state.name, state.topology) == (stream.name, stream.topology)
    assert (state.promise, state.accepted) == (stream.promise, stream.accepted)
    assert state.doubtful_id == 0
    found, wanted = state.history, stream.history
    assert (found.origin, found.tail) == (wanted.origin, wanted.tail)
    assert found.runs == wanted.runs
    assert found.aside == wanted.aside
    assert found.fill == wanted.fill
    assert found.gaps() == wanted.gaps()
    check_chains(found, wanted)


def essence(recovered: Recovered) -> list[object]:
    """All that was recovered but the chains, of which more are known once a gap is closed."""
    return [
        (*state[:3], *state[4:], history.runs, history.aside, history.fill, history.committed)
        for state in recovered.states
        for history in [state.history]
    ]


def check_chains(found: History, wanted: History) -> None:
    start = found.runs[-1].start if found.runs else found.origin.entry_id + 1
    assert start - 1 <= found.committed.entry_id <= wanted.committed.entry_id
    assert found.base.entry_id <= found.committed.entry_id
    assert found.base.entry_id <= max(start - 1, found.committed.entry_id - 4_096)
    assert found.holds(found.committed)
    for entry_id in range(found.base.entry_id, found.tail.entry_id + 1):
        known = wanted.chain_at(entry_id)
        assert known is None or found.chain_at(entry_id) == known, entry_id
    assert found.chain_at(found.tail.entry_id) == found.tail.chain


def check_reads(store: Store, model: Model) -> None:
    """Whatever the model holds can be read, and nothing else."""
    for stream_id, stream in model.streams.items():
        tail_id = stream.history.tail.entry_id
        for run in stream.history.runs:
            action = read_action(stream_id, run.start)
            assert read_bytes(store, action) == stream.read(action)
        for run in stream.history.aside:
            action = read_action(stream_id, run.start, after=run.prev_chain, aside=True)
            assert read_bytes(store, action) == stream.read(action)
        for gap in stream.history.gaps():
            assert store.read(read_action(stream_id, gap.start)) == []
        assert store.read(read_action(stream_id, tail_id + 1)) == []


# --- the driver -----------------------------------------------------------------------------------


LEAVE = 0.3
"""How often a stream is left when that has its turn: much goes with it."""


class Driver:
    """Makes up valid actions, and carries them out on a store and on a model.

    truth: what was committed in each gap of a stream, to backfill it with: records by entry id.
    known: for each stream, the records that were ever ordered, by position.
    """

    def __init__(self, store: Store, model: Model | None = None) -> None:
        self.store = store
        self.model = model or Model()
        self.truth: dict[int, dict[int, bytes]] = {}
        self.known: dict[int, dict[Position, bytes]] = {}
        self._ts = 1_000

    def do(self, *actions: Action) -> None:
        """Carries out these actions."""
        for action in actions:
            if isinstance(action, effects.Append | effects.Jump | effects.Fill):
                known = self.known.setdefault(action.stream_id, {})
                known.update(by_position(bytes(action.batch.payload.view())))
            self.model.execute(action)
            self.store.execute(action)

    def create(self, stream_id: int, origin: Position = ORIGIN) -> None:
        topology = StreamTopology(1, ("n1", "n2", "n3"), (), origin.entry_id + 1, origin.chain)
        self.do(effects.SetTopology(stream_id, f"/stream/{stream_id}", topology))

    def new_writer(self) -> WriterId:
        self._ts += 1
        return WriterId(self._ts, self._ts * 31)

    def promise(self, stream_id: int) -> None:
        writer = self.new_writer()
        self.do(effects.SetPromise(stream_id, Promise(writer, f"app:{writer.ts}", 5_000, 1_000)))

    def accept(self, stream_id: int) -> None:
        self.do(effects.SetAccepted(stream_id, self.new_writer()))

    def append(
        self, stream_id: int, sizes: list[int], *, skip: int = 0, is_accepted: bool = False
    ) -> None:
        """Appends entries of these sizes, as the end of a batch that begins with held ones."""
        stream = self.model.streams[stream_id]
        tail = stream.history.tail
        held: list[bytes] = []
        while len(held) < skip and tail.entry_id - len(held) in stream.runs:
            held.insert(0, stream.runs[tail.entry_id - len(held)])
        writer = self.new_writer()
        batch = batch_of(held + records_of(tail, sizes, writer))
        self.do(effects.Append(stream_id, batch, len(held), writer if is_accepted else None))

    def truncate(self, stream_id: int, dropped: int) -> None:
        history = self.model.streams[stream_id].history
        entry_id = max(history.committed.entry_id, history.tail.entry_id - dropped)
        self.do(effects.Truncate(stream_id, self._position(stream_id, entry_id)))

    def commit(self, stream_id: int, advance: int) -> None:
        history = self.model.streams[stream_id].history
        entry_id = min(history.committed.entry_id + advance, history.tail.entry_id)
        self.do(effects.Commit(stream_id, self._position(stream_id, entry_id)))

    def jump(
        self, stream_id: int, gap_sizes: list[int], sizes: list[int], *, skip: int = 0
    ) -> None:
        """Over a gap with entries of these sizes, to a run of entries of those sizes."""
        committed = self.model.streams[stream_id].history.committed
        missing = records_of(committed, gap_sizes, self.new_writer())
        last = batch_of(missing).last
        truth = self.truth.setdefault(stream_id, {})
        for entry_id, record in enumerate(missing, start=committed.entry_id + 1):
            truth[entry_id] = record
        skip = min(skip, len(missing) - 1)
        shown = missing[len(missing) - skip :]
        batch = batch_of(shown + records_of(last, sizes, self.new_writer()))
        committed = batch.position_at(last.entry_id + 1)
        self.do(effects.Jump(stream_id, batch, skip, committed, self.new_writer()))

    def trim(self, stream_id: int, ahead: int, *, is_held: bool = True) -> None:
        """Lets the stream begin so many entries later. If that is beyond its commit point, it is at
        an entry of its suffix, or, if it is not held, at another of that id."""
        stream = self.model.streams[stream_id]
        history = stream.history
        entry_id = history.origin.entry_id + ahead
        known = {**self.truth.get(stream_id, {}), **stream.runs}
        if entry_id in known and (is_held or entry_id <= history.committed.entry_id):
            origin = batch_of([known[entry_id]]).last
        else:
            origin = batch_of(records_of(Position(entry_id - 1, entry_id), [1])).last
        if history.holds(origin) and origin.entry_id > history.committed.entry_id:
            self.do(effects.Commit(stream_id, origin))
        topology = stream.topology.trimmed(origin)
        self.do(effects.SetTopology(stream_id, stream.name, topology))

    def fill(self, stream_id: int, count: int) -> None:
        """Backfills entries of the lowest gap, and closes it when it is full."""
        history = self.model.streams[stream_id].history
        position, gap = history.fill_position(), history.lowest_gap()
        if position is None or gap is None:
            return
        end = min(position.entry_id + 1 + count, gap[1].start)
        truth = self.truth[stream_id]
        records = [truth[each] for each in range(position.entry_id + 1, end)]
        self.do(effects.Fill(stream_id, batch_of(records)))
        if end == gap[1].start:
            self.do(effects.CloseGap(stream_id))

    def cut(self, stream_id: int, start: int, count: int) -> None:
        """Cuts these entries of a run out, to be backfilled; drops the fill if it is above them."""
        stream = self.model.streams[stream_id]
        history = stream.history
        if history.fill is not None and start < history.fill.start:
            self.do(effects.DropFill(stream_id))
        records = {each: stream.runs[each] for each in range(start, start + count)}
        self.truth.setdefault(stream_id, {}).update(records)
        batch = batch_of(records.values())
        self.do(effects.Cut(stream_id, batch.before, batch.last))

    def leave(self, stream_id: int) -> None:
        """All entries go; what comes next is another history."""
        self.truth.pop(stream_id, None)
        self.do(effects.Leave(stream_id))

    def do_random(self, random: random.Random, stream_id: int) -> None:
        """Carries out one or a few actions of any kind."""
        history = self.model.streams[stream_id].history
        committed_id = history.committed.entry_id

        def sizes(count_max: int) -> list[int]:
            count = random.randint(1, count_max)
            return [random.choice([0, 1, 50, 300, 2_000]) for _ in range(count)]

        kind = random.choice(
            ["append"] * 6
            + ["append accepted", "truncate", "replace", "commit", "commit", "jump", "promise"]
            + ["fill", "fill", "drop fill", "cut", "accept", "topology", "trim", "trim", "leave"]
        )
        match kind:
            case "append":
                self.append(stream_id, sizes(20), skip=random.randint(0, 3))
            case "append accepted":
                self.append(stream_id, sizes(5), is_accepted=True)
            case "truncate":
                self.truncate(stream_id, random.randint(0, 10))
            case "replace":
                self.truncate(stream_id, random.randint(0, 10))
                self.append(stream_id, sizes(5), is_accepted=True)
            case "commit":
                self.commit(stream_id, random.randint(0, 30))
            case "jump":
                self.jump(stream_id, sizes(20), sizes(10), skip=random.randint(0, 2))
            case "promise":
                self.promise(stream_id)
            case "fill":
                self.fill(stream_id, random.randint(1, 12))
            case "drop fill" if history.fill is not None:
                self.do(effects.DropFill(stream_id))
            case "cut" if runs := [run for run in history.runs if run.start < committed_id]:
                run = random.choice(runs)
                start = random.randrange(run.start, min(run.end, committed_id))
                left = min(run.end, committed_id) - start
                self.cut(stream_id, start, random.choice([left, random.randint(1, left)]))
            case "accept":
                self.accept(stream_id)
            case "leave" if random.random() < LEAVE:
                self.leave(stream_id)
            case "trim":
                self.trim(stream_id, random.choice([1, 3, 10, 30]), is_held=random.random() < 0.5)
            case "topology":
                stream = self.model.streams[stream_id]
                version = stream.topology.version + 1
                members = tuple(random.sample(["n1", "n2", "n3", "n4"], 3))
                topology = stream.topology._replace(version=version, members=members)
                self.do(effects.SetTopology(stream_id, stream.name, topology))

    def _position(self, stream_id: int, entry_id: int) -> Position:
        chain = self.model.streams[stream_id].history.chain_at(entry_id)
        assert chain is not None
        return Position(entry_id, chain)
