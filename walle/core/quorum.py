"""Majorities, plain and joint. Pure functions.

In a joint topology a decision needs a majority of the old set and a majority of the new set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from walle.core.topology import StreamTopology


def majority_size(count: int) -> int:
    """How many of `count` members make a majority."""
    return count // 2 + 1


def is_majority(topology: StreamTopology, nodes: Collection[str]) -> bool:
    """Whether `nodes` hold a majority of each member set."""
    return all(
        sum(member in nodes for member in members) >= majority_size(len(members))
        for members in _sets(topology)
    )


def majority_value(topology: StreamTopology, values: Mapping[str, int]) -> int:
    """The highest value that a majority of each member set has reached; 0 if there is none.

    values: by node id; a node without one has reached 0.
    """
    # Lists: with so few members, generators would cost more than all the rest.
    reached = [sorted([values.get(member, 0) for member in each]) for each in _sets(topology)]
    return min([each[-majority_size(len(each))] for each in reached])


def majority_bound(topology: StreamTopology, values: Mapping[str, int]) -> int | None:
    """The lowest value that no member of some majority exceeds; None: no majority has values.

    values: by node id.
    """
    if not is_majority(topology, values):
        return None
    return max(
        sorted(values[member] for member in members if member in values)[
            majority_size(len(members)) - 1
        ]
        for members in _sets(topology)
    )


def can_be_majority(topology: StreamTopology, without: Collection[str]) -> bool:
    """Whether the members but those in `without` could still make a majority."""
    return is_majority(topology, [node for node in topology.everyone if node not in without])


def _sets(topology: StreamTopology) -> tuple[tuple[str, ...], ...]:
    if topology.old_members:
        return (topology.members, topology.old_members)
    return (topology.members,)
