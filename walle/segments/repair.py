"""`repair`: damage becomes gaps, and gaps are filled from other replicas, without the cluster.

It does what a node does when it starts, after looking at every record; and then what backfill does:
records are taken forward from the chain below a gap, and must meet the chain above it. It promises
nothing and forgets no promise. A damaged journal is beyond repair: it may have held a promise that
nobody knows any more, and a node that votes without it can help to elect two writers.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from walle.core import effects
from walle.errors import ConfigError
from walle.ids import IdRange
from walle.limits import MIB
from walle.record import Bytes, check
from walle.segments.replica import Replica, ReplicaStream
from walle.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from walle.core.effects import Action
    from walle.core.member import State
    from walle.ids import Position
    from walle.record import Batch
    from walle.storage.vfs import Files

ROUND_BYTES = 16 * MIB
"""What is made durable at a time."""


class Repair:
    """The repair of one data directory; or, unless `is_writing`, what it would do.

    findings: what is cut, lost or doubted, in sentences.

    Raises:
        CorruptionError: the journal is damaged; the error says what to do.
        ConfigError: a source is of another cluster.
    """

    def __init__(
        self, path: Path, files: Files, sources: Sequence[Replica], *, is_writing: bool
    ) -> None:
        replica = Replica(path, files)
        for source in sources:
            _check_source(replica, source)
        self._sources = sources
        self._store: Store | None = None
        self._waiting_bytes = 0
        if is_writing:
            self._store = Store(path, files, reads_all=True)
            self.findings = self._store.findings
            self._states = self._store.recovered().states
        else:
            found = [replica.recover(each, reads_all=True) for each in replica.streams]
            self.findings = (
                *replica.loaded.findings,
                *replica.disk.findings,
                *chain.from_iterable(each.findings for each in found),
            )
            self._states = tuple([each.state for each in found])

    def fill(self) -> Iterator[str]:
        """Fills what gaps it can, and says so, each in a sentence."""
        for state in self._states:
            if state.history.gaps():
                for text in self._fill_stream(state):
                    yield f"stream {state.name}: {text}"

    def left(self) -> list[str]:
        """What remains for the cluster to mend once the node runs, in sentences."""
        left = []
        for state in self._states:
            gaps = ", ".join(map(str, state.history.gaps()))
            if gaps:
                left.append(f"stream {state.name}: entries {gaps} are missing")
            if state.doubtful_id:
                text = f"the tail is in doubt up to entry {state.doubtful_id}"
                left.append(f"stream {state.name}: {text}")
        return left

    def finish(self) -> None:
        """Makes everything durable."""
        if self._store is not None:
            self._store.sync()
            self._store.finish()

    def _order(self, action: Action) -> None:
        if self._store is None:
            return
        self._store.execute(action)
        if isinstance(action, effects.Fill):
            self._waiting_bytes += action.batch.payload.size
        if self._waiting_bytes >= ROUND_BYTES:
            self._store.sync()
            self._waiting_bytes = 0

    def _fill_stream(self, state: State) -> Iterator[str]:
        """Fills a stream's gaps, lowest first, up to one that cannot be filled."""
        stream_id, history = state.stream_id, state.history
        sources = [
            ReplicaStream(each, stream_id) for each in self._sources if stream_id in each.streams
        ]
        while (gap := history.lowest_gap()) is not None:
            below, above = gap
            position = history.fill.last if history.fill else below
            batch = _find(sources, position, above.start)
            if batch is None:
                if sources:
                    yield f"no source has entry {position.entry_id + 1} behind {position}"
                return
            history.add_fill(batch)
            self._order(effects.Fill(stream_id, batch))
            if batch.last_id + 1 < above.start:
                continue
            entries = IdRange(below.entry_id + 1, above.start)
            if batch.last != above.before:
                history.fill = None
                self._order(effects.DropFill(stream_id))
                yield f"what the sources have of {entries} does not meet entry {above.start}"
                return
            history.close_gap()
            self._order(effects.CloseGap(stream_id))
            yield f"the gap {entries} is filled"


def _check_source(replica: Replica, source: Replica) -> None:
    ours, theirs = replica.loaded.manifest.cluster, source.loaded.manifest.cluster
    if ours is not None and theirs is not None and ours.cluster_id != theirs.cluster_id:
        raise ConfigError(
            str(source.path),
            f"is of cluster {theirs.cluster_id.hex()}, and {replica.path} of "
            f"{ours.cluster_id.hex()}; name a replica of the same cluster",
        )


def _find(sources: Sequence[ReplicaStream], position: Position, end: int) -> Batch | None:
    """What some source has behind `position`; of aside runs, which may be wrong, only if no runs
    have anything."""
    start, after = position.entry_id + 1, position.chain
    for aside in (False, True):
        for source in sources:
            records = source.read(start, end, after, aside=aside)
            if records:
                return check(Bytes(records), where=f"entry {start}")
    return None
