"""What a client does with its memory while it reads, and a node with what clients have not read:
counted in pages and in bytes."""

from __future__ import annotations

import subprocess
import sys

READS = """
import resource
from collections import deque

from walle.client.inbox import Inbox
from walle.ids import NO_WRITER, ORIGIN
from walle.record import Bytes, Encoder, check, decode_all

encoder = Encoder(NO_WRITER, ORIGIN)
encoder.add_all([bytes(1_024)] * 418, 0)
records = encoder.take().payload.view()
inbox = Inbox()
inbox.handled(0, len(records))
waiting = deque()

def receive():
    inbox.room()[:] = records
    waiting.append(check(Bytes(bytes(inbox.received(len(records)))), where="here"))
    inbox.handled(len(records), len(records))

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for turn in range(120):
    if turn == 20:
        before = faults()
    for _ in range(turn % 4):
        receive()
    while len(waiting) > turn % 3:
        entries = decode_all(waiting.popleft())
print((faults() - before) / 150)
"""


def test_one_answer_takes_the_memory_of_another() -> None:
    """One that the system gave back in between would come page by page, each cleared first."""
    done = subprocess.run([sys.executable, "-c", READS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 4, "pages for an answer, of 220 that it and its entries take"


KEEPS = """
import os
from pathlib import Path
from tools.node.stage import memory_of
from walle.native import return_large_blocks

return_large_blocks()
before = memory_of(os.getpid()).anonymous
large = bytes(24 << 20)  # what is smaller would be kept from now on
del large
unsent = [bytearray(1 << 20) for _ in range(100)]
del unsent[:-1]
print(memory_of(os.getpid()).anonymous - before)
"""


def test_what_was_sent_takes_no_memory_though_what_came_later_is_unsent() -> None:
    done = subprocess.run([sys.executable, "-c", KEEPS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10 << 20, "bytes, of which a mebibyte is unsent"
