"""What a client does with its memory while it reads: counted in pages."""

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
