"""One end of a session, without IO: bytes in, frames out. Both ends use this class.

A session begins with one handshake frame from each side: the client's Hello, the node's Welcome
(or Failure). Until the other side's handshake frame has come, only that frame is understood, and
only small; so whoever speaks another protocol is told so at once, and costs little. After an error
the session is of no further use: `RemoteProtocolError` says what to tell the other side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from walle import frame
from walle.errors import RemoteProtocolError
from walle.ids import new_tuple
from walle.limits import FRAME_BYTES_MAX, HANDSHAKE_FRAME_BYTES_MAX
from walle.messages import CODES, TYPES, WITH_RECORDS, Failure, Hello, Message, Welcome

if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO = CODES[Hello]
WELCOME = CODES[Welcome]
FAILURE = CODES[Failure]

_HANDSHAKES = frozenset({HELLO, WELCOME})
_CARRIERS = frozenset(CODES[cls] for cls in WITH_RECORDS)


class Frame(NamedTuple):
    """One frame, as views into the received bytes.

    head: the frame up to its records, its CRC checked.
    records: the records' bytes, not yet checked; empty when there are none.
    end: where in the received bytes the frame ends.
    """

    type: int
    head: memoryview
    records: memoryview
    end: int

    def message(self) -> tuple[int, Message]:
        """The request id and the message.

        Raises:
            RemoteProtocolError: the bytes are not such a message.
        """
        return frame.decode_head(self.head)


class Connection:
    """The receiving side of a session.

    Args:
        is_node: whether this end accepted the connection (it expects a Hello) or made it (it
            expects a Welcome or a Failure).
    """

    def __init__(self, *, is_node: bool) -> None:
        self._expected = {HELLO} if is_node else {WELCOME, FAILURE}
        self.is_open = False
        self._size_max = HANDSHAKE_FRAME_BYTES_MAX

    def frames(self, data: memoryview) -> Iterator[Frame]:
        """The complete frames at the front of `data`, which begins with a frame.

        What follows the last one's `end` is to be given again, with what comes behind it.

        Raises:
            RemoteProtocolError: the other side broke the protocol.
        """
        offset, end = 0, len(data)
        while end - offset >= frame.HEADER_BYTES:
            header = frame.parse_header(data, offset, size_max=self._size_max)
            size, head_size = header.size, header.head_size
            if size > end - offset:
                return
            head = data[offset : offset + head_size]
            frame.check_head(head, header)
            code = header.type
            if not self.is_open or code in _HANDSHAKES:
                self._shake_hands(code)
            if size > head_size and code not in _CARRIERS:
                raise RemoteProtocolError(f"{TYPES[code].__name__}: bytes follow the message")
            records = data[offset + head_size : offset + size]
            offset += size
            yield new_tuple(Frame, (code, head, records, offset))

    def wanted(self, data: memoryview) -> int:
        """How many bytes the frame at the front of `data` has, as far as can be told: at least
        those of a header.

        Raises:
            RemoteProtocolError: these bytes are no frame's.
        """
        if len(data) < frame.HEADER_BYTES:
            return frame.HEADER_BYTES
        return frame.parse_header(data, 0, size_max=self._size_max).size

    def _shake_hands(self, code: int) -> None:
        """A frame of that type is the first one, or is part of a handshake."""
        if self.is_open:
            raise RemoteProtocolError("a second handshake")
        if code not in self._expected:
            raise RemoteProtocolError(f"the first frame is {TYPES[code].__name__}, no handshake")
        self.is_open = True
        self._size_max = FRAME_BYTES_MAX
