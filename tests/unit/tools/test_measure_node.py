"""What the measurements of a node look at, and what they print of it."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

import walle
from tools.measure_node import table_of
from tools.node.stage import Figure, Timeline, cpu_s, memory_of

if TYPE_CHECKING:
    from pathlib import Path

MS = 1_000_000
MIB = 1 << 20


def test_latencies_are_those_of_what_was_due_then() -> None:
    timeline = Timeline()
    for number in range(100):
        timeline.done(number, number + (number + 1) * MS, count=1, size_bytes=1)
    assert timeline.latency_ms(0, 100) == 100
    assert timeline.latency_ms(0, 50, percent=50) == 26
    assert timeline.first_done_ns(0) == MS
    assert timeline.first_done_ns(1_000 * MS) is None
    with pytest.raises(walle.Unavailable):
        timeline.latency_ms(100, 200)


def test_figures_are_shown_beside_what_they_are_compared_with() -> None:
    figures = [Figure("most", 75.0, "MB", 150.0, "aim"), Figure("alone", 1_234.5, "ms")]
    table = table_of("memory", figures)
    assert [list(column.cells) for column in table.columns] == [
        ["most", "alone"],
        ["75.00", "1,234.50"],
        ["MB", "ms"],
        ["0.50", ""],
        ["aim", ""],
    ]


def test_what_a_process_takes_is_counted() -> None:
    before, used_s = memory_of(os.getpid()), cpu_s(os.getpid())
    # What this process has freed before would be used again.
    taken = mmap.mmap(-1, 64 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    taken.write(b"x" * len(taken))
    until_s = time.process_time() + 0.05
    while time.process_time() < until_s:
        pass
    assert memory_of(os.getpid()).anonymous > before.anonymous + 32 * MIB
    assert cpu_s(os.getpid()) > used_s + 0.04
    assert len(taken) == 64 * MIB


def test_memory_that_is_shared_counts_and_files_in_memory_do_not() -> None:
    """As those of nodes do whose directory is on such a disk."""
    before = memory_of(os.getpid())
    fd = os.memfd_create("file")
    os.truncate(fd, 64 * MIB)
    file, shared = mmap.mmap(fd, 64 * MIB), mmap.mmap(-1, 32 * MIB)
    for taken in (file, shared):
        taken.write(b"x" * len(taken))
    added = memory_of(os.getpid()).shared - before.shared
    assert added == pytest.approx(32 * MIB, abs=MIB)
    for taken in (file, shared):
        taken.close()
    os.close(fd)


@pytest.mark.slow
def test_a_frozen_node_is_measured(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    command = [sys.executable, "-m", "tools.measure_node", "frozen", "--seconds", "0.5"]
    options = ["--directory", str(tmp_path), "--json", str(told)]
    done = subprocess.run([*command, *options], stdout=subprocess.PIPE, text=True, check=True)
    figures = json.loads(told.read_text())["figures"]["frozen"]
    assert len(figures) == 15
    assert all(each["value"] > 0 and each["what"].strip() in done.stdout for each in figures)
    assert list(tmp_path.iterdir()) == [told]
