"""What the measurements of a node share: a cluster to measure, what its nodes take, and figures."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import walle
from tests.clusters import DevNodes
from walle.bench.latency import Tally
from walle.bench.load import Stream
from walle.bench.worker import now_ns, sleep_until
from walle.limits import KIB, NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Iterator

    from walle.client.writer import Writer

RATE = 2_000
"""Entries a second of the writer whose latencies are compared."""
DRAIN_S = 30.0
FILL_BATCH_BYTES = 256 * KIB
FILL_IN_FLIGHT = 32
"""Batches of a history that is made."""
LOOK_S = 0.005
WAIT_S = 120.0
PERCENT = 99.0
_ANONYMOUS = re.compile(r"^Pss_Anon: *(\d+) kB", re.MULTILINE)
_SHARED = re.compile(r" /dev/zero \(deleted\)\n(?:[A-Z].*\n)*?Pss: *(\d+) kB")
"""Of memory that is shared and no file."""

T = TypeVar("T")


class Figure(NamedTuple):
    """One line of the table.

    base, base_name: what the value is compared with, in the same unit: an aim, or another figure.
    """

    what: str
    value: float
    unit: str
    base: float | None = None
    base_name: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.base if self.base else None


@contextmanager
def cluster(options: argparse.Namespace, name: str) -> Iterator[DevNodes]:
    """Three fresh nodes, each of them to be killed and started by itself."""
    directory = options.directory / name
    directory.mkdir()
    with DevNodes(directory, apart=True, errors=directory / "errors") as nodes:
        yield nodes


# --- what a node takes ----------------------------------------------------------------------------


class Memory(NamedTuple):
    """A process's memory in bytes. What it shares with others is counted by its share. Pages of
    files are left out: the system takes them back when it needs to, but for files in memory, which
    stand for those of a disk."""

    anonymous: int
    shared: int

    @property
    def total(self) -> int:
        return self.anonymous + self.shared


def memory_of(pid: int) -> Memory:
    """What a process has now."""
    directory = Path(f"/proc/{pid}")
    (anonymous,) = _ANONYMOUS.findall((directory / "smaps_rollup").read_text())
    shared = _SHARED.findall((directory / "smaps").read_text())
    return Memory(int(anonymous) * KIB, sum(map(int, shared)) * KIB)


def cpu_s(pid: int) -> float:
    """The processor time of a process's threads until now, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / NS_PER_S


async def cores(nodes: DevNodes, seconds: float) -> dict[str, float]:
    """How much of a core each node's processes use, by node."""
    pids = {name: nodes.tree(name) for name in nodes.names}
    before = {name: sum(map(cpu_s, each)) for name, each in pids.items()}
    begun_s = time.monotonic()
    await asyncio.sleep(seconds)
    taken_s = time.monotonic() - begun_s
    return {name: (sum(map(cpu_s, each)) - before[name]) / taken_s for name, each in pids.items()}


# --- a writer whose latencies are looked at by the time -------------------------------------------


class Timeline(Tally):
    """Keeps of each entry when it was due, and its latency, both in nanoseconds."""

    def __init__(self) -> None:
        super().__init__(0, 1 << 63)
        self.samples: list[tuple[int, int]] = []
        self.errors: list[BaseException] = []

    def done(self, due_ns: int, now_ns: int, *, count: int, size_bytes: int) -> None:
        super().done(due_ns, now_ns, count=count, size_bytes=size_bytes)
        self.samples.append((due_ns, now_ns - due_ns))

    def failed(self, due_ns: int, count: int, error: BaseException) -> None:
        super().failed(due_ns, count, error)
        self.errors.append(error)

    def latency_ms(self, begin_ns: int, end_ns: int, percent: float = PERCENT) -> float:
        """Of the entries due in that time."""
        found = sorted(each for due_ns, each in self.samples if begin_ns <= due_ns < end_ns)
        if not found:
            raise walle.Unavailable("no entry that was due in that time was answered")
        return found[min(int(len(found) * percent / 100), len(found) - 1)] / NS_PER_MS

    def first_done_ns(self, after_ns: int) -> int | None:
        """When the first entry became durable after that; None if none has."""
        ends = (due_ns + each for due_ns, each in self.samples)
        return min((end_ns for end_ns in ends if end_ns > after_ns), default=None)


class Source:
    """Puts entries at a rate, in an open loop, for the length of the block."""

    def __init__(self, writer: Writer, rate: int = RATE, size_bytes: int = 1_024) -> None:
        self.timeline = Timeline()
        self._rate = rate
        batch = ([bytes(size_bytes)], size_bytes)
        self._stream = Stream(writer, iter(lambda: batch, None), 1, self.timeline)

    async def __aenter__(self) -> Timeline:
        self._task = asyncio.create_task(self._run())
        return self.timeline

    async def __aexit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        """Waits for what is in flight.

        Raises:
            WalleError: entries have failed.
        """
        self._task.cancel()
        if error_type is not None:
            return
        async with asyncio.timeout(DRAIN_S):
            while not self._stream.is_idle:
                self._stream.proceed()
                await asyncio.sleep(0.01)
        for error in self.timeline.errors:
            raise error

    async def _run(self) -> None:
        due_ns = now_ns()
        while True:
            due_ns += NS_PER_S // self._rate
            await sleep_until(due_ns)
            self._stream.offer(due_ns)


async def fill(writer: Writer, count: int, size_bytes: int) -> None:
    """Puts so many entries of that size, in batches."""
    data = os.urandom(size_bytes)
    batch = max(FILL_BATCH_BYTES // size_bytes, 1)
    puts: deque[asyncio.Future[walle.Position]] = deque()
    for left in range(count, 0, -batch):
        puts.append(writer.put_many([data] * min(left, batch)))
        if len(puts) > FILL_IN_FLIGHT:
            await puts.popleft()
    for put in puts:
        await put


async def wait_for(look: Callable[[], Awaitable[T | None]]) -> T:
    """What `look` finds, once it finds something."""
    async with asyncio.timeout(WAIT_S):
        while True:
            found = await look()
            if found is not None:
                return found
            await asyncio.sleep(LOOK_S)
