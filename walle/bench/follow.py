"""A process that follows streams, and counts how long entries take from their put to it."""

from __future__ import annotations

import asyncio
import gc
import time
from operator import attrgetter
from typing import TYPE_CHECKING

from walle.bench.worker import now_ns, run

if TYPE_CHECKING:
    from walle.bench.latency import Tally
    from walle.bench.worker import Course, Part
    from walle.client.client import Client


_TIME_US = attrgetter("time_us")
_DATA = attrgetter("data")


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
    epoch_us = (time.time_ns() - now_ns()) // 1_000
    async for entries in client.read_batches(name, start=start, follow=True):
        size_bytes = sum(map(len, map(_DATA, entries)))
        tally.delivered(list(map(_TIME_US, entries)), epoch_us, now_ns(), size_bytes)


if __name__ == "__main__":
    run(follow_all)
