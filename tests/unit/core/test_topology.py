"""A stream's topology."""

from __future__ import annotations

from walle.core.topology import StreamTopology
from walle.ids import Position


def test_everyone_is_named_once_new_members_first() -> None:
    topology = StreamTopology(2, ("c", "a"), ("a", "b"))
    assert topology.everyone == ("c", "a", "b")


def test_origin_is_the_position_before_the_first_entry() -> None:
    assert StreamTopology(1, ("a",)).origin == Position(0, 0)
    trimmed = StreamTopology(1, ("a",), first_entry_id=11, first_prev_chain=77)
    assert trimmed.origin == Position(10, 77)
