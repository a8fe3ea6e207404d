"""Memory: what a node takes at full load, and when more is due than it can do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple, Self

import walle
from tools.node.stage import Figure, cluster, memory_bytes
from walle.bench.measure import measure
from walle.bench.workload import Workload
from walle.limits import MIB

if TYPE_CHECKING:
    import argparse

    from tests.clusters import DevNodes

AIM_MIB = 150
STREAMS = 10
IN_FLIGHT = 256
BATCH = 64
"""Entries of a `put_many`."""
TIMES = 10
"""How much more is due than what the cluster sustains."""
LOOK_S = 0.1


class Look(NamedTuple):
    """One look at a node: bytes by role."""

    time_s: float
    sizes: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.sizes.values())


class Watch:
    """Looks at all nodes' memory again and again, for the length of the block."""

    def __init__(self, nodes: DevNodes) -> None:
        roles = ("network", "consensus", "storage")
        self._pids = {
            name: {
                "supervisor": nodes.supervisor(name) or 0,
                **{role: nodes.child(name, role) for role in roles},
            }
            for name in nodes.names
        }
        self.looks: dict[str, list[Look]] = {name: [] for name in nodes.names}

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Looks once."""
        for name, pids in self._pids.items():
            sizes = {role: memory_bytes(pid) for role, pid in pids.items()}
            self.looks[name].append(Look(time.monotonic(), sizes))

    def most(self) -> Look:
        """The look at the node that had most, then."""
        return max((each for looks in self.looks.values() for each in looks), key=lambda x: x.total)

    def growth(self) -> tuple[float, float]:
        """The most that a node had in the first and in the second half of the time, in MiB."""
        ends = [(looks[0].time_s + looks[-1].time_s) / 2 for looks in self.looks.values()]
        first = max(
            each.total
            for looks, end in zip(self.looks.values(), ends, strict=True)
            for each in looks
            if each.time_s <= end
        )
        second = max(
            each.total
            for looks, end in zip(self.looks.values(), ends, strict=True)
            for each in looks
            if each.time_s >= end
        )
        return first / MIB, second / MIB


def describe(watch: Watch, when: str) -> list[Figure]:
    """The most that a node had: in all, by process, and whether that still grew."""
    most = watch.most()
    aim = f"aim {AIM_MIB} MiB"
    first, second = watch.growth()
    return [
        Figure(f"{when}, the node with most", most.total / MIB, "MiB", AIM_MIB, aim),
        *(
            Figure(f"  its {role}", size / MIB, "MiB", most.total / MIB, "the node")
            for role, size in most.sizes.items()
        ),
        Figure("  second half of that time", second, "MiB", first, "the first half"),
    ]


def measure_memory(options: argparse.Namespace) -> list[Figure]:
    """The most anonymous and shared memory that any node has, all its processes together."""
    with cluster(options, "memory") as nodes:
        return asyncio.run(_measure(nodes, options.seconds))


async def _measure(nodes: DevNodes, seconds: float) -> list[Figure]:
    closed = Workload(streams=STREAMS, in_flight=IN_FLIGHT, seconds=seconds, clients=2)
    figures: list[Figure] = []
    async with walle.connect(nodes.addresses) as client:

        async def watch(when: str, workload: Workload) -> float:
            async with Watch(nodes) as watching:
                found = await measure(client, workload, nodes.connect)
            figures.extend(describe(watching, when))
            return float(found["entries_per_s"])

        idle = Watch(nodes)
        idle.look()
        base = idle.most().total / MIB
        figures.append(Figure("at the start", base, "MiB", AIM_MIB, f"aim {AIM_MIB} MiB"))
        await watch("full load", closed)
        rate = await watch("full load, put_many", closed._replace(batch=BATCH))
        due = closed._replace(batch=BATCH, rate=max(round(TIMES * rate), 1), in_flight=0)
        done = await watch("overload", due)
        figures.append(Figure("entries durable under overload", done, "/s", rate, "full load"))
    return figures
