"""The sessions that are open at this node, and what must end with each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from walle.core.effects import Address


class Sessions:
    """Whoever waits on behalf of a session says here how to stop waiting."""

    def __init__(self) -> None:
        self._endings: dict[int, dict[Hashable, Callable[[], None]]] = {}

    def open(self, session: int) -> None:
        """Somebody has connected and was welcomed."""
        self._endings[session] = {}

    def close(self, session: int) -> None:
        """The session has ended, and with it all that was done for it."""
        for end in self._endings.pop(session, {}).values():
            end()

    def is_open(self, whose: Address) -> bool:
        """Whether that session has not ended."""
        return whose in self._endings

    def add(self, whose: Address, key: Hashable, end: Callable[[], None]) -> None:
        """Calls `end` when that session ends. A node's own requests never end in this way."""
        if not isinstance(whose, str):
            self._endings[whose][key] = end

    def discard(self, whose: Address, key: Hashable) -> None:
        """What was added is done."""
        if not isinstance(whose, str):
            self._endings.get(whose, {}).pop(key, None)
