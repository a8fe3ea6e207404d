"""A process that follows streams, and counts how long entries take from their put to it."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING

from walle.bench.worker import now_ns, run

if TYPE_CHECKING:
    from walle.bench.latency import Tally
    from walle.bench.worker import Course, Part
    from walle.client.client import Client


async def follow_all(client: Client, part: Part, course: Course) -> None:
    """Follows its share, each reader a stream of its own, in turn; until it is cancelled."""
    workload = part.workload
    readers = workload.share(workload.readers, part.client)
    followed = [workload.names[reader % workload.streams] for reader in readers]
    starts = {name: (await client.committed(name)).entry_id + 1 for name in set(followed)}
    gc.collect()
    gc.freeze()
    await course.start()
    async with asyncio.TaskGroup() as group:
        for name in followed:
            group.create_task(_follow(client, name, starts[name], course.tally))


async def _follow(client: Client, name: str, start: int, tally: Tally) -> None:
    """An entry was due when its writer put it, by the entry's own time."""
    epoch_ns = time.time_ns() - now_ns()
    async for entry in client.read(name, start=start, follow=True):
        put_ns = entry.time_us * 1_000 - epoch_ns
        tally.done(put_ns, now_ns(), count=1, size_bytes=len(entry.data))


if __name__ == "__main__":
    run(follow_all)
