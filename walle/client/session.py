"""One connection to a node: requests matched with their answers."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from itertools import count
from math import inf
from typing import TYPE_CHECKING, cast

from walle import frame, record, sockets
from walle.client.inbox import Inbox
from walle.config import parse_address
from walle.core.connection import Connection
from walle.errors import (
    Code,
    CorruptionError,
    RemoteProtocolError,
    Unavailable,
    WalleError,
    error_for,
)
from walle.ids import NO_IDENTITY
from walle.limits import CONNECT_MS_MAX
from walle.messages import PROTOCOL_VERSION, ROLE_CLIENT, Failure, Hello, Welcome
from walle.record import Bytes
from walle.tls import names as tls_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from walle.core.connection import Frame
    from walle.messages import Message
    from walle.native import Buffer
    from walle.record import Batch

CONNECT_S = CONNECT_MS_MAX / 1000
WELCOME_S = 3.0
CLOSE_S = 0.5
UNSENT_BYTES_MAX = 1024 * 1024


new_request_id = count(1).__next__
"""A number that no other request of this process has had."""


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ns() -> int:
    """The clock of leases: monotonic, and counting suspend where the system has such a clock."""
    return time.clock_gettime_ns(_CLOCK)


class Session(asyncio.BufferedProtocol):
    """An open connection to one node.

    channels: who gets the answers that no request waits for, such as those to puts, by the request
        id of what is answered.
    on_pause: told when the way to the node is full (True) or free again (False).
    closed: set when the connection is gone.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.welcome: Welcome | None = None
        self.channels: dict[int, Callable[[Message], None]] = {}
        self.on_pause: Callable[[bool], None] = lambda _is_paused: None
        self._heard_s = time.monotonic()
        self.closed = asyncio.Event()
        self._connection = Connection(is_node=False)
        self._inbox = Inbox()
        self._answers: dict[int, asyncio.Future[tuple[Message, Batch | None]]] = {}
        self._transport: asyncio.Transport | None = None
        self._error: WalleError | None = None

    @property
    def node_id(self) -> str:
        """The node that has answered; empty before that."""
        return self.welcome.node_id if self.welcome is not None else ""

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def paused_s(self) -> float:
        """For how long an answer, a part of which has come, has not gone on; inf: there is none."""
        return time.monotonic() - self._heard_s if self._inbox.has_part else inf

    def send(self, message: Message, request_id: int = 0) -> None:
        """Sends without waiting for an answer; nothing happens if the connection is gone."""
        self.send_frames([frame.encode_head(message, request_id)])

    def send_frames(self, parts: Sequence[Buffer]) -> None:
        """The same with frames that are encoded, in parts: heads, and their records."""
        if self._transport is not None and not self._transport.is_closing():
            sockets.send(self._transport, parts)

    async def request(self, message: Message, timeout_s: float) -> tuple[Message, Batch | None]:
        """Sends, and waits for the answer and its records.

        Raises:
            Unavailable: no answer in time, or the connection is gone.
            WalleError: the node answered with a failure.
        """
        if self._error is not None or not self.is_open:
            raise self._error or Unavailable(f"the connection to {self.address} is gone")
        request_id = new_request_id()
        answer: asyncio.Future[tuple[Message, Batch | None]]
        answer = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answer
        try:
            self.send(message, request_id)
            async with asyncio.timeout(timeout_s):
                reply, batch = await answer
        except TimeoutError:
            name = type(message).__name__
            raise Unavailable(
                f"{self.address} did not answer {name} in {timeout_s:.1f} s"
            ) from None
        finally:
            self._answers.pop(request_id, None)
        if isinstance(reply, Failure):
            raise _error_of(reply)
        return reply, batch

    async def close(self) -> None:
        """Ends the connection; what was sent is still handed to the system, if that is quick."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.closed.wait()
        except TimeoutError:
            self._transport.abort()
            await self.closed.wait()

    # --- asyncio.BufferedProtocol -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX)
        sockets.set_up(transport.get_extra_info("socket"))

    def pause_writing(self) -> None:
        self.on_pause(True)

    def resume_writing(self) -> None:
        self.on_pause(False)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._inbox.room()

    def buffer_updated(self, nbytes: int) -> None:
        self._heard_s = time.monotonic()
        data = self._inbox.received(nbytes)
        if data is None:
            return
        try:
            arrived = [(each.end, *self._decode(each)) for each in self._connection.frames(data)]
            handled = arrived[-1][0] if arrived else 0
            self._inbox.handled(handled, self._connection.wanted(data[handled:]))
        except RemoteProtocolError as error:
            what = "breaks the protocol" if self.welcome is not None else "is no WALLE node"
            self._fail(RemoteProtocolError(f"{self.address} {what}: {error}"))
            return
        except CorruptionError as error:
            self._fail(error)
            return
        for _, request_id, message, batch in arrived:
            self._dispatch(request_id, message, batch)

    def _decode(self, each: Frame) -> tuple[int, Message, Batch | None]:
        request_id, message = each.message()
        if not each.records:
            return request_id, message, None
        records = Bytes(bytes(each.records))
        return request_id, message, record.check(records, where=f"from {self.address}")

    def _dispatch(self, request_id: int, message: Message, batch: Batch | None) -> None:
        answer = self._answers.get(request_id)
        if answer is not None:
            if not answer.done():
                answer.set_result((message, batch))
        elif isinstance(message, Failure) and not request_id:
            self._fail(_error_of(message))
        elif (channel := self.channels.get(request_id)) is not None:
            channel(message)

    def _fail(self, error: WalleError) -> None:
        """The session is of no further use."""
        self._error = self._error or error
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        gone = self._error or Unavailable(
            f"{self.address} closed the connection" + (f": {exc}" if exc else "")
        )
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(gone)
        self.closed.set()


def _error_of(failure: Failure) -> WalleError:
    try:
        code = Code(failure.code)
    except ValueError:  # of a later version
        code = Code.BAD_REQUEST
    return error_for(code, failure.text)


async def open_session(
    address: str, cluster_id: bytes = NO_IDENTITY, tls: ssl.SSLContext | None = None
) -> Session:
    """Connects and shakes hands.

    Args:
        cluster_id: the cluster that the node must belong to; NO_IDENTITY: any.
        tls: what this client shows, and whom it trusts; None: no TLS.

    Raises:
        Unavailable: nobody answers there.
        RemoteProtocolError: whoever answers there is no WALLE node.
        WrongCluster: the node belongs to another cluster.
    """
    host, port = parse_address("connect", address)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            transport, session = await loop.create_connection(
                lambda: Session(address), host, port, ssl=tls
            )
    except TimeoutError:
        raise Unavailable(f"nobody answers at {address} in {CONNECT_S:.0f} s") from None
    except ssl.SSLError as error:
        raise Unavailable(f"{address} does not speak TLS with this client: {error}") from error
    except OSError as error:
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror or error
        raise Unavailable(f"nobody answers at {address}: {reason}") from error
    hello = Hello(PROTOCOL_VERSION, ROLE_CLIENT, cluster_id, "", NO_IDENTITY)
    try:
        welcome, _ = await session.request(hello, WELCOME_S)
    except BaseException:
        await session.close()
        raise
    if not isinstance(welcome, Welcome):
        await session.close()
        raise RemoteProtocolError(f"{address} answered Hello with {type(welcome).__name__}")
    if tls is not None and welcome.node_id not in tls_names(transport):
        await session.close()
        raise RemoteProtocolError(
            f"{address} shows a certificate that is not that of node {welcome.node_id}"
        )
    session.welcome = welcome
    return session
