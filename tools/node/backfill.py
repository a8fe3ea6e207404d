"""A dead node is replaced: how soon another takes live entries, and what backfill costs them."""

from __future__ import annotations

import asyncio
import signal
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import walle
from tests.process.test_nodes import wait_up
from tools.node.stage import Figure, Source, cluster, fill, wait_for
from walle.bench.disk import probe_appends
from walle.bench.worker import now_ns
from walle.limits import KIB, MIB, NS_PER_MS

if TYPE_CHECKING:
    import argparse

    from tests.clusters import DevNodes
    from tools.node.stage import Timeline

STREAM = "/measured"
HISTORY_BYTES = 5 * 1024 * MIB
ENTRY_BYTES = 16 * KIB
BACKFILL_BYTES_PER_SECOND = 8 * MIB
PROBES_COUNT = 5
SETTLED_S = 5.0
HOLDS_AIM = 1_000.0, "aim 1 s"
ENDS_AIM = 5_000.0, "aim 5 s"
BASE = "before; aim 1.5"


def measure_backfill(options: argparse.Namespace) -> list[Figure]:
    """n3 is killed and replaced by n4, which has everything to fetch; all on one disk."""
    with cluster(options, "backfill") as nodes:
        rate = BACKFILL_BYTES_PER_SECOND
        nodes.run_node("n4", join=nodes.addresses, backfill_bytes_per_second=rate)
        wait_up(nodes, "n4")
        return asyncio.run(_measure(nodes, options.seconds))


class State(NamedTuple):
    """What puts take for a while, and the median of what an append and its sync do, both in ms."""

    p99: float
    append: float


async def _look(nodes: DevNodes, timeline: Timeline, seconds: float) -> State:
    """Puts go on meanwhile. The disk is looked at in between, for a small part of the time."""
    begin_ns, appends = now_ns(), []
    for _ in range(PROBES_COUNT):
        await asyncio.sleep(seconds / PROBES_COUNT)
        appends.append(await asyncio.to_thread(probe_appends, nodes.directory))
    p99 = timeline.latency_ms(begin_ns, now_ns())
    return State(p99, median(each.percentile_ms(50) for each in appends))


async def _measure(nodes: DevNodes, seconds: float) -> list[Figure]:
    async with walle.connect(nodes.addresses) as client:
        await client.create_stream(STREAM, members=nodes.names)

        async def has_ended() -> int | None:
            info = await client.describe(STREAM, refresh=True)
            return None if info.old_members else now_ns()

        async with client.claim(STREAM, address="measure") as writer:
            await fill(writer, HISTORY_BYTES // ENTRY_BYTES, ENTRY_BYTES)
            async with Source(writer) as timeline:
                await asyncio.sleep(SETTLED_S)
                before = await _look(nodes, timeline, seconds)
                await asyncio.to_thread(nodes.kill, "n3")
                begun_ns = now_ns()
                await client.set_members(STREAM, ["n1", "n2", "n4"])
                due_id = writer.tail.entry_id

                async def holds() -> int | None:
                    status = await client.node_status(nodes.spare_address())
                    held = [each["tail_id"] for each in status["streams"] if each["name"] == STREAM]
                    return now_ns() if held and held[0] >= due_id else None

                holds_ns, ended_ns = await asyncio.gather(wait_for(holds), wait_for(has_ended))
                during = await _look(nodes, timeline, seconds)
                nodes.signal(nodes.tree("n4"), signal.SIGKILL)
                await asyncio.sleep(SETTLED_S)
                after = await _look(nodes, timeline, seconds)
    figures = [
        Figure("until n4 holds live entries", (holds_ns - begun_ns) / NS_PER_MS, "ms", *HOLDS_AIM),
        Figure("until n4 has replaced n3", (ended_ns - begun_ns) / NS_PER_MS, "ms", *ENDS_AIM),
    ]
    filling = f"backfilling {BACKFILL_BYTES_PER_SECOND // MIB} MiB/s"
    for what, field in (("p99 of puts", 0), ("the disk's append and sync", 1)):
        figures.append(Figure(f"{what}, before", before[field], "ms"))
        for when, found in ((filling, during), ("after", after)):
            figures.append(Figure(f"  {when}", found[field], "ms", before[field], BASE))
    return figures
