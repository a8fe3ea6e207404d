"""The identities of the protocol, and half-open ranges of entries.

Entry ids are plain integers: they start at 1 and have no holes in the committed history. Entry 0
is virtual, with chain 0.
"""

from __future__ import annotations

from typing import NamedTuple

new_tuple = tuple.__new__
"""Makes a NamedTuple of a tuple of its fields, as each put does with dozens of them: calling its
class, which does the same in Python, takes three times as long."""

STREAM_CLUSTER = 1
"""The id of `/cluster`, the stream that holds the topology of all streams. A stream's id is the
entry id in `/cluster` that created it, so ids are never reused; entry 1 creates `/cluster`."""

CLUSTER_STREAM_NAME = "/cluster"

IDENTITY_SIZE = 16
"""Bytes of a cluster's and of a node's random identity."""

NO_IDENTITY = bytes(IDENTITY_SIZE)


class WriterId(NamedTuple):
    """One claim of a stream's writer; the ballot of the protocol. Ordered by (ts, nonce).

    ts: microseconds, max(wall clock, highest ts seen + 1).
    nonce: 64 random bits, unique per claim.
    """

    ts: int
    nonce: int

    def __str__(self) -> str:
        return f"{self.ts}.{self.nonce:016x}"


NO_WRITER = WriterId(0, 0)
ANY_WRITER = WriterId(2**64 - 1, 2**64 - 1)
"""Not below any writer's id."""


class Position(NamedTuple):
    """An entry's id with its chain. Since the chain covers all before it, it names a history."""

    entry_id: int
    chain: int

    def __str__(self) -> str:
        return f"{self.entry_id}:{self.chain:016x}"


ORIGIN = Position(0, 0)
"""The virtual entry before a stream's first."""


class IdRange(NamedTuple):
    """The entry ids in [start, end)."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"[{self.start}, {self.end})"
