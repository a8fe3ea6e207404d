"""The frame: what every message travels in, on the wire and, minus its records, in the rings.

     0       4       8       12      14      16              24
     +-------+-------+-------+-------+-------+---------------+-------------+---------------------+
     | crc   | size  | head  | type  | zero  | request_id    | message ... | records ...         |
     | u32   | u32   | u32   | u16   | u16   | u64           |             |                     |
     +-------+-------+-------+-------+-------+---------------+-------------+---------------------+
     |<----------------------- head: a multiple of 8 bytes -------------->|
     |<----------------------- size: a multiple of 8 bytes ------------------------------------->|

All integers are little-endian. `crc` is the CRC32C of bytes 4 up to `head`; records have their
own. The message ends with zeros up to a multiple of 8. An answer carries its request's id.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from walle import messages
from walle.errors import LocalProtocolError, RemoteProtocolError
from walle.ids import new_tuple
from walle.limits import FRAME_BYTES_MAX, FRAME_HEAD_BYTES_MAX
from walle.native import crc32c

if TYPE_CHECKING:
    from walle.messages import Message

HEADER = struct.Struct("<IIIHHQ")
HEADER_BYTES = HEADER.size
ALIGNMENT = 8

_CRC = struct.Struct("<I")
_CHECKED = struct.Struct("<IIHHQ")
_TYPE_AND_ID = struct.Struct("<HHQ")
_TYPE_OFFSET = 12


class Header(NamedTuple):
    """A frame's header. Sizes in bytes."""

    crc: int
    size: int
    head_size: int
    type: int
    zero: int
    request_id: int


def encode_head(message: Message, request_id: int, records_size: int = 0) -> bytes:
    """A frame's bytes up to its records, of which `records_size` bytes will follow.

    Raises:
        LocalProtocolError: the message or the frame is larger than it may be.
    """
    body = messages.encode(message)
    head_size = (HEADER_BYTES + len(body) + ALIGNMENT - 1) & -ALIGNMENT
    size = head_size + records_size
    if head_size > FRAME_HEAD_BYTES_MAX or size > FRAME_BYTES_MAX:
        raise LocalProtocolError(
            f"{type(message).__name__} needs a frame of {size} bytes, {head_size} before its "
            f"records; at most {FRAME_BYTES_MAX} and {FRAME_HEAD_BYTES_MAX} are allowed"
        )
    code = messages.CODES[type(message)]
    checked = _CHECKED.pack(size, head_size, code, 0, request_id) + body
    checked = checked.ljust(head_size - _CRC.size, b"\0")
    return _CRC.pack(crc32c(checked)) + checked


def parse_header(buffer: memoryview | bytes, offset: int, *, size_max: int) -> Header:
    """The header at `offset`, where at least HEADER_BYTES are; its sizes are checked.

    Raises:
        RemoteProtocolError: these bytes are no frame's, or the frame is larger than `size_max`.
    """
    fields = HEADER.unpack_from(buffer, offset)
    _, size, head_size, code, zero, _ = fields
    if zero or code not in messages.TYPES:
        raise RemoteProtocolError("not a frame of the WALLE protocol")
    if size > size_max:
        raise RemoteProtocolError(f"a frame of {size} bytes; at most {size_max} are allowed")
    if (
        not HEADER_BYTES <= head_size <= size
        or head_size > FRAME_HEAD_BYTES_MAX
        or (size | head_size) % ALIGNMENT
    ):
        raise RemoteProtocolError(
            f"a frame of {size} bytes with a head of {head_size}: impossible sizes"
        )
    return new_tuple(Header, fields)


def check_head(head: memoryview | bytes, header: Header) -> None:
    """Checks the CRC over `head`, the frame's first head_size bytes.

    Raises:
        RemoteProtocolError: it does not match.
    """
    if crc32c(head[4:]) != header.crc:
        raise RemoteProtocolError("a frame's head fails its CRC")


def decode_head(head: memoryview | bytes) -> tuple[int, Message]:
    """The request id and the message of a head whose CRC was checked.

    Raises:
        RemoteProtocolError: the bytes are not such a message.
    """
    code, _, request_id = _TYPE_AND_ID.unpack_from(head, _TYPE_OFFSET)
    return request_id, messages.decode(code, head, HEADER_BYTES)


def with_records(head: bytes, records_size: int) -> bytes:
    """The same head for a frame that carries so many bytes of records."""
    header = Header._make(HEADER.unpack_from(head, 0))
    out = bytearray(head)
    HEADER.pack_into(out, 0, *header._replace(size=header.head_size + records_size))
    _CRC.pack_into(out, 0, crc32c(memoryview(out)[4:]))
    return bytes(out)


def with_request_id(head: memoryview | bytes, request_id: int) -> bytes:
    """The same head for the answer to another request."""
    out = bytearray(head)
    _TYPE_AND_ID.pack_into(
        out, _TYPE_OFFSET, *_TYPE_AND_ID.unpack_from(out, _TYPE_OFFSET)[:2], request_id
    )
    _CRC.pack_into(out, 0, crc32c(memoryview(out)[4:]))
    return bytes(out)


def request_id_of(head: memoryview | bytes) -> int:
    """The request id of a frame's head."""
    return Header._make(HEADER.unpack_from(head, 0)).request_id
