"""What must hold at a node while somebody misbehaves: others are served, memory stays within its
bound, no process restarts, and nothing in the log says that the node itself is in trouble."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Self

import psutil

import walle

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clusters import DevNodes

MIB = 1024 * 1024
NODE_BYTES_MAX = 288 * MIB
"""For the four processes of a node together, proportional set size: 66 MiB of shared memory, 32 MiB
of unfinished frames, 64 MiB of answers, 16 MiB of early puts, and the rest for Python itself."""
LEASE_MS = 10_000
SILENCE_S_MAX = LEASE_MS / 1000
"""How long a put of a client that behaves may take: it must not lose its stream."""
READY_S = 30.0


class Load:
    """A well-behaved client in a thread of its own: puts one entry after the other."""

    def __init__(self, connect: str, stream: str) -> None:
        self._connect = connect
        self._stream = stream
        self._stop = threading.Event()
        self._acknowledged = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._silence_s_max = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def begin(self) -> None:
        """From now on it is looked at; it is being served at this moment."""
        self._wait_for_acknowledgement()
        self._silence_s_max = 0.0

    def check(self) -> None:
        """It has been served ever since `begin`, and is being served now."""
        self._wait_for_acknowledgement()
        silence_s = self._silence_s_max
        assert silence_s < SILENCE_S_MAX, f"a put was not acknowledged for {silence_s:.1f} s"

    def _wait_for_acknowledgement(self) -> None:
        self._acknowledged.clear()
        is_served = self._acknowledged.wait(READY_S)
        assert self._error is None, f"the client that behaves got {self._error!r}"
        assert is_served, "the client that behaves is not served"

    def _run(self) -> None:
        try:
            asyncio.run(self._put())
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            self._error = error
            self._acknowledged.set()

    async def _put(self) -> None:
        async with walle.connect(self._connect) as client:
            await client.create_stream(self._stream)
            async with client.claim(self._stream, address="load", lease_ms=LEASE_MS) as writer:
                while not self._stop.is_set():
                    put_s = time.monotonic()
                    await writer.put(b"x" * 100)
                    self._silence_s_max = max(self._silence_s_max, time.monotonic() - put_s)
                    self._acknowledged.set()
                    await asyncio.sleep(0.005)  # a steady client, not a benchmark


class Watch:
    """Looks at a cluster before and after; `look` may be called as often as one likes between."""

    def __init__(self, nodes: DevNodes, load: Load) -> None:
        self._nodes = nodes
        self._load = load
        self._pids = {name: nodes.tree(name) for name in nodes.names}
        self._logs = {path: path.stat().st_size for path in self._log_files()}
        load.begin()

    @property
    def address(self) -> str:
        """Its first node."""
        return self._nodes.addresses[0]

    def _log_files(self) -> list[Path]:
        return sorted(self._nodes.directory.glob("*.log"))

    def look(self) -> int:
        """Checks memory; returns the bytes of the largest node."""
        largest = max(sum(map(_memory_of, pids)) for pids in self._pids.values())
        assert largest <= NODE_BYTES_MAX, f"a node takes {largest // MIB} MiB"
        return largest

    def finish(self) -> None:
        """Checks everything."""
        pids = {name: self._nodes.tree(name) for name in self._nodes.names}
        logged = "".join(self._logged(path) for path in self._log_files())
        assert pids == self._pids, f"a process was restarted:\n{logged[-5_000:]}"
        for word in ("CRITICAL", "Traceback"):
            assert word not in logged, f"{word} was logged:\n{logged[-5_000:]}"
        self.look()
        self._load.check()

    def _logged(self, path: Path) -> str:
        with path.open() as file:
            file.seek(self._logs.get(path, 0))
            return file.read()


def _memory_of(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_full_info().pss)
    except psutil.NoSuchProcess:
        return 0
