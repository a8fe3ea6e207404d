"""A toy disk: storage as the core sees it, in dictionaries.

Actions are carried out at once, in order, as reads show; they become durable at the next `sync`.
A crash keeps any prefix of what was not synced. The durable commit point may lag behind.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from walle.core import effects
from walle.core.effects import NO_PROMISE, Promise
from walle.core.history import History
from walle.core.member import State
from walle.core.node import Recovered
from walle.errors import invariant
from walle.ids import NO_WRITER, ORIGIN, Position, WriterId
from walle.record import Batch, Bytes, check, decode_all, size_of

if TYPE_CHECKING:
    from walle.core.effects import Action
    from walle.core.topology import StreamTopology

Records = dict[int, bytes]


def split(batch: Batch, skip: int = 0) -> Records:
    """The batch's records but the first `skip`, by entry id."""
    view, offset, records = batch.payload.view(), 0, {}
    for entry_id in range(batch.first_id, batch.last_id + 1):
        size = size_of(int.from_bytes(view[offset + 12 : offset + 15], "little"))
        if entry_id >= batch.first_id + skip:
            records[entry_id] = bytes(view[offset : offset + size])
        offset += size
    return records


def shape(history: History) -> tuple[object, ...]:
    """All of a history that storage and the core must agree about at any moment."""
    return history.runs, history.aside, history.fill, history.tail


def copy_history(history: History) -> History:
    return replace(
        history,
        runs=[replace(run) for run in history.runs],
        aside=[replace(run) for run in history.aside],
        fill=None if history.fill is None else replace(history.fill),
        chains=array("Q", history.chains),
    )


@dataclass
class Stream:
    """One stream on a disk.

    runs, fill: records by entry id. aside: the same of each aside run, oldest first.
    noted: the commit point that a restart finds.
    """

    name: str
    topology: StreamTopology
    history: History
    promise: Promise = NO_PROMISE
    accepted: WriterId = NO_WRITER
    noted: Position = ORIGIN
    runs: Records = field(default_factory=dict)
    aside: list[Records] = field(default_factory=list)
    fill: Records = field(default_factory=dict)

    def copy(self) -> Stream:
        return replace(
            self,
            history=copy_history(self.history),
            runs=dict(self.runs),
            aside=[dict(each) for each in self.aside],
            fill=dict(self.fill),
        )

    def execute(self, action: Action, note_entries: int) -> None:
        history = self.history
        match action:
            case effects.SetPromise():
                self.promise = action.promise
            case effects.SetAccepted():
                self._accept(action.accepted)
            case effects.Append():
                history.append(action.batch, action.skip)
                self.runs.update(split(action.batch, action.skip))
                self._accept(action.accepted)
            case effects.Truncate():
                history.truncate(action.tail)
                self._take_above(action.tail.entry_id)
            case effects.Jump():
                suffix = self._take_above(history.committed.entry_id)
                if suffix:
                    self.aside.append(suffix)
                history.jump(action.batch, action.skip, action.committed)
                self.runs.update(split(action.batch, action.skip))
                self._accept(action.accepted)
                self.noted = action.committed
            case effects.Fill():
                history.add_fill(action.batch)
                self.fill.update(split(action.batch))
            case effects.CloseGap():
                history.close_gap()
                self.runs.update(self.fill)
                self.fill.clear()
                starts = [run.start for run in history.aside]
                self.aside = [each for each in self.aside if min(each) in starts]
            case effects.DropFill():
                history.fill = None
                self.fill.clear()
            case effects.Commit():
                history.commit(action.committed)
                if action.committed.entry_id - self.noted.entry_id >= note_entries:
                    self.noted = action.committed

    def _accept(self, accepted: WriterId | None) -> None:
        if accepted is not None:
            invariant(accepted > self.accepted, "`accepted` is never lowered")
            self.accepted = accepted

    def _take_above(self, entry_id: int) -> Records:
        return {each: self.runs.pop(each) for each in sorted(self.runs) if each > entry_id}

    def read(self, action: effects.ReadRecords) -> Batch | None:
        """From one run; runs are looked at first, then aside runs."""
        for place in [self.runs, *(self.aside if action.aside else [])]:
            first = place.get(action.start)
            if first is None:
                continue
            if action.after is not None and int.from_bytes(first[4:12], "little") != action.after:
                continue
            found = bytearray(first)
            for entry_id in range(action.start + 1, action.end):
                if entry_id not in place or len(found) >= action.bytes_max:
                    break
                found += place[entry_id]
            return check(Bytes(bytes(found)), where="the toy disk")
        return None

    def held(self) -> dict[int, set[int]]:
        """The chains of the entries held, proved or aside, by entry id."""
        chains: dict[int, set[int]] = {}
        for place in [self.runs, *self.aside]:
            for record in place.values():
                for entry in decode_all(record):
                    chains.setdefault(entry.entry_id, set()).add(entry.chain)
        return chains

    def state(self, stream_id: int) -> State:
        """What a restart finds."""
        history = copy_history(self.history)
        invariant(history.base.entry_id <= history.committed.entry_id, "the chains reach far back")
        return State(stream_id, self.name, self.topology, history, self.promise, self.accepted)


class Disk:
    """What one node has stored.

    note_entries: by how many entries the durable commit point lags before it is noted; at most
        `history.CHAINS_KEPT`.
    """

    def __init__(self, note_entries: int = 1) -> None:
        self.cluster: effects.SetCluster | None = None
        self.streams: dict[int, Stream] = {}
        self.note_entries = note_entries
        self._durable: dict[int, Stream] = {}
        self._durable_cluster: effects.SetCluster | None = None
        self._unsynced: list[Action] = []

    @property
    def unsynced_count(self) -> int:
        return len(self._unsynced)

    def execute(self, action: Action) -> None:
        """Carries out one action; it is durable after the next `sync`."""
        self._unsynced.append(action)
        self.cluster = self._execute(self.streams, action) or self.cluster

    def _execute(self, streams: dict[int, Stream], action: Action) -> effects.SetCluster | None:
        match action:
            case effects.SetCluster():
                return action
            case effects.SetTopology():
                origin = action.topology.origin
                history = History(origin, committed=origin, base=origin)
                stream = Stream(action.name, action.topology, history, noted=origin)
                streams.setdefault(action.stream_id, stream).topology = action.topology
            case effects.ReadRecords() | effects.Forward():
                pass
            case _:
                streams[action.stream_id].execute(action, self.note_entries)
        return None

    def sync(self, count: int | None = None) -> None:
        """Makes the first `count` actions durable that are not yet, by default all."""
        done = self._unsynced[:count]
        del self._unsynced[: len(done)]
        for action in done:
            self._durable_cluster = self._execute(self._durable, action) or self._durable_cluster

    def crash(self, kept_count: int = 0) -> None:
        """Loses what was not synced, but the first `kept_count` actions."""
        self.sync(kept_count)
        self._unsynced.clear()
        self.cluster = self._durable_cluster
        for stream in self._durable.values():
            stream.history.committed = stream.noted
        self.streams = {key: stream.copy() for key, stream in self._durable.items()}

    def durable(self, stream_id: int) -> Stream:
        """What a crash at this moment would leave of the stream, at the least."""
        return self._durable[stream_id]

    def read(self, action: effects.ReadRecords) -> Batch | None:
        """The records asked for, all of one run."""
        stream = self.streams.get(action.stream_id)
        return None if stream is None else stream.read(action)

    def recover(self) -> Recovered:
        """What a restarted node finds."""
        if self.cluster is None:
            return Recovered()
        states = tuple(stream.state(key) for key, stream in self.streams.items())
        return Recovered(self.cluster.cluster_id, self.cluster.nodes, states)

    def recover_stream(self, stream_id: int) -> State:
        """What a restarted member finds."""
        return self.streams[stream_id].state(stream_id)
