"""A client without manners: it sends whatever bytes it is given, and tells what comes back."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.clusters import wait_until
from walle import frame
from walle.errors import Code
from walle.ids import NO_IDENTITY, NO_WRITER, Position, WriterId
from walle.limits import FRAME_BYTES_MAX
from walle.messages import (
    PROTOCOL_VERSION,
    ROLE_CLIENT,
    Claim,
    ClaimReply,
    CreateStream,
    Failure,
    Hello,
    Put,
    PutReply,
    StreamInfo,
    Welcome,
    WriterStatus,
    WriterStatusReply,
)
from walle.record import Encoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from walle.messages import Message
    from walle.record import Batch

ANSWER_S = 10.0
HELLO = Hello(PROTOCOL_VERSION, ROLE_CLIENT, NO_IDENTITY, "", NO_IDENTITY)


class Answer(NamedTuple):
    """One frame that came back."""

    request_id: int
    message: Message
    records: bytes


class Peer:
    """One connection, blocking.

    is_greeting: whether to shake hands at once.
    """

    def __init__(self, address: str, *, is_greeting: bool = True) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=ANSWER_S)
        self._received = b""
        self._next_id = 0
        if is_greeting:
            try:
                assert isinstance(self.ask(HELLO), Welcome)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self.socket.close()

    # --- bytes ------------------------------------------------------------------------------------

    def send_bytes(self, data: bytes) -> None:
        """Sends these bytes; a connection that is gone is no error here."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def receive(self, timeout_s: float = ANSWER_S) -> Answer | None:
        """The next frame; None when the other side has closed the connection.

        Raises:
            TimeoutError: neither came in time.
        """
        until_s = time.monotonic() + timeout_s
        while (size := self._size()) is None or len(self._received) < size:
            self.socket.settimeout(max(until_s - time.monotonic(), 0.001))
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._received += data
        one, self._received = self._received[:size], self._received[size:]
        header = frame.parse_header(one, 0, size_max=FRAME_BYTES_MAX)
        frame.check_head(one[: header.head_size], header)
        request_id, message = frame.decode_head(one[: header.head_size])
        return Answer(request_id, message, one[header.head_size :])

    def _size(self) -> int | None:
        if len(self._received) < frame.HEADER_BYTES:
            return None
        return frame.parse_header(self._received, 0, size_max=FRAME_BYTES_MAX).size

    def last_words(self, timeout_s: float) -> Failure | None:
        """Waits until the other side closes; returns the Failure of the session that it sent before
        that. (It is lost where TCP resets the connection.)

        Raises:
            TimeoutError: it does not close in time.
        """
        failure = None
        until_s = time.monotonic() + timeout_s
        while (answer := self.receive(until_s - time.monotonic())) is not None:
            if isinstance(answer.message, Failure):
                failure = answer.message
        return failure

    # --- messages ---------------------------------------------------------------------------------

    def send(self, message: Message, records: bytes = b"", request_id: int | None = None) -> int:
        """Sends a frame; returns its request id."""
        if request_id is None:
            self._next_id += 1
            request_id = self._next_id
        self.send_bytes(frame.encode_head(message, request_id, len(records)) + records)
        return request_id

    def ask(self, message: Message, records: bytes = b"", timeout_s: float = ANSWER_S) -> Message:
        """Sends a request and waits for its answer; others are passed over."""
        request_id = self.send(message, records)
        until_s = time.monotonic() + timeout_s
        while True:
            answer = self.receive(until_s - time.monotonic())
            assert answer is not None, f"the node closed the connection on {type(message).__name__}"
            if answer.request_id == request_id:
                return answer.message

    def insist(self, message: Message, records: bytes = b"") -> Message:
        """Repeats the request for as long as the node is busy: it may not know a stream yet that
        another one has just created."""

        def ask() -> Message | None:
            reply = self.ask(message, records)
            return None if getattr(reply, "code", Code.OK) == Code.BUSY else reply

        return wait_until(ask, f"{type(message).__name__} is not answered by BUSY", ANSWER_S)

    # --- what the tests need of the protocol ------------------------------------------------------

    def create(self, name: str) -> StreamInfo:
        """Creates the stream, or finds it."""
        info = self.insist(CreateStream(name, ()))
        assert isinstance(info, StreamInfo), info
        return info

    def claim(self, info: StreamInfo, *, lease_ms: int = 5_000, force: bool = True) -> ClaimReply:
        """Claims the stream."""
        reply = self.insist(Claim(info.stream_id, "a test", lease_ms, 9_000, int(force)))
        assert isinstance(reply, ClaimReply), reply
        return reply

    def put(
        self, claimed: ClaimReply, transmission: int, committed: Position, batch: Batch | None
    ) -> PutReply:
        """Puts through this node; a heartbeat without a batch."""
        message = Put(
            claimed.stream_id, claimed.version, claimed.writer, transmission, committed, relay=1
        )
        records = bytes(batch.payload.view()) if batch is not None else b""
        reply = self.insist(message, records)
        assert isinstance(reply, PutReply), reply
        return reply

    def writer_status(self, stream_id: int, *, local: bool = False) -> WriterStatusReply:
        """Who the writer is."""
        reply = self.insist(WriterStatus(stream_id, int(local), NO_WRITER, 0))
        assert isinstance(reply, WriterStatusReply), reply
        return reply


@contextmanager
def peers(address: str, count: int, *, is_greeting: bool = True) -> Iterator[list[Peer]]:
    """Many connections, which end with the block."""
    with ExitStack() as stack:
        yield [stack.enter_context(Peer(address, is_greeting=is_greeting)) for _ in range(count)]


def make_batch(writer: WriterId, tail: Position, *contents: bytes) -> Batch:
    """The batch that puts these data behind `tail`."""
    encoder = Encoder(writer, tail)
    for data in contents:
        encoder.add(data, time.time_ns() // 1000)
    return encoder.take()
