"""A client that is closed while much is under way, on a real cluster."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

import walle

if TYPE_CHECKING:
    from tests.clusters import DevNodes

pytestmark = pytest.mark.slow


def test_a_client_that_is_closed_ends_what_needs_it(nodes: DevNodes, stream: str) -> None:
    async def work(other: walle.Client) -> None:
        still = nodes.tree("n2") + nodes.tree("n3")
        async with AsyncExitStack() as claims:
            async with walle.connect(nodes.connect) as client:
                claim = client.claim(stream, address="first", lease_ms=60_000)
                writer = await claims.enter_async_context(claim)
                second = client.claim(stream, address="second")
                claiming = asyncio.create_task(second.__aenter__())
                nodes.signal(still, signal.SIGSTOP)
                try:
                    put = writer.put(b"nobody knows")
                    await asyncio.sleep(0.1)
                    await client.close()
                finally:
                    nodes.signal(still, signal.SIGCONT)
            with pytest.raises(walle.Unavailable, match=r"closed .* unknown"):
                await put
            with pytest.raises(walle.LocalProtocolError, match="closed"):
                writer.put(b"later")
            with pytest.raises(walle.LocalProtocolError, match="closed"):
                await claiming
            with pytest.raises(walle.LocalProtocolError, match="closed"):
                await client.nodes()
            with pytest.raises(walle.Unavailable, match=r"closed .* unknown"):
                await claims.aclose()
        async with other.claim(stream, address="third", timeout_s=10):
            pass

    async def connected() -> None:
        async with asyncio.timeout(60), walle.connect(nodes.connect) as other:
            await work(other)

    asyncio.run(connected())
