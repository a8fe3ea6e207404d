"""A process of a measurement. It is told its part, and tells what it counts, by lines of JSON:

    to it      {"addresses": ..., "workload": ..., ...}             its part
    from it    {"ready": true}                                      it could begin
    to it      {"start_ns": N}                                      when it begins
    from it    {"interval": N, ...}                                 `Tally.take`, again and again
    from it    {"error": TEXT}                                      if something has gone wrong
    from it    {"end": `Tally.totals`, "rest": `Tally.take`}

It is done when its work is, or when its input ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import selectors
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from walle.bench.latency import Tally
from walle.bench.workload import Workload
from walle.client.client import connect
from walle.errors import WalleError
from walle.limits import NS_PER_S
from walle.tls import Tls

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from walle.client.client import Client

now_ns = time.monotonic_ns

PRECISE_S = 0.002
"""Only the last of a wait is waited to the microsecond: that takes two system calls where something
comes before. More than what epoll may round up by."""


class Part(NamedTuple):
    """What one process does of a measurement."""

    addresses: str
    tls: Tls | None
    workload: Workload
    client: int

    def to_json(self) -> str:
        files = None
        if self.tls is not None:
            files = {key: os.fspath(path) for key, path in asdict(self.tls).items()}
        workload = self.workload._asdict()
        return json.dumps({**self._asdict(), "tls": files, "workload": workload})

    @classmethod
    def from_json(cls, text: str | bytes) -> Part:
        fields = json.loads(text)
        tls = Tls(**fields["tls"]) if fields["tls"] else None
        return cls(fields["addresses"], tls, Workload(**fields["workload"]), fields["client"])


class Course:
    """A measurement's course in this process: when it starts, and what is counted from then on."""

    def __init__(self, workload: Workload, orders: asyncio.StreamReader) -> None:
        self._workload = workload
        self._orders = orders
        self._tasks: list[asyncio.Task[Any]] = []
        self.tally = Tally(0, 0)
        self.start_ns = 0

    async def start(self) -> None:
        """Says that this process is ready; returns at the start. When the input ends later, the
        calling task is cancelled."""
        _tell({"ready": True})
        line = await self._orders.readline()
        if not line:
            raise asyncio.CancelledError
        self.start_ns = json.loads(line)["start_ns"]
        begin_ns = self.start_ns + int(self._workload.warm_up_s * NS_PER_S)
        self.tally = Tally(begin_ns, begin_ns + int(self._workload.seconds * NS_PER_S))
        ending = asyncio.create_task(self._orders.read())
        ending.add_done_callback(_canceller(asyncio.current_task()))
        self._tasks = [ending, asyncio.create_task(self._tell_intervals())]
        await sleep_until(self.start_ns)

    async def _tell_intervals(self) -> None:
        for index in range(self._workload.intervals_count):
            await sleep_until(self._workload.interval_end_ns(index, self.tally.begin_ns))
            _tell({"interval": index, **self.tally.take()})


def _canceller(task: asyncio.Task[Any] | None) -> Callable[[asyncio.Task[bytes]], None]:
    def cancel(_ending: asyncio.Task[bytes]) -> None:
        if task is not None:
            task.cancel()

    return cancel


class PreciseSelector(selectors.EpollSelector):
    """Waits to the microsecond. By itself epoll rounds up to milliseconds, by which every put of an
    open loop would be late.

    is_precise: a closed loop needs none of that, and is to cost what any client does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_precise = True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.is_precise and timeout is not None and timeout > 0:
            if timeout > PRECISE_S:
                # The event loop asks again if that is too early.
                return super().select(timeout - PRECISE_S)
            readable, _, _ = select.select([self.fileno()], (), (), timeout)
            if not readable:
                return []
            timeout = 0
        return super().select(timeout)


def run(work: Callable[[Client, Part, Course], Awaitable[None]]) -> None:
    """Does a process's part, from its first line to its last."""
    selector = PreciseSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(_serve(work, selector))


async def _serve(
    work: Callable[[Client, Part, Course], Awaitable[None]], selector: PreciseSelector
) -> None:
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(orders), sys.stdin
    )
    line = await orders.readline()
    if not line:
        return
    part = Part.from_json(line)
    selector.is_precise = part.workload.rate > 0
    course = Course(part.workload, orders)
    try:
        async with connect(part.addresses, tls=part.tls) as client:
            await work(client, part, course)
    except WalleError as error:
        _tell({"error": f"{type(error).__name__}: {error}"})
    except asyncio.CancelledError:  # whoever measures has heard enough
        pass
    _tell({"end": course.tally.totals(), "rest": course.tally.take()})


def _tell(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


async def sleep_until(time_ns: int) -> None:
    """Returns at that time, or soon if it has passed."""
    await asyncio.sleep(max(time_ns - now_ns(), 0) / NS_PER_S)
