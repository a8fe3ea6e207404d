"""The ring: messages from one process, the producer, to another, the consumer.

It lies in anonymous shared memory that both inherited over fork. The positions count bytes since
the ring was made and only grow; a position modulo the capacity is a place in the data.

          0         8         16                  64
          +---------+---------+-------------------+
        0 | version | capacity|                   |   constant
          +---------+---------+-------------------+
       64 | published           (producer stores) |   the end of what may be read
          +---------------------------------------+
      128 | consumer_sleeps     (both store)      |   1: the producer rings after it publishes
          +---------------------------------------+
      192 | released            (consumer stores) |   the end of what may be written over
          +---------------------------------------+
      256 | producer_waits_for  (both store)      |   not 0: the consumer rings once it released
          +---------------------------------------+   so far
      320 | data: `capacity` bytes                |
          +---------------------------------------+

    released <= consumed <= published <= written <= released + capacity

`consumed` and `written` are known to their own process only. A message in the data:

     0         4         8
     +---------+---------+------------------------------------------------+
     | size u32| kind u32| `size` bytes, then unused up to a multiple of 8|
     +---------+---------+------------------------------------------------+

kind 1 is a message, kind 2 is padding: a message lies in one piece, so what is left at the end of
the data is filled up with padding when the next message is larger. Hence a message of up to half
of the capacity, with its header, always has room in an empty ring, wherever the positions stand.

The producer writes any number of messages and makes them visible at once by one store; the
consumer reads all that is visible and gives it back by one store. What a producer that died had
not published is never seen. Positions, order of memory and sleeping are in native/ring.c.

The idea of the layout: the ring buffers of real-logic/aeron, except that these publish a position
before its bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from walle.errors import ConfigError, InvariantError, LocalProtocolError, invariant
from walle.native._core import ffi, lib

if TYPE_CHECKING:
    from mmap import mmap

    from walle.native import Buffer

_CACHE_LINE_BYTES = 64
_HEADER_BYTES: int = lib.WALLE_RING_HEADER_SIZE
_CAPACITY_MIN: int = lib.WALLE_RING_CAPACITY_MIN
_CAPACITY_MAX: int = lib.WALLE_RING_CAPACITY_MAX

_arm_consumer = lib.walle_ring_arm_consumer
_arm_producer = lib.walle_ring_arm_producer
_consume = lib.walle_ring_consume
_publish = lib.walle_ring_publish
_release = lib.walle_ring_release
_reserve = lib.walle_ring_reserve
_unpack = ffi.unpack


class Ring:
    """One side of a ring, or both in one process.

    Opening takes up the ring where it stands: unreleased messages are there to be consumed.

    Args:
        memory: shared and writable. It cannot be closed while the object lives.
        offset: where in `memory` the ring begins, a multiple of 64. It takes
            `OVERHEAD_BYTES + capacity` bytes.
        capacity: a power of two.

    Raises:
        ConfigError: the arguments fit no ring.
        InvariantError: the memory holds no ring of that capacity; or, of any method here, the
            other side's positions or messages cannot be, and the node must stop.
    """

    OVERHEAD_BYTES: ClassVar[int] = lib.WALLE_RING_CONTROL_SIZE

    def __init__(self, memory: mmap | memoryview, offset: int, capacity: int) -> None:
        view = _place(memory, offset, capacity)
        self._pointer = ffi.from_buffer(view, require_writable=True)
        self._ring = ffi.new("walle_ring *")
        is_good = lib.walle_ring_open(self._ring, self._pointer, capacity)
        invariant(is_good, "the memory holds no such ring", offset=offset, capacity=capacity)
        self._batch = ffi.new("walle_ring_batch *")
        self._starts = self._batch.starts
        self._ends = self._batch.ends
        self._data = view[self.OVERHEAD_BYTES :]
        self._slice = self._data.toreadonly().__getitem__
        self._mask = capacity - 1
        self._size_max = capacity // 2 - _HEADER_BYTES
        self._written: int = lib.walle_ring_published(self._ring)
        self._published = self._written
        self._consumed: int = lib.walle_ring_released(self._ring)
        self._released = self._consumed

    @classmethod
    def create(cls, memory: mmap | memoryview, offset: int, capacity: int) -> Ring:
        """Makes an empty ring in the memory, whatever was there, and opens it."""
        view = _place(memory, offset, capacity)
        lib.walle_ring_create(ffi.from_buffer(view, require_writable=True), capacity)
        return cls(memory, offset, capacity)

    def try_write(self, *parts: Buffer) -> bool:
        """Producer. Writes the parts as one message, not yet visible.

        Returns False if there is no room; nothing is written then.

        Raises:
            LocalProtocolError: the message has more than half of the capacity, with its header.
        """
        size = sum(map(len, parts))
        if size > self._size_max:
            raise self._too_large(size)
        position = _reserve(self._ring, self._written, size)
        if position < 0:
            invariant(position == lib.WALLE_RING_NO_ROOM, "a ring is inconsistent", ring=self)
            return False
        data = self._data
        start = position & self._mask
        for part in parts:
            end = start + len(part)
            data[start:end] = part
            start = end
        self._written = (position + size + 7) & -8
        return True

    def publish(self) -> bool:
        """Producer. Makes visible what was written. Returns whether to ring the consumer's bell."""
        if self._written == self._published:
            return False
        self._published = self._written
        return bool(_publish(self._ring, self._written))

    def arm_producer(self, size: int) -> bool:
        """Producer. Before it sleeps: it waits for room for a message of `size` bytes.

        Returns whether there is still none, so that it may sleep. The bell rings once there is.

        Raises:
            LocalProtocolError: something is unpublished, so that the consumer could never make
                room for all; or the size can never fit.
        """
        if size > self._size_max:
            raise self._too_large(size)
        if self._written != self._published:
            raise LocalProtocolError("publish before waiting for room: the consumer sees the rest")
        return bool(_arm_producer(self._ring, self._written, size))

    def consume(self, bytes_max: int = _CAPACITY_MAX) -> list[memoryview]:
        """Consumer. The published messages that were not consumed yet, in order.

        Returns read-only views into the ring, valid until `release`; none if there is nothing.

        Args:
            bytes_max: no further message is taken once those taken have so many bytes, headers
                included. One call takes 1,024 messages at most.
        """
        count = _consume(self._ring, self._consumed, bytes_max, self._batch)
        if not count:
            return []
        if count < 0:
            raise InvariantError(f"a ring is inconsistent: {self}")
        self._consumed = self._batch.consumed
        bounds = map(slice, _unpack(self._starts, count), _unpack(self._ends, count))
        return list(map(self._slice, bounds))

    def release(self) -> bool:
        """Consumer. Gives back the room of all that was consumed; the views are void.

        Returns whether to ring the producer's bell.
        """
        if self._consumed == self._released:
            return False
        self._released = self._consumed
        return bool(_release(self._ring, self._consumed))

    def arm_consumer(self) -> bool:
        """Consumer. Before it sleeps. Returns whether there is still nothing, so that it may."""
        return bool(_arm_consumer(self._ring, self._consumed))

    def _too_large(self, size: int) -> LocalProtocolError:
        return LocalProtocolError(
            f"a message of {size} bytes; at most {self._size_max} fit this ring"
        )

    def __repr__(self) -> str:
        return (
            f"<Ring capacity={self._mask + 1} written={self._written} consumed={self._consumed}"
            f" published={lib.walle_ring_published(self._ring)}"
            f" released={lib.walle_ring_released(self._ring)}>"
        )


def _place(memory: mmap | memoryview, offset: int, capacity: int) -> memoryview:
    """The bytes of a ring in `memory`."""
    if capacity & (capacity - 1) or not _CAPACITY_MIN <= capacity <= _CAPACITY_MAX:
        raise ConfigError(
            "capacity", f"must be a power of two in [{_CAPACITY_MIN}, {_CAPACITY_MAX}]: {capacity}"
        )
    view = memoryview(memory)[offset : offset + Ring.OVERHEAD_BYTES + capacity]
    if offset < 0 or len(view) != Ring.OVERHEAD_BYTES + capacity:
        raise ConfigError("offset", f"a ring of {capacity} bytes at {offset} is not in the memory")
    if int(ffi.cast("uintptr_t", ffi.from_buffer(view))) % _CACHE_LINE_BYTES:
        raise ConfigError("offset", f"must be a multiple of {_CACHE_LINE_BYTES}: {offset}")
    return view
