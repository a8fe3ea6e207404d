"""A node's shared memory: counters, rings and the arena, inherited by its processes over fork.

Anonymous, so that nothing is left behind however the node ends. Each ring has one producer and one
consumer; data flows one way:

    network ──requests──► consensus ──orders──► storage ──durable──► network
                          consensus ──outgoing───────────────────────► network
                          consensus ◄──results─── storage

The arena holds what the network has received until storage has written it; only descriptors of it
go through the rings.
"""

from __future__ import annotations

import mmap

from walle.limits import ARENA_BYTES, RING_DATA_BYTES, RING_REQUESTS_BYTES, RING_RESULTS_BYTES
from walle.ring.bell import Bell
from walle.ring.spsc import Ring

PAGE_BYTES = 4096

SYNCED = 0
"""The counter that storage keeps: the number of the last order that is durable."""
HAS_SPACE = 1
HAS_RESERVE = 2
FREE_BYTES = 3
"""What storage says of the disk; the first two as in `walle.core.context.Context`."""
PID_NETWORK = 8
PID_CONSENSUS = 16
PID_STORAGE = 24
"""Each process's id, set by itself. No two processes set counters of one cache line."""
SCRUB_PASSES = 25
SCRUB_DONE_BYTES = 26
SCRUB_TOTAL_BYTES = 27
SCRUB_ENDED_US = 28
DAMAGE_COUNT = 29
"""What storage says of its scrubbing: passes completed, of the present one how far it is, when the
last one ended (us since 1970, 0: none has); and how often damage was found, in whatever way."""


class Region:
    """Made by the supervisor before it forks; each process then uses its ends.

    counters: 64-bit words, each with one writer.
    arena: ARENA_BYTES, written by the network process.
    """

    def __init__(self) -> None:
        sizes = {
            "requests": RING_REQUESTS_BYTES,
            "outgoing": RING_DATA_BYTES,
            "orders": RING_DATA_BYTES,
            "durable": RING_DATA_BYTES,
            "results": RING_RESULTS_BYTES,
        }
        places = {}
        size = PAGE_BYTES
        for name, capacity in sizes.items():
            places[name] = size
            size += -(-(Ring.OVERHEAD_BYTES + capacity) // PAGE_BYTES) * PAGE_BYTES
        self._memory = mmap.mmap(-1, size + ARENA_BYTES)

        def ring(name: str) -> Ring:
            return Ring.create(self._memory, places[name], sizes[name])

        view = memoryview(self._memory)
        self.counters = view[:PAGE_BYTES].cast("Q")
        self.arena = view[size : size + ARENA_BYTES]
        self.requests = ring("requests")
        self.outgoing = ring("outgoing")
        self.orders = ring("orders")
        self.durable = ring("durable")
        self.results = ring("results")
        self.network_bell = Bell()
        self.consensus_bell = Bell()
        self.storage_bell = Bell()

    def close(self) -> None:
        """Closes this process's bells; the memory goes with the last process that has it."""
        for bell in (self.network_bell, self.consensus_bell, self.storage_bell):
            bell.close()
