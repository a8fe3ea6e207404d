"""`dump`: a stream's entries, from a replica to wherever they are wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core import effects
from walle.errors import ConfigError
from walle.ids import IdRange
from walle.limits import MIB
from walle.record import Bytes, check
from walle.segments.replica import ReplicaStream
from walle.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from walle.core.effects import Action
    from walle.core.member import State
    from walle.ids import Position
    from walle.record import Batch
    from walle.segments.replica import Replica
    from walle.storage.vfs import Files

ROUND_BYTES = 16 * MIB
"""What is made durable at a time."""


class Dump:
    """The entries of one stream that a replica holds in its runs, in order.

    Those behind the commit point come, too: a replica does not know how far its stream is
    committed, only how far it is at least.

    wanted: which entries, as far as the stream goes here.
    missing: which of them are not here, as far as it was read.
    """

    def __init__(self, replica: Replica, stream_id: int, wanted: IdRange) -> None:
        self.replica = replica
        self._stream = ReplicaStream(replica, stream_id)
        history = self.state.history
        self.wanted = IdRange(
            max(wanted.start, history.origin.entry_id + 1),
            min(wanted.end, history.tail.entry_id + 1),
        )
        self.missing: list[IdRange] = []

    @property
    def state(self) -> State:
        """What a node would make of the stream."""
        return self._stream.state

    def batches(self) -> Iterator[Batch]:
        """The records, checked. The batch behind missing entries begins behind them."""
        start, end = self.wanted
        while start < end:
            records = self._stream.read(start, end)
            if records:
                batch = check(Bytes(records), where=f"entry {start}")
                yield batch
                start = batch.last_id + 1
            else:
                starts = [run.start for run in self.state.history.runs if run.start > start]
                gap = IdRange(start, min([*starts, end]))
                self.missing.append(gap)
                start = gap.end


def copy_entries(dump: Dump, target: Path, files: Files) -> Iterator[int]:
    """Makes a data directory that holds what is dumped, gaps included, and the stream's small
    state. It is for these tools: no node has its identity.

    Yields:
        How many entries were copied, now and then.

    Raises:
        ConfigError: the directory is there, or there is nothing to be copied.
    """
    if target.exists():
        raise ConfigError(str(target), "is there already; name a directory that is not")
    store: Store | None = None
    tail, count, waiting_bytes = dump.state.history.origin, 0, 0
    for batch in dump.batches():
        if store is None:
            store = Store(target, files)
            tail = batch.before
            _carry_out(store, _begin(dump, tail))
        _carry_out(store, _add(dump.state, tail, batch))
        tail = batch.last
        count += batch.count
        waiting_bytes += batch.payload.size
        if waiting_bytes >= ROUND_BYTES:
            store.sync()
            waiting_bytes = 0
            yield count
    if store is None:
        raise ConfigError(dump.state.name, f"has no entries in {dump.wanted} here")
    store.sync()
    store.finish()
    yield count


def _carry_out(store: Store, actions: Iterator[Action]) -> None:
    for action in actions:
        store.execute(action)


def _begin(dump: Dump, origin: Position) -> Iterator[Action]:
    """The stream, without entries, as though what is not copied had been trimmed."""
    state, cluster = dump.state, dump.replica.loaded.manifest.cluster
    if cluster is not None:
        yield cluster
    topology = state.topology._replace(
        first_entry_id=origin.entry_id + 1, first_prev_chain=origin.chain
    )
    yield effects.SetTopology(state.stream_id, state.name, topology)
    yield effects.SetPromise(state.stream_id, state.promise)
    yield effects.SetAccepted(state.stream_id, state.accepted)


def _add(state: State, tail: Position, batch: Batch) -> Iterator[Action]:
    """The next entries. What lies behind a gap begins with committed ones."""
    stream_id = state.stream_id
    committed_id = min(batch.last_id, state.history.committed.entry_id)
    if batch.before != tail:
        yield effects.Jump(stream_id, batch, 0, batch.position_at(committed_id), None)
        return
    yield effects.Append(stream_id, batch, 0, None)
    if committed_id >= batch.first_id:
        yield effects.Commit(stream_id, batch.position_at(committed_id))
