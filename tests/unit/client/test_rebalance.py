"""Planning a rebalance: what is moved, and what stays."""

from __future__ import annotations

import pytest

from walle.client.rebalance import Move, plan
from walle.core.placement import place
from walle.messages import NodeAddress, NodeRecord, StreamInfo, StreamSettings

NODES = tuple(NodeRecord(f"n{index}", f"h{index}:1", bytes(16)) for index in range(1, 6))


def stream(name: str, members: tuple[str, ...], replicas: int = 0, old: str = "") -> StreamInfo:
    return StreamInfo(
        stream_id=9,
        name=name,
        version=1,
        members=tuple(NodeAddress(node, "h:1") for node in members),
        old_members=tuple(NodeAddress(node, "h:1") for node in old.split()),
        first_entry_id=1,
        settings=StreamSettings(replicas=replicas),
    )


def placed(count: int, nodes: tuple[NodeRecord, ...], replicas: int = 3) -> list[StreamInfo]:
    names = [f"/s{index}" for index in range(count)]
    return [stream(name, place(name, nodes, replicas)) for name in names]


def test_streams_that_are_where_they_are_to_be_stay() -> None:
    assert plan(NODES, placed(50, NODES)) == []
    assert plan(NODES[:1], placed(5, NODES[:1])) == [], "no node is left for more replicas"


def test_cluster_stays() -> None:
    assert plan(NODES, [stream("/cluster", ("n1",))]) == []


def test_new_node_takes_one_place_in_some_streams() -> None:
    streams = placed(100, NODES[:4])
    moves = plan(NODES, streams)
    assert 40 < len(moves) < 80
    assert all(move.added == ["n5"] for move in moves)
    assert all(len(move.members) == 3 for move in moves)
    assert plan(NODES, [stream(move.stream.name, move.members) for move in moves]) == []


@pytest.mark.parametrize(("replicas", "expected"), [(0, 3), (1, 1), (5, 5), (7, 5)])
def test_stream_gets_the_replicas_that_its_setting_says(replicas: int, expected: int) -> None:
    info = stream("/s", ("n1", "n2"), replicas)
    (move,) = plan(NODES, [info])
    assert move == Move(info, place("/s", NODES, expected))
    assert set(move.added) == set(move.members) - {"n1", "n2"}


def test_stream_that_is_moved_elsewhere_at_the_moment_is_planned_by_its_new_members() -> None:
    there = place("/s", NODES, 3)
    assert plan(NODES, [stream("/s", there, old="n1 n2")]) == []
    (move,) = plan(NODES, [stream("/s", ("n1",), old=" ".join(there))])
    assert move.members == there
