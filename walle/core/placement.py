"""Which nodes are to hold a stream: rendezvous hashing, weighted by capacity, spread over zones.

Each node draws a number from the stream's name and its own id: exponentially distributed, with its
capacity as the rate. The lowest come first. So, among nodes of which one is needed, each is the
first one as often as its share of their capacity says, and what the others have drawn does not
change when a node comes or goes. Pure functions; every node computes the same.

Source: D. Thaler, C. Ravishankar, "Using name-based mappings to increase hit rates", 1998; the
logarithmic weights are those of J. Resch, "New hashing algorithms for data storage", 2015.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import mmh3

if TYPE_CHECKING:
    from collections.abc import Iterable

    from walle.messages import NodeRecord

REPLICAS_DEFAULT = 3
"""Of a stream whose setting says nothing else."""

_DRAW_BITS = 52


def place(
    name: str, nodes: Iterable[NodeRecord], replicas: int, *, beside: Iterable[NodeRecord] = ()
) -> tuple[str, ...]:
    """The ids, sorted, of the `replicas` nodes that are to hold the stream; of all, if there are
    fewer. Others may hold it already, `beside` them.

    They are of as many zones as possible, and evenly so: no zone gets one more before every other
    that has another node has got as many. A node without a zone is one of its own. When a node
    comes, goes or changes its capacity, at most one of the members changes, and with one replica
    more the others stay.
    """
    ranked = sorted(nodes, key=lambda node: (_draw(name, node), node.node_id))
    used = Counter(map(_zone, beside))
    turns: list[tuple[int, int]] = []
    for rank, node in enumerate(ranked):
        turns.append((used[_zone(node)], rank))
        used[_zone(node)] += 1
    return tuple(sorted(ranked[rank].node_id for _, rank in sorted(turns)[:replicas]))


def _zone(node: NodeRecord) -> tuple[str, str]:
    return ("", node.zone) if node.zone else (node.node_id, "")


def _draw(name: str, node: NodeRecord) -> float:
    """Above 0; lower for nodes of more capacity."""
    bits = mmh3.hash64(f"{name}\0{node.node_id}", signed=False)[0] >> (64 - _DRAW_BITS)
    return -math.log((bits + 0.5) / (1 << _DRAW_BITS)) / node.capacity
