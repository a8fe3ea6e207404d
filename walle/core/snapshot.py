"""Snapshots of `/cluster`: all that its entries have led to, so that they need not be kept.

A snapshot is one entry or several, its *parts*, with no other entry between them:

    {"change": "snapshot", "first": ENTRY, "chain": HEX, "parts": N, "cluster": HEX,
     "nodes": [NODE_RECORD, ...], "removed": [{"id": NODE, "identity": HEX}, ...],
     "streams": [{"id": ID, "name": NAME, "version": V, "members": [...], "old": [...],
                  "settings": {...}, "first": ENTRY, "chain": HEX}, ...]}

The outer "first" is the first part's entry, "chain" the chain of the one before it: there
`/cluster` begins, once the last part is committed and applied. If that never comes, for the manager
was overtaken meanwhile, the other parts mean nothing. docs/protocol.md, "Snapshots".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from walle.core.cluster import beginning, node_to_json

if TYPE_CHECKING:
    from walle.core.cluster import ClusterState, StreamRecord
    from walle.ids import Position

INTERVAL_ENTRIES = 1_000
"""So many entries after the last snapshot the next one is due."""
PART_ITEMS = 64
"""So many nodes and streams are in a part: less than 256 KiB, whatever their names."""


def is_due(cluster: ClusterState) -> bool:
    """Whether the last snapshot is so many entries away that the next one is to be written."""
    return cluster.applied_id >= cluster.snapshot.last_id + INTERVAL_ENTRIES


def encode_snapshot(cluster: ClusterState, before: Position) -> list[bytes]:
    """The entries that tell all of the state, and are to follow `before`, the last one applied."""
    items: list[tuple[str, Any]] = [
        *(("nodes", node_to_json(node)) for node in cluster.nodes.values()),
        *(
            ("removed", {"id": node, "identity": identity.hex()})
            for identity, node in cluster.removed.items()
        ),
        *(("streams", _stream_to_json(record)) for record in cluster.streams.values()),
    ]
    starts = range(0, len(items), PART_ITEMS)
    return [
        json.dumps(
            {
                "change": "snapshot",
                **beginning(before),
                "parts": len(starts),
                "cluster": cluster.cluster_id.hex(),
                **{
                    kind: [item for each, item in items[start : start + PART_ITEMS] if each == kind]
                    for kind in ("nodes", "removed", "streams")
                },
            },
            separators=(",", ":"),
            sort_keys=True,
        ).encode()
        for start in starts
    ]


def _stream_to_json(record: StreamRecord) -> dict[str, Any]:
    topology = record.topology
    return {
        "id": record.stream_id,
        "name": record.name,
        "version": topology.version,
        "members": list(topology.members),
        "old": list(topology.old_members),
        "settings": record.settings._asdict(),
        **beginning(topology.origin),
    }
