"""Reading a stream: committed entries in order, from whichever member answers."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from walle.client.reads import READS_AHEAD
from walle.compression import Decompressor
from walle.errors import CorruptionError, Trimmed
from walle.limits import FETCH_BYTES_MAX
from walle.messages import Read

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Unpack

    from walle.client.client import Client
    from walle.client.reads import Answer, Flight
    from walle.client.settings import ReadOptions
    from walle.ids import Position
    from walle.record import Batch, Entry

WAIT_MS = 10_000
PIECE_BYTES = FETCH_BYTES_MAX * 7 // 8
"""What is asked for ahead is to have about so many bytes: an answer that would be larger than it
may be ends early, and what lacks has to be asked for again."""


async def read_answers(
    client: Client, name: str, **options: Unpack[ReadOptions]
) -> AsyncGenerator[tuple[Answer, Batch, int], None]:
    """What `Client.read` gives, by the answer: it, its records, and how many of them are wanted."""
    reader = Reader(client, name, options)
    try:
        while (found := await reader.next()) is not None:
            yield found
    finally:
        reader.close()


async def read_batches(
    client: Client, name: str, **options: Unpack[ReadOptions]
) -> AsyncGenerator[list[Entry], None]:
    """The same as entries with their data as they were put."""
    decompressor = Decompressor(name)
    async for answer, _, count in read_answers(client, name, **options):
        entries = answer.entries[:count]  # a list of one's own
        if answer.is_plain:
            yield entries
        else:
            for part in decompressor.unpack_all(entries):
                yield part


class Piece(NamedTuple):
    """Entries from one up to `end` that were asked for; 0: all that an answer can bring."""

    end: int
    flight: Flight


class Reader:
    """One reader of a stream. While it has a piece of what is committed, the next ones are on their
    way. The chain is checked from one piece to the next."""

    def __init__(self, client: Client, name: str, options: ReadOptions) -> None:
        self._reads = client.reads
        self._name = name
        self._follow = options.get("follow", False)
        self._node = options.get("node")
        self._is_first = True
        self._stream_id = 0
        self._start = options.get("start") or 0  # the next entry; 0: the first there is
        self._until = options.get("end")
        self._previous: Position | None = None
        self._committed_id = 0
        self._piece_count = 0
        self._pieces: deque[Piece] = deque()
        self._asked_end = 0

    async def next(self) -> tuple[Answer, Batch, int] | None:
        """The next answer with records, those, and how many of them are wanted; None at the end.

        Raises:
            Trimmed: the next entry was trimmed.
            CorruptionError: what came is not what follows.
            WalleError: see `ask_member`.
        """
        while self._until is None or self._start < self._until:
            piece = self._pieces.popleft() if self._pieces else self._begin(self._start, 0)
            try:
                answer = await piece.flight.wait()
            finally:
                piece.flight.leave()
            self._learn(answer)
            batch = answer.batch
            if batch is None:
                self.close()  # nothing is there yet, so neither is what follows
                continue
            self._check(answer)
            self._previous = answer.last
            self._start = answer.last.entry_id + 1
            self._piece_count = max(batch.count * PIECE_BYTES // batch.payload.size, 1)
            if self._pieces and self._start < piece.end:
                self._pieces.appendleft(self._begin(self._start, piece.end))
            self._ask_ahead()
            if self._until is not None and self._start > self._until:
                return answer, batch, max(self._until - batch.first_id, 0)
            return answer, batch, batch.count
        return None

    def close(self) -> None:
        """What was asked for is not wanted any more."""
        while self._pieces:
            self._pieces.popleft().flight.leave()

    def _ask_ahead(self) -> None:
        """Asks for the next pieces, as far as it is known that they are there."""
        if not self._pieces:
            self._asked_end = self._start
        while (
            len(self._pieces) <= READS_AHEAD
            and self._is_behind(self._asked_end)
            and (not self._pieces or self._reads.may_read_ahead)
        ):
            end = self._asked_end + self._piece_count
            self._pieces.append(self._begin(self._asked_end, end))
            self._asked_end = end

    def _is_behind(self, start: int) -> bool:
        """Whether more than a piece from `start` on is wanted, and known to be committed."""
        end = self._committed_id + 1 if self._until is None else self._until
        return 0 < self._piece_count < min(end, self._committed_id + 1) - start

    def _begin(self, start: int, end: int) -> Piece:
        read = Read(
            self._stream_id,
            start,
            FETCH_BYTES_MAX,
            0 if self._is_first else WAIT_MS,
            linearizable=int(self._is_first and not self._follow),
            local=1,
            end=end or self._until or 0,
        )
        return Piece(end, self._reads.begin(self._name, read, self._node))

    def _learn(self, answer: Answer) -> None:
        reply = answer.reply
        committed_id = reply.committed.entry_id
        if self._is_first and not self._follow:
            end = committed_id + 1
            self._until = end if self._until is None else min(self._until, end)
        self._is_first = False
        self._stream_id = reply.stream_id
        self._committed_id = max(self._committed_id, committed_id)
        self._start = self._start or reply.first_entry_id
        if self._start < reply.first_entry_id:
            raise Trimmed(self._name, self._start, reply.first_entry_id)

    def _check(self, answer: Answer) -> None:
        previous, before = self._previous, answer.before
        if before.entry_id + 1 != self._start or (previous is not None and before != previous):
            raise CorruptionError(
                self._name,
                self._start,
                expected=f"the successor of {previous}",
                found=f"that of {before}",
            )
