"""The demonstration: three nodes, a text put line by line, one node killed in the middle of it.

Starts a cluster, claims a stream, puts every line of a text, kills one whole node with SIGKILL on
the way and starts it again, shows the gap that this left and how it closes, reads the stream back
from each node by itself and compares it with the text. Ends with a status other than 0 if anything
differs, a put fails, or acknowledgements pause for longer than a second.

    python tools/demo.py [FILE]        default: the standard library's sources
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import sys
import sysconfig
import tempfile
import time
from array import array
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import walle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from walle.client.client import Client
    from walle.client.writer import Writer

STREAM = "/demo"
VICTIM = 2
NODES = 3
LINES_MIN = 200_000
IN_FLIGHT_MAX = 4_096
KILL_AT = 0.35
PAUSE_S_MAX = 1.0
READY_S = 20.0
BACKFILL_S = 60.0
WHOLE = "no gap is left"

console = Console()


def default_text() -> bytes:
    """The standard library's sources, one file after the other, repeated if they are short."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts)
    text = b"".join(path.read_bytes() for path in files)
    return text * (1 + LINES_MIN // max(text.count(b"\n"), 1))


class Nodes:
    """A cluster by `walle dev`, on free ports, in a directory that goes away with it."""

    def __init__(self, directory: Path) -> None:
        self._port = _free_ports(NODES)
        self._directory = directory
        self._processes: list[asyncio.subprocess.Process] = []
        self.addresses = [f"127.0.0.1:{self._port + index}" for index in range(NODES)]

    async def start(self, *options: str) -> None:
        """Starts nodes and waits until they are ready."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "walle", "dev", "--nodes", str(NODES)),
            *("--data", str(self._directory), "--port", str(self._port), *options),
            stdout=asyncio.subprocess.PIPE,
        )
        self._processes.append(process)
        if process.stdout is None:
            raise RuntimeError("the cluster's output is a pipe")
        async with asyncio.timeout(READY_S):
            line = await process.stdout.readline()
        if not line.startswith(b"ready"):
            raise RuntimeError(f"the cluster did not get ready: {line!r}")

    async def stop(self) -> None:
        """Stops what still runs."""
        for process in self._processes:
            if process.returncode is None:
                process.terminate()
        for process in self._processes:
            await process.wait()


def _free_ports(count: int) -> int:
    """The first of `count` consecutive ports that nobody listens on."""
    for first in range(17_411, 60_000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for index, each in enumerate(sockets):
                each.bind(("127.0.0.1", first + index))
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
        return first
    raise RuntimeError("no free ports")


class Load:
    """Puts the lines and notes when each was acknowledged."""

    def __init__(self, writer: Writer, lines: list[bytes]) -> None:
        self._writer = writer
        self._lines = lines
        self._sent_s = array("d", bytes(8 * len(lines)))
        self._first_id = writer.tail.entry_id + 1
        self._acknowledged = asyncio.Event()
        self._last_s = time.monotonic()
        self.latencies_s = array("d")
        self.longest_pause_s = 0.0
        self.failed = 0
        self.count = 0
        writer.on_committed = self._on_committed

    def _on_committed(self, committed: walle.Position) -> None:
        now_s = time.monotonic()
        end = committed.entry_id + 1 - self._first_id
        self.latencies_s.extend(now_s - sent_s for sent_s in self._sent_s[self.count : end])
        self.longest_pause_s = max(self.longest_pause_s, now_s - self._last_s)
        self._last_s = now_s
        self.count = end
        self._acknowledged.set()

    def _on_done(self, put: asyncio.Future[walle.Position]) -> None:
        if put.cancelled() or put.exception() is not None:
            self.failed += 1

    async def run(self) -> None:
        """Puts all lines, some of them in flight at any time."""
        self._last_s = time.monotonic()
        for index, line in enumerate(self._lines):
            while index - self.count >= IN_FLIGHT_MAX:
                self._acknowledged.clear()
                await self._acknowledged.wait()
            self._sent_s[index] = time.monotonic()
            self._writer.put(line).add_done_callback(self._on_done)
            if index % 64 == 63:
                await asyncio.sleep(0)
        while self.count < len(self._lines) and not self.failed:
            self._acknowledged.clear()
            await self._acknowledged.wait()


async def kill_and_restart(client: Client, nodes: Nodes, load: Load, at: int) -> None:
    """Once `at` lines are durable, kills a whole node; starts it again after a while."""
    while load.count < at:  # noqa: ASYNC110 - looks at a count that moves all the time
        await asyncio.sleep(0.01)
    status = await client.node_status(nodes.addresses[VICTIM - 1])
    pids = [status["pid"], *status["children"].values()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    console.print(f"  killed node n{VICTIM} (processes {', '.join(map(str, pids))}) with SIGKILL")
    down_at = load.count
    await asyncio.sleep(0.5)
    console.print(
        f"  {load.count - down_at} more lines became durable while it was down; starting it again"
    )
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch_gaps(nodes.addresses[VICTIM - 1], load.count))
        await nodes.start("--only", str(VICTIM))
        await watching


async def watch_gaps(address: str, last_id: int) -> None:
    """Shows the gap of the node that was down, how it is filled, and that none is left up to that
    entry. Where it has missed little, there may be none to be seen."""
    async with asyncio.timeout(BACKFILL_S):
        async with walle.connect(address) as client:
            shown = ""
            while shown != WHOLE:
                text = await describe_gaps(client, address, last_id)
                if text and text != shown:
                    console.print(f"  n{VICTIM}: {text}", markup=False, highlight=False)
                    shown = text


async def describe_gaps(client: Client, address: str, last_id: int) -> str:
    """The gap in words; WHOLE once all is there up to that entry, "" before it is known to lack."""
    try:
        status = await client.node_status(address)
    except walle.Unavailable:
        return ""
    stream = next((each for each in status["streams"] if each["name"] == STREAM), None)
    if stream is None:
        return ""
    if not stream["gaps"]:
        return WHOLE if stream["committed_id"] >= last_id else ""
    start, end = stream["backfill"]["gap"]
    done = stream["backfill"]["filled_id"] + 1 - start
    return f"gap [{start}, {end}), {100 * done // (end - start)} % filled"


async def read_back(entries: AsyncIterator[walle.Entry]) -> tuple[str, int]:
    """The SHA-256 of the entries, each with a newline behind it, and their number."""
    digest = hashlib.sha256()
    count = 0
    async for entry in entries:
        digest.update(entry.data + b"\n")
        count += 1
    return digest.hexdigest(), count


def report(load: Load, size: int, elapsed_s: float) -> None:
    """Prints the figures of the load."""
    latencies_s = sorted(load.latencies_s)

    def percentile_ms(part: float) -> float:
        return 1000 * latencies_s[min(int(part * len(latencies_s)), len(latencies_s) - 1)]

    percentiles = ", ".join(
        f"{name} {percentile_ms(part):.1f} ms"
        for name, part in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))
    )
    for line in (
        f"{load.count / elapsed_s:,.0f} puts/s, {size / elapsed_s / 1e6:.1f} MB/s",
        f"latency with {IN_FLIGHT_MAX:,} lines in flight: {percentiles}",
        f"longest pause between acknowledgements: {1000 * load.longest_pause_s:.0f} ms",
    ):
        console.print(f"  {line}", highlight=False)


async def demonstrate(text: bytes) -> list[str]:
    """Runs it all; returns what went wrong."""
    if not text.endswith(b"\n"):
        text += b"\n"
    lines = text[:-1].split(b"\n")
    wanted = hashlib.sha256(text).hexdigest()
    problems = []
    with tempfile.TemporaryDirectory(prefix="walle-demo-") as directory:
        nodes = Nodes(Path(directory))
        try:
            console.print(f"starting {NODES} nodes at {', '.join(nodes.addresses)}")
            await nodes.start()
            async with walle.connect(nodes.addresses) as client:
                info = await client.create_stream(STREAM, replicas=NODES)
                members = ", ".join(member.node_id for member in info.members)
                console.print(f"created stream {STREAM} on {members}")
                problems += await put_lines(client, nodes, lines, len(text))
                problems += await compare(client, wanted, len(lines))
        finally:
            await nodes.stop()
    return problems


async def put_lines(client: Client, nodes: Nodes, lines: list[bytes], size: int) -> list[str]:
    """Puts the lines while a node is killed and comes back."""
    async with client.claim(STREAM, address="demo", lease_ms=2_000) as writer:
        console.print(f"claimed its writer; putting {len(lines):,} lines, {size / 1e6:.1f} MB")
        load = Load(writer, lines)
        started_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            group.create_task(kill_and_restart(client, nodes, load, int(KILL_AT * len(lines))))
            showing = group.create_task(show_progress(load, len(lines)))
            await load.run()
            elapsed_s = time.monotonic() - started_s
            await showing
    report(load, size, elapsed_s)
    problems = []
    if load.failed:
        problems.append(f"{load.failed} puts failed")
    if load.longest_pause_s > PAUSE_S_MAX:
        problems.append(f"acknowledgements paused for {load.longest_pause_s:.2f} s")
    return problems


async def show_progress(load: Load, total: int) -> None:
    """A bar of what is durable."""
    with Progress(
        TextColumn("  durable"),
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,}"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("durable", total=total)
        while load.count < total and not load.failed:
            progress.update(task, completed=load.count)
            await asyncio.sleep(0.1)
        progress.update(task, completed=load.count)


async def compare(client: Client, wanted: str, count: int) -> list[str]:
    """Reads the stream from each node by itself, and compares."""
    problems = []
    console.print("reading it back from each node; the text's SHA-256 is")
    console.print(f"  {wanted}", highlight=False)
    for index in range(NODES):
        node = f"n{index + 1}"
        async with aclosing(client.read(STREAM, node=node)) as entries:
            found, found_count = await read_back(entries)
        verdict = "the same" if found == wanted else f"DIFFERENT: {found}"
        console.print(f"  {node}: {found_count:,} entries, {verdict}", highlight=False)
        if found != wanted or found_count != count:
            problems.append(f"{node} returned another text")
    return problems


def main() -> int:
    """Returns the exit status."""
    text = Path(sys.argv[1]).read_bytes() if len(sys.argv) > 1 else default_text()
    problems = asyncio.run(demonstrate(text))
    for problem in problems:
        console.print(f"[red]FAILED[/red]: {problem}")
    if not problems:
        console.print("[green]nothing was lost[/green]")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
