"""The reads of a client that are under way."""

from __future__ import annotations

import asyncio
from functools import cached_property, partial
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from walle.client.members import ask_member
from walle.errors import NotHeld, Unavailable
from walle.ids import ORIGIN
from walle.messages import Read, ReadReply
from walle.record import decode_all

if TYPE_CHECKING:
    from walle.client.client import Client
    from walle.record import Batch, Entry

_FLAGS = attrgetter("flags")

READS_AHEAD = 2
"""How many pieces a reader asks for beside the one that it waits for."""
READS_AHEAD_MAX = 8
"""All readers of a client together: a node sends no answers to who does not take them in time."""


class Answer:
    """What a read brought. All who wait for it have the same, so what all of them want to know of
    it is found out once.

    before, last: of its records; without any, the origin.
    """

    def __init__(self, reply: ReadReply, batch: Batch | None) -> None:
        self.reply = reply
        self.batch = batch
        self.before = batch.before if batch is not None else ORIGIN
        self.last = batch.last if batch is not None else ORIGIN

    @cached_property
    def entries(self) -> list[Entry]:
        """As they are stored."""
        return decode_all(self.batch) if self.batch is not None else []

    @cached_property
    def is_plain(self) -> bool:
        """Whether all entries are stored as they were put."""
        return not any(map(_FLAGS, self.entries))


class Wanted(NamedTuple):
    """A read, and which node is to answer it; None: any member."""

    name: str
    read: Read
    node: str | None


class Flight:
    """A read that is under way, and how many wait for it."""

    def __init__(self, task: asyncio.Task[Answer]) -> None:
        self._task = task
        self._readers_count = 0
        self._waiting: list[asyncio.Future[None]] = []
        task.add_done_callback(self._land)

    @property
    def is_left(self) -> bool:
        """Whether nobody waits any more: it is being cancelled, which takes some turns."""
        return not self._readers_count

    def join(self) -> None:
        """One more waits."""
        self._readers_count += 1

    def leave(self) -> None:
        """One less. Nobody needs what nobody waits for."""
        self._readers_count -= 1
        if not self._readers_count:
            self._task.cancel()

    async def wait(self) -> Answer:
        """The answer.

        Raises:
            Unavailable: the client was closed meanwhile.
            WalleError: see `ask_member`.
        """
        if not self._task.done():
            # A future for each: whoever is cancelled must not take the others' read along.
            landed = self._task.get_loop().create_future()
            self._waiting.append(landed)
            await landed
        if self._task.cancelled():
            raise Unavailable("the client was closed")
        return self._task.result()

    def _land(self, _task: asyncio.Task[Answer]) -> None:
        for landed in self._waiting:
            if not landed.done():
                landed.set_result(None)


class Reads:
    """All of one client. Readers that want the same at the same time share one read: so those that
    follow a stream, which all wait for what comes next."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._flights: dict[Wanted, Flight] = {}
        self._tasks: set[asyncio.Task[Answer]] = set()
        self._bounded_count = 0

    @property
    def may_read_ahead(self) -> bool:
        """Whether one more piece may be asked for that nobody waits for yet."""
        return self._bounded_count < READS_AHEAD_MAX

    def begin(self, name: str, read: Read, node: str | None) -> Flight:
        """The read, which is sent, unless it is under way already. Whoever asks has to leave it."""
        wanted = Wanted(name, read, node)
        flight = self._flights.get(wanted)
        if flight is None or flight.is_left:
            task = asyncio.get_running_loop().create_task(self._ask(wanted))
            flight = Flight(task)
            self._tasks.add(task)
            self._bounded_count += bool(read.end)
            if not read.linearizable:  # it has to begin after what it is to see
                self._flights[wanted] = flight
            task.add_done_callback(partial(self._ended, wanted, flight))
        flight.join()
        return flight

    def _ended(self, wanted: Wanted, flight: Flight, task: asyncio.Task[Answer]) -> None:
        self._tasks.discard(task)
        self._bounded_count -= bool(wanted.read.end)
        if self._flights.get(wanted) is flight:
            del self._flights[wanted]
        if not task.cancelled():
            task.exception()  # it may be that nobody waits for it any more

    async def _ask(self, wanted: Wanted) -> Answer:
        """Asks for what a member itself holds: one that lacks it would have to ask the others, and
        to pass on what they send. So it does where none that this client reaches holds it."""
        try:
            return await self._ask_member(wanted)
        except NotHeld:
            if wanted.node is not None:
                raise
            return await self._ask_member(wanted._replace(read=wanted.read._replace(local=0)))

    async def _ask_member(self, wanted: Wanted) -> Answer:
        read = wanted.read
        reply, batch = await ask_member(
            self._client,
            wanted.name,
            lambda stream_id: read._replace(stream_id=stream_id),
            ReadReply,
            stream_id=read.stream_id,
            node=wanted.node,
            timeout_s=30.0 + read.wait_ms / 1000,
            request_s=15.0 + read.wait_ms / 1000,
        )
        return Answer(reply, batch)

    def close(self) -> None:
        """Ends all of them."""
        for task in self._tasks:
            task.cancel()
