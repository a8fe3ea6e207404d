"""A whole measurement: starts the processes of the load, adds up what they tell, looks at costs."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections import Counter
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import psutil

from walle.bench import usage
from walle.bench.disk import probe
from walle.bench.latency import Latencies, merged
from walle.bench.worker import Part, now_ns, sleep_until
from walle.errors import Unavailable, WalleError
from walle.limits import MIB, NS_PER_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from walle.bench.workload import Workload
    from walle.client.client import Client
    from walle.tls import Tls

START_S = 0.2
"""From the order to start to the start itself: all processes hear of it before."""
DELIVERY_S = 0.5
"""How long what was put last may take to its readers."""
LINE_BYTES_MAX = 1 * MIB


class Counted:
    """What one kind of process tells, added up: by interval, and in all."""

    def __init__(self, workload: Workload) -> None:
        count = workload.intervals_count
        self._clients = workload.clients
        self._lengths_s = [workload.interval_s] * count
        self._lengths_s[-1] = workload.seconds - workload.interval_s * (count - 1)
        self._counts = [0] * count
        self._bytes = [0] * count
        self._latencies = [Latencies() for _ in range(count)]
        self._told = Counter[int]()
        self.ends: list[dict[str, Any]] = []
        self.errors: list[str] = []

    def add(self, line: dict[str, Any]) -> int | None:
        """Adds a line; returns the interval of which all processes have told by it."""
        if "error" in line:
            self.errors.append(line["error"])
        elif "end" in line:
            self.ends.append(line["end"])
            self._add(-1, line["rest"])
        elif "interval" in line:
            interval = int(line["interval"])
            self._add(interval, line)
            self._told[interval] += 1
            if self._told[interval] == self._clients:
                return interval
        return None

    def _add(self, interval: int, taken: dict[str, Any]) -> None:
        self._counts[interval] += taken["count"]
        self._bytes[interval] += taken["bytes"]
        self._latencies[interval].merge(Latencies.decode(taken["latencies"]))

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def size_bytes(self) -> int:
        return sum(self._bytes)

    def total(self) -> Latencies:
        """All intervals' latencies."""
        return merged(self._latencies)

    def interval(self, index: int) -> dict[str, float]:
        """An interval in figures."""
        latencies = self._latencies[index]
        return {
            "end_s": round(sum(self._lengths_s[: index + 1]), 3),
            "entries_per_s": round(self._counts[index] / self._lengths_s[index]),
            "p50_ms": latencies.percentile_ms(50),
            "p99_ms": latencies.percentile_ms(99),
            "max_ms": latencies.percentile_ms(100),
        }

    def intervals(self) -> list[dict[str, float]]:
        return [self.interval(index) for index in range(len(self._counts))]

    def fates(self) -> dict[str, Any]:
        """Of the entries that were due while it was measured: what became of them."""
        failed: Counter[str] = Counter()
        for end in self.ends:
            failed.update(end["failed"])
        sums = {key: sum(end[key] for end in self.ends) for key in ("due", "done", "unanswered")}
        return {
            "due": sums["due"],
            "durable": sums["done"],
            "failed": dict(failed),
            "unanswered": sums["unanswered"],
        }


class Process:
    """A process of the load."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self.name = name
        self.pid = process.pid

    @classmethod
    async def launch(cls, module: str, name: str, part: Part) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            process_group=0,  # an interrupt from the terminal is for this process alone
        )
        launched = cls(process, name)
        launched.send(part.to_json())
        return launched

    def send(self, line: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(line.encode() + b"\n")

    async def receive(self) -> dict[str, Any] | None:
        """The next line; None at the end."""
        line = b"" if self._process.stdout is None else await self._process.stdout.readline()
        return json.loads(line) if line else None

    async def wait_ready(self) -> None:
        """Returns when it could begin.

        Raises:
            Unavailable: it cannot.
        """
        line = await self.receive() or {"error": "it ended"}
        if "error" in line:
            raise Unavailable(f"the load cannot begin ({self.name}): {line['error']}")

    def finish(self) -> None:
        """Ends its input, at which it ends its work."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def end(self) -> None:
        """Ends it, and waits for that."""
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()


@asynccontextmanager
async def _processes(
    module: str, name: str, part: Part, count: int
) -> AsyncIterator[list[Process]]:
    """Processes that are ready, for the length of the block."""
    launched = []
    try:
        for client in range(count):
            own = part._replace(client=client)
            launched.append(await Process.launch(module, f"{name} {client + 1}", own))
        for process in launched:
            await process.wait_ready()
        yield launched
    finally:
        for process in launched:
            await process.end()


async def measure(
    client: Client,
    workload: Workload,
    addresses: str,
    *,
    tls: Tls | None = None,
    replicas: int = 0,
    members: Sequence[str] = (),
    directory: Path | None = None,
    on_interval: Callable[[dict[str, float]], None] = lambda _interval: None,
) -> dict[str, Any]:
    """Puts the load on the client's cluster; returns what that showed. docs/performance.md tells
    what each figure means.

    The streams are made, unless they are there, and trimmed afterwards.

    Args:
        addresses, tls: where and how the processes of the load connect.
        directory: where to look at the disk before and after.
        on_interval: told of each interval as it ends.

    Raises:
        Unavailable: the cluster, or a process of the load, does not answer.
        StreamExists: streams of these names have other members.
    """
    for name in workload.names:
        await client.create_stream(name, replicas=replicas, members=members)
    before = None if directory is None else await asyncio.to_thread(probe, directory)
    puts, deliveries = Counted(workload), Counted(workload)
    cost = await _run(client, Part(addresses, tls, workload, 0), puts, deliveries, on_interval)
    after = None if directory is None else await asyncio.to_thread(probe, directory)
    errors = [*puts.errors, *deliveries.errors, *await _trim(client, workload)]
    seconds = workload.seconds
    return {
        "workload": workload._asdict(),
        "machine": describe_machine(),
        "puts": puts.fates(),
        "errors": errors,
        "entries_per_s": round(puts.count / seconds, 1),
        "bytes_per_s": round(puts.size_bytes / seconds),
        "latency_ms": puts.total().summary(),
        "curve_ms": puts.total().curve(),
        "intervals": puts.intervals(),
        "delivered_per_s": round(deliveries.count / seconds, 1),
        "delivered_bytes_per_s": round(deliveries.size_bytes / seconds),
        "delivery_ms": deliveries.total().summary() if workload.readers else None,
        **cost,
        "bottleneck": usage.bottleneck(cost),
        "disk": None if before is None else {"before": before, "after": after},
    }


async def _run(
    client: Client,
    part: Part,
    puts: Counted,
    deliveries: Counted,
    on_interval: Callable[[dict[str, float]], None],
) -> dict[str, Any]:
    """The load itself; returns what it cost."""
    workload = part.workload
    writing = _processes("walle.bench.load", "client", part, workload.clients)
    count = min(workload.clients, workload.readers)
    reading = _processes("walle.bench.follow", "reader", part, count)
    async with reading as readers, writing as writers:
        pids = {each.name: each.pid for each in (*writers, *readers)}
        pids.update(await usage.find_nodes(client))
        start_ns = now_ns() + int(START_S * NS_PER_S)
        begin_ns = start_ns + int(workload.warm_up_s * NS_PER_S)
        for each in (*readers, *writers):
            each.send(json.dumps({"start_ns": start_ns}))
        async with asyncio.TaskGroup() as group:
            collecting = [group.create_task(_collect(each, puts, on_interval)) for each in writers]
            for each in readers:
                group.create_task(_collect(each, deliveries, lambda _interval: None))
            await sleep_until(begin_ns)
            before = usage.look(pids)
            await sleep_until(begin_ns + int(workload.seconds * NS_PER_S))
            after = usage.look(pids)
            await asyncio.wait(collecting)
            if readers:
                await asyncio.sleep(DELIVERY_S)
            for each in readers:
                each.finish()
    return usage.compare(before, after, puts.count)


async def _collect(
    process: Process, counted: Counted, on_interval: Callable[[dict[str, float]], None]
) -> None:
    """Adds up a process's lines until its last one."""
    while (line := await process.receive()) is not None:
        interval = counted.add(line)
        if interval is not None:
            on_interval(counted.interval(interval))
        if "end" in line:
            return
    counted.errors.append(f"{process.name} ended before its work was done")


async def _trim(client: Client, workload: Workload) -> list[str]:
    """Leaves the last entry of each stream: that much always remains. Returns what went wrong."""
    try:
        for name in workload.names:
            committed = await client.committed(name)
            if committed.entry_id:
                await client.trim_stream(name, to=committed.entry_id)
    except WalleError as error:
        return [f"the streams were not trimmed: {error}"]
    return []


def describe_machine() -> dict[str, Any]:
    """Where this was measured."""
    return {
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "walle": version("walle"),
    }
