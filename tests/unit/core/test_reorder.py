"""Puts that came early are kept within bounds, a stream's own and the node's."""

from __future__ import annotations

import random

import pytest

from tests.unit.making import W1, entries
from walle.core import reorder
from walle.core.context import Context
from walle.core.reorder import EarlyPut, ReorderQueue
from walle.ids import ORIGIN, Position
from walle.messages import Put

DATA = b"some data"
SIZE = entries(1, data=DATA).payload.size


def early(entry_id: int) -> EarlyPut:
    batch = entries(1, after=Position(entry_id - 1, 1), data=DATA)
    return EarlyPut(1, 0, Put(7, 1, W1, 1, ORIGIN, relay=0, mark=0), batch)


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Context:
    """Of a node that keeps three entries."""
    monkeypatch.setattr(reorder, "EARLY_BYTES_MAX", 3 * SIZE)
    return Context("n1", random.Random(1))


def kept(queue: ReorderQueue) -> list[int]:
    return [each.batch.first_id for each in queue.beginning_up_to(1_000)]


def test_all_queues_of_a_node_keep_so_much_together(context: Context) -> None:
    first, second = ReorderQueue(context), ReorderQueue(context)
    for entry_id in (5, 6):
        first.add(early(entry_id))
    for entry_id in (7, 8, 9):
        second.add(early(entry_id))
    assert (kept(first), kept(second)) == ([5, 6], [9])
    assert context.early_bytes == 3 * SIZE


def test_what_leaves_a_queue_makes_room_in_the_others(context: Context) -> None:
    first, second = ReorderQueue(context), ReorderQueue(context)
    gone = early(5)
    for each in (gone, early(6), early(7)):
        first.add(each)
    second.add(early(8))
    assert kept(second) == []
    first.remove(first.beginning_up_to(5)[0])
    second.add(early(8))
    assert (kept(first), kept(second)) == ([6, 7], [8])
    first.clear()
    assert context.early_bytes == SIZE
    second.clear()
    assert context.early_bytes == 0
