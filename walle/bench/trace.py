"""`walle bench --trace`: where the time of a put goes, from the client through the nodes and back.

Puts entries one at a time, while `perf` notes the system calls of all processes concerned, on one
clock. Nothing is added to what is traced: that a process has been given something, and that it
hands it on, is seen by its system calls. Each put is followed through the node whose answer made it
durable, the second of three.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from bisect import bisect_left
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from walle.bench.usage import find_nodes
from walle.errors import ConfigError
from walle.limits import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from walle.client.client import Client
    from walle.client.writer import Writer

STREAM = "/traced"
PAUSE_S = 0.01
"""Between puts, so that each is alone: its commit point has reached the members by then."""
ATTACH_S = 1.0
EVENTS = Path("/sys/kernel/tracing/events/syscalls")
OPTION = "--trace"

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
        first = bisect_left(events, begin_ns, key=lambda event: event.time_ns)
        behind = bisect_left(events, end_ns + 1, key=lambda event: event.time_ns)
        own = events[first:behind]
        ways = [way for node in nodes if (way := follow(own, node, begin_ns, end_ns))]
        if len(ways) >= 2:
            way = sorted(ways, key=lambda times: times[-2])[1]
            found.append([later - earlier for earlier, later in pairwise(way)])
    return found


def check_perf() -> None:
    """Raises:
    ConfigError: there is no `perf`, or it may not follow system calls.
    """
    if shutil.which("perf") is None:
        rule = "needs Linux's perf; install it, on Debian by: apt-get install linux-perf"
        raise ConfigError(OPTION, rule)
    command = ["perf", "record", "-q", "-o", os.devnull, "-e", "syscalls:sys_enter_fdatasync"]
    done = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = next((line for line in lines if line.startswith("Error:")), lines[0] if lines else "")
        rule = f"perf may not follow system calls; run this as root, on the machine itself ({why})"
        raise ConfigError(OPTION, rule)


class Perf:
    """`perf record` on some processes, for the length of the block."""

    def __init__(self, pids: Sequence[int], path: Path) -> None:
        self._path = path
        names = [f"sys_{what}_{call}" for what in ("enter", "exit") for call in sorted(CALLS)]
        events = [f"syscalls:{name}" for name in names if (EVENTS / name).exists()]
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
        """What was noted, in the order of time."""
        fields = ("-F", "pid,tid,time,event,trace")
        command = ["perf", "script", "-i", str(self._path), "--ns", *fields]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
        return parse(done.stdout.splitlines())


async def trace(
    client: Client, *, size_bytes: int, seconds: float, warm_up_s: float, directory: Path
) -> dict[str, Any]:
    """Puts entries one at a time, on nodes of this machine; returns where their time went.

    Args:
        directory: for what perf notes. `check_perf` says whether it can.

    Returns:
        puts: how many there were.
        followed: how many of them could be followed.
        stages: of each, in the order of a put's way, its name and the median of its time.
        total_us: the median of their sums; None if none could be followed.
    """
    await client.create_stream(STREAM)
    pids = await find_nodes(client)
    roles = ("network", "consensus", "storage")
    nodes = [
        {"client": os.getpid(), **{role: pids[f"{name} {role}"] for role in roles}}
        for name in sorted({name.partition(" ")[0] for name in pids})
    ]
    data = os.urandom(size_bytes)
    perf = Perf([os.getpid(), *pids.values()], directory / "perf.data")
    async with client.claim(STREAM, address="trace") as writer:
        await _put(writer, data, warm_up_s)
        async with perf:
            puts = await _put(writer, data, seconds)
    events = await asyncio.to_thread(perf.events)
    return summarize(stages(events, nodes, puts), len(puts))


async def _put(writer: Writer, data: bytes, seconds: float) -> list[tuple[int, int]]:
    """When each put began and ended."""
    puts = []
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        await asyncio.sleep(PAUSE_S)
        begin_ns = time.monotonic_ns()
        await writer.put(data)
        puts.append((begin_ns, time.monotonic_ns()))
    return puts


def summarize(found: Sequence[Sequence[int]], puts_count: int) -> dict[str, Any]:
    """What `trace` returns, of the times of each put's stages, in nanoseconds."""
    names = [*(step.name for step in STEPS), LAST]
    return {
        "puts": puts_count,
        "followed": len(found),
        "stages": [
            {"stage": name, "median_us": _median_us(times_ns)}
            for name, times_ns in zip(names, zip(*found, strict=True), strict=bool(found))
        ],
        "total_us": _median_us([sum(times_ns) for times_ns in found]) if found else None,
    }


def _median_us(times_ns: Sequence[int]) -> float:
    return round(statistics.median(times_ns) / 1_000, 1)
