"""A stream's topology."""

from __future__ import annotations

import pytest

from walle.core.topology import StreamTopology
from walle.ids import Position
from walle.messages import NodeAddress, StreamInfo


def test_everyone_is_named_once_new_members_first() -> None:
    topology = StreamTopology(2, ("c", "a"), ("a", "b"))
    assert topology.everyone == ("c", "a", "b")


def test_origin_is_the_position_before_the_first_entry() -> None:
    assert StreamTopology(1, ("a",)).origin == Position(0, 0)
    trimmed = StreamTopology(1, ("a",), first_entry_id=11, first_prev_chain=77)
    assert trimmed.origin == Position(10, 77)


def test_stream_never_begins_earlier_again() -> None:
    topology = StreamTopology(1, ("a",), first_entry_id=11, first_prev_chain=77)
    assert topology.trimmed(Position(9, 1)) == topology.trimmed(Position(10, 1)) == topology
    later = topology.trimmed(Position(11, 88))
    assert later == topology._replace(first_entry_id=12, first_prev_chain=88)


@pytest.mark.parametrize("version", [1, 2])
def test_newer_members_and_the_later_beginning_win_each_for_itself(version: int) -> None:
    ours = StreamTopology(1, ("a",), first_entry_id=11, first_prev_chain=77)
    theirs = StreamTopology(version, ("b",) if version == 2 else ("a",))
    newest = theirs._replace(first_entry_id=11, first_prev_chain=77)
    assert ours.merged(theirs) == theirs.merged(ours) == newest


@pytest.mark.parametrize("old", [(), ("n1", "n2")])
def test_client_makes_it_of_what_it_is_told(old: tuple[str, ...]) -> None:
    new = ("n2", "n3")
    members, old_members = (
        tuple(NodeAddress(node, f"{node}:1") for node in nodes) for nodes in (new, old)
    )
    info = StreamInfo(
        7, "/s", version=5, members=members, old_members=old_members, first_entry_id=9
    )
    assert StreamTopology.of(info) == StreamTopology(5, new, old, first_entry_id=9)
