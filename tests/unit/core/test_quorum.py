"""Majorities against a definition that counts: plain and joint."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walle.core import quorum
from walle.core.topology import StreamTopology

if TYPE_CHECKING:
    from collections.abc import Collection

NODES = tuple("abcdefgh")
MEMBERS = st.lists(st.sampled_from(NODES), min_size=1, max_size=7, unique=True).map(tuple)
TOPOLOGIES = st.builds(StreamTopology, st.just(1), MEMBERS, st.one_of(st.just(()), MEMBERS))
SOME = st.frozensets(st.sampled_from(NODES))
VALUES = st.dictionaries(st.sampled_from(NODES), st.integers(0, 5))


def has_majority(topology: StreamTopology, nodes: Collection[str]) -> bool:
    """More than half of each set of members."""
    sets = [topology.members, topology.old_members or topology.members]
    return all(2 * len(set(members) & set(nodes)) > len(members) for members in sets)


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)]
)
def test_size_of_a_majority(count: int, size: int) -> None:
    assert quorum.majority_size(count) == size


@given(TOPOLOGIES, SOME)
def test_majority_is_more_than_half_of_each_set(
    topology: StreamTopology, nodes: frozenset[str]
) -> None:
    assert quorum.is_majority(topology, nodes) == has_majority(topology, nodes)


@given(TOPOLOGIES, SOME, SOME)
def test_two_majorities_meet(
    topology: StreamTopology, one: frozenset[str], other: frozenset[str]
) -> None:
    if quorum.is_majority(topology, one) and quorum.is_majority(topology, other):
        assert one & other & set(topology.everyone)


@given(TOPOLOGIES, VALUES)
def test_majority_value_is_the_highest_that_a_majority_has_reached(
    topology: StreamTopology, values: dict[str, int]
) -> None:
    reached = [
        value
        for value in range(6)
        if has_majority(topology, [n for n in NODES if values.get(n, 0) >= value])
    ]
    assert quorum.majority_value(topology, values) == max(reached)


@given(TOPOLOGIES, SOME)
def test_can_be_majority_if_any_choice_of_the_others_is_one(
    topology: StreamTopology, without: frozenset[str]
) -> None:
    left = [node for node in topology.everyone if node not in without]
    choices = (some for size in range(len(left) + 1) for some in combinations(left, size))
    possible = any(has_majority(topology, some) for some in choices)
    assert quorum.can_be_majority(topology, without) == possible


def test_strangers_count_for_nothing() -> None:
    topology = StreamTopology(1, ("a", "b", "c"))
    assert not quorum.is_majority(topology, ["a", "x", "y", "z"])
    assert quorum.majority_value(topology, {"a": 5, "x": 9, "y": 9}) == 0
    assert quorum.can_be_majority(topology, ["x", "y", "z", "c"])


@given(TOPOLOGIES, VALUES)
def test_majority_bound_is_the_lowest_value_that_some_majority_does_not_exceed(
    topology: StreamTopology, values: dict[str, int]
) -> None:
    bounds = [
        value
        for value in range(6)
        if has_majority(topology, [node for node, found in values.items() if found <= value])
    ]
    assert quorum.majority_bound(topology, values) == min(bounds, default=None)
