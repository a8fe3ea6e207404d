"""What a node spends for a batch, beside a bare loop that checks, writes and syncs the bytes."""

from __future__ import annotations

import os
import time
from statistics import median
from typing import TYPE_CHECKING

from tests.performance.one_node import one_node
from walle.limits import BATCH_BYTES_MAX, SEGMENT_BYTES_MAX
from walle.record import Bytes, check, size_of

if TYPE_CHECKING:
    from pathlib import Path

DATA_BYTES = 1024
COUNT = BATCH_BYTES_MAX // size_of(DATA_BYTES)
ROUNDS = 60
RATIO_MAX = 4.0


def test_a_node_spends_little_more_than_a_bare_loop(tmp_path: Path) -> None:
    """Processor time, the two in turns: whatever else the machine does slows both down."""
    ratios = []
    (tmp_path / "node").mkdir()
    fd = os.open(tmp_path / "bare", os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(fd, 0, SEGMENT_BYTES_MAX)
        with one_node(tmp_path / "node") as node:
            for number in range(ROUNDS):
                batch = node.put(COUNT, DATA_BYTES)
                begun_ns = time.process_time_ns()
                node.run()
                node_ns = time.process_time_ns() - begun_ns
                begun_ns = time.process_time_ns()
                received = Bytes(bytes(batch.payload.view()))
                check(received, where="the bare loop")
                os.pwrite(fd, received.data, number % 64 * BATCH_BYTES_MAX)
                os.fdatasync(fd)
                ratios.append(node_ns / (time.process_time_ns() - begun_ns))
    finally:
        os.close(fd)
    assert median(ratios) < RATIO_MAX
