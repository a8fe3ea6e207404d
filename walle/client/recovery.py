"""A stream that has lost a majority of its members for good: what is left, and what is lost.

Nothing here is safe: a majority that is not dead but only out of reach may have acknowledged more,
and may go on doing so. docs/operations.md says when to do it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from walle.core import quorum
from walle.core.topology import StreamTopology
from walle.errors import Refused, Unavailable
from walle.ids import IdRange, WriterId
from walle.messages import RecoverStream, StreamInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from walle.client.client import Client


class Survivor(NamedTuple):
    """A member that answers, and what it holds.

    accepted: the newest writer whose history it took; the greatest (accepted, tail_id) is the
        stream's history, as far as the survivors know.
    doubtful_id: up to this entry it may have lost to damage what it had acknowledged; 0: no doubt.
    missing: what it lacks up to its tail.
    """

    node_id: str
    accepted: WriterId
    committed_id: int
    tail_id: int
    doubtful_id: int
    missing: tuple[IdRange, ...]

    @property
    def rank(self) -> tuple[WriterId, int]:
        return self.accepted, self.tail_id


class Recovery(NamedTuple):
    """What can be done.

    members: those with which the stream can go on.
    committed_id: up to here its entries are known to be committed.
    tail_id: up to here it is kept; what was acknowledged behind it is lost.
    lost: what no survivor holds of all up to `tail_id`.
    """

    info: StreamInfo
    survivors: tuple[Survivor, ...]
    members: tuple[str, ...]
    committed_id: int
    tail_id: int
    lost: tuple[IdRange, ...]


async def look(client: Client, name: str) -> Recovery:
    """Asks all members what they hold.

    Raises:
        UnknownStream: there is no such stream.
        Refused: a majority answers and is sound, or nothing is left.
    """
    info = await client.describe(name, refresh=True)
    members = dict((*info.old_members, *info.members))
    asked = (_ask(client, info, *each) for each in members.items())
    return plan(info, [each for each in await asyncio.gather(*asked) if each is not None])


async def recover(client: Client, found: Recovery) -> StreamInfo:
    """Leaves the stream to the members that are left.

    Raises:
        Refused: its members have changed since that was looked at.
    """
    request = RecoverStream(found.info.name, found.info.version, found.members)
    info, _ = await client.ask(request, StreamInfo)
    return info


async def _ask(client: Client, info: StreamInfo, node_id: str, address: str) -> Survivor | None:
    try:
        status = await client.node_status(address)
    except Unavailable:
        return None
    told = next((each for each in status["streams"] if each["id"] == info.stream_id), None)
    return None if told is None or status["id"] != node_id else _survivor(node_id, told)


def _survivor(node_id: str, told: dict[str, Any]) -> Survivor:
    return Survivor(
        node_id,
        WriterId(told["accepted"]["ts"], told["accepted"]["nonce"]),
        told["committed_id"],
        told["tail_id"],
        told["doubtful_id"],
        tuple(IdRange(*gap) for gap in told["gaps"]),
    )


def plan(info: StreamInfo, survivors: Sequence[Survivor]) -> Recovery:
    """With whom the stream can go on, and what that loses.

    All of its new members are needed for a claim, so that each claim finds the history that goes
    furthest: there are two at the most. Where more are left, those two are chosen that hold most.

    Raises:
        Refused: a majority answers and can tell how far its history went, or nobody can.
    """
    topology = StreamTopology.of(info)
    sure = [each for each in survivors if not each.doubtful_id]
    if quorum.is_majority(topology, {each.node_id for each in sure}):
        raise Refused(
            f"a majority of the members of {info.name} answers: nothing needs to be lost; use "
            "`walle stream members`"
        )
    if not sure:
        doubt = [f"{each.node_id} may have lost entries to damage" for each in survivors]
        raise Refused(
            f"no member of {info.name} is left that can tell how far it went"
            + "".join(f"; {each}" for each in doubt)
            + "; restore a data directory, or restore the stream from a backup"
        )
    best = max(sure, key=lambda each: each.rank)
    chosen = min(
        ([best, other] if other is not best else [best] for other in sure),
        key=lambda pair: (_count(_lost(info, pair)), -len(pair), -pair[-1].tail_id),
    )
    return Recovery(
        info,
        tuple(survivors),
        tuple(sorted(each.node_id for each in chosen)),
        max(each.committed_id for each in chosen),
        best.tail_id,
        tuple(_lost(info, chosen)),
    )


def _lost(info: StreamInfo, members: Sequence[Survivor]) -> list[IdRange]:
    """What none of the members holds; the first of them has the history that goes furthest."""
    end = members[0].tail_id + 1
    lost = [IdRange(info.first_entry_id, end)]
    for each in members:
        missing = [*each.missing, IdRange(each.tail_id + 1, end)]
        lost = [
            IdRange(max(a.start, b.start), min(a.end, b.end))
            for a in lost
            for b in missing
            if max(a.start, b.start) < min(a.end, b.end)
        ]
    return lost


def _count(ranges: Sequence[IdRange]) -> int:
    return sum(each.end - each.start for each in ranges)
