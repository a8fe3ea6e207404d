"""What one stream's clients asked for, when, and what they were told: judged at the end, from
outside, without a look at any member.

The stream's state is its history, so an operation that sees the history up to entry n sees all
entries up to n. Operations are linearizable if each sees, and each put follows, all that any
operation has seen or written that ended before it began; and if all saw the same history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from walle.errors import Outcome
from walle.testing.violation import require

if TYPE_CHECKING:
    from collections.abc import Mapping

    from walle.ids import Position


@dataclass(slots=True, eq=False)
class Operation:
    """One put, read or exclusive section.

    begun_ns, ended_ns: in true time; 0: it has not ended.
    position: of the put's entry; or the last entry of the history that was seen.
    outcome: of a put; what was only seen is durable.
    """

    what: str
    begun_ns: int
    position: Position
    ended_ns: int = 0
    outcome: Outcome = Outcome.UNKNOWN


class Operations:
    """The operations of one stream."""

    def __init__(self) -> None:
        self._all: list[Operation] = []

    def begin_put(self, what: str, position: Position, now_ns: int) -> Operation:
        """A put was handed to its writer."""
        operation = Operation(what, now_ns, position)
        self._all.append(operation)
        return operation

    def end(self, put: Operation, outcome: Outcome, now_ns: int) -> None:
        """The client was told what came of it."""
        require(not put.ended_ns, f"history: {put.what} of {put.position} ended twice")
        put.outcome, put.ended_ns = outcome, now_ns

    def saw(self, what: str, position: Position, begun_ns: int, now_ns: int) -> None:
        """The history up to that position was seen."""
        self._all.append(Operation(what, begun_ns, position, now_ns, Outcome.DURABLE))

    def count(self, outcome: Outcome) -> int:
        """How many operations ended so."""
        return sum(each.outcome is outcome for each in self._all)

    def judge(self, chains: Mapping[int, int]) -> None:
        """chains: of the stream's history at the end, by entry id.

        Raises:
            Violation: no single history explains all that clients were told.
        """
        for each in self._all:
            is_there = chains.get(each.position.entry_id) == each.position.chain
            require(
                is_there or each.outcome is not Outcome.DURABLE,
                f"history: {each.what} of {each.position} was called durable, and is not there",
            )
            require(
                not is_there or each.outcome is not Outcome.NOT_WRITTEN,
                f"history: {each.what} of {each.position} was called not written, and is there",
            )
        durable = [each for each in self._all if each.outcome is Outcome.DURABLE]
        ended = sorted(durable, key=lambda each: each.ended_ns)
        seen_id, index = 0, 0
        for each in sorted(durable, key=lambda each: each.begun_ns):
            while ended[index].ended_ns < each.begun_ns:
                seen_id = max(seen_id, ended[index].position.entry_id)
                index += 1
            require(
                each.position.entry_id >= seen_id,
                f"history: {each.what} of {each.position} began when entry {seen_id} was known",
            )
