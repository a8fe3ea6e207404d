"""A process that follows streams, and counts how long entries take from their put to it."""

from __future__ import annotations

import asyncio
import gc
import time
from operator import attrgetter
from typing import TYPE_CHECKING

from walle.bench.latency import Puts
from walle.bench.worker import now_ns, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from walle.bench.latency import Tally
    from walle.bench.worker import Course, Part
    from walle.client.client import Client
    from walle.record import Entry


_TIME_US = attrgetter("time_us")
_DATA = attrgetter("data")


class Arrived:
    """What has come of a stream last. All who follow it in this process get the same, so what there
    is to count of it is found once."""

    def __init__(self) -> None:
        self._last = (0, 0)
        self._puts = Puts([], 0, 0, 0)

    def puts(self, entries: Sequence[Entry]) -> Puts:
        """The same as what is counted."""
        last = (entries[-1].entry_id, len(entries))
        if last != self._last:
            size_bytes = sum(map(len, map(_DATA, entries)))
            self._last, self._puts = last, Puts.of(map(_TIME_US, entries), size_bytes)
        return self._puts


async def follow_all(client: Client, part: Part, course: Course) -> None:
    """Follows its share, each reader a stream of its own, in turn; until it is cancelled."""
    workload = part.workload
    readers = workload.share(workload.readers, part.client)
    followed = [workload.names[reader % workload.streams] for reader in readers]
    starts = {name: (await client.committed(name)).entry_id + 1 for name in set(followed)}
    arrived = {name: Arrived() for name in starts}
    gc.collect()
    gc.freeze()
    await course.start()
    async with asyncio.TaskGroup() as group:
        for name in followed:
            group.create_task(_follow(client, name, starts[name], arrived[name], course.tally))


async def _follow(client: Client, name: str, start: int, arrived: Arrived, tally: Tally) -> None:
    """An entry was due when its writer put it, by the entry's own time."""
    epoch_us = (now_ns() - time.time_ns()) // 1_000
    async for entries in client.read_batches(name, start=start, follow=True):
        tally.delivered(arrived.puts(entries), epoch_us, now_ns())


if __name__ == "__main__":
    run(follow_all)
