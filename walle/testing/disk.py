"""A simulated disk: storage as the core sees it, in dictionaries.

Actions are carried out at once, in order, as reads show; they become durable at the next `sync`.
A crash keeps of what was not synced a prefix of each stream's, and of the rest the promises and
topologies or not: docs/storage.md allows no more. The durable commit point may lag behind.
"""

from __future__ import annotations

import errno
from array import array
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

from walle.core import effects
from walle.core.effects import NO_PROMISE, Promise
from walle.core.history import History, Run
from walle.core.member import State
from walle.core.node import Recovered
from walle.errors import invariant
from walle.ids import NO_WRITER, ORIGIN, Position, WriterId
from walle.record import Batch, Bytes, check, decode, size_of

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator

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


@lru_cache(1 << 14)
def chain_of(record: bytes) -> int:
    """The chain after the record."""
    return decode(record).chain


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
    journaled: the commit point that a restart finds.
    doubtful_id: up to where entries may have been lost to damage.
    """

    name: str
    topology: StreamTopology
    history: History
    promise: Promise = NO_PROMISE
    accepted: WriterId = NO_WRITER
    journaled: Position = ORIGIN
    doubtful_id: int = 0
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

    def execute(self, action: Action, journal_lag_entries: int) -> None:
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
                self.journaled = action.committed
            case effects.Fill():
                history.add_fill(action.batch)
                self.fill.update(split(action.batch))
            case effects.CloseGap():
                history.close_gap()
                self.runs.update(self.fill)
                self.fill.clear()
                self._drop_aside()
            case effects.DropFill():
                history.fill = None
                self.fill.clear()
            case effects.Cut():
                history.cut(action.after, action.last)
                for entry_id in range(action.after.entry_id + 1, action.last.entry_id + 1):
                    del self.runs[entry_id]
                self.journaled = history.committed
            case effects.Leave():
                self._leave()
            case effects.Commit():
                history.commit(action.committed)
                history.drop_covered_aside()
                self._drop_aside()
                if action.committed.entry_id - self.journaled.entry_id >= journal_lag_entries:
                    self.journaled = action.committed

    def set_topology(self, topology: StreamTopology) -> None:
        """If it begins later: what lies below goes, and the commit point is journaled with it."""
        self.topology = topology
        history = self.history
        history.trim(topology.origin)
        if self.journaled.entry_id < history.origin.entry_id:
            self.journaled = history.committed
        self.runs = {each: self.runs[each] for each in self.runs if history.run_with(each)}
        first_id = topology.first_entry_id
        self.fill = {each: record for each, record in self.fill.items() if each >= first_id}
        self._drop_aside()

    def _drop_aside(self) -> None:
        """Drops the aside runs that the history has dropped."""
        kept = [(run.start, run.last.entry_id) for run in self.history.aside]
        self.aside = [each for each in self.aside if (min(each), max(each)) in kept]

    def _leave(self) -> None:
        """All goes but the promise and the topology."""
        origin = self.topology.origin
        self.history = History(origin, committed=origin, base=origin)
        self.journaled, self.accepted, self.doubtful_id = origin, NO_WRITER, 0
        self.runs, self.aside, self.fill = {}, [], {}

    def _accept(self, accepted: WriterId | None) -> None:
        if accepted is not None:
            invariant(accepted > self.accepted, "`accepted` is never lowered")
            self.accepted = accepted
            self.doubtful_id = 0

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
            return check(Bytes(bytes(found)), where="the simulated disk")
        return None

    def held(self) -> dict[int, set[int]]:
        """The chains of the entries held, proved or aside, by entry id."""
        chains: dict[int, set[int]] = {}
        for place in [self.runs, *self.aside]:
            for entry_id, record in place.items():
                chains.setdefault(entry_id, set()).add(chain_of(record))
        return chains

    def proved(self) -> Iterator[tuple[int, int]]:
        """The entries up to the commit point, by id, with their chains."""
        for entry_id, record in self.runs.items():
            if entry_id <= self.history.committed.entry_id:
                yield entry_id, chain_of(record)

    @property
    def is_doubtful(self) -> bool:
        """Whether the member must not answer for its tail."""
        return self.doubtful_id > self.history.committed.entry_id

    @property
    def has_left(self) -> bool:
        """Whether it is as a node that is no member leaves it, which holds nothing."""
        return self.history.is_empty and self.accepted == NO_WRITER

    def rot(self, entry_id: int) -> None:
        """The record of that entry of a run is damaged, as a restart finds out. What is committed
        becomes a gap; of what is not, the tail is cut, and the member doubts it."""
        run = self.history.run_with(entry_id)
        if run is None:
            return
        history, chain_before = self.history, int.from_bytes(self.runs[entry_id][4:12], "little")
        before = Position(entry_id - 1, chain_before)
        if entry_id > self.journaled.entry_id:
            self.doubtful_id = max(self.doubtful_id, history.tail.entry_id)
            history.committed = min(history.committed, before)
            history.truncate(before)
            self._take_above(entry_id - 1)
            return
        if entry_id == self.journaled.entry_id:
            return  # the journal has that one, too
        index = history.runs.index(run)
        parts = []
        if run.start < entry_id:
            parts.append(replace(run, last=before))
        if entry_id < run.last.entry_id:
            parts.append(Run(entry_id + 1, chain_of(self.runs[entry_id]), run.last))
        history.runs[index : index + 1] = parts
        del self.runs[entry_id]

    def state(self, stream_id: int) -> State:
        """What a restart finds."""
        history = copy_history(self.history)
        invariant(history.base.entry_id <= history.committed.entry_id, "the chains reach far back")
        return State(
            stream_id,
            self.name,
            self.topology,
            history,
            self.promise,
            self.accepted,
            self.doubtful_id,
        )


class DamageFound(Exception):
    """What was to be read is damaged; the node goes on, and is told what is to be cut out."""


class Disk:
    """What one node has stored.

    journal_lag_entries: by how many entries the durable commit point lags before it is journaled;
        at most `history.CHAINS_KEPT`.
    is_failing: whether syncs fail; the node must not go on then.
    """

    def __init__(self, journal_lag_entries: int = 1) -> None:
        self.cluster: effects.SetCluster | None = None
        self.streams: dict[int, Stream] = {}
        self.journal_lag_entries = journal_lag_entries
        self.is_failing = False
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
                stream = Stream(action.name, action.topology, history, journaled=origin)
                streams.setdefault(action.stream_id, stream).set_topology(action.topology)
            case effects.ReadRecords() | effects.Forward():
                pass
            case _:
                streams[action.stream_id].execute(action, self.journal_lag_entries)
        return None

    def sync(self) -> None:
        """Makes all actions durable that are not yet.

        Raises:
            OSError: it failed, and how much is durable is not known.
        """
        if self.is_failing:
            raise OSError(errno.EIO, "sync failed")
        unsynced, self._unsynced = self._unsynced, []
        self._make_durable(unsynced)

    def _make_durable(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self._durable_cluster = self._execute(self._durable, action) or self._durable_cluster

    def crash(self, kept: int | random.Random) -> None:
        """Loses what was not synced: all but the first `kept` actions, or as chance has it."""
        unsynced, self._unsynced = self._unsynced, []
        count = kept if isinstance(kept, int) else kept.randrange(len(unsynced) + 1)
        if isinstance(kept, int) or any(isinstance(each, effects.SetCluster) for each in unsynced):
            self._make_durable(unsynced[:count])
        else:
            self._make_durable(_kept_by_chance(unsynced, kept))
        self.is_failing = False
        self.cluster = self._durable_cluster
        for stream in self._durable.values():
            stream.history.committed = stream.journaled
        self.streams = {key: stream.copy() for key, stream in self._durable.items()}

    def compare(self) -> None:
        """Whether what is stored is what was ordered: here it is by construction."""

    def durable(self, stream_id: int) -> Stream | None:
        """What a crash at this moment would leave of the stream, at the least."""
        return self._durable.get(stream_id)

    def rot(self, stream_id: int, rng: random.Random) -> bool:
        """Damages a record of a node that is down; whether it had the one that chance chose."""
        stream = self._durable.get(stream_id)
        if stream is None:
            return False
        entry_id = rng.randint(1, max(stream.history.tail.entry_id, 1))
        if entry_id not in stream.runs:
            return False
        stream.rot(entry_id)
        self.streams[stream_id] = stream.copy()
        return True

    def rot_running(self, _stream_id: int, _rng: random.Random, /) -> bool:
        """Damages something of a node that runs; a model would not notice."""
        return False

    def scrub(self) -> None:
        """Looks for damage everywhere."""

    def take_damage(self) -> list[effects.Cut]:
        """What was found damaged since the last call, to be told to the node."""
        return []

    def read(self, action: effects.ReadRecords) -> Batch | None:
        """The records asked for, all of one run.

        Raises:
            DamageFound: the first of them is damaged.
            CorruptionError: the same, and the node must end.
        """
        stream = self.streams.get(action.stream_id)
        return None if stream is None else stream.read(action)

    def recover(self) -> Recovered:
        """What a restarted node finds."""
        if self.cluster is None:
            return Recovered()
        states = tuple(stream.state(key) for key, stream in self.streams.items())
        return Recovered(self.cluster, states)

    def recover_stream(self, stream_id: int) -> State:
        """What a restarted member finds."""
        return self.streams[stream_id].state(stream_id)


def _kept_by_chance(unsynced: list[Action], rng: random.Random) -> Iterator[Action]:
    """What may have become durable of actions that were not synced: what one stream's records
    need goes before what another's do, or behind."""
    by_stream: dict[int, list[Action]] = {}
    for action in unsynced:
        by_stream.setdefault(getattr(action, "stream_id", 0), []).append(action)
    for actions in by_stream.values():
        count = rng.randrange(len(actions) + 1)
        yield from actions[:count]
        if rng.random() < 0.3:
            small = effects.SetPromise, effects.SetTopology
            yield from (each for each in actions[count:] if isinstance(each, small))
