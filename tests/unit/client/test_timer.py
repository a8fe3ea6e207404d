"""A timer, on loops whose handles know little."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any

from walle.client.timer import Timer

if TYPE_CHECKING:
    from collections.abc import Callable


class Loop(asyncio.SelectorEventLoop):
    """Returns what runs at once for a time that has passed, as uvloop does."""

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, **kw: Any
    ) -> Any:
        if when <= self.time():
            return self.call_soon(callback, *args, **kw)
        return super().call_at(when, callback, *args, **kw)


def test_timer_is_set_again_and_cancelled() -> None:
    called: list[float] = []

    async def test() -> None:
        loop = asyncio.get_running_loop()
        timer = Timer(lambda: called.append(timer.due_s))
        now_s = loop.time()
        for due_s in (now_s - 1, now_s + 60, now_s - 2):
            timer.set(due_s)
            assert timer.due_s == due_s
        await asyncio.sleep(0.01)
        assert called == [inf], "once, for the last of them, and it may be set anew by then"
        timer.set(now_s)
        timer.cancel()
        assert timer.due_s == inf
        timer.cancel()
        await asyncio.sleep(0.01)
        assert called == [inf]

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(test())
