"""A stream's exclusive writer: pipelined puts, sent to every member directly."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from walle import frame
from walle.client.members import describe_newer
from walle.client.outcome import find_durable
from walle.client.session import new_request_id, now_ns
from walle.client.timer import Timer
from walle.compression import make_compressor
from walle.core import quorum
from walle.core.pipeline import COMMIT_NOTICE_MS, Pipeline
from walle.core.topology import StreamTopology
from walle.errors import (
    Busy,
    DiskFull,
    LeaseExpired,
    LocalProtocolError,
    Outcome,
    Unavailable,
    UnknownStream,
    WalleError,
    WriterLost,
)
from walle.ids import Position
from walle.limits import (
    BATCH_BYTES_MAX,
    PIPELINE_BYTES_MAX,
    PIPELINE_ENTRIES_MAX,
    PUT_MANY_BYTES_MAX,
    UNCOMMITTED_ENTRIES_MAX,
)
from walle.messages import PutReply, Release, ReleaseReply
from walle.record import HEADER_BYTES, Encoder, joined

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from walle.client.client import Client
    from walle.client.links import Link
    from walle.core.pipeline import Outgoing
    from walle.ids import WriterId
    from walle.messages import ClaimReply, Message, StreamInfo
    from walle.native import Buffer
    from walle.record import Batch

RESOLVE_S = 10.0
RELEASE_S = 2.0
BATCHES_IN_FLIGHT_MAX = 4
"""With so many that are not durable yet, what is put waits for one of them, or for a full batch. So
batches grow where the members do not keep up with small ones; where they do, nothing waits."""


class Writer:
    """Makes entries durable, in order. Make it by `Client.claim`.

    `put` returns at once; what it returns is awaited for the entry's position, which comes once
    a majority of the members holds the entry on stable storage. Whoever stops awaiting it does not
    take the entry back: what becomes of it is then unknown.

    compressor: packs what is put; None where nothing does.
    on_committed: called with the last entry known to be durable, whenever that has moved.
    """

    def __init__(
        self, client: Client, info: StreamInfo, claimed: ClaimReply, lease_ms: int
    ) -> None:
        self.stream = info.name
        self.number = new_request_id()
        self.writer_id: WriterId = claimed.writer
        self._client = client
        self._info = info
        self._pipeline = Pipeline(
            stream_id=info.stream_id,
            topology=StreamTopology.of(info),
            writer=claimed.writer,
            lease_ms=lease_ms,
            tail=claimed.tail,
        )
        self._encoder = Encoder(claimed.writer, claimed.tail)
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[Batch] = deque()
        self._unsent_bytes = 0
        self._uncommitted: deque[Batch] = deque()  # all that are encoded
        self._waiting: deque[tuple[int, asyncio.Future[Position]]] = deque()  # by their last entry
        self._committed = claimed.tail
        self._links: dict[str, Link] = {}
        self._turns: deque[int] = deque()  # of the batches in flight
        self._following: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._timer = Timer(self._tick)
        self._is_closing = False
        self._is_over = False  # lost or deleted: nothing can be put any more
        self._lost: PutReply | None = None
        self._not_durable: WalleError | None = None  # by what the puts have ended that are not
        self._deleted: UnknownStream | None = None
        self._progress = asyncio.Event()
        self.compressor = make_compressor(info.settings.compression)
        self.on_committed: Callable[[Position], None] = lambda _position: None

    # --- what users call --------------------------------------------------------------------------

    @property
    def tail(self) -> Position:
        """The last entry put, durable or not yet."""
        self._encode_all()
        return self._encoder.tail

    @property
    def committed(self) -> Position:
        """The last entry known to be durable."""
        return self._committed

    def put(self, data: Buffer) -> asyncio.Future[Position]:
        """Puts an entry; returns at once. Await the result for the entry's position.

        Puts are pipelined and keep their order.

        Args:
            data: bytes; or a buffer of bytes, which is copied before this returns.

        Raises:
            Busy: too much is in flight; nothing was done. `await drain()` first.
            DiskFull: too many members have no space on their disks; nothing was done. What is in
                flight stays so, and becomes durable once there is space; puts are then taken again.
            WriterLost: another writer has claimed the stream.
            UnknownStream: the stream was deleted.
            LocalProtocolError: the data is too large for an entry, or the claim's block has ended.
        """
        flags = 0
        if self.compressor is not None:
            data, flags = self.compressor.pack(bytes(_plain(data)))
        return self.put_stored(data, flags, time.time_ns() // 1000)

    def put_many(self, datas: Iterable[Buffer]) -> asyncio.Future[Position]:
        """As `put`, of many entries, in this order, at far less cost each.

        Await the result for the last one's position: the others are right before it. Where it
        raises, those up to `committed` are durable all the same; what the error says of the
        outcome holds for those behind.

        Raises:
            LocalProtocolError: as for `put`; nothing was done. Also if there are no entries, or
                they are larger than one call may put (8 MiB, with 48 bytes for each).
        """
        self._check_may_put()
        datas = list(datas)
        if not datas:
            raise LocalProtocolError("put_many was given no entries")
        is_kept = set(map(type, datas)) == {bytes}
        if not is_kept:
            datas = list(map(_plain, datas))
        size = sum(map(len, datas)) + HEADER_BYTES * len(datas)
        if size > PUT_MANY_BYTES_MAX:
            raise LocalProtocolError(
                f"put_many was given entries of {size} bytes, each with {HEADER_BYTES} of its own; "
                f"at most {PUT_MANY_BYTES_MAX} may be put at once"
            )
        flags = None
        if self.compressor is not None:
            packed = [self.compressor.pack(bytes(data)) for data in datas]
            datas, flags = [data for data, _ in packed], [each for _, each in packed]
        self._encoder.add_all(datas, time.time_ns() // 1000, flags)
        return self._added(is_kept=is_kept)

    def put_stored(self, data: Buffer, flags: int, time_us: int) -> asyncio.Future[Position]:
        """As `put`, of an entry that was stored elsewhere: in the same form, with its time."""
        self._check_may_put()
        self._encoder.add(_plain(data), time_us, flags)
        return self._added(is_kept=type(data) is bytes)

    def _check_may_put(self) -> None:
        if self._is_closing or self._is_over:
            self._check_goes_on()
        if self._pipeline.full:
            self._check_space()
        if self._unsent_bytes + self._encoder.size > PIPELINE_BYTES_MAX:
            raise Busy(f"{PIPELINE_BYTES_MAX} bytes wait to be sent; `await writer.drain()` first")
        in_flight = self._encoder.last_id - self._committed.entry_id
        if in_flight >= UNCOMMITTED_ENTRIES_MAX:
            raise Busy(f"{in_flight} entries are in flight; `await writer.drain()` first")

    def _added(self, *, is_kept: bool) -> asyncio.Future[Position]:
        """Entries were added to the encoder. is_kept: whether their data stay as they are."""
        future: asyncio.Future[Position] = self._loop.create_future()
        self._waiting.append((self._encoder.last_id, future))
        if not is_kept:
            self._encode_all()
        if self._encoder.size >= BATCH_BYTES_MAX:
            self.flush()
        if not self._pipeline.is_put_near:
            self._client.links.wake(self)
        return future

    async def drain(self) -> None:
        """Waits until more can be put without piling up in this process.

        Raises:
            WriterLost, UnknownStream, DiskFull: as for `put`.
            LocalProtocolError: the claim's block has ended.
        """
        while not self.has_room:
            self._check_goes_on()
            self._check_space()
            await self._next_progress()

    @property
    def has_room(self) -> bool:
        """Whether more can be put without piling up in this process."""
        return self._may_send and not self._unsent and self._encoder.size < BATCH_BYTES_MAX

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Guards a read of state that only the present writer may answer from.

        The lease is looked at before and after: no other writer was exclusive in between.

        Raises:
            LeaseExpired: the lease lapsed before the block ended; its answer may be stale.
        """
        self._check_exclusive()
        yield
        self._check_exclusive()

    @property
    def is_exclusive(self) -> bool:
        """Whether this writer is exclusive at this moment."""
        is_writer = not self._is_over and not self._is_closing
        return is_writer and now_ns() < self._pipeline.exclusive_until_ns()

    def _check_exclusive(self) -> None:
        if not self.is_exclusive:
            raise LeaseExpired(
                f"the lease of {self.stream} lapsed: no majority acknowledged in time"
            )

    # --- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects with the members; returns once a majority has acknowledged a heartbeat."""
        self._pipeline.heartbeat(now_ns())
        self._connect()
        while not self.is_exclusive:
            self._check_goes_on()
            await self._next_progress()

    async def finish(self) -> None:
        """Waits until it is known of every put what became of it.

        Raises:
            WriterLost: another writer claimed the stream, and a put is not durable, or may not be.
            DiskFull: that is not known before there is space on the members' disks.
            UnknownStream: the stream was deleted.
            Unavailable: the client was closed, and a put may not be durable.
        """
        while self._waiting:
            self._check_space(f"; outcome of what is in flight: {Outcome.UNKNOWN.value}")
            await self._next_progress()
        if self._deleted is not None:
            raise UnknownStream(str(self._deleted))
        if self._not_durable is not None:
            raise self._not_durable

    async def resolve(self) -> None:
        """If another writer claimed the stream: waits until it is known what became of the puts."""
        while self._waiting and self._lost is not None:
            await self._next_progress()

    async def close(self) -> None:
        """Releases the stream, unless it is lost. Puts that are still in flight end by an error."""
        self._is_closing = True
        try:
            if not self._is_over:
                await self._release()
        finally:
            await self._stop()

    async def _release(self) -> None:
        """Ends the lease at a majority; from here on this writer is not exclusive."""
        pipeline = self._pipeline
        version = pipeline.topology.version
        release = Release(pipeline.stream_id, version, self.writer_id, pipeline.committed, relay=0)
        released: set[str] = set()

        async def tell(node: str, link: Link) -> None:
            with suppress(WalleError):
                reply = await link.request(node, release, RELEASE_S)
                if isinstance(reply, ReleaseReply) and not reply.code:
                    released.add(node)

        tells = [self._loop.create_task(tell(node, link)) for node, link in self._links.items()]
        self._tasks += tells
        while tells and not quorum.is_majority(pipeline.topology, released):
            _, pending = await asyncio.wait(tells, return_when=asyncio.FIRST_COMPLETED)
            tells = list(pending)

    async def _stop(self) -> None:
        self._timer.cancel()
        self._leave_turns()
        links, self._links = self._links, {}
        for node, link in links.items():
            link.detach(self, node)
        for task in self._tasks:
            task.cancel()
        text = f"the writer of {self.stream} was closed with this put in flight; this put's outcome"
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            self._fail_waiting(lambda: Unavailable(f"{text}: {Outcome.UNKNOWN.value}"))

    async def _next_progress(self) -> None:
        """Waits for news of the puts in flight, or of the lease."""
        self._progress.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._progress.wait()

    # --- sending ----------------------------------------------------------------------------------

    @property
    def _may_send(self) -> bool:
        """Whether the members take more: what is in flight is bounded."""
        in_flight = self._pipeline.tail.entry_id - self._pipeline.committed.entry_id
        return self._pipeline.has_room and in_flight < PIPELINE_ENTRIES_MAX

    def flush(self) -> None:
        """Sends the full batches of what was put; what is left waits for its turn."""
        if self._is_over or self._is_closing:
            return
        while self._unsent_bytes + self._encoder.size >= BATCH_BYTES_MAX and self._may_send:
            self._put_batch()
        mine = len(self._turns)
        is_busy = mine >= BATCHES_IN_FLIGHT_MAX or (mine and self._client.links.turns.is_busy)
        if not is_busy and self._unsent_bytes + self._encoder.size and self._may_send:
            self._wait_for_turn()
        if self._pipeline.has_outgoing:
            self._send()

    def _wait_for_turn(self) -> None:
        self._pipeline.is_put_near = True
        self._client.links.turns.wait(self)

    def send_batch(self) -> None:
        """Its turn has come: sends what was put meanwhile, or tells the commit point at least."""
        self._pipeline.is_put_near = False
        if self._is_over or self._is_closing:
            return
        if self._unsent_bytes + self._encoder.size and self._may_send:
            self._put_batch()
            self.flush()
        else:
            self._tick()

    def _put_batch(self) -> None:
        """Hands to the pipeline what was put, as much as fits a batch."""
        if not self._unsent or 0 < self._encoder.size <= BATCH_BYTES_MAX - self._unsent_bytes:
            self._encode()
        self._pipeline.put(self._take_unsent(), now_ns())
        self._turns.append(self._client.links.turns.take())

    def _give_turns_back(self, in_flight: int) -> None:
        """So many batches are still in flight."""
        while len(self._turns) > in_flight:
            self._client.links.turns.give_back(self._turns.popleft())

    def _leave_turns(self) -> None:
        """Nothing more is sent."""
        self._client.links.turns.leave(self)
        self._give_turns_back(0)

    def _take_unsent(self) -> Batch:
        """What is encoded, as one batch as far as it fits one: what was put singly may have had to
        be encoded at once."""
        taken = [self._unsent.popleft()]
        size = taken[0].payload.size
        while self._unsent and size + self._unsent[0].payload.size <= BATCH_BYTES_MAX:
            taken.append(self._unsent.popleft())
            size += taken[-1].payload.size
        self._unsent_bytes -= size
        return joined(taken)

    def _encode(self) -> None:
        """Makes the next batch of what was put."""
        batch = self._encoder.take(BATCH_BYTES_MAX)
        self._uncommitted.append(batch)
        self._unsent.append(batch)
        self._unsent_bytes += batch.payload.size

    def _encode_all(self) -> None:
        while self._encoder.size:
            self._encode()

    def _send(self) -> None:
        last: Outgoing | None = None
        parts: tuple[bytes | memoryview, ...] = ()
        for each in self._pipeline.take():
            _, put, batch = each
            if last is None or put != last.put or batch is not last.batch:
                last = each  # the others get the same bytes
                if batch is None:
                    parts = (frame.encode_head(put, self.number),)
                else:
                    view = batch.payload.view()
                    parts = (frame.encode_head(put, self.number, len(view)), view)
            link = self._links.get(each.node)
            if link is not None:
                link.send(*parts)

    def _set_timer(self) -> None:
        """Something may be due earlier than before. Sending puts nothing forward."""
        if self._is_closing or self._is_over:
            return
        now_s = self._loop.time()
        if self._timer.due_s <= now_s + COMMIT_NOTICE_MS / 1000:
            return  # it fires early enough, whatever comes, and sets itself again
        due_s = now_s + min(max(self._pipeline.next_ns() - now_ns(), 0) / 1e9, 1.0)
        if due_s < self._timer.due_s:
            self._timer.set(due_s)

    def _tick(self) -> None:
        self._pipeline.tick(now_ns())
        self._send()
        self._set_timer()

    # --- the members ------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Attaches this writer to the links with the members, old and new, and with nobody else."""
        members = dict((*self._info.old_members, *self._info.members))
        self._tasks = [task for task in self._tasks if not task.done()]
        for node in self._links.keys() - members.keys():
            self._links.pop(node).detach(self, node)
            self._pipeline.disconnected(node)
        for node, address in members.items():
            if node not in self._links:
                self._attach(node, address)

    def _attach(self, node: str, address: str) -> None:
        link = self._links[node] = self._client.links.link(address)
        link.attach(self, node)

    async def _follow(self) -> None:
        """A member goes by a newer topology: so does this writer from now on, and what it has in
        flight is sent again to all whom that names."""
        while self._pipeline.stale_version:
            try:
                self._info = await describe_newer(self._client, self._info)
            except UnknownStream as error:
                self._on_deleted(error)
                return
            self._pipeline.adopt(StreamTopology.of(self._info), now_ns())
            self._connect()
            self._send()
            self._set_timer()
        self._following = None

    def on_open(self, node: str) -> None:
        self._pipeline.connected(node, now_ns())
        self._send()
        self._set_timer()

    def on_lost(self, node: str) -> None:
        self._pipeline.disconnected(node)

    def on_moved(self, node: str, address: str) -> None:
        self._links[node].detach(self, node)
        self._attach(node, address)

    def on_pause(self, node: str, *, is_paused: bool) -> None:
        self._pipeline.paused(node, is_paused=is_paused)
        if not is_paused:
            self._tick()  # a heartbeat may have become due meanwhile

    def on_free(self) -> None:
        self._pipeline.feed(now_ns())
        self._send()

    def on_reply(self, node: str, reply: Message) -> None:
        if not isinstance(reply, PutReply) or self._is_closing:
            return
        pipeline = self._pipeline
        leased_until_ns = pipeline.exclusive_until_ns()
        pipeline.receive(node, reply, now_ns())
        self._progress.set()
        is_progress = pipeline.committed != self._committed
        if is_progress:
            self._on_durable(pipeline.committed)
            self._on_fewer_in_flight()
        if pipeline.lost is not None and self._lost is None:
            self._on_lost(pipeline.lost)
        if pipeline.stale_version and self._following is None:
            self._following = self._loop.create_task(self._follow())
            self._tasks.append(self._following)
        if pipeline.has_outgoing:
            self._client.links.wake(self)
        is_to_tell = is_progress and not pipeline.is_put_near
        if is_to_tell or reply.code or pipeline.exclusive_until_ns() != leased_until_ns:
            self._set_timer()

    def _on_fewer_in_flight(self) -> None:
        """What waits for that is sent; where others wait for turns, the commit point waits, too."""
        self._give_turns_back(self._pipeline.batches_in_flight)
        if self._client.links.turns.is_contended and not self._turns:
            self._wait_for_turn()
        elif self._unsent_bytes + self._encoder.size:
            self._client.links.wake(self)

    def _on_durable(self, committed: Position) -> None:
        """Ends the puts up to `committed`."""
        if committed.entry_id <= self._committed.entry_id:
            return
        self._committed = committed
        waiting, batches = self._waiting, self._uncommitted
        while waiting and waiting[0][0] <= committed.entry_id:
            entry_id, future = waiting.popleft()
            while batches[0].last_id < entry_id:
                batches.popleft()
            if not future.done():
                chain = batches[0].chains[entry_id - batches[0].first_id]
                future.set_result(Position(entry_id, chain))
        while batches and batches[0].last_id <= committed.entry_id:
            batches.popleft()
        self._loop.call_soon(self.on_committed, committed)

    def _fail_waiting(self, make_error: Callable[[], WalleError]) -> None:
        """Ends the puts that still wait. Nobody has to await them: `finish` tells as well."""
        if self._waiting:
            self._not_durable = make_error()
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(make_error())
                future.exception()
        self._waiting.clear()
        self._progress.set()

    def _check_space(self, also: str = "") -> None:
        full = self._pipeline.full and self._pipeline.blocked_by(now_ns())
        if full:
            raise DiskFull(
                f"no majority of the members of {self.stream} has space for entries: the disks of "
                f"{', '.join(full)} are full; free space there{also}"
            )

    # --- loss -------------------------------------------------------------------------------------

    def _on_deleted(self, error: UnknownStream) -> None:
        """The stream is no more."""
        self._deleted, self._is_over = error, True
        self._leave_turns()
        self._fail_waiting(lambda: UnknownStream(str(error)))

    def _error_of_loss(self, reply: PutReply, outcome: Outcome) -> WriterLost:
        return WriterLost(self.stream, reply.promised, reply.address, outcome)

    def _check_goes_on(self) -> None:
        if self._is_closing:
            raise LocalProtocolError(f"the writer of {self.stream} is closed")
        if self._deleted is not None:
            raise UnknownStream(str(self._deleted))
        if self._lost is not None:
            raise self._error_of_loss(self._lost, Outcome.NOT_WRITTEN)

    def _on_lost(self, reply: PutReply) -> None:
        """A newer writer has claimed the stream: finds out what became of the puts in flight."""
        self._lost, self._is_over = reply, True
        self._leave_turns()
        if self._waiting:
            self._tasks.append(self._loop.create_task(self._resolve(reply)))

    async def _resolve(self, reply: PutReply) -> None:
        """Ends each put: durable ones as such, the others by WriterLost with their outcome."""
        outcome = Outcome.UNKNOWN
        try:
            async with asyncio.timeout(RESOLVE_S):
                last_id = self._encoder.last_id
                durable = await find_durable(
                    self._client, self.stream, self.writer_id, self._committed, last_id
                )
                self._on_durable(durable)
            outcome = Outcome.NOT_WRITTEN
        except (TimeoutError, WalleError):
            pass
        finally:
            self._fail_waiting(lambda: self._error_of_loss(reply, outcome))


def _plain(data: Buffer) -> Buffer:
    """As bytes, or as a view of bytes.

    Raises:
        TypeError: it is nothing of the kind.
    """
    return data if type(data) is bytes else memoryview(data).cast("B")
