"""A short look at a disk, before and after a measurement: many have a fast and a slow state."""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING

from walle.bench.latency import Latencies
from walle.limits import KIB, MIB, NS_PER_S

if TYPE_CHECKING:
    from pathlib import Path

APPEND_BYTES = 1 * KIB
APPENDS_S = 0.3
STREAM_BYTES = 64 * MIB
CHUNK_BYTES = 1 * MIB


def probe(directory: Path) -> dict[str, float]:
    """How long a small append and its sync take, and how much can be written in a row.

    Raises:
        OSError: the directory cannot be written.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        descriptor = file.fileno()
        appends = _append(descriptor)
        begin_ns = time.monotonic_ns()
        chunk = os.urandom(CHUNK_BYTES)
        for _ in range(STREAM_BYTES // CHUNK_BYTES):
            os.write(descriptor, chunk)
        os.fdatasync(descriptor)
        took_s = (time.monotonic_ns() - begin_ns) / NS_PER_S
    return {
        "append_ms_p50": appends.percentile_ms(50),
        "append_ms_p99": appends.percentile_ms(99),
        "write_bytes_per_s": round(STREAM_BYTES / took_s),
    }


def probe_appends(directory: Path) -> Latencies:
    """How long a small append and its sync take, which is all that is looked at.

    Raises:
        OSError: the directory cannot be written.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        return _append(file.fileno())


def _append(descriptor: int) -> Latencies:
    """Small appends, each synced."""
    latencies = Latencies()
    data = os.urandom(APPEND_BYTES)
    end_ns = time.monotonic_ns() + int(APPENDS_S * NS_PER_S)
    while (begin_ns := time.monotonic_ns()) < end_ns:
        os.write(descriptor, data)
        os.fdatasync(descriptor)
        latencies.add({(time.monotonic_ns() - begin_ns) // 1_000: 1})
    return latencies
