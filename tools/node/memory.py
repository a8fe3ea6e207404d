"""Memory: what a node takes at full load, and when more is due than it can do."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple, Self

import walle
from tests.clusters import ROLES
from tools.node.stage import Figure, Memory, cluster, memory_of
from walle.bench.measure import measure
from walle.bench.workload import Workload
from walle.limits import NODE_BYTES_MAX, SHARED_BYTES

if TYPE_CHECKING:
    import argparse

    from tests.clusters import DevNodes

MB = 1_000_000
AIM_MB = NODE_BYTES_MAX / MB
AIM = f"aim {AIM_MB:.0f} MB"
STREAMS = 10
IN_FLIGHT = 256
BATCH = 64
"""Entries of a `put_many`."""
TIMES = 10
"""How much more is due than what the cluster sustains."""
LOOK_S = 0.1


class Look(NamedTuple):
    """One look at a node: what each of its processes has, by role."""

    time_s: float
    found: dict[str, Memory]

    @property
    def total(self) -> int:
        return sum(each.total for each in self.found.values())


class Watch:
    """Looks at all nodes' memory again and again, for the length of the block."""

    def __init__(self, nodes: DevNodes) -> None:
        self._pids = [
            {
                "supervisor": nodes.supervisor(name) or 0,
                **{role: nodes.child(name, role) for role in ROLES},
            }
            for name in nodes.names
        ]
        self._looks: list[Look] = []
        self.look()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Looks at each node once."""
        for pids in self._pids:
            found = {role: memory_of(pid) for role, pid in pids.items()}
            self._looks.append(Look(time.monotonic(), found))

    def figures(self, when: str) -> list[Figure]:
        """The most that a node had: in all, by what it was, and whether that still grew."""
        most = max(self._looks, key=lambda look: look.total)
        half_s = (self._looks[0].time_s + self._looks[-1].time_s) / 2
        before = max(look.total for look in self._looks if look.time_s <= half_s)
        after = max(look.total for look in self._looks if look.time_s >= half_s)
        shared = sum(each.shared for each in most.found.values())

        def part(what: str, size: int) -> Figure:
            return Figure(f"  {what}", size / MB, "MB", most.total / MB, "all of it")

        return [
            Figure(f"{when}: most of a node", most.total / MB, "MB", AIM_MB, AIM),
            part("shared by its processes", shared),
            *(part(f"of its {role} alone", each.anonymous) for role, each in most.found.items()),
            Figure("  most in the second half", after / MB, "MB", before / MB, "in the first"),
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
            figures.extend(watching.figures(when))
            return float(found["entries_per_s"])

        figures += Watch(nodes).figures("at the start")[:1]
        await watch("full load", closed)
        rate = await watch("full load, put_many", closed._replace(batch=BATCH))
        due = closed._replace(batch=BATCH, rate=max(round(TIMES * rate), 1), in_flight=0)
        done = await watch("overload", due)
        figures.append(Figure("entries durable under overload", done, "/s", rate, "full load"))
    all_shared = SHARED_BYTES / MB
    figures.append(Figure("shared memory, if all of it was used", all_shared, "MB", AIM_MB, AIM))
    return figures
