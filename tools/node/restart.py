"""A node that was killed under load: how long until it acknowledges live puts again."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import walle
from tools.node.stage import LOOK_S, WAIT_S, Figure, Source, cluster, fill, wait_for
from walle.bench.worker import now_ns
from walle.limits import NS_PER_MS

if TYPE_CHECKING:
    import argparse

    from tests.clusters import DevNodes

STREAM = "/measured"
SIZE_BYTES = 1_024
SHORT_ENTRIES = 10_000
"""Of the history with which a long one is compared."""
AIM_MS = 1_000.0
PAUSE_S = 1.0


class Restart(NamedTuple):
    """Milliseconds from when the node was started: until it listened, and until it acknowledged."""

    listened: float
    acknowledged: float


def measure_restart(options: argparse.Namespace) -> list[Figure]:
    """First with a short history, then with `--entries`."""
    with cluster(options, "restart") as nodes:
        short = asyncio.run(_measure(nodes, SHORT_ENTRIES))
        long = asyncio.run(_measure(nodes, options.entries))
    aim = f"aim {AIM_MS:,.0f} ms"
    figures = []
    for entries, each in ((SHORT_ENTRIES, short), (options.entries, long)):
        when = f"after {entries:,} entries"
        figures += [
            Figure(f"{when}: until it acknowledges", each.acknowledged, "ms", AIM_MS, aim),
            Figure("  until it listens", each.listened, "ms", each.acknowledged, "all"),
        ]
    first, last = short.acknowledged - short.listened, long.acknowledged - long.listened
    figures.append(
        Figure("from listening to acknowledging", last, "ms", first, "the short history")
    )
    return figures


async def _measure(nodes: DevNodes, entries: int) -> Restart:
    """n2 is killed under load, and started again once nothing is durable without it."""
    async with walle.connect(nodes.addresses) as client:
        await client.create_stream(STREAM)
        async with client.claim(STREAM, address="measure") as writer:
            await fill(writer, entries - writer.committed.entry_id, SIZE_BYTES)
            async with Source(writer) as timeline:
                for name in ("n2", "n3"):
                    await asyncio.sleep(PAUSE_S)
                    await asyncio.to_thread(nodes.kill, name)
                await asyncio.sleep(PAUSE_S)
                begun_ns = now_ns()

                async def listening() -> int | None:
                    return now_ns() if _listens(nodes, "n2") else None

                async def acknowledging() -> int | None:
                    return timeline.first_done_ns(begun_ns)

                starting = asyncio.create_task(asyncio.to_thread(nodes.start, "n2"))
                listened_ns = await wait_for(listening)
                done_ns = await wait_for(acknowledging)
                await starting
                await asyncio.to_thread(nodes.start, "n3")
    return Restart((listened_ns - begun_ns) / NS_PER_MS, (done_ns - begun_ns) / NS_PER_MS)


async def start_ms(nodes: DevNodes, name: str) -> float:
    """Starts a node; how long it takes until it answers for itself."""
    begun_ns = now_ns()
    starting = asyncio.create_task(asyncio.to_thread(nodes.start, name))
    address = nodes.addresses[nodes.names.index(name)]
    async with asyncio.timeout(WAIT_S):
        while True:
            with suppress(walle.WalleError):
                async with walle.connect([address], timeout_s=PAUSE_S) as client:
                    await client.node_status(address)
                    break
            await asyncio.sleep(LOOK_S)
    done_ns = now_ns()
    await starting
    return (done_ns - begun_ns) / NS_PER_MS


def _listens(nodes: DevNodes, name: str) -> bool:
    """Whether the node takes connections."""
    port = nodes.port + nodes.names.index(name)
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False
