"""A thousand streams on three nodes: what they cost, and what they change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import walle
from tools.node.idle import AIM_PERCENT, SETTLE_S, compare
from tools.node.restart import start_ms
from tools.node.stage import Figure, cluster, cores, memory_of
from walle.bench.measure import measure
from walle.bench.workload import Workload
from walle.limits import KIB

if TYPE_CHECKING:
    import argparse

    from tests.clusters import DevNodes

STREAMS = 1_000
ACTIVE = (1, 10, 30, 100, 1_000)
RATE = 5_000
"""Entries a second, all streams together."""
PERCENTILES = ("p50", "p99", "p99.9")
CREATE_COUNT = 16
"""How many are created at once."""


def measure_streams(options: argparse.Namespace) -> list[Figure]:
    """Starting, memory and idling with all of them; the same rate spread over ever more."""
    with cluster(options, "streams") as nodes:
        few_ms = _start(nodes)
        few_bytes = _memory(nodes)
        asyncio.run(_create(nodes))
        many_bytes = _memory(nodes)
        many_ms = _start(nodes)
        asyncio.run(asyncio.sleep(SETTLE_S))
        idle = asyncio.run(cores(nodes, options.seconds))
        loads = asyncio.run(_put(nodes, options.seconds))
    return [
        Figure(f"start of a node with {STREAMS:,} streams", many_ms, "ms", few_ms, "with none"),
        Figure("memory of a node per stream", (many_bytes - few_bytes) / STREAMS / KIB, "KiB"),
        *compare(f"{STREAMS:,} streams without writers", idle, AIM_PERCENT),
        *_compare_loads(loads),
    ]


def _start(nodes: DevNodes) -> float:
    """How long it takes to start a node that was killed, until it answers."""
    nodes.kill("n2")
    return asyncio.run(start_ms(nodes, "n2"))


def _memory(nodes: DevNodes) -> float:
    """Bytes of one node: the mean of all."""
    pids = [pid for name in nodes.names for pid in nodes.tree(name)]
    return sum(memory_of(pid).total for pid in pids) / len(nodes.names)


async def _create(nodes: DevNodes) -> None:
    limit = asyncio.Semaphore(CREATE_COUNT)
    async with walle.connect(nodes.addresses) as client, asyncio.TaskGroup() as group:

        async def create(name: str) -> None:
            async with limit:
                await client.create_stream(name)

        for name in Workload(streams=STREAMS).names:
            group.create_task(create(name))


async def _put(nodes: DevNodes, seconds: float) -> dict[int, dict[str, Any]]:
    """What `walle bench` tells, by how many streams are written to."""
    found = {}
    async with walle.connect(nodes.addresses) as client:
        for count in ACTIVE:
            workload = Workload(streams=count, rate=RATE, seconds=seconds, clients=min(count, 2))
            found[count] = await measure(client, workload, nodes.connect)
    return found


def _compare_loads(loads: dict[int, dict[str, Any]]) -> list[Figure]:
    one = loads[ACTIVE[0]]
    base = "with one stream"
    figures = []
    for count, each in loads.items():
        done, first = each["entries_per_s"], one["entries_per_s"]
        figures.append(Figure(f"{count:,} of them active: durable", done, "/s", first, base))
        for name in PERCENTILES:
            latency_ms, first_ms = each["latency_ms"][name], one["latency_ms"][name]
            figures.append(Figure(f"  {name}", latency_ms, "ms", first_ms, base))
        cost, first_cost = each["cpu_s_per_1000"], one["cpu_s_per_1000"]
        figures.append(Figure("  CPU for 1,000 entries", cost, "s", first_cost, base))
    return figures
