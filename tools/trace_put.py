"""Shows where the time of a put goes: from the client through the nodes' processes, and back.

    .venv/bin/python -m tools.trace_put                 as root, with `perf` (Debian: linux-perf)

Puts entries of 1 KiB one at a time on three nodes of this machine, while perf notes the system
calls of all processes concerned, on one clock. Nothing is added to what is traced: that a process
has been given something, and that it hands it on, is seen by its system calls. Each put is followed
through the node whose answer made it durable, the second of three. Prints the median of each stage.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import walle
from walle.bench.usage import find_nodes
from walle.dev import dev_cluster
from walle.limits import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

STREAM = "/traced"
ENTRY_BYTES = 1_024
WARM_UP_COUNT = 100
PAUSE_S = 0.01
"""Between puts, so that each is alone: its commit point has reached the members by then."""
ATTACH_S = 1.0

SEND = frozenset({"sendto", "sendmsg", "write", "writev"})
RECEIVE = frozenset({"recvfrom", "recvmsg", "read"})
WAIT = frozenset({"epoll_wait", "epoll_pwait", "poll", "ppoll", "select", "pselect6"})
WRITE = frozenset({"pwrite64", "pwritev", "pwritev2"})
SYNC = frozenset({"fdatasync", "fsync"})
CALLS = SEND | RECEIVE | WAIT | WRITE | SYNC

LINE = re.compile(
    r"^\s*(?P<pid>\d+)/\d+\s+(?P<s>\d+)\.(?P<ns>\d{9}):\s+syscalls:sys_(?P<what>enter|exit)_"
    r"(?P<call>\w+):\s*(?P<result>0x[0-9a-f]+|-?\d+)?"
)


class Event(NamedTuple):
    """The begin or the end of a system call. result: what it returned; of a begin, 0."""

    time_ns: int
    pid: int
    call: str
    is_exit: bool
    result: int


class Step(NamedTuple):
    """What a put waits for next: that a process begins or ends one of these calls."""

    name: str
    process: str
    calls: frozenset[str]
    is_exit: bool


STEPS = (
    Step("client: encode, until it sends", "client", SEND, is_exit=False),
    Step("kernel: send, wake network", "network", WAIT, is_exit=True),
    Step("network: receive, check", "network", SEND, is_exit=False),
    Step("kernel: wake consensus", "consensus", WAIT, is_exit=True),
    Step("consensus: decide", "consensus", SEND, is_exit=False),
    Step("kernel: wake storage", "storage", WAIT, is_exit=True),
    Step("storage: prepare", "storage", WRITE, is_exit=False),
    Step("kernel: write", "storage", WRITE, is_exit=True),
    Step("storage: until it syncs", "storage", SYNC, is_exit=False),
    Step("disk: sync", "storage", SYNC, is_exit=True),
    Step("storage: release the answer", "storage", SEND, is_exit=False),
    Step("kernel: wake network", "network", WAIT, is_exit=True),
    Step("network: until it answers", "network", SEND, is_exit=False),
    Step("kernel: answer, wake client", "client", WAIT, is_exit=True),
)
LAST = "client: until the put returns"


def parse(lines: Iterable[str]) -> list[Event]:
    """The events in what `perf script` prints, in the order of time."""
    events = []
    for line in lines:
        found = LINE.match(line)
        if found is not None:
            time_ns = int(found["s"]) * NS_PER_S + int(found["ns"])
            is_exit = found["what"] == "exit"
            result = int(found["result"] or "0", 0) if is_exit else 0
            events.append(Event(time_ns, int(found["pid"]), found["call"], is_exit, result))
    return sorted(events)


def follow(
    events: Sequence[Event], processes: Mapping[str, int], begin_ns: int, end_ns: int
) -> list[int] | None:
    """When each step was done, for one put and one node; None if it cannot be followed.

    A bell that is not rung, because whoever it is for is awake, leaves no trace.
    """
    times = [begin_ns]
    for step in STEPS:
        pid = processes[step.process]
        found = next(
            (
                each.time_ns
                for each in events
                if each.time_ns >= times[-1]
                and each.pid == pid
                and each.call in step.calls
                and each.is_exit == step.is_exit
                and (not step.is_exit or each.result > 0 or each.call in SYNC)
            ),
            None,
        )
        if found is None or found > end_ns:
            return None
        times.append(found)
    return [*times, end_ns]


def stages(
    events: Sequence[Event], nodes: Sequence[Mapping[str, int]], puts: Sequence[tuple[int, int]]
) -> list[list[int]]:
    """How long each stage took, for every put that can be followed: through the second node."""
    found = []
    for begin_ns, end_ns in puts:
        own = [each for each in events if begin_ns <= each.time_ns <= end_ns]
        ways = [way for node in nodes if (way := follow(own, node, begin_ns, end_ns))]
        if len(ways) >= 2:
            way = sorted(ways, key=lambda times: times[-2])[1]
            found.append([later - earlier for earlier, later in pairwise(way)])
    return found


class Perf:
    """`perf record` on some processes, for the length of the block."""

    def __init__(self, pids: Iterable[int], path: Path) -> None:
        self._path = path
        events = [f"syscalls:sys_{what}_{call}" for what in ("enter", "exit") for call in CALLS]
        known = Path("/sys/kernel/tracing/events/syscalls")
        events = [each for each in events if (known / each.partition(":")[2]).exists()]
        self._command = [
            *("perf", "record", "-q", "-k", "CLOCK_MONOTONIC", "-o", str(path)),
            *("-e", ",".join(events), "-p", ",".join(map(str, pids))),
        ]

    async def __aenter__(self) -> None:
        self._process = await asyncio.create_subprocess_exec(*self._command)
        await asyncio.sleep(ATTACH_S)

    async def __aexit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGINT)
        await self._process.wait()

    def events(self) -> list[Event]:
        command = [
            "perf",
            "script",
            "-i",
            str(self._path),
            "--ns",
            "-F",
            "pid,tid,time,event,trace",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        return parse(done.stdout.splitlines())


async def trace(addresses: Sequence[str], count: int, path: Path) -> list[list[int]]:
    """Puts so many entries one at a time; returns the stages of those that could be followed."""
    async with walle.connect(addresses) as client:
        await client.create_stream(STREAM)
        pids = await find_nodes(client)
        names = sorted({name.partition(" ")[0] for name in pids})
        roles = ("network", "consensus", "storage")
        nodes = [
            {"client": os.getpid(), **{role: pids[f"{name} {role}"] for role in roles}}
            for name in names
        ]
        async with client.claim(STREAM, address="trace") as writer:
            data = os.urandom(ENTRY_BYTES)
            for _ in range(WARM_UP_COUNT):
                await writer.put(data)
            puts = []
            perf = Perf([os.getpid(), *pids.values()], path)
            async with perf:
                for _ in range(count):
                    await asyncio.sleep(PAUSE_S)
                    begin_ns = time.monotonic_ns()
                    await writer.put(data)
                    puts.append((begin_ns, time.monotonic_ns()))
    return stages(perf.events(), nodes, puts)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300, help="how many puts")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    if shutil.which("perf") is None or os.geteuid():
        print("this needs root and perf; install it by: apt-get install linux-perf")
        return 1
    with tempfile.TemporaryDirectory(prefix="walle-trace-", dir=arguments.directory) as made:
        directory = Path(made)
        with dev_cluster(directory) as addresses:
            found = asyncio.run(trace(addresses, arguments.count, directory / "perf.data"))
    print(f"{len(found)} of {arguments.count} puts followed; medians, in microseconds")
    if not found:
        return 1
    for name, *times_ns in zip([*(step.name for step in STEPS), LAST], *found, strict=True):
        print(f"{name:32} {statistics.median(times_ns) / 1_000:8.1f}")
    print(f"{'in all':32} {statistics.median(map(sum, found)) / 1_000:8.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
