"""Puts that came before their predecessors, bounded in bytes and in number."""

from __future__ import annotations

from bisect import bisect_right, insort_right
from typing import TYPE_CHECKING, NamedTuple

from walle.limits import EARLY_BYTES_MAX, REORDER_BYTES_MAX, REORDER_COUNT_MAX

if TYPE_CHECKING:
    from walle.core.context import Context
    from walle.core.effects import Address
    from walle.ids import Position
    from walle.messages import Put
    from walle.record import Batch


class EarlyPut(NamedTuple):
    """A put with entries whose predecessor is missing."""

    sender: Address
    request_id: int
    put: Put
    batch: Batch


class ReorderQueue:
    """puts: in order of their first entries. What does not fit is dropped: its writer sends it
    again.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.puts: list[EarlyPut] = []
        self._bytes = 0

    def add(self, early: EarlyPut) -> None:
        """Keeps the newest entries that fit: the commit point moves towards them."""
        kept = early._replace(batch=early.batch.detach())
        insort_right(self.puts, kept, key=_first_id)
        self._count(kept.batch.payload.size)
        while self.puts and (
            self._bytes > REORDER_BYTES_MAX
            or len(self.puts) > REORDER_COUNT_MAX
            or self._context.early_bytes > EARLY_BYTES_MAX
        ):
            self._drop(0)

    def beginning_up_to(self, entry_id: int) -> list[EarlyPut]:
        """Those whose first entry is `entry_id` or one before it."""
        return self.puts[: bisect_right(self.puts, entry_id, key=_first_id)]

    def holding(self, position: Position) -> EarlyPut | None:
        """One that has that entry, with that chain."""
        for early in self.beginning_up_to(position.entry_id):
            batch = early.batch
            if (
                position.entry_id <= batch.last_id
                and batch.chain_at(position.entry_id) == position.chain
            ):
                return early
        return None

    def remove(self, early: EarlyPut) -> None:
        """It is done with."""
        self._drop(next(index for index, each in enumerate(self.puts) if each is early))

    def clear(self) -> None:
        """Another writer is promised: these are refused."""
        self.puts.clear()
        self._count(-self._bytes)

    def _drop(self, index: int) -> None:
        self._count(-self.puts.pop(index).batch.payload.size)

    def _count(self, size: int) -> None:
        self._bytes += size
        self._context.early_bytes += size


def _first_id(early: EarlyPut) -> int:
    return early.batch.first_id
