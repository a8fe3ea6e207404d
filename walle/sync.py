"""The blocking client: the asyncio client, run by a thread of its own.

    with walle.sync.connect("127.0.0.1:7411") as client:
        with client.claim("/orders", address="app-1:9000") as writer:
            writer.put(b"order 1 created").result()
        for entry in client.read("/orders"):
            print(entry.data)

Every call may be made from any thread. Errors are those of the asyncio client.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from walle import embedding
from walle.client import client as asyncio_client
from walle.client.client import LEASE_MS_DEFAULT
from walle.client.members import TIMEOUT_S
from walle.errors import LocalProtocolError

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from datetime import datetime
    from typing import Unpack

    from walle.client import writer as asyncio_writer
    from walle.client.settings import ReadOptions, Settings
    from walle.ids import Position
    from walle.messages import ChangeInfo, NodeRecord, StreamInfo, WriterStatusReply
    from walle.native import Buffer
    from walle.record import Entry
    from walle.tls import Tls

HANDED_OVER_MAX = 16
"""How many entries may be on their way from other threads to the loop's: what the writer does not
know of yet is bounded too."""

R = TypeVar("R")


class _Loop:
    """An event loop in a thread. What it is given before it is stopped it begins, and ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._giving = threading.Lock()
        self._is_stopped = False
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="walle", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._wait_for_stop())

    async def _wait_for_stop(self) -> None:
        await self._stop.wait()

    def submit(self, work: Coroutine[Any, Any, R]) -> Future[R]:
        """Has the loop run it. Raises as `call` does."""
        with self._giving:
            if not self._is_stopped:
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise _is_closed()

    def call(self, work: Callable[[], None]) -> None:
        """Has the loop do it, and does not wait.

        Raises:
            LocalProtocolError: it was stopped.
        """
        with self._giving:
            if self._is_stopped:
                raise _is_closed()
            self._loop.call_soon_threadsafe(work)

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Waits for the result; an interrupt (Ctrl-C) ends the work as well."""
        future = self.submit(work)
        try:
            return future.result()
        finally:
            future.cancel()

    def stop(self) -> None:
        """Ends the loop and what still runs in it."""
        with self._giving:
            self._is_stopped = True
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


class Writer:
    """As `walle.Writer`; `put` returns a `concurrent.futures.Future`."""

    def __init__(self, loop: _Loop, writer: asyncio_writer.Writer) -> None:
        self._loop = loop
        self._writer = writer
        self._handing_over = threading.Semaphore(HANDED_OVER_MAX)
        self._putting_many = threading.Lock()  # one at a time is on its way, for the same reason

    def put(self, data: Buffer) -> Future[Position]:
        """Puts an entry; `.result()` waits until it is durable and gives its position.

        Waits by itself while too much is in flight.
        """
        kept = data if type(data) is bytes else bytes(memoryview(data))
        return self._hand_over(lambda: self._writer.put(kept))

    def put_many(self, datas: Iterable[Buffer]) -> Future[Position]:
        """As `walle.Writer.put_many`; waits by itself while too much is in flight."""
        taken = threading.Event()

        def put() -> asyncio.Future[Position]:
            try:
                return self._writer.put_many(datas)
            finally:
                taken.set()

        with self._putting_many:
            durable = self._hand_over(put)
            taken.wait()
        return durable

    def _hand_over(self, put: Callable[[], asyncio.Future[Position]]) -> Future[Position]:
        """Has the loop's thread put."""
        told: Future[Position] = Future()

        def hand_over() -> None:
            try:
                if told.set_running_or_notify_cancel():
                    put().add_done_callback(partial(_tell, told))
            except BaseException as error:  # noqa: BLE001 - it goes to who waits for the put
                told.set_exception(error)
            finally:
                self._handing_over.release()

        if not self._writer.has_room:
            self._loop.run(self._writer.drain())
        self._handing_over.acquire()
        try:
            self._loop.call(hand_over)
        except LocalProtocolError:
            self._handing_over.release()
            raise
        return told

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """As `walle.Writer.exclusive`."""
        with self._writer.exclusive():
            yield

    @property
    def is_exclusive(self) -> bool:
        """Whether this writer is exclusive at this moment."""
        return self._writer.is_exclusive

    @property
    def tail(self) -> Position:
        """The last entry put, durable or not yet."""

        async def tail() -> Position:  # it may have to be encoded, which is the loop's to do
            return self._writer.tail

        return self._loop.run(tail())

    @property
    def committed(self) -> Position:
        """The last entry known to be durable."""
        return self._writer.committed


class Client:
    """As `walle.Client`. Make it by `walle.sync.connect`."""

    def __init__(self, loop: _Loop, client: asyncio_client.Client) -> None:
        self._loop = loop
        self._client = client

    def create_stream(
        self,
        name: str,
        *,
        members: Sequence[str] = (),
        timeout_s: float = TIMEOUT_S,
        **settings: Unpack[Settings],
    ) -> StreamInfo:
        """As `walle.Client.create_stream`."""
        return self._loop.run(
            self._client.create_stream(name, members=members, timeout_s=timeout_s, **settings)
        )

    def set_stream(self, name: str, **settings: Unpack[Settings]) -> StreamInfo:
        """As `walle.Client.set_stream`."""
        return self._loop.run(self._client.set_stream(name, **settings))

    def trim_stream(
        self, name: str, *, to: int | None = None, before: datetime | None = None
    ) -> StreamInfo:
        """As `walle.Client.trim_stream`."""
        return self._loop.run(self._client.trim_stream(name, to=to, before=before))

    def set_members(self, name: str, members: Sequence[str], *, force: bool = False) -> StreamInfo:
        """As `walle.Client.set_members`."""
        return self._loop.run(self._client.set_members(name, members, force=force))

    def replace_member(self, name: str, node: str) -> StreamInfo:
        """As `walle.Client.replace_member`."""
        return self._loop.run(self._client.replace_member(name, node))

    def describe_change(self, name: str) -> ChangeInfo:
        """As `walle.Client.describe_change`."""
        return self._loop.run(self._client.describe_change(name))

    def follow_change(self, name: str) -> Iterator[ChangeInfo]:
        """As `walle.Client.follow_change`."""
        changes = self._client.follow_change(name)
        while (change := self._loop.run(_next(changes))) is not None:
            yield change

    def delete_stream(self, name: str) -> None:
        """As `walle.Client.delete_stream`."""
        self._loop.run(self._client.delete_stream(name))

    def describe(self, name: str, *, refresh: bool = False) -> StreamInfo:
        """As `walle.Client.describe`."""
        return self._loop.run(self._client.describe(name, refresh=refresh))

    def list_streams(self) -> tuple[StreamInfo, ...]:
        """All streams, `/cluster` included."""
        return self._loop.run(self._client.list_streams())

    def nodes(self) -> tuple[NodeRecord, ...]:
        """The cluster's nodes, by their ids."""
        return self._loop.run(self._client.nodes())

    def remove_node(self, name: str) -> tuple[NodeRecord, ...]:
        """As `walle.Client.remove_node`."""
        return self._loop.run(self._client.remove_node(name))

    def writer_status(self, name: str) -> WriterStatusReply:
        """Who the stream's writer is, by a majority of its members."""
        return self._loop.run(self._client.writer_status(name))

    def committed(self, name: str) -> Position:
        """As `walle.Client.committed`."""
        return self._loop.run(self._client.committed(name))

    @contextmanager
    def claim(
        self,
        name: str,
        *,
        address: str,
        lease_ms: int = LEASE_MS_DEFAULT,
        force: bool = False,
        compression: str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Writer]:
        """As `walle.Client.claim`."""
        claim = self._client.claim(
            name,
            address=address,
            lease_ms=lease_ms,
            force=force,
            compression=compression,
            timeout_s=timeout_s,
        )
        writer = self._loop.run(_enter(claim))
        try:
            yield Writer(self._loop, writer)
        except BaseException as error:
            self._loop.run(_exit(claim, error))
            raise
        self._loop.run(_exit(claim, None))

    def read(self, name: str, **options: Unpack[ReadOptions]) -> Iterator[Entry]:
        """As `walle.Client.read`."""
        for entries in self.read_batches(name, **options):
            yield from entries

    def read_batches(self, name: str, **options: Unpack[ReadOptions]) -> Iterator[list[Entry]]:
        """As `walle.Client.read_batches`."""
        batches = self._client.read_batches(name, **options)
        while (entries := self._loop.run(_next(batches))) is not None:
            yield entries


def _is_closed() -> LocalProtocolError:
    return LocalProtocolError("the client is closed")


def _tell(told: Future[Position], durable: asyncio.Future[Position]) -> None:
    """What became of a put."""
    error = asyncio.CancelledError() if durable.cancelled() else durable.exception()
    if error is not None:
        told.set_exception(error)
    else:
        told.set_result(durable.result())


async def _next(items: AsyncGenerator[R, None]) -> R | None:
    return await anext(items, None)


async def _enter(manager: Any) -> Any:
    return await manager.__aenter__()


async def _exit(manager: Any, error: BaseException | None) -> None:
    await manager.__aexit__(type(error) if error is not None else None, error, None)


def connect(
    addresses: str | Sequence[str], *, tls: Tls | None = None, timeout_s: float = TIMEOUT_S
) -> AbstractContextManager[Client]:
    """As `walle.connect`, blocking."""
    return _blocking(asyncio_client.connect(addresses, tls=tls, timeout_s=timeout_s))


def embedded(
    path: str | os.PathLike[str],
    *,
    node: str = "n1",
    listen: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> AbstractContextManager[Client]:
    """As `walle.embedded`, blocking."""
    return _blocking(embedding.embedded(path, node=node, listen=listen, timeout_s=timeout_s))


@contextmanager
def _blocking(
    connection: AbstractAsyncContextManager[asyncio_client.Client],
) -> Iterator[Client]:
    """A client whose loop runs in a thread of its own."""
    loop = _Loop()
    try:
        client = loop.run(_enter(connection))
        try:
            yield Client(loop, client)
        finally:
            loop.run(_exit(connection, None))
    finally:
        loop.stop()
