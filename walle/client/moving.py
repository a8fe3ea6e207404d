"""Moving streams from one node to others, a few at a time.

Nothing of it is kept anywhere: it looks which streams the node is a member of, and repeating it
goes on with those that are left.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from walle.errors import Refused, Unavailable
from walle.ids import CLUSTER_STREAM_NAME

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from walle.client.client import Client
    from walle.messages import StreamInfo

STREAMS_AT_ONCE = 4
"""Each of them is backfilled to its new member: more at once would only take longer, each."""


def replaced(info: StreamInfo, places: Mapping[str, str]) -> list[str]:
    """The stream's members, others in the places of some.

    Args:
        places: who takes the place of whom: new ones by old ones. What was done before is left.

    Raises:
        Refused: one that is to be replaced is no member, and its successor is none either.
    """
    members = [member.node_id for member in info.members]
    for old, new in places.items():
        if old in members:
            members[members.index(old)] = new
        elif new not in members:
            text = f"{old} is not a member of {info.name}; its members are {', '.join(members)}"
            raise Refused(text)
    return members


async def move_each(
    streams: Sequence[StreamInfo],
    move: Callable[[StreamInfo], Awaitable[StreamInfo]],
    on_moved: Callable[[StreamInfo, int, int], None],
) -> dict[str, str]:
    """Moves streams, `/cluster` first; returns why some could not be moved, by name.

    Args:
        move: moves one, and returns it as it is then.
        on_moved: called with each stream that has been moved, how many have been, and of how many.
    """
    failures: dict[str, str] = {}
    moved = 0
    at_once = asyncio.Semaphore(STREAMS_AT_ONCE)

    async def move_one(info: StreamInfo) -> None:
        nonlocal moved
        async with at_once:
            try:
                now = await move(info)
            except (Refused, Unavailable) as error:
                failures[info.name] = str(error)
                return
        moved += 1
        on_moved(now, moved, len(streams))

    for info in streams:
        if info.name == CLUSTER_STREAM_NAME:
            await move_one(info)
    async with asyncio.TaskGroup() as group:
        for info in streams:
            if info.name != CLUSTER_STREAM_NAME:
                group.create_task(move_one(info))
    return failures


async def wait_for_change(client: Client, name: str) -> StreamInfo:
    """The stream once no change of its members is under way."""
    async for change in client.follow_change(name):
        info = change.stream
    return info


async def move_off(
    client: Client,
    node: str,
    by: str | None,
    on_moved: Callable[[StreamInfo, int, int], None],
) -> dict[str, str]:
    """Moves all streams off a node; returns why some could not be moved, by name. `/cluster` only
    gets fewer members once there are no others.

    Args:
        by: who takes its place; None, and where that one is a member already: whom the cluster
            chooses, stream by stream.
        on_moved: as of `move_each`.

    Raises:
        Refused: there is no such node.
    """
    known = [each.node_id for each in await client.nodes()]
    unknown = [each for each in (node, by) if each is not None and each not in known]
    if unknown:
        raise Refused(f"no node {unknown[0]}; the nodes are {', '.join(known)}")

    async def move(info: StreamInfo) -> StreamInfo:
        return await _move(client, info, node, by)

    streams = [info for info in await client.list_streams() if node in _everyone(info)]
    # Where nobody can take its place `/cluster` is left with fewer members: for a node that is
    # about to go, not for one that others cannot do without.
    last = [
        info
        for info in streams
        if info.name == CLUSTER_STREAM_NAME and not set(known) - _everyone(info)
    ]
    failures = await move_each([info for info in streams if info not in last], move, on_moved)
    if not failures:
        return await move_each(last, move, on_moved)
    return failures | {info.name: f"it keeps {node} as long as other streams do" for info in last}


async def _move(client: Client, info: StreamInfo, node: str, by: str | None) -> StreamInfo:
    """Moves one stream; returns it as it is then."""
    members = [member.node_id for member in info.members]
    if node in members and (by is None or by in members):
        await client.replace_member(info.name, node)
    elif node in members:
        await client.set_members(info.name, replaced(info, {node: by or ""}))
    return await wait_for_change(client, info.name)


def _everyone(info: StreamInfo) -> set[str]:
    return {member.node_id for member in (*info.members, *info.old_members)}
