"""Placement: shares by capacity, spread over zones, and little that moves."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walle.core.placement import place
from walle.limits import CAPACITY_MAX, MEMBERS_COUNT_MAX
from walle.messages import NodeRecord

NODES = st.lists(
    st.builds(
        NodeRecord,
        st.text("abcdefgh123", min_size=1, max_size=4),
        st.just("h:1"),
        st.just(bytes(16)),
        st.sampled_from(["", "", "east", "west", "north"]),
        st.integers(1, 20) | st.integers(1, CAPACITY_MAX),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda node: node.node_id,
)
NAMES = st.text(min_size=1, max_size=12).map(lambda text: f"/{text}")
REPLICAS = st.integers(1, MEMBERS_COUNT_MAX)


def node(node_id: str, zone: str = "", capacity: int = 1) -> NodeRecord:
    return NodeRecord(node_id, "h:1", bytes(16), zone, capacity)


def zone_of(each: NodeRecord) -> str:
    return f"zone {each.zone}" if each.zone else f"node {each.node_id}"


@given(NAMES, NODES, REPLICAS, st.data())
def test_placement_depends_on_nothing_but_the_nodes(
    name: str, nodes: list[NodeRecord], replicas: int, data: st.DataObject
) -> None:
    placed = place(name, nodes, replicas)
    assert len(set(placed)) == min(replicas, len(nodes))
    assert set(placed) <= {each.node_id for each in nodes}
    assert list(placed) == sorted(placed)
    assert place(name, data.draw(st.permutations(nodes)), replicas) == placed


@given(NAMES, NODES, REPLICAS)
def test_no_zone_has_one_more_while_another_could_have_it(
    name: str, nodes: list[NodeRecord], replicas: int
) -> None:
    placed = place(name, nodes, replicas)
    there = Counter(zone_of(each) for each in nodes)
    used = Counter(zone_of(each) for each in nodes if each.node_id in placed)
    for zone, count in used.items():
        for other in there:
            assert used[other] == there[other] or count <= used[other] + 1, (zone, other)


@given(NAMES, NODES, REPLICAS, st.data())
def test_node_that_goes_is_replaced_by_one_and_all_else_stays(
    name: str, nodes: list[NodeRecord], replicas: int, data: st.DataObject
) -> None:
    """And, read backwards: one that comes takes at most one place."""
    placed = place(name, nodes, replicas)
    gone = data.draw(st.sampled_from(nodes))
    after = place(name, [each for each in nodes if each != gone], replicas)
    if gone.node_id in placed:
        assert set(placed) - {gone.node_id} <= set(after)
    else:
        assert after == placed


@given(NAMES, NODES, REPLICAS, st.data())
def test_nodes_beside_others_are_of_other_zones_if_there_are_such(
    name: str, nodes: list[NodeRecord], replicas: int, data: st.DataObject
) -> None:
    beside = data.draw(st.lists(st.sampled_from(nodes), unique=True), label="beside")
    others = [each for each in nodes if each not in beside]
    placed = place(name, others, replicas, beside=beside)
    there = Counter(zone_of(each) for each in others)
    used = Counter(zone_of(each) for each in others if each.node_id in placed)
    total = used + Counter(zone_of(each) for each in beside)
    for zone in used:
        for other in there:
            assert used[other] == there[other] or total[zone] <= total[other] + 1, (zone, other)


@given(NAMES, NODES, REPLICAS, st.data())
def test_node_of_more_capacity_takes_one_place_at_most(
    name: str, nodes: list[NodeRecord], replicas: int, data: st.DataObject
) -> None:
    placed = place(name, nodes, replicas)
    chosen = data.draw(st.sampled_from(nodes))
    larger = chosen._replace(capacity=data.draw(st.integers(chosen.capacity, CAPACITY_MAX)))
    after = place(name, [larger if each == chosen else each for each in nodes], replicas)
    assert set(after) - set(placed) <= {chosen.node_id}


@given(NAMES, NODES, st.integers(1, MEMBERS_COUNT_MAX - 1))
def test_one_replica_more_moves_nothing(name: str, nodes: list[NodeRecord], replicas: int) -> None:
    assert set(place(name, nodes, replicas)) <= set(place(name, nodes, replicas + 1))


@pytest.mark.parametrize("capacities", [(1, 1, 1, 1), (1, 2, 3, 4), (1000, 1000, 8000)])
def test_shares_are_by_capacity(capacities: tuple[int, ...]) -> None:
    """Within five standard deviations; the names are fixed, and so is what they draw."""
    count = 4_000
    nodes = [node(f"n{index}", capacity=each) for index, each in enumerate(capacities)]
    held = Counter(placed for each in range(count) for placed in place(f"/s{each}", nodes, 1))
    for each in nodes:
        share = each.capacity / sum(capacities)
        deviation = (count * share * (1 - share)) ** 0.5
        assert abs(held[each.node_id] - count * share) < 5 * deviation, each


def test_shares_within_a_zone_are_by_capacity() -> None:
    nodes = [node("a", "east"), node("b", "east", 3), node("c", "west"), node("d", "north")]
    held = Counter(placed for each in range(2_000) for placed in place(f"/s{each}", nodes, 3))
    assert held["c"] == held["d"] == 2_000, "one of each zone"
    assert 400 < held["a"] < 600


def test_placement_is_the_same_in_every_version() -> None:
    """Whichever version the topology manager has, and whoever plans a rebalance."""
    nodes = [node(f"n{index}", f"z{index % 3}", index) for index in range(1, 8)]
    assert place("/orders", nodes, 3) == ("n4", "n5", "n6")
    assert place("/orders", nodes, 5) == ("n1", "n3", "n4", "n5", "n6")
