"""What a node costs when nothing is put."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import walle
from tools.node.stage import Figure, cluster, cores

if TYPE_CHECKING:
    import argparse

    from tests.clusters import DevNodes

STREAMS = 100
LEASE_MS = 5_000
SETTLE_S = 6.0
"""Until what was created and claimed has become quiet: a scrubber's pause, and a lease."""
AIM_PERCENT = 1.0
AIM_CLAIMED_PERCENT = 3.0


def measure_idle(options: argparse.Namespace) -> list[Figure]:
    """Processor time per node with streams that nobody writes, then with as many idle writers."""
    with cluster(options, "idle") as nodes:
        return asyncio.run(_measure(nodes, options.seconds))


async def _measure(nodes: DevNodes, seconds: float) -> list[Figure]:
    names = [f"/idle/{number}" for number in range(STREAMS)]
    async with walle.connect(nodes.addresses) as client:
        for name in names:
            await client.create_stream(name)
    await asyncio.sleep(SETTLE_S)
    alone = await cores(nodes, seconds)
    async with walle.connect(nodes.addresses) as client, AsyncExitStack() as claims:
        for name in names:
            claim = client.claim(name, address="measure", lease_ms=LEASE_MS)
            await claims.enter_async_context(claim)
        await asyncio.sleep(SETTLE_S)
        claimed = await cores(nodes, seconds)
    return [
        *compare(f"{STREAMS} streams without writers", alone, AIM_PERCENT),
        *compare(f"{STREAMS} idle writers, leases of {LEASE_MS} ms", claimed, AIM_CLAIMED_PERCENT),
    ]


def compare(what: str, found: dict[str, float], aim_percent: float) -> list[Figure]:
    """Each node's share of a core."""
    return [
        Figure(f"{what}: {name}", 100 * each, "% of a core", aim_percent, f"aim {aim_percent:g} %")
        for name, each in found.items()
    ]
