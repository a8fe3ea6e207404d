"""The loop of the blocking client, and the threads that use it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from walle.errors import LocalProtocolError
from walle.sync import _Loop


def test_nobody_waits_for_what_a_loop_that_ends_does_not_do_any_more() -> None:
    loop = _Loop()
    begun, ending, is_asked = threading.Event(), threading.Event(), threading.Event()

    async def stay() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ending.set()
            is_asked.wait(10)

    staying = loop.submit(stay())
    assert begun.wait(10)
    stopping = threading.Thread(target=loop.stop)
    stopping.start()
    assert ending.wait(10)
    try:
        with pytest.raises(LocalProtocolError, match="closed"):
            loop.submit(asyncio.sleep(60))
        with pytest.raises(LocalProtocolError, match="closed"):
            loop.call(begun.clear)
    finally:
        is_asked.set()
        stopping.join()
    assert staying.cancelled()
    assert begun.is_set()
