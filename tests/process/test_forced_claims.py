"""Two clients fight for one stream with forced claims."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

import walle
from tests.clusters import DevNodes

if TYPE_CHECKING:
    from pathlib import Path

STREAM = "/fight"
SECONDS = 30.0
LEASE_MS = 300


@dataclass
class Record:
    """What one client knows: its acknowledgements in their order, and when it was exclusive.

    exclusive: (begin, end) in seconds of one clock, of sections whose guard held.
    """

    name: str
    acknowledged: list[tuple[int, bytes]] = field(default_factory=list)
    not_written: list[bytes] = field(default_factory=list)
    exclusive: list[tuple[float, float]] = field(default_factory=list)
    claims: int = 0
    losses: int = 0


async def fight(nodes: DevNodes, record: Record, until_s: float, seed: int) -> None:
    """Claims by force, writes until the claim is lost, and claims again."""
    chance = random.Random(seed)
    async with walle.connect(nodes.addresses) as client:
        while time.monotonic() < until_s:
            try:
                async with client.claim(
                    STREAM, address=record.name, lease_ms=LEASE_MS, force=True, timeout_s=5
                ) as writer:
                    record.claims += 1
                    await hold(writer, record, until_s, chance)
            except walle.WriterLost:
                record.losses += 1
            except walle.Unavailable:
                continue
            await asyncio.sleep(chance.uniform(0, 0.3))


async def hold(writer: walle.Writer, record: Record, until_s: float, chance: random.Random) -> None:
    """Puts, and guards sections, for as long as the claim lasts."""
    holds_until_s = min(until_s, time.monotonic() + chance.uniform(0.2, 2.0))
    while time.monotonic() < holds_until_s:
        data = b"%s:%d" % (record.name.encode(), chance.getrandbits(63))
        try:
            with writer.exclusive():
                begin_s = time.monotonic()
                await asyncio.sleep(chance.uniform(0, 0.01))
                end_s = time.monotonic()
            record.exclusive.append((begin_s, end_s))
        except walle.LeaseExpired:
            pass
        try:
            position = await writer.put(data)
        except walle.WriterLost as lost:
            if lost.outcome is walle.Outcome.NOT_WRITTEN:
                record.not_written.append(data)
            raise
        record.acknowledged.append((position.entry_id, data))


def check_exclusive(records: list[Record]) -> None:
    """No instant lies in guarded sections of both clients."""
    sections = sorted(
        (begin_s, end_s, record.name) for record in records for begin_s, end_s in record.exclusive
    )
    latest_end_s, latest_name = 0.0, ""
    for begin_s, end_s, name in sections:
        assert name == latest_name or begin_s > latest_end_s, "two writers exclusive at once"
        if end_s > latest_end_s:
            latest_end_s, latest_name = end_s, name


@pytest.mark.slow
def test_clients_that_fight_with_forced_claims_keep_one_history(tmp_path: Path) -> None:
    records = [Record("left"), Record("right")]

    async def run(nodes: DevNodes) -> dict[int, bytes]:
        until_s = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as group:
            for index, record in enumerate(records):
                group.create_task(fight(nodes, record, until_s, index))
        async with walle.connect(nodes.addresses) as client:
            return {entry.entry_id: entry.data async for entry in client.read(STREAM)}

    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        entries = asyncio.run(run(nodes))
    assert len(set(entries.values())) == len(entries), "an entry is there twice"
    for record in records:
        ids = [entry_id for entry_id, _ in record.acknowledged]
        assert ids == sorted(set(ids)), "acknowledged out of order"
        for entry_id, data in record.acknowledged:
            assert entries.get(entry_id) == data, f"{record.name}'s entry {entry_id} is lost"
        assert not set(record.not_written) & set(entries.values()), "a refused entry was written"
        assert record.claims > 3, f"{record.name} hardly ever claimed: {record.claims}"
        assert record.acknowledged, f"{record.name} wrote nothing"
        assert record.exclusive, f"{record.name} was never exclusive"
    assert sum(record.losses for record in records) > 3, "nobody lost the stream to the other"
    check_exclusive(records)
