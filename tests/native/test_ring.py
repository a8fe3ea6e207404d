"""The ring within one process: its bytes, its bounds, and what it refuses."""

from __future__ import annotations

import struct
from mmap import mmap

import pytest

from walle.errors import ConfigError, InvariantError, LocalProtocolError
from walle.ring.spsc import Ring

CAPACITY = 256
SIZE_MAX = CAPACITY // 2 - 8
DATA = Ring.OVERHEAD_BYTES
PUBLISHED, CONSUMER_SLEEPS, RELEASED, PRODUCER_WAITS_FOR = 64, 128, 192, 256


def memory_for(capacity: int = CAPACITY) -> mmap:
    return mmap(-1, Ring.OVERHEAD_BYTES + capacity)


def make_ring(capacity: int = CAPACITY) -> Ring:
    return Ring.create(memory_for(capacity), 0, capacity)


def exchange(ring: Ring, *messages: bytes) -> None:
    """Moves the ring on: the messages are written, consumed and released."""
    for message in messages:
        assert ring.try_write(message)
    ring.publish()
    assert taken(ring) == list(messages)
    ring.release()


def taken(ring: Ring, bytes_max: int = 1 << 30) -> list[bytes]:
    return [bytes(view) for view in ring.consume(bytes_max)]


def word(memory: mmap, offset: int) -> int:
    return int.from_bytes(memory[offset : offset + 8], "little")


def plant(memory: mmap, offset: int, value: int) -> None:
    memory[offset : offset + 8] = value.to_bytes(8, "little")


def test_ring_lies_in_memory_as_drawn() -> None:
    memory = memory_for()
    ring = Ring.create(memory, 0, CAPACITY)
    assert struct.unpack_from("<QQ", memory) == (1, CAPACITY)
    assert memory[16:] == bytes(Ring.OVERHEAD_BYTES + CAPACITY - 16)
    ring.try_write(b"hello")
    ring.try_write(b"")
    assert word(memory, PUBLISHED) == 0
    ring.publish()
    assert memory[DATA : DATA + 24] == struct.pack("<II8sII", 5, 1, b"hello", 0, 1)
    assert word(memory, PUBLISHED) == 24
    assert taken(ring) == [b"hello", b""]
    assert word(memory, RELEASED) == 0
    ring.release()
    assert word(memory, RELEASED) == 24
    assert ring.arm_consumer()
    assert word(memory, CONSUMER_SLEEPS) == 1
    for _ in range(3):
        assert ring.try_write(bytes(56))
    ring.publish()
    assert word(memory, CONSUMER_SLEEPS) == 0
    assert ring.arm_producer(64)
    # The 40 bytes left at the end do not take the message's 72: it would end 72 behind the wrap.
    assert word(memory, PRODUCER_WAITS_FOR) == 72


def test_messages_come_whole_and_in_order() -> None:
    ring = make_ring()
    assert ring.try_write(b"one ", bytearray(b"and "), memoryview(b"two"))
    assert ring.try_write()
    assert ring.try_write(b"three")
    ring.publish()
    assert taken(ring) == [b"one and two", b"", b"three"]
    assert taken(ring) == []


def test_views_are_read_only() -> None:
    ring = make_ring()
    ring.try_write(b"one")
    ring.publish()
    (view,) = ring.consume()
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1


def test_unpublished_messages_are_invisible() -> None:
    ring = make_ring()
    ring.try_write(b"one")
    assert taken(ring) == []
    assert ring.arm_consumer()
    assert ring.publish(), "the consumer sleeps"
    ring.try_write(b"two")
    assert taken(ring) == [b"one"]


def test_message_that_exactly_fills_the_rest_needs_no_padding() -> None:
    memory = memory_for()
    ring = Ring.create(memory, 0, CAPACITY)
    exchange(ring, bytes(56), bytes(56), bytes(56))
    exchange(ring, b"x" * 56)
    assert word(memory, PUBLISHED) == CAPACITY
    exchange(ring, b"y")
    assert word(memory, PUBLISHED) == CAPACITY + 16
    assert memory[DATA : DATA + 9] == struct.pack("<IIc", 1, 1, b"y")


@pytest.mark.parametrize("rest", range(8, 72, 8))
def test_message_larger_than_the_rest_wraps_behind_padding(rest: int) -> None:
    memory = memory_for()
    ring = Ring.create(memory, 0, CAPACITY)
    exchange(ring, bytes(56), bytes(56), bytes(48), bytes(64 - rest))
    place = CAPACITY - rest
    assert word(memory, PUBLISHED) == place
    exchange(ring, b"z" * 64)
    assert struct.unpack_from("<II", memory, DATA + place) == (rest - 8, 2)
    assert word(memory, PUBLISHED) == CAPACITY + 72
    assert word(memory, RELEASED) == CAPACITY + 72


def test_full_ring_refuses_and_takes_again_once_released() -> None:
    ring = make_ring()
    written = 0
    while ring.try_write(bytes([written]) * 24):
        written += 1
    assert written == CAPACITY // 32
    assert not ring.try_write(b"")
    ring.publish()
    assert len(ring.consume()) == written
    assert not ring.try_write(b""), "consumed is not released"
    ring.release()
    assert ring.try_write(b"")


def test_refused_message_leaves_nothing_behind() -> None:
    ring = make_ring()
    for _ in range(3):
        assert ring.try_write(bytes(64))
    assert not ring.try_write(bytes(64))
    assert ring.try_write(b"small")
    ring.publish()
    assert taken(ring)[3:] == [b"small"]


def test_message_above_half_is_the_callers_mistake() -> None:
    ring = make_ring()
    assert ring.try_write(bytes(SIZE_MAX))
    with pytest.raises(LocalProtocolError, match="121 bytes; at most 120"):
        ring.try_write(bytes(60), bytes(61))
    ring.publish()
    with pytest.raises(LocalProtocolError, match="121 bytes; at most 120"):
        ring.arm_producer(SIZE_MAX + 1)


@pytest.mark.parametrize("place", range(0, CAPACITY, 8))
def test_largest_message_fits_an_empty_ring_wherever_it_stands(place: int) -> None:
    ring = make_ring()
    for _ in range(place // 8):
        exchange(ring, b"")
    exchange(ring, bytes(SIZE_MAX))


@pytest.mark.parametrize("part", ["text", memoryview(bytes(8)).cast("Q")])
def test_part_that_is_not_bytes_leaves_nothing_behind(part: memoryview) -> None:
    ring = make_ring()
    ring.try_write(b"before")
    with pytest.raises((TypeError, ValueError)):
        ring.try_write(b"start", part)
    ring.try_write(b"after")
    ring.publish()
    assert taken(ring) == [b"before", b"after"]


def test_publish_and_release_of_nothing_wake_nobody() -> None:
    ring = make_ring()
    assert ring.arm_consumer()
    assert not ring.publish()
    assert not ring.release()
    ring.try_write(b"")
    assert ring.publish()


def test_only_an_armed_consumer_is_woken_and_only_once() -> None:
    ring = make_ring()
    ring.try_write(b"one")
    assert not ring.publish()
    assert not ring.arm_consumer(), "there is a message"
    ring.consume()
    assert ring.arm_consumer()
    ring.try_write(b"two")
    assert ring.publish()
    ring.try_write(b"three")
    assert not ring.publish()


def test_producer_is_woken_once_there_is_room_for_what_it_waits_for() -> None:
    ring = make_ring()
    for _ in range(8):
        assert ring.try_write(bytes(24))
    ring.publish()
    assert ring.arm_producer(56)
    ring.consume(bytes_max=1)
    assert not ring.release(), "32 bytes are no room for 64"
    ring.consume(bytes_max=1)
    assert ring.release()
    assert ring.try_write(bytes(56))
    ring.consume()
    assert not ring.release(), "it was woken already"


def test_producer_does_not_wait_where_there_is_room() -> None:
    ring = make_ring()
    assert not ring.arm_producer(SIZE_MAX)
    exchange(ring, b"one")
    assert not ring.release()


def test_producer_may_not_wait_with_unpublished_messages() -> None:
    ring = make_ring()
    ring.try_write(b"one")
    with pytest.raises(LocalProtocolError, match="publish"):
        ring.arm_producer(1)


def test_consume_takes_one_message_at_least_and_stops_at_its_bound() -> None:
    ring = make_ring()
    for index in range(6):
        ring.try_write(bytes([index]) * 8)
    ring.publish()
    assert len(ring.consume(bytes_max=0)) == 1
    assert len(ring.consume(bytes_max=16)) == 1
    assert len(ring.consume(bytes_max=17)) == 2
    assert taken(ring) == [b"\4" * 8, b"\5" * 8]
    ring.release()


def test_consume_takes_1024_messages_at_most() -> None:
    ring = make_ring(1 << 15)
    for index in range(1500):
        assert ring.try_write(index.to_bytes(2, "little"))
        if index == 1023:
            ring.publish()
    assert len(ring.consume()) == 1024
    assert ring.arm_consumer()
    assert ring.publish()
    assert not ring.arm_consumer()
    assert [int.from_bytes(view, "little") for view in ring.consume()] == list(range(1024, 1500))


def test_opening_takes_up_the_ring_where_it_stands() -> None:
    memory = memory_for()
    ring = Ring.create(memory, 0, CAPACITY)
    exchange(ring, b"gone")
    ring.try_write(b"consumed, not released")
    ring.publish()
    ring.consume()
    ring.try_write(b"unpublished")
    again = Ring(memory, 0, CAPACITY)
    assert taken(again) == [b"consumed, not released"]
    again.release()
    exchange(again, b"new")


def test_rings_share_memory_without_touching_each_other() -> None:
    size = Ring.OVERHEAD_BYTES + CAPACITY
    memory = mmap(-1, 64 + 2 * size)
    first = Ring.create(memory, 64, CAPACITY)
    second = Ring.create(memory, 64 + size, CAPACITY)
    for ring, letter in ((first, b"1"), (second, b"2")):
        while ring.try_write(letter * 40):
            pass
        ring.publish()
    assert set(b"".join(taken(first))) == set(b"1")
    assert set(b"".join(taken(second))) == set(b"2")
    assert memory[:64] == bytes(64)


@pytest.mark.parametrize("capacity", [-64, 0, 1, 32, 63, 65, 96, 255, 1 << 32])
def test_odd_capacities_are_refused(capacity: int) -> None:
    with pytest.raises(ConfigError, match="power of two"):
        Ring.create(memory_for(), 0, capacity)


@pytest.mark.parametrize("offset", [-64, 1, 8, 32, 64, 1 << 20])
def test_offsets_that_are_odd_or_outside_are_refused(offset: int) -> None:
    with pytest.raises(ConfigError, match="offset"):
        Ring.create(memory_for(), offset, CAPACITY)


def test_memory_that_is_read_only_is_refused() -> None:
    memory = memoryview(memory_for()).toreadonly()
    with pytest.raises(BufferError):
        Ring.create(memory, 0, CAPACITY)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 0), (0, 2), (8, 2 * CAPACITY), (PUBLISHED, CAPACITY + 8), (RELEASED, 8)],
    ids=["blank", "version", "capacity", "published", "released"],
)
def test_opening_what_is_no_such_ring_ends_the_node(offset: int, value: int) -> None:
    memory = memory_for()
    Ring.create(memory, 0, CAPACITY)
    plant(memory, offset, value)
    with pytest.raises(InvariantError, match="no such ring"):
        Ring(memory, 0, CAPACITY)


@pytest.mark.parametrize("published", [4, 8, CAPACITY + 8, 1 << 63])
def test_impossible_published_position_ends_the_node(published: int) -> None:
    memory = memory_for()
    ring = Ring.create(memory, 0, CAPACITY)
    plant(memory, DATA, 1 << 32 | 8)
    plant(memory, PUBLISHED, published)
    with pytest.raises(InvariantError, match="inconsistent"):
        ring.consume()


@pytest.mark.parametrize(
    ("size", "kind"),
    [(8, 0), (8, 3), (9, 1), (0xFFFF_FFFF, 1), (0, 2), (8, 2), (CAPACITY - 8, 2)],
)
def test_impossible_message_ends_the_node(size: int, kind: int) -> None:
    memory = memory_for()
    ring = Ring.create(memory, 0, CAPACITY)
    ring.try_write(b"8 bytes.")
    ring.publish()
    struct.pack_into("<II", memory, DATA, size, kind)
    with pytest.raises(InvariantError, match="inconsistent"):
        ring.consume()


def test_message_over_the_end_of_the_ring_ends_the_node() -> None:
    memory = memory_for()
    ring = Ring.create(memory, 0, CAPACITY)
    exchange(ring, bytes(56), bytes(56), bytes(56))
    ring.try_write(b"8 bytes.")
    struct.pack_into("<II", memory, DATA + 192, 64, 1)
    plant(memory, PUBLISHED, 192 + 72)
    with pytest.raises(InvariantError, match="inconsistent"):
        ring.consume()


def test_message_over_the_published_position_ends_the_node() -> None:
    memory = memory_for()
    ring = Ring.create(memory, 0, CAPACITY)
    while ring.try_write(bytes(24)):
        pass
    ring.publish()
    plant(memory, PUBLISHED, 16)
    with pytest.raises(InvariantError, match="inconsistent"):
        ring.consume()


def test_padding_without_a_message_behind_it_ends_the_node() -> None:
    memory = memory_for()
    ring = Ring.create(memory, 0, CAPACITY)
    exchange(ring, bytes(56), bytes(56), bytes(56))
    struct.pack_into("<II", memory, DATA + 192, 56, 2)
    plant(memory, PUBLISHED, CAPACITY)
    with pytest.raises(InvariantError, match="inconsistent"):
        ring.consume()


@pytest.mark.parametrize("released", [8, 1 << 63])
def test_impossible_released_position_ends_the_node(released: int) -> None:
    memory = memory_for()
    ring = Ring.create(memory, 0, CAPACITY)
    plant(memory, RELEASED, released)
    with pytest.raises(InvariantError, match="inconsistent"):
        ring.try_write(b"one")
