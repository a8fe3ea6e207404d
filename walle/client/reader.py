"""Reading a stream: committed entries in order, from whichever member answers."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from walle.client.members import ask_member
from walle.errors import CorruptionError, Trimmed
from walle.limits import FETCH_BYTES_MAX
from walle.messages import Read, ReadReply
from walle.record import decode_all

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from walle.client.client import Client
    from walle.ids import Position
    from walle.record import Batch, Entry

FOLLOW_WAIT_MS = 10_000


async def read_batches(
    client: Client,
    name: str,
    *,
    start: int | None,
    end: int | None,
    follow: bool,
    node: str | None,
) -> AsyncGenerator[list[Entry], None]:
    """What `Client.read` gives, by the answer, each entry as it is stored."""
    records = read_records(client, name, start=start, end=end, follow=follow, node=node)
    async for batch, count in records:
        yield list(islice(decode_all(batch.payload.view()), count))


async def read_records(
    client: Client,
    name: str,
    *,
    start: int | None,
    end: int | None,
    follow: bool = False,
    node: str | None = None,
) -> AsyncGenerator[tuple[Batch, int], None]:
    """The same as records, and how many of them are wanted: the last answer may bring more. The
    chain is checked from one answer to the next."""
    stream_id = 0
    previous: Position | None = None
    is_first = True
    start = start or 0  # the first there is
    until = end
    while until is None or start < until:
        wait_ms = FOLLOW_WAIT_MS if follow and not is_first else 0
        request = Read(
            stream_id,
            start,
            FETCH_BYTES_MAX,
            wait_ms,
            linearizable=int(is_first and not follow),
            local=int(node is not None),
        )
        reply, batch = await ask_member(
            client,
            name,
            partial(_of_stream, request),
            ReadReply,
            stream_id=stream_id,
            node=node,
            timeout_s=30.0 + wait_ms / 1000,
            request_s=15.0 + wait_ms / 1000,
        )
        if is_first and not follow:
            committed_end = reply.committed.entry_id + 1
            until = committed_end if end is None else min(end, committed_end)
        is_first = False
        stream_id = reply.stream_id
        start = start or reply.first_entry_id
        if start < reply.first_entry_id:
            raise Trimmed(name, start, reply.first_entry_id)
        if batch is None:
            continue
        if batch.first_id != start or (previous is not None and batch.before != previous):
            raise CorruptionError(
                name,
                start,
                expected=f"the successor of {previous}",
                found=f"that of {batch.before}",
            )
        previous = batch.last
        start = batch.last_id + 1
        count = batch.count if until is None else min(batch.count, until - batch.first_id)
        yield batch, max(count, 0)


def _of_stream(read: Read, stream_id: int) -> Read:
    return read._replace(stream_id=stream_id)
