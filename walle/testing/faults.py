"""How bad a simulated world is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from walle import messages
from walle.core import (
    backfill,
    calls,
    history,
    member,
    question,
    reading,
    reorder,
    snapshot,
    syncing,
)
from walle.storage import extent, journal, pool, segment, store

if TYPE_CHECKING:
    import random

SMALL: tuple[tuple[Any, str, int], ...] = (
    (reading, "FETCH_BYTES_MAX", 150),
    (member, "TAIL_PAGE_ENTRIES", 3),
    (syncing, "FETCH_BYTES_MAX", 150),
    (reorder, "REORDER_COUNT_MAX", 4),
    (member, "COMMIT_ORDER_ENTRIES", 6),
    (history, "CHAINS_KEPT", 8),
    (messages, "LEASE_MS_MIN", 1),
    (calls, "REPEAT_MS_MIN", 10),
    (backfill, "FETCH_MS", 100),
    (syncing, "FETCH_MS", 100),
    (question, "FETCH_MS", 100),
    (member, "FETCH_MS", 100),
    (segment, "SEGMENT_BYTES_MIN", 16_384),
    (segment, "SEGMENT_BYTES_MAX", 32_768),
    (journal, "BYTES_MIN", 65_536),
    (extent, "INDEX_STEP_BYTES", 1_024),
    (pool, "WRITERS_COUNT_MAX", 3),
    (pool, "MAPS_COUNT_MAX", 2),
    (store, "JOURNAL_LAG_ENTRIES", 4),
    (snapshot, "INTERVAL_ENTRIES", 4),
    (snapshot, "PART_ITEMS", 3),
)
"""Bounds made so small that a simulation comes upon them: module, name, value."""


@dataclass(frozen=True)
class Faults:
    """Probabilities, and times in ms.

    lost, repeated, late: of a message; late_ms: how late at the most.
    replay: that a message of a kind drawn by lot, sent a while ago, comes once more, at each step;
        replayed: which kinds; all, if it names none.
    sync_ms: how long a sync takes at the most.
    journal_lag_entries: by how many entries the durable commit point lags.
    slow, slow_ms: that a node's disk becomes slow, or fast again, at each step; how long its syncs
        take then at the most.
    sync_error: that a node's next sync fails, at each step.
    crash, cut_off: that a node crashes, that one is cut off, at each step. restart: that one that
        is down is started.
    pause, stall: that a client, or a node, stands still for a while, though its clock goes on.
    blocked, links: that a client's way to a node, or a node's way to another, is opened or closed.
    mask: that every way from one node to another is opened or closed, at each step.
    rot, ruin: that a record of a crashed node is damaged; that its journal is lost, so that it
        never comes back. One node of a run at the most has damage.
    full: that a node's disk becomes full, or has space again, at each step.
    change, trim: that a stream's members are changed, and that it is trimmed, at each step.
    delete: that a stream is deleted, at each step.
    claim: that a client without a claim claims. force: that it takes over a running lease.
    leases_ms: the leases that are claimed.
    rates: of the clocks, drawn for each node and client.
    wall_jump: that a node's wall clock jumps, at each step.
    """

    lost: float = 0.0
    repeated: float = 0.0
    late: float = 0.0
    late_ms: float = 5.0
    replay: float = 0.0
    replayed: tuple[str, ...] = ()
    sync_ms: float = 0.0
    slow: float = 0.0
    slow_ms: float = 300.0
    sync_error: float = 0.0
    journal_lag_entries: int = 1
    crash: float = 0.0
    restart: float = 0.1
    pause: float = 0.0
    stall: float = 0.0
    cut_off: float = 0.0
    blocked: float = 0.0
    links: float = 0.0
    mask: float = 0.0
    rot: float = 0.0
    ruin: float = 0.0
    full: float = 0.0
    change: float = 0.0
    trim: float = 0.0
    delete: float = 0.0
    claim: float = 0.1
    force: float = 0.3
    leases_ms: tuple[int, ...] = (100, 200, 800)
    rates: tuple[float, ...] = (1.0, 1.15, 1.32)
    wall_jump: float = 0.0

    @property
    def are_clocks_as_assumed(self) -> bool:
        """Whether the rates of any two differ by a factor of at most 4/3."""
        return max(self.rates) * 3 <= min(self.rates) * 4

    @classmethod
    def draw(cls, rng: random.Random, **fixed: Any) -> Faults:
        """From the seed, but what is fixed."""
        drawn = cls(
            lost=rng.choice([0.0, 0.02, 0.1, 0.3]),
            repeated=rng.choice([0.0, 0.05, 0.3]),
            late=rng.choice([0.0, 0.05, 0.3]),
            late_ms=rng.choice([5.0, 50.0, 400.0]),
            replay=rng.choice([0.0, 0.0, 0.05, 0.3]),
            sync_ms=rng.choice([0.0, 1.0, 10.0]),
            slow=rng.choice([0.0, 0.0, 0.005]),
            sync_error=rng.choice([0.0, 0.0, 0.005]),
            journal_lag_entries=rng.choice([1, 3, 8]),
            crash=rng.choice([0.0, 0.002, 0.02]),
            restart=rng.choice([0.1, 0.1, 1.0]),
            pause=rng.choice([0.0, 0.0, 0.02]),
            stall=rng.choice([0.0, 0.0, 0.02]),
            cut_off=rng.choice([0.0, 0.02]),
            blocked=rng.choice([0.0, 0.01, 0.1]),
            links=rng.choice([0.0, 0.0, 0.05]),
            mask=rng.choice([0.0, 0.0, 0.005]),
            rot=rng.choice([0.0, 0.3]),
            ruin=rng.choice([0.0, 0.0, 0.1]),
            full=rng.choice([0.0, 0.0, 0.01]),
            change=rng.choice([0.0, 0.002, 0.01, 0.05]),
            trim=rng.choice([0.0, 0.01, 0.03]),
            claim=rng.choice([0.1, 0.1, 0.5]),
            force=rng.choice([0.0, 0.3, 1.0]),
            leases_ms=rng.choice([(100, 200, 800), (100, 200, 800), (8, 20), (20, 800)]),
            rates=rng.choice([(1.0, 1.15, 1.32), (1.0, 1.15, 1.32), (1.0, 1.32, 2.0)]),
            wall_jump=rng.choice([0.0, 0.01]),
            delete=rng.choice([0.0, 0.0, 0.0, 0.002]),
        )
        return replace(drawn, **fixed)
