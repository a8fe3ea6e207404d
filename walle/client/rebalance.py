"""Moving streams to where they are to be, on the nodes that there are now.

Nothing of a plan is kept anywhere: whoever plans again plans what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from walle.client.moving import move_each, wait_for_change
from walle.core.placement import REPLICAS_DEFAULT, place
from walle.ids import CLUSTER_STREAM_NAME
from walle.messages import StreamInfo  # noqa: TC001 - it is part of a NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from walle.client.client import Client
    from walle.messages import NodeRecord


class Move(NamedTuple):
    """A stream that is to be moved.

    stream: as it is. members: the ids of the nodes that are to hold it.
    """

    stream: StreamInfo
    members: tuple[str, ...]

    @property
    def added(self) -> list[str]:
        """The nodes that do not hold it yet."""
        present = {member.node_id for member in self.stream.members}
        return [node for node in self.members if node not in present]


def plan(nodes: Sequence[NodeRecord], streams: Iterable[StreamInfo]) -> list[Move]:
    """What is to be moved, so that each stream is where it would be placed if it were created now.
    `/cluster` stays where it is."""
    moves = []
    for info in streams:
        members = place(info.name, nodes, info.settings.replicas or REPLICAS_DEFAULT)
        is_there = set(members) == {member.node_id for member in info.members}
        if not is_there and info.name != CLUSTER_STREAM_NAME:
            moves.append(Move(info, members))
    return moves


async def carry_out(
    client: Client, moves: Sequence[Move], on_moved: Callable[[StreamInfo, int, int], None]
) -> dict[str, str]:
    """Moves streams, a few at a time; returns why some could not be moved, by name.

    Args:
        on_moved: as of `move_each`.
    """
    members = {move.stream.name: move.members for move in moves}

    async def move(info: StreamInfo) -> StreamInfo:
        await wait_for_change(client, info.name)  # another one may be under way
        await client.set_members(info.name, members[info.name])
        return await wait_for_change(client, info.name)

    return await move_each([each.stream for each in moves], move, on_moved)
