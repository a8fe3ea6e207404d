"""`diff`: whether two replicas agree, by their journals and by chains.

An equal chain at an entry means equal histories up to it. So one comparison for each pair of runs
that overlap will do, and a search by halves where it fails. Bytes are not compared: `verify` says
whether they are what their chains say.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from walle.ids import IdRange
from walle.record import HEADER

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from walle.core.history import Run
    from walle.segments.replica import Replica

HELD, MISSING = "held", "missing"


class Difference(NamedTuple):
    """first, second: what the two replicas have of it.

    is_alarm: both call it committed. This must never be.
    """

    stream: str
    what: str
    first: Any
    second: Any
    is_alarm: bool = False


def find_differences(first: Replica, second: Replica) -> Iterator[Difference]:
    """In which the two replicas differ. Commit points are not compared: a journal's may lag."""
    one, another = _cluster_of(first), _cluster_of(second)
    if one != another:
        yield Difference("", "cluster", one, another)
    for stream_id in sorted({*first.streams, *second.streams}):
        if stream_id not in second.streams:
            yield Difference(first.streams[stream_id].name, "stream", HELD, MISSING)
        elif stream_id not in first.streams:
            yield Difference(second.streams[stream_id].name, "stream", MISSING, HELD)
        else:
            yield from _Pair(first, second, stream_id).differences()


def _cluster_of(replica: Replica) -> str | None:
    cluster = replica.loaded.manifest.cluster
    return cluster.cluster_id.hex() if cluster else None


class _Side:
    """One replica's part of a stream."""

    def __init__(self, replica: Replica, stream_id: int) -> None:
        self._replica = replica
        self._log, self.state, _ = replica.recover(stream_id)
        self.history = self.state.history

    def chain_at(self, run: Run, entry_id: int) -> int:
        """The chain after an entry of the run, or after the one before it."""
        if entry_id == run.last.entry_id:
            return run.last.chain
        record = self._replica.read(self._log.runs, entry_id + 1, entry_id + 2)
        _, prev_chain, *_ = HEADER.unpack_from(record)
        return int(prev_chain)

    def small_state(self) -> dict[str, Any]:
        """What is to be the same, but for what one of them has missed."""
        state, topology, promise = self.state, self.state.topology, self.state.promise
        return {
            "name": state.name,
            "version": topology.version,
            "members": ", ".join(topology.members),
            "old members": ", ".join(topology.old_members),
            "first entry": topology.first_entry_id,
            "promised": str(promise.writer),
            "accepted": str(state.accepted),
            "doubt up to entry": state.doubtful_id,
        }


class _Pair:
    """One stream in two replicas."""

    def __init__(self, first: Replica, second: Replica, stream_id: int) -> None:
        self._sides = _Side(first, stream_id), _Side(second, stream_id)
        self._name = self._sides[0].state.name
        histories = [side.history for side in self._sides]
        self._first_id = 1 + max(history.origin.entry_id for history in histories)
        self._committed_id = min(history.committed.entry_id for history in histories)

    def differences(self) -> Iterator[Difference]:
        first, second = self._sides
        other = second.small_state()
        for what, value in first.small_state().items():
            if value != other[what]:
                yield Difference(self._name, what, value, other[what])
        runs = [self._ranges(side) for side in self._sides]
        for entries in _without(runs[0], runs[1]):
            yield Difference(self._name, f"entries {entries}", HELD, MISSING)
        for entries in _without(runs[1], runs[0]):
            yield Difference(self._name, f"entries {entries}", MISSING, HELD)
        for one, another in _overlaps(first.history.runs, second.history.runs):
            yield from self._compare(one, another)

    def _ranges(self, side: _Side) -> list[IdRange]:
        """What is held of the entries that neither has trimmed."""
        return [
            IdRange(max(run.start, self._first_id), run.end)
            for run in side.history.runs
            if run.end > self._first_id
        ]

    def _compare(self, one: Run, another: Run) -> Iterator[Difference]:
        """The first entry on which two runs differ, if they do."""
        low = max(one.start, another.start, self._first_id)
        high = min(one.last.entry_id, another.last.entry_id)
        if low > high or self._is_equal(one, another, high):
            return
        while low < high:
            middle = (low + high) // 2
            if self._is_equal(one, another, middle):
                low = middle + 1
            else:
                high = middle
        first, second = self._chains(one, another, low)
        is_alarm = low <= self._committed_id
        what = f"chain from {'committed' if is_alarm else 'uncommitted'} entry {low} on"
        yield Difference(self._name, what, f"{first:016x}", f"{second:016x}", is_alarm)

    def _is_equal(self, one: Run, another: Run, entry_id: int) -> bool:
        first, second = self._chains(one, another, entry_id)
        return first == second

    def _chains(self, one: Run, another: Run, entry_id: int) -> tuple[int, int]:
        first, second = self._sides
        return first.chain_at(one, entry_id), second.chain_at(another, entry_id)


def _overlaps(runs: Sequence[Run], others: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """The pairs of runs that may overlap; both lists are sorted."""
    left, right = list(reversed(runs)), list(reversed(others))
    while left and right:
        yield left[-1], right[-1]
        (left if left[-1].end <= right[-1].end else right).pop()


def _without(ranges: Sequence[IdRange], others: Sequence[IdRange]) -> Iterator[IdRange]:
    """What of the ranges lies in none of the others; both are sorted."""
    for start, end in ranges:
        at = start
        for other in others[bisect_right(others, start, key=attrgetter("end")) :]:
            if other.start >= end:
                break
            if other.start > at:
                yield IdRange(at, other.start)
            at = other.end
        if at < end:
            yield IdRange(at, end)
