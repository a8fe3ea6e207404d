"""Puts a load on a peer by its own protocol, as `walle bench` does on WALLE, from one thread.

What is counted, and from when on, is `walle.bench.latency.Tally`'s, as there.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import time
from collections import deque
from itertools import cycle
from typing import TYPE_CHECKING, Any

from walle.bench import usage
from walle.bench.latency import Latencies, Tally
from walle.limits import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from walle.bench.workload import Workload

RECEIVE_BYTES = 256 * 1024
DRAIN_S = 5.0
LOOK_S = 0.02

now_ns = time.monotonic_ns


class Connection:
    """A connection to a peer.

    capacity: how many puts may be in flight on it.
    pending: when each of them was due, by its id.
    """

    capacity = 1 << 30

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending: dict[int, int] = {}
        self._unsent = bytearray()
        self._received = bytearray()

    def put(self, data: bytes) -> int:
        """Encodes a put by `write`; returns its id."""
        raise NotImplementedError

    def take(self, received: bytearray) -> tuple[list[tuple[int, bool]], int]:
        """The puts that have ended by what was received, each with whether it is durable; and how
        many bytes that took."""
        raise NotImplementedError

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._unsent)

    def write(self, data: bytes) -> None:
        self._unsent += data

    def flush(self) -> None:
        """Sends what the system takes."""
        if self._unsent:
            try:
                sent = self.socket.send(self._unsent)
            except BlockingIOError:
                return
            del self._unsent[:sent]

    def receive(self) -> list[tuple[int, bool]]:
        """The puts that have ended."""
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        if not data:
            raise ConnectionError("the peer has closed the connection")
        self._received += data
        ended, used = self.take(self._received)
        del self._received[:used]
        return ended

    def read_exactly(self, size: int) -> bytes:
        """For what comes before the load, while the socket still blocks."""
        data = b""
        while len(data) < size:
            data += self.socket.recv(size - len(data)) or self._gone()
        return data

    def _gone(self) -> bytes:
        raise ConnectionError("the peer has closed the connection")

    def close(self) -> None:
        self.socket.close()


class Driver:
    """Puts one workload over some connections."""

    def __init__(self, connections: Sequence[Connection], workload: Workload) -> None:
        self._connections = connections
        self._workload = workload
        self._data = cycle(workload.data(seed=0))
        self._start_ns = now_ns()
        begin_ns = self._start_ns + int(workload.warm_up_s * NS_PER_S)
        self._tally = Tally(begin_ns, begin_ns + int(workload.seconds * NS_PER_S))
        self._overdue: deque[int] = deque()
        self._in_flight = 0
        self._next_due = 0

    def run(self, pids: Callable[[], Mapping[str, int]]) -> dict[str, Any]:
        """Returns what it showed."""
        for each in self._connections:
            each.socket.setblocking(False)
        gc.collect()
        gc.freeze()
        self._run_until(self._tally.begin_ns)
        processes = {"client": os.getpid(), **pids()}
        before = usage.look(processes)
        self._run_until(self._tally.end_ns)
        after = usage.look(processes)
        self._drain()
        taken, totals = self._tally.take(), self._tally.totals()
        cost = usage.compare(before, after, taken["count"])
        client = next(each for each in cost["cpu"] if each["process"] == "client")
        return {
            "entries_per_s": taken["count"] / self._workload.seconds,
            "latency_ms": Latencies.decode(taken["latencies"]).summary(),
            "cpu_s_per_1000": cost["cpu_s_per_1000"],
            "client_cpu_s_per_1000": client["cpu_s_per_1000"],
            "machine_share": cost["machine_share"],
            "bad_count": sum(totals["failed"].values()) + totals["unanswered"],
        }

    def _run_until(self, end_ns: int) -> None:
        while (time_ns := now_ns()) < end_ns:
            self._offer(time_ns)
            self._exchange(min(self._due_ns(), end_ns))

    def _drain(self) -> None:
        give_up_ns = self._tally.end_ns + int(DRAIN_S * NS_PER_S)
        while (self._in_flight or self._overdue) and now_ns() < give_up_ns:
            self._put_overdue()
            self._exchange(give_up_ns)

    def _due_ns(self) -> int:
        """When the next put is due; in a closed loop, none is before another ends."""
        if not self._workload.rate:
            return now_ns() + int(LOOK_S * NS_PER_S)
        return self._workload.due_ns(self._next_due, self._start_ns)

    def _offer(self, time_ns: int) -> None:
        if self._workload.rate:
            while (due_ns := self._due_ns()) <= time_ns:
                self._next_due += 1
                self._overdue.append(due_ns)
                self._tally.due(due_ns, 1)
        else:
            for _ in range(self._workload.in_flight - self._in_flight - len(self._overdue)):
                self._overdue.append(time_ns)
                self._tally.due(time_ns, 1)
        self._put_overdue()

    def _put_overdue(self) -> None:
        for connection in self._connections:
            while self._overdue and len(connection.pending) < connection.capacity:
                put_id = connection.put(next(self._data))
                connection.pending[put_id] = self._overdue.popleft()
                self._in_flight += 1
            connection.flush()

    def _exchange(self, until_ns: int) -> None:
        """Waits until something can be received or sent, or until then; and does it."""
        behind = [each for each in self._connections if each.is_behind]
        timeout_s = max(until_ns - now_ns(), 0) / NS_PER_S
        readable, writable, _ = select.select(self._connections, behind, (), timeout_s)
        for connection in writable:
            connection.flush()
        for connection in readable:
            ended, time_ns = connection.receive(), now_ns()
            for put_id, is_durable in ended:
                due_ns = connection.pending.pop(put_id)
                self._in_flight -= 1
                if is_durable:
                    self._tally.done(due_ns, time_ns, count=1, size_bytes=0)
                else:
                    self._tally.failed(due_ns, 1, ValueError())
