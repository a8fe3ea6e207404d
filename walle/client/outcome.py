"""What has become of puts whose writer another one has overtaken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from walle.ids import Position

if TYPE_CHECKING:
    from walle.client.client import Client
    from walle.ids import WriterId

RESOLVE_PAUSE_S = 0.05


async def find_durable(
    client: Client, stream: str, writer: WriterId, committed: Position, last_id: int
) -> Position:
    """The last entry of the writer's history that the newer writer's history has.

    Once a newer claim has returned, the stream's history up to its tail is settled: an entry of
    ours is in it, or can never be.

    Args:
        committed: the last entry known to be durable.
        last_id: of the last entry put.
    """
    while True:
        status = await client.writer_status(stream)
        if status.established and status.writer > writer:
            break
        await asyncio.sleep(RESOLVE_PAUSE_S)
    durable = committed
    last_id = min((await client.committed(stream)).entry_id, last_id)
    if last_id > durable.entry_id:
        async for entry in client.read(stream, start=durable.entry_id + 1, end=last_id + 1):
            if entry.writer != writer:
                break
            durable = Position(entry.entry_id, entry.chain)
    return durable
