"""A process that puts: in a closed loop, or whenever something is due."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections import deque
from contextlib import AsyncExitStack, suppress
from itertools import count, cycle, islice
from typing import TYPE_CHECKING, NamedTuple

from walle.bench.worker import now_ns, run, sleep_until
from walle.errors import Busy, WalleError
from walle.limits import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from walle.bench.latency import Tally
    from walle.bench.worker import Course, Part
    from walle.client.client import Client
    from walle.client.writer import Writer
    from walle.ids import Position

DRAIN_S = 5.0
"""How long after the end is waited for what was due before it."""
LOOK_S = 0.02
IN_A_ROW_MAX = 64
"""How many batches that are due are put before answers are looked at."""


Batch = tuple[list[bytes], int]
"""Entries to be put at once, and how many bytes they have together."""


class Pending(NamedTuple):
    """Entries that were put at once; `last` is the put of the last one."""

    due_ns: int
    entries_count: int
    size_bytes: int
    last: asyncio.Future[Position]


class Stream:
    """Puts into one stream, and counts what becomes of it.

    wanted: how many entries are to be in flight; 0: only what is due is put.
    """

    def __init__(self, writer: Writer, batches: Iterator[Batch], batch: int, tally: Tally) -> None:
        self._writer = writer
        self._batches = batches
        self._batch = batch
        self._tally = tally
        self._pending: deque[Pending] = deque()
        self._overdue: deque[int] = deque()
        self._unfinished = 0
        self.wanted = 0
        writer.on_committed = lambda _committed: self.proceed()

    @property
    def is_idle(self) -> bool:
        """Whether all that was due has ended."""
        return not self._unfinished

    def offer(self, due_ns: int) -> None:
        """A batch is due: puts it, as soon as there is room for it."""
        self._tally.due(due_ns, self._batch)
        self._unfinished += self._batch
        self._overdue.append(due_ns)
        self._put_overdue()

    def proceed(self) -> None:
        """Counts what has ended, and puts what is to be put then."""
        time_ns = now_ns()
        pending, tally = self._pending, self._tally
        while pending and pending[0].last.done():
            put = pending.popleft()
            self._unfinished -= put.entries_count
            error = put.last.exception()
            if error is None:
                tally.done(put.due_ns, time_ns, count=put.entries_count, size_bytes=put.size_bytes)
            else:
                tally.failed(put.due_ns, put.entries_count, error)
        self._put_overdue()
        if time_ns < tally.end_ns:
            for _ in range((self.wanted - self._unfinished) // self._batch):
                self.offer(time_ns)

    def _put_overdue(self) -> None:
        overdue = self._overdue
        while overdue and self._writer.has_room and self._put(overdue[0]):
            overdue.popleft()

    def _put(self, due_ns: int) -> bool:
        """Puts the next batch; returns whether that is done with."""
        entries, size_bytes = next(self._batches)
        try:
            if len(entries) == 1:
                last = self._writer.put(entries[0])
            else:
                last = self._writer.put_many(entries)
        except Busy:
            return False
        except WalleError as error:
            self._tally.failed(due_ns, self._batch, error)
            self._unfinished -= self._batch
        else:
            self._pending.append(Pending(due_ns, self._batch, size_bytes, last))
        return True


async def put_all(client: Client, part: Part, course: Course) -> None:
    """Claims its share of the streams, puts, and waits a while for what is in flight."""
    workload = part.workload
    numbers = workload.share(workload.streams, part.client)
    names = workload.names
    batches = cycle(_batches(workload.data(seed=part.client), workload.batch))
    address = f"walle-bench@{socket.gethostname()}:{os.getpid()}"
    with suppress(TimeoutError):
        async with AsyncExitStack() as claims:
            writers = [
                await claims.enter_async_context(client.claim(names[number], address=address))
                for number in numbers
            ]
            gc.collect()
            gc.freeze()  # what is there now stays: it need not be looked at again
            await course.start()
            streams = [Stream(writer, batches, workload.batch, course.tally) for writer in writers]
            if workload.rate:
                await _put_due(part, course, dict(zip(numbers, streams, strict=True)))
            else:
                await _keep_in_flight(part, course, streams)
            async with asyncio.timeout(_left_s(course)):
                while not all(stream.is_idle for stream in streams):
                    await asyncio.sleep(LOOK_S)
                    for stream in streams:
                        stream.proceed()


def _batches(data: list[bytes], size: int) -> list[Batch]:
    """As many batches as there are data, which come in turn."""
    turns = cycle(data)
    made = [list(islice(turns, size)) for _ in data]
    return [(entries, sum(map(len, entries))) for entries in made]


async def _keep_in_flight(part: Part, course: Course, streams: list[Stream]) -> None:
    """A closed loop: as soon as something ends, the next is put."""
    for stream in streams:
        stream.wanted = max(part.workload.in_flight, part.workload.batch)
    while now_ns() < course.tally.end_ns:
        for stream in streams:
            stream.proceed()
        await asyncio.sleep(LOOK_S)


async def _put_due(part: Part, course: Course, streams: dict[int, Stream]) -> None:
    """An open loop: batches are due at equal distances, one stream after the other, whatever has
    become of the earlier ones."""
    workload = part.workload
    in_a_row = 0
    for first in count(0, workload.streams):
        for number, stream in streams.items():
            due_ns = workload.due_ns(first + number, course.start_ns)
            if due_ns >= course.tally.end_ns:
                return
            if not _left_s(course):
                course.tally.due(due_ns, workload.batch)  # too late: it stays unanswered
                continue
            in_a_row += 1
            if due_ns > now_ns() or in_a_row >= IN_A_ROW_MAX:
                in_a_row = 0
                await sleep_until(due_ns)
            stream.offer(due_ns)


def _left_s(course: Course) -> float:
    """How much time is left until nothing is waited for any more."""
    return max((course.tally.end_ns - now_ns()) / NS_PER_S + DRAIN_S, 0.0)


if __name__ == "__main__":
    run(put_all)
