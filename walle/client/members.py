"""Asking the members of a stream, while those may change, and while the stream may be deleted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from walle.errors import NotAMember, Unavailable, UnknownStream, WalleError
from walle.messages import Describe, StreamInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from walle.client.client import Client
    from walle.messages import Message
    from walle.record import Batch

R = TypeVar("R")

TIMEOUT_S = 10.0
REQUEST_S = 5.0
HELD_S = 2.0
"""For an answer that needs no waiting."""
LOOK_S = 5.0
"""After so long without an answer it is looked whether the members are still the same."""
PAUSE_S = 0.05


async def ask_member(
    client: Client,
    name: str,
    make: Callable[[int], Message],
    reply_type: type[R],
    *,
    stream_id: int = 0,
    node: str | None = None,
    timeout_s: float = TIMEOUT_S,
    request_s: float = REQUEST_S,
) -> tuple[R, Batch | None]:
    """Asks whichever member answers; one after the other, and those that take their places.

    Args:
        make: makes the question of the stream's id.
        stream_id: that of the stream that is meant; 0: of whichever has the name.
        node: the one member that may be asked.

    Raises:
        UnknownStream: there is no such stream, or it was deleted.
        NotAMember: the one node is no member.
        NotHeld: the one node lacks what it was to have itself; or one does, and no other answered.
        Unavailable: none answered in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    info = await client.describe(name)
    while True:
        if stream_id not in (0, info.stream_id):
            raise _was_deleted(name)
        error: WalleError
        try:
            return await client.ask(
                make(info.stream_id),
                reply_type,
                addresses=addresses_of(info, node),
                timeout_s=max(min(LOOK_S, deadline - loop.time()), PAUSE_S),
                request_s=request_s,
            )
        except (NotAMember, Unavailable) as last:
            if loop.time() >= deadline:
                raise
            error = last
            await asyncio.sleep(PAUSE_S)
        except UnknownStream as last:
            error = last
        former, info = info, await _describe_again(client, info)
        addresses_of(info, node)  # if the node is still no member, waiting does not make it one
        if isinstance(error, UnknownStream) and info.stream_id == former.stream_id:
            raise error


async def _describe_again(client: Client, info: StreamInfo) -> StreamInfo:
    """The stream's topology as it is now; as it was, if nobody can tell. A node that lags behind
    does not take it back."""
    try:
        newest = await client.describe(info.name, refresh=True)
    except UnknownStream as error:
        raise _was_deleted(info.name) from error
    except Unavailable:
        return info
    is_older = newest.stream_id == info.stream_id and newest.version < info.version
    return info if is_older else newest


def addresses_of(info: StreamInfo, node: str | None = None) -> Sequence[str]:
    """Where the stream's members listen, or the one node.

    Raises:
        NotAMember: that is none of them.
    """
    members = dict((*info.members, *info.old_members))
    if node is None:
        return list(members.values())
    if node not in members:
        text = f"{node} is not a member of {info.name}; its members are {', '.join(members)}"
        raise NotAMember(text)
    return [members[node]]


async def describe_newer(client: Client, info: StreamInfo) -> StreamInfo:
    """The stream's topology, newer than that one, which a member goes by. Not every node need know
    of it yet: one after the other is asked, for as long as it takes.

    Raises:
        UnknownStream: the stream was deleted.
    """
    while True:
        for address in client.addresses:
            try:
                newest, _ = await client.ask(
                    Describe(info.name),
                    StreamInfo,
                    addresses=[address],
                    timeout_s=0.1,
                    request_s=1.0,
                )
            except UnknownStream as error:
                raise _was_deleted(info.name) from error
            except WalleError:
                continue
            if newest.stream_id > info.stream_id:
                raise _was_deleted(info.name)
            if newest.version > info.version:
                return newest
        await asyncio.sleep(PAUSE_S)


def _was_deleted(name: str) -> UnknownStream:
    return UnknownStream(f"stream {name} was deleted")
