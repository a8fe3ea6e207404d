"""One of three members does not answer: it is frozen, or its disk takes seconds for a sync."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import pytest

import walle
from tests.process.disks import Faults
from tools.node.stage import Figure, Source, cluster
from walle.bench.worker import now_ns
from walle.limits import NS_PER_S

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from tests.clusters import DevNodes

STREAM = "/measured"
SYNC_MS = 5_000
SETTLED_S = 0.2
"""After so long latencies are to be as before, or nearly."""
BASE = "healthy; aim 2"


def measure_frozen(options: argparse.Namespace) -> list[Figure]:
    """Each node in turn is stopped by SIGSTOP, all its processes, and goes on later."""
    with cluster(options, "frozen") as nodes:

        @contextmanager
        def frozen(name: str) -> Iterator[None]:
            pids = nodes.tree(name)
            nodes.signal(pids, signal.SIGSTOP)
            try:
                yield
            finally:
                nodes.signal(pids, signal.SIGCONT)

        return asyncio.run(_measure(nodes, options.seconds, "frozen", frozen))


def measure_slow_disk(options: argparse.Namespace) -> list[Figure]:
    """Each node's disk in turn takes seconds for a sync, and is well again later."""
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(options.directory, patch)
        with cluster(options, "slow-disk") as nodes:

            @contextmanager
            def slow(name: str) -> Iterator[None]:
                faults.set("sync_ms", nodes.directory / name, SYNC_MS)
                try:
                    yield
                finally:
                    faults.clear("sync_ms", nodes.directory / name)

            work = _measure(nodes, options.seconds, "slow", slow, lasting_s=SYNC_MS / 1_000)
            return asyncio.run(work)


async def _measure(
    nodes: DevNodes,
    seconds: float,
    ill: str,
    make_ill: Callable[[str], AbstractContextManager[None]],
    lasting_s: float = 0.0,
) -> list[Figure]:
    """The writer's latencies while one node is ill, beside those from just before.

    lasting_s: for how long it stays so once it is let go.
    """
    figures: list[Figure] = []
    async with walle.connect(nodes.addresses) as client:
        await client.create_stream(STREAM)
        async with client.claim(STREAM, address="measure") as writer:
            for name in nodes.names:
                async with Source(writer) as timeline:
                    await asyncio.sleep(SETTLED_S)
                    begin_ns = now_ns()
                    await asyncio.sleep(seconds)
                    ill_ns = now_ns()
                    with make_ill(name):
                        await asyncio.sleep(seconds)
                    await asyncio.sleep(lasting_s)
                    well_ns = now_ns()
                    await asyncio.sleep(seconds)
                    end_ns = now_ns()
                settled_ns = int(SETTLED_S * NS_PER_S)
                healthy = timeline.latency_ms(begin_ns, ill_ns)
                figures.append(Figure("p99 of puts, all nodes healthy", healthy, "ms"))
                for when, first_ns, last_ns in (
                    (f"{name} {ill}: the first {SETTLED_S} s", ill_ns, ill_ns + settled_ns),
                    (f"{name} {ill}: after that", ill_ns + settled_ns, well_ns),
                    (f"{name} well: the first {SETTLED_S} s", well_ns, well_ns + settled_ns),
                    (f"{name} well: after that", well_ns + settled_ns, end_ns),
                ):
                    p99 = timeline.latency_ms(first_ns, last_ns)
                    figures.append(Figure(f"  {when}", p99, "ms", healthy, BASE))
    return figures
