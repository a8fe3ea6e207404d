"""How often a node's processes call the system, and are woken, for one put; counted by strace."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import walle
from tests.clusters import ROLES
from walle.core import pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.clusters import DevNodes

pytestmark = pytest.mark.slow

PUTS = 200
CALLS_MAX = {"network": 6.0, "consensus": 3.0, "storage": 5.5}
"""For one frame that arrives, with a put or a heartbeat. The network process waits, receives, and
rings; waits, and sends: 5. Consensus waits, and rings if storage sleeps: 1 or 2. Storage writes the
records and their note, syncs, and rings: 4, or 5 if it slept."""
IDLE_S = 2.0
IDLE_CALLS_MAX = 60.0
"""A second, by each process, with a few streams and no writer."""
LOOKS_COUNT_MAX = 5
FILES_COUNT = 40
SYNC_THREADS_MAX = 8
SYNCING = f"""
import os, sys
from walle.native import sync_files
os.chdir(sys.argv[1])
fds = [os.open(str(each), os.O_RDWR | os.O_CREAT) for each in range({FILES_COUNT})]
for fd in fds:
    os.write(fd, b"something")
assert not any(sync_files(fds))
"""


@contextmanager
def counted(pids: dict[str, int], directory: Path) -> Iterator[dict[str, Counter[str]]]:
    """The system calls of these processes during the block; known after it."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    found: dict[str, Counter[str]] = {}
    tracers = {}
    for role, pid in pids.items():
        command = ["strace", "-f", "-c", "-o", str(directory / role), "-p", str(pid)]
        tracers[role] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for tracer in tracers.values():
            assert tracer.stderr is not None
            line = tracer.stderr.readline()
            if "Operation not permitted" in line:
                pytest.skip("processes may not be traced here: sysctl kernel.yama.ptrace_scope=0")
            assert "attached" in line, line
        yield found
    finally:
        for tracer in tracers.values():
            tracer.send_signal(signal.SIGINT)
            tracer.communicate(timeout=30)
    for role in pids:
        lines = [line.split() for line in (directory / role).read_text().splitlines()[2:-2]]
        found[role] = Counter({line[-1]: int(line[3]) for line in lines})


def test_a_put_takes_few_system_calls(
    nodes: DevNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream's only member takes each put by itself, however slow it is: no notice of the
    commit point comes together with the next one."""
    monkeypatch.setattr(pipeline, "COMMIT_NOTICE_MS", 60_000)

    async def put_one_by_one() -> None:
        async with (
            walle.connect(nodes.connect) as client,
            client.claim("/s", address="me", lease_ms=10_000) as writer,
        ):
            await writer.put(b"first")
            with counted(pids, tmp_path) as found:
                for _ in range(PUTS):
                    await writer.put(bytes(50))  # all fit the first segment
            calls.update(found)

    pids = {role: nodes.child("n1", role) for role in ROLES}
    calls: dict[str, Counter[str]] = {}
    nodes.cli("stream", "create", "/s", "--members", "n1")
    asyncio.run(put_one_by_one())
    frames = calls["network"]["recvfrom"]
    assert frames >= PUTS
    for role, most in CALLS_MAX.items():
        assert calls[role].total() / frames <= most, f"{role}: {frames} frames, {calls[role]}"
    assert not calls["storage"]["fallocate"], "what is appended to is there already"
    assert not calls["storage"]["fsync"], "no name changes"


def test_an_idle_node_sleeps(nodes: DevNodes, tmp_path: Path) -> None:
    """Sooner or later: on a busy machine what it does at its start takes a while."""
    pids = {role: nodes.child("n1", role) for role in ROLES}
    for _ in range(LOOKS_COUNT_MAX):
        with counted(pids, tmp_path) as found:
            time.sleep(IDLE_S)
        busy = {
            role: calls for role, calls in found.items() if calls.total() / IDLE_S > IDLE_CALLS_MAX
        }
        if not busy:
            return
    pytest.fail(f"in {IDLE_S} s: {busy}")


def test_the_disk_is_given_all_files_before_any_is_waited_for(tmp_path: Path) -> None:
    """So few threads are enough to wait for them."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt-get install strace")
    log = tmp_path / "log"
    command = ["strace", "-f", "-o", str(log), "-e", "trace=clone,clone3,sync_file_range,fdatasync"]
    command += [sys.executable, "-c", SYNCING, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if "Operation not permitted" in done.stderr:
        pytest.skip("processes may not be traced here: sysctl kernel.yama.ptrace_scope=0")
    assert not done.returncode, done.stderr
    calls = re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE)
    assert calls[:FILES_COUNT] == ["sync_file_range"] * FILES_COUNT
    assert calls.count("fdatasync") == FILES_COUNT
    assert len(calls) < 2 * FILES_COUNT + SYNC_THREADS_MAX, "one thread is there already"
