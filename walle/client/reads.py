"""The reads of a client that are under way."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import cached_property, partial
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from walle.client.members import REQUEST_S, addresses_of, ask_member
from walle.errors import NotHeld, Unavailable, WalleError
from walle.ids import ORIGIN
from walle.messages import Read, ReadReply
from walle.record import decode_all

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from walle.client.client import Client
    from walle.record import Batch, Entry

_FLAGS = attrgetter("flags")

READS_AHEAD = 2
"""How many pieces a reader asks for beside the one that it waits for."""
READS_AHEAD_MAX = 8
"""All readers of a client together: a node sends no answers to who does not take them in time."""
SILENCE_S = 2.0
"""After so long without an answer it is looked what another member has; again and again, where that
one answers in so short a time."""


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
    """A read that is under way, and how many wait for it. It ends with the first of its tasks: the
    one that asks, or the one that looks elsewhere when that has brought nothing for a while.

    on_end: called when it ends.
    """

    def __init__(
        self,
        ask: Coroutine[None, None, Answer],
        look: Callable[[], Coroutine[None, None, Answer]],
        on_end: Callable[[Flight], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._readers_count = 0
        self._waiting: list[asyncio.Future[None]] = []
        self._ended: asyncio.Task[Answer] | None = None
        self._tasks = [self._begin(ask)]
        self._silence = self._loop.call_later(SILENCE_S, self._on_silence, look)

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
            self.cancel()

    def cancel(self) -> None:
        """Ends it without an answer."""
        self._silence.cancel()
        for task in self._tasks:
            task.cancel()

    async def wait(self) -> Answer:
        """The answer.

        Raises:
            Unavailable: the client was closed meanwhile.
            WalleError: see `ask_member`.
        """
        if self._ended is None:
            # A future for each: whoever is cancelled must not take the others' read along.
            landed = self._loop.create_future()
            self._waiting.append(landed)
            await landed
        if self._ended is None or self._ended.cancelled():
            raise Unavailable("the client was closed")
        return self._ended.result()

    def _begin(self, work: Coroutine[None, None, Answer]) -> asyncio.Task[Answer]:
        task = self._loop.create_task(work)
        task.add_done_callback(self._land)
        return task

    def _on_silence(self, look: Callable[[], Coroutine[None, None, Answer]]) -> None:
        self._tasks.append(self._begin(look()))

    def _land(self, task: asyncio.Task[Answer]) -> None:
        if not task.cancelled():
            task.exception()  # it may be that nobody waits for it any more
        if self._ended is not None:
            return
        self._ended = task
        self.cancel()
        self._on_end(self)
        for landed in self._waiting:
            if not landed.done():
                landed.set_result(None)


class Reads:
    """All of one client. Readers that want the same at the same time share one read: so those that
    follow a stream, which all wait for what comes next."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._flights: dict[Wanted, Flight] = {}
        self._under_way: set[Flight] = set()
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
            flight = Flight(
                self._ask(wanted),
                partial(self._look_elsewhere, wanted, self._client.sessions.preferred),
                partial(self._on_end, wanted),
            )
            self._under_way.add(flight)
            self._bounded_count += bool(read.end)
            if not read.linearizable:  # it has to begin after what it is to see
                self._flights[wanted] = flight
        flight.join()
        return flight

    def _on_end(self, wanted: Wanted, flight: Flight) -> None:
        self._under_way.discard(flight)
        self._bounded_count -= bool(wanted.read.end)
        if self._flights.get(wanted) is flight:
            del self._flights[wanted]

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

    async def _look_elsewhere(self, wanted: Wanted, preferred: str) -> Answer:
        """What another member has, as soon as one has it, while the one that was asked says
        nothing: that may be frozen, or cut off from the others, and not hear what they commit.

        They are asked in turn, and not to wait. While a part of an answer has come and more of it
        keeps coming, nobody is: it takes its time on the way, and would take more if it was sent
        twice.

        Args:
            preferred: the node that was asked, if it is a member.
        """
        loop, sessions, turn = asyncio.get_running_loop(), self._client.sessions, 0
        while True:
            next_s = loop.time() + SILENCE_S
            with suppress(WalleError):
                info = await self._client.describe(wanted.name)
                addresses = addresses_of(info, wanted.node)
                asked = preferred if preferred in addresses else addresses[0]
                others = sessions.in_turn([each for each in addresses if each != asked])
                paused_s = sessions.paused_s(asked)
                if paused_s < SILENCE_S:
                    next_s -= paused_s
                elif others:
                    address = others[turn % len(others)]
                    turn += 1
                    answer = await self._look(wanted.read, info.stream_id, address)
                    if answer is not None:
                        return answer
            await asyncio.sleep(next_s - loop.time())

    async def _look(self, read: Read, stream_id: int, address: str) -> Answer | None:
        """What the node has of what is wanted; None: nothing, though it would be worth waiting."""
        sessions = self._client.sessions
        session = await sessions.get(address)
        question = read._replace(stream_id=read.stream_id or stream_id, wait_ms=0)
        reply, batch = await session.request(question, REQUEST_S)
        if not isinstance(reply, ReadReply) or (batch is None and read.wait_ms):
            return None
        sessions.prefer(address)
        return Answer(reply, batch)

    def close(self) -> None:
        """Ends all of them."""
        for flight in list(self._under_way):
            flight.cancel()
