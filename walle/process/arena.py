"""The network process's side of the arena: where received bytes go, and when a place is free again.

The arena is divided into chunks as large as the largest frame. All sessions receive at one cursor,
which moves through a chunk and then through the next free one. A chunk is free again when no frame
in it is held any more. An unfinished frame holds nothing: when its chunk is left behind it is saved
outside of the arena, so half a frame and silence cannot use the arena up.
"""

from __future__ import annotations

from collections import deque

from walle.errors import InvariantError, invariant
from walle.limits import ARENA_CHUNK_BYTES

RECEIVE_BYTES_MIN = 64 * 1024
RECEIVE_BYTES_MAX = 512 * 1024
CHUNKS_FREE_MIN = 2
"""With fewer free chunks the network stops reading until what is under way has been written."""


class Arena:
    """The cursor, and how many frames are held in each chunk.

    is_short: reading from sockets must pause.
    saved_bytes: of all unfinished frames that were saved; whoever reads sockets bounds it.
    """

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.cursor = 0
        self.saved_bytes = 0
        self.chunk_end = ARENA_CHUNK_BYTES
        self._chunk = 0
        self._held = [0] * (len(memory) // ARENA_CHUNK_BYTES)
        self._free = deque(range(1, len(self._held)))
        self.is_short = len(self._free) < CHUNKS_FREE_MIN
        # Those of whose frames one was unfinished since the current chunk was begun.
        self._unfinished: set[Inbox] = set()

    def hold(self, offset: int) -> None:
        """A frame's records lie there; another process reads them."""
        self._held[offset // ARENA_CHUNK_BYTES] += 1

    def release(self, offset: int) -> None:
        """That process is done with the place that begins there."""
        chunk = offset // ARENA_CHUNK_BYTES
        held = self._held[chunk] = self._held[chunk] - 1
        if held < 0:
            raise InvariantError(f"a place is given back once: offset={offset}")
        if not held and chunk != self._chunk:
            self._free.append(chunk)
            self.is_short = len(self._free) < CHUNKS_FREE_MIN

    def next_chunk(self) -> None:
        """Moves the cursor to a free chunk; unfinished frames are saved from the old one."""
        for inbox in self._unfinished:
            inbox.save()
        self._unfinished.clear()
        if not self._held[self._chunk]:
            self._free.append(self._chunk)
        invariant(self._free, "reading pauses before the arena is full")
        self._chunk = self._free.pop()
        self.is_short = len(self._free) < CHUNKS_FREE_MIN
        self.cursor = self._chunk * ARENA_CHUNK_BYTES
        self.chunk_end = self.cursor + ARENA_CHUNK_BYTES

    def note_unfinished(self, inbox: Inbox) -> None:
        """That session's unfinished frame lies in the current chunk."""
        self._unfinished.add(inbox)


class Inbox:
    """What one session has received and not yet handled: whole frames, then an unfinished one."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._start = 0
        self._end = 0
        self._saved = b""

    @property
    def saved_bytes(self) -> int:
        """How much of the unfinished frame takes memory outside of the arena."""
        return len(self._saved)

    @property
    def size(self) -> int:
        """Bytes of the unfinished frame that have come."""
        return self._end - self._start or len(self._saved)

    def room(self, wanted: int) -> memoryview:
        """Room to receive into, directly behind what has come.

        wanted: the size of the frame that is coming, as far as it is known.
        """
        arena = self._arena
        if self._start < self._end or self._saved:
            self._continue(wanted)
        else:
            if arena.chunk_end - arena.cursor < RECEIVE_BYTES_MIN:
                arena.next_chunk()
            self._start = self._end = arena.cursor
        end = arena.cursor + RECEIVE_BYTES_MAX
        return arena.memory[arena.cursor : min(arena.chunk_end, end)]

    def _continue(self, wanted: int) -> None:
        """Has room for the rest of the unfinished frame directly behind it, at the cursor."""
        arena = self._arena
        needed = max(wanted, self.size + RECEIVE_BYTES_MIN)
        in_place = self._start < self._end == arena.cursor
        if arena.chunk_end - (self._start if in_place else arena.cursor) < needed:
            arena.next_chunk()  # what has come is saved by that
            in_place = False
        if not in_place:
            self._move_to_cursor()

    def received(self, count: int) -> memoryview:
        """So many bytes have come into the room; returns all that is not handled yet."""
        self._arena.cursor += count
        self._end = self._arena.cursor
        return self._arena.memory[self._start : self._end]

    def offset_of(self, start: int) -> int:
        """Where in the arena that lies which is at `start` of what `received` returned."""
        return self._start + start

    def handled(self, count: int) -> None:
        """The first `count` bytes are handled; the rest is an unfinished frame."""
        self._start += count
        if self._start < self._end:
            self._arena.note_unfinished(self)

    def save(self) -> None:
        """Copies the unfinished frame, if there is one, out of the arena."""
        self._saved = bytes(self._arena.memory[self._start : self._end])
        self._start = self._end = 0
        self._arena.saved_bytes += len(self._saved)

    def drop(self) -> None:
        """The session has ended. What it still receives is no part of what came before."""
        self._arena.saved_bytes -= len(self._saved)
        self._start = self._end = self._arena.cursor
        self._saved = b""

    def _move_to_cursor(self) -> None:
        arena = self._arena
        data = self._saved or bytes(arena.memory[self._start : self._end])
        self.drop()
        self._start = arena.cursor
        self._end = arena.cursor = self._start + len(data)
        arena.memory[self._start : self._end] = data
        arena.note_unfinished(self)
