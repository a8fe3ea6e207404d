"""What a node tells of itself and of its members; docs/wire.md describes it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from walle.limits import GAPS_LISTED_MAX, LIST_BYTES_MAX
from walle.messages import StatusReply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from walle.core.member import Member

T = TypeVar("T")


def describe_node(
    node: dict[str, Any], members: dict[int, Member], *, after: int, now_ns: int
) -> StatusReply:
    """The node's own view, with its streams that have an id above `after`, as many as fit."""
    texts = (
        _to_json(describe_member(members[stream_id], now_ns))
        for stream_id in sorted(members)
        if stream_id > after and members[stream_id].is_named
    )
    streams, more = page(texts, len)
    body = _to_json(node)[:-1] + ',"streams":[' + ",".join(streams) + "]}"
    return StatusReply(more, body.encode())


def describe_member(member: Member, now_ns: int) -> dict[str, Any]:
    """One member, as the status of its node tells of it."""
    history, promise = member.history, member.promise
    gap = history.lowest_gap()
    fill = history.fill
    return {
        "id": member.stream_id,
        "name": member.name,
        "version": member.topology.version,
        "members": list(member.topology.members),
        "first_entry_id": history.origin.entry_id + 1,
        "committed_id": history.committed.entry_id,
        "tail_id": history.tail.entry_id,
        "accepted": {"ts": member.accepted.ts, "nonce": member.accepted.nonce},
        "doubtful_id": member.doubtful_id if member.is_damaged else 0,
        "gaps": [list(each) for each in history.gaps()[:GAPS_LISTED_MAX]],
        "backfill": None
        if gap is None
        else {
            "gap": [gap[0].entry_id + 1, gap[1].start],
            "filled_id": fill.last.entry_id if fill is not None else gap[0].entry_id,
            "bytes_per_second": member.backfill.rate.per_second(now_ns),
        },
        "writer": {
            "ts": promise.writer.ts,
            "nonce": promise.writer.nonce,
            "address": promise.address,
            "lease_ms": promise.lease_ms,
            "remaining_lease_ms": member.lease.remaining_ms(now_ns),
        },
    }


def page(items: Iterable[T], size_of: Callable[[T], int]) -> tuple[list[T], int]:
    """As many of these as fit an answer, and 1 if there are more."""
    found: list[T] = []
    size = 0
    for item in items:
        size += size_of(item)
        if size > LIST_BYTES_MAX:
            return found, 1
        found.append(item)
    return found, 0


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
