"""`/cluster` that has lost a majority of its members for good: one of them goes on alone.

The others cannot be asked, so this is done on the stopped node's directory: `/cluster` gets a
version that nobody else has, with this node as its only member. When the node starts, it claims
`/cluster` alone, and writes into it that it is so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core.effects import SetTopology
from walle.errors import ConfigError
from walle.ids import STREAM_CLUSTER
from walle.segments.replica import Replica
from walle.storage.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from walle.core.member import State
    from walle.storage.vfs import Files

VERSIONS_SKIPPED = 1_000
"""The lost majority may have changed the members of `/cluster` without this node: the new version
must be above all that anybody may have seen."""


def look(path: Path, files: Files) -> tuple[str, State]:
    """The node whose directory it is, and what it has of `/cluster`.

    Raises:
        CorruptionError: the journal is damaged.
        ConfigError: the directory has no owner, or the node is no member of `/cluster`.
    """
    replica = Replica(path, files)
    owner = replica.owner
    if owner is None:
        raise ConfigError(str(path), "does not say whose it is; name the node's own directory")
    stream = replica.streams.get(STREAM_CLUSTER)
    if stream is None or owner.node not in (*stream.members, *stream.old_members):
        raise ConfigError(str(path), f"{owner.node} is no member of /cluster; name a member's")
    return owner.node, replica.recover(STREAM_CLUSTER).state


def recover(path: Path, files: Files, node: str, state: State) -> None:
    """Makes the node the only member of `/cluster`; durable when it returns."""
    version = state.topology.version + VERSIONS_SKIPPED
    alone = state.topology._replace(version=version, members=(node,), old_members=())
    store = Store(path, files)
    try:
        store.execute(SetTopology(STREAM_CLUSTER, state.name, alone))
        store.sync()
        store.finish()
    finally:
        store.close()
