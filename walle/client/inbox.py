"""Where a client's session receives to."""

from __future__ import annotations

from walle.limits import KIB, MIB

RECEIVE_BYTES = 64 * KIB
KEPT_BYTES = 4 * MIB
"""More than an answer, its records and the list of its entries take, each."""


class Inbox:
    """What has come and is not handled yet: it begins with a frame, and lies in a buffer that is
    used again and again. A large frame is received to its end and no further, so little of what
    follows it has to be moved to the front. The next one often has the same size, so as much is
    received at once behind it."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._size = 0
        self._wanted = 0
        self._usual = RECEIVE_BYTES

    @property
    def has_part(self) -> bool:
        """Whether a frame has come in part."""
        return self._size > 0

    def room(self) -> memoryview:
        """Where to receive to."""
        end = max(self._wanted, self._usual)
        if end > len(self._buffer):
            _keep_what_is_freed()
            grown = memoryview(bytearray(end))
            grown[: self._size] = self._buffer[: self._size]
            self._buffer = grown
        return self._buffer[self._size : end]

    def received(self, count: int) -> memoryview | None:
        """So many bytes have come into the room. Returns all that there is, once it is a frame."""
        self._size += count
        return self._buffer[: self._size] if self._size >= self._wanted else None

    def handled(self, count: int, wanted: int) -> None:
        """The first `count` bytes are handled; the frame behind them has `wanted` bytes, as far as
        that can be told."""
        self._buffer[: self._size - count] = self._buffer[count : self._size]
        self._size -= count
        self._wanted = wanted
        self._usual = max(count, RECEIVE_BYTES)


def _keep_what_is_freed() -> None:
    """Lets glibc keep memory of that size instead of giving it back to the system whenever an
    answer and its entries are freed: the next ones would have to get theirs anew, page by page. It
    goes by the largest block that was freed (mallopt(3), M_MMAP_THRESHOLD)."""
    bytes(KEPT_BYTES)
