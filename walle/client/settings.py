"""What may be chosen for a stream, or a read, as the clients take it: by name, and nothing that is
not."""

from __future__ import annotations

from typing import TypedDict


class Settings(TypedDict, total=False):
    """The keywords of `Client.create_stream` and `Client.set_stream`.

    compression: of writers that choose none themselves, from their next claim on: "none" or "zstd".
    retention_max_bytes: how many bytes of records it keeps; 0: no bound.
    retention_max_age_ms: for how long it keeps entries, by their own times; 0: no bound. The
        cluster trims a stream that exceeds a bound of retention by a tenth of it.
    replicas: on how many nodes it is put when it is created, and by a rebalance; 0: as many as
        are named as its members, or else three, or all if there are fewer.
    lease_min_ms, lease_max_ms: which leases claims may ask for from now on; 0: no bound.
    """

    compression: str
    retention_max_bytes: int
    retention_max_age_ms: int
    replicas: int
    lease_min_ms: int
    lease_max_ms: int


class ReadOptions(TypedDict, total=False):
    """The keywords of `Client.read` and `Client.read_batches`.

    start: the first wanted entry; None: the first that is not trimmed.
    end: the first entry id that is not wanted; None: all are.
    follow: goes on for ever, with each entry that is committed.
    node: the id of the one member to be read, which then serves only what it holds itself; where
        the end is, it asks a majority nevertheless, unless `follow` is set. None: whichever
        answers.
    """

    start: int | None
    end: int | None
    follow: bool
    node: str | None
