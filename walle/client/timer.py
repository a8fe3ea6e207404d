"""A timer of the event loop."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """Calls `action` once the time comes that was set last.

    due_s: when that is, on the loop's clock; inf: never. The loop is not asked: for a time that has
        passed it may return a handle that does not know when.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        self.due_s = inf
        self._action = action
        self._handle: asyncio.Handle | None = None

    def set(self, due_s: float) -> None:
        """Instead of what was set before."""
        self.cancel()
        self.due_s = due_s
        self._handle = asyncio.get_running_loop().call_at(due_s, self._on_due)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle, self.due_s = None, inf

    def _on_due(self) -> None:
        self._handle, self.due_s = None, inf
        self._action()
