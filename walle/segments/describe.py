"""`inspect`: what a replica holds, as plain values for JSON.

Little is read: the journal, the first record of each extent, and the last of each run. A writer's
id never falls along a history, so where two entries have the same one, so have all between them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from walle.errors import CorruptionError
from walle.ids import WriterId
from walle.record import HEADER
from walle.storage.extent import first_id_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from walle.core.effects import Promise
    from walle.core.history import Run
    from walle.ids import Position
    from walle.segments.replica import Replica
    from walle.storage.extent import Extent


def describe_replica(replica: Replica, stream_ids: Sequence[int]) -> dict[str, Any]:
    """The replica and those of its streams.

    findings: what a node that starts would cut, lose or doubt, in sentences.
    """
    loaded, owner = replica.loaded, replica.owner
    findings = list(loaded.findings)
    streams = [_describe_stream(replica, stream_id, findings) for stream_id in stream_ids]
    cluster = loaded.manifest.cluster
    return {
        "directory": str(replica.path),
        "node": owner.node if owner else None,
        "identity": owner.identity.hex() if owner else None,
        "cluster": cluster.cluster_id.hex() if cluster else None,
        "journal": {"number": loaded.number, "frame": loaded.sequence},
        "streams": streams,
        "findings": findings + replica.disk.findings,
    }


def _describe_stream(replica: Replica, stream_id: int, findings: list[str]) -> dict[str, Any]:
    log, state, found = replica.recover(stream_id)
    findings += found
    history, topology = state.history, state.topology
    segments = sorted(log.segments(), key=lambda segment: segment.number)

    def tell(runs: Sequence[Run], extents: Sequence[Extent]) -> list[dict[str, Any]]:
        return [_describe_run(replica, run, extents, findings) for run in runs]

    return {
        "name": state.name,
        "id": stream_id,
        "version": topology.version,
        "members": topology.members,
        "old_members": topology.old_members,
        "first_entry_id": topology.first_entry_id,
        "promised": _describe_promise(state.promise),
        "accepted": str(state.accepted),
        "committed": _describe_position(history.committed),
        "tail": _describe_position(history.tail),
        "doubtful_id": state.doubtful_id,
        "runs": tell(history.runs, log.runs),
        "gaps": history.gaps(),
        "aside": [
            each
            for group, run in zip(log.aside, history.aside, strict=True)
            for each in tell([run], group)
        ],
        "fill": tell([history.fill], log.fill) if history.fill else [],
        "files": [{"file": segment.path.name, "bytes": segment.size} for segment in segments],
    }


def _describe_promise(promise: Promise) -> dict[str, Any]:
    return {
        "writer_id": str(promise.writer),
        "address": promise.address,
        "lease_ms": promise.lease_ms,
        "older_lease_ms": promise.older_lease_ms,
    }


def _describe_position(position: Position) -> dict[str, Any]:
    return {"entry_id": position.entry_id, "chain": f"{position.chain:016x}"}


def _describe_run(
    replica: Replica, run: Run, extents: Sequence[Extent], findings: list[str]
) -> dict[str, Any]:
    """A run that lies in these extents, among others."""
    first = bisect_right(extents, run.start, key=first_id_of) - 1
    ours = extents[first : bisect_left(extents, run.end, key=first_id_of)]
    about: dict[str, Any] = {
        "start": run.start,
        "end": run.end,
        "bytes": sum(extent.end - extent.offset for extent in ours),
        "first_time_us": None,
        "last_time_us": None,
        "writers": [],
    }
    births = _Births(replica, ours)
    try:
        starts = [max(run.start, extent.first_id) for extent in ours]
        about["first_time_us"] = births.of(run.start).time_us
        about["last_time_us"] = births.of(run.last.entry_id).time_us
        about["writers"] = [
            {"writer_id": str(births.of(entry_id).writer), "first_entry_id": entry_id}
            for entry_id in births.changes([*starts, run.last.entry_id])
        ]
    except CorruptionError as error:
        findings.append(str(error))
    return about


class Birth(NamedTuple):
    """By whom and when an entry was written."""

    writer: WriterId
    time_us: int


class _Births:
    """The births of the entries in some extents."""

    def __init__(self, replica: Replica, extents: Sequence[Extent]) -> None:
        self._replica = replica
        self._extents = extents
        self._known: dict[int, Birth] = {}

    def of(self, entry_id: int) -> Birth:
        if entry_id not in self._known:
            record = self._replica.read(self._extents, entry_id, entry_id + 1)
            *_, ts, nonce, time_us = HEADER.unpack_from(record)
            self._known[entry_id] = Birth(WriterId(ts, nonce), time_us)
        return self._known[entry_id]

    def changes(self, points: Sequence[int]) -> Iterator[int]:
        """The first entry, and each that has another writer than the one before it.

        Args:
            points: the first and the last entry, and some between them that are found fast.
        """
        yield points[0]
        for low, high in pairwise(points):
            yield from self._changes(low, high)

    def _changes(self, low: int, high: int) -> Iterator[int]:
        """The same behind `low` and up to `high`."""
        if self.of(low).writer == self.of(high).writer:
            return
        if low + 1 == high:
            yield high
            return
        middle = (low + high) // 2
        yield from self._changes(low, middle)
        yield from self._changes(middle, high)
