"""What is stored in place of an entry's data, and what a reader makes of it, whatever it is."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import suppress

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from walle.compression import FLAG_ZSTD, Compressor, Decompressor, make_compressor
from walle.errors import UnreadableEntry
from walle.ids import NO_WRITER
from walle.limits import COMPRESSED_DATA_BYTES_MIN, ENTRY_DATA_BYTES_MAX, MIB
from walle.messages import COMPRESSIONS
from walle.record import Entry

TEXT = b'{"order": 1, "state": "created"} ' * 20


def stored(data: bytes, flags: int = FLAG_ZSTD) -> Entry:
    """An entry as it came from a member."""
    return Entry(7, NO_WRITER, 0, data, 1, 0, flags)


def unpack(data: bytes, flags: int = FLAG_ZSTD) -> bytes:
    return Decompressor("/s").unpack(stored(data, flags)).data


@given(st.binary(max_size=300) | st.integers(0, 3000).map(lambda size: (TEXT * 5)[:size]))
def test_what_is_packed_is_unpacked(data: bytes) -> None:
    packed, flags = Compressor().pack(data)
    assert flags in {0, FLAG_ZSTD}
    assert (packed == data) == (flags == 0), "what has no flag is the data"
    assert len(packed) < len(data) or not flags, "a frame that is no smaller is not stored"
    entry = Decompressor("/s").unpack(stored(packed, flags))
    assert (entry.data, entry.flags) == (data, 0)


def test_what_does_not_get_smaller_is_left_as_it_is() -> None:
    data = random.Random(1).randbytes(1_000)
    assert Compressor().pack(data) == (data, 0)


def test_one_compressor_and_one_decompressor_serve_many_entries() -> None:
    compressor, decompressor = Compressor(), Decompressor("/s")
    for size in (64, 1000, ENTRY_DATA_BYTES_MAX, 65):
        data = (TEXT * (size // len(TEXT) + 1))[:size]
        packed, flags = compressor.pack(data)
        assert len(packed) < size
        assert decompressor.unpack(stored(packed, flags)).data == data


@pytest.mark.parametrize(
    "size", [0, COMPRESSED_DATA_BYTES_MIN - 1, ENTRY_DATA_BYTES_MAX + 1], ids=str
)
def test_what_is_short_or_too_long_is_left_as_it_is(size: int) -> None:
    """What is too long is refused by the encoder, in its words; packed it might pass there."""
    assert Compressor().pack(bytes(size)) == (bytes(size), 0)


def test_only_what_is_asked_for_is_compressed() -> None:
    assert [make_compressor(name) is not None for name in COMPRESSIONS] == [False, True]
    assert make_compressor("of a later version") is None


@pytest.mark.parametrize("flags", [0x02, 0x80, 0x81, 0xFF])
def test_unknown_flag_is_named_with_the_entry_and_the_remedy(flags: int) -> None:
    text = rf"entry 7 of /s has the unknown flag {flags & ~1:#04x}: .* newer version of walle"
    with pytest.raises(UnreadableEntry, match=text) as error:
        unpack(TEXT, flags)
    assert (error.value.stream, error.value.entry_id) == ("/s", 7)


def of_unknown_size(data: bytes) -> bytes:
    """A frame whose header does not tell how much it holds."""
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


def claiming(size: int) -> bytes:
    """A frame of 512 bytes whose header tells of `size`, below 64 KiB + 256."""
    frame = bytearray(zstandard.ZstdCompressor().compress(bytes(range(256)) * 2))
    frame[5:7] = (size - 256).to_bytes(2, "little")
    return bytes(frame)


GOOD = zstandard.ZstdCompressor().compress(TEXT)
DICTIONARY = zstandard.ZstdCompressionDict(TEXT * 10, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"no frame at all",
        GOOD[:-1],
        GOOD[:4],
        GOOD + b"x",
        GOOD + GOOD,
        b"x" + GOOD,
        zstandard.ZstdCompressor().compress(b""),
        b"\x50\x2a\x4d\x18\x04\0\0\0skip",
        of_unknown_size(TEXT),
        claiming(513),
        claiming(300),
        zstandard.ZstdCompressor().compress(bytes(ENTRY_DATA_BYTES_MAX + 1)),
        zstandard.ZstdCompressor(dict_data=DICTIONARY).compress(TEXT[:-5] + b"other"),
    ],
    ids=range(14),
)
def test_what_is_no_frame_of_an_entry_is_refused_by_name(frame: bytes) -> None:
    with pytest.raises(UnreadableEntry, match=r"entry 7 of /s .* frame .* read on from entry 8"):
        unpack(frame)


@given(st.binary(max_size=64), st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_any_bytes_are_data_or_an_error(junk: bytes, index: int, change: int) -> None:
    changed = bytearray(GOOD)
    changed[index] ^= change
    for frame in (junk, GOOD[:4] + junk, bytes(changed)):
        with suppress(UnreadableEntry):
            assert len(unpack(frame)) <= ENTRY_DATA_BYTES_MAX


def test_frames_that_claim_or_hold_gigabytes_cost_no_memory() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 * MIB))
    claim = bytearray(zstandard.ZstdCompressor().compress(bytes(ENTRY_DATA_BYTES_MAX)))
    claim[5:9] = (0xFFFF_FFFF).to_bytes(4, "little")
    assert zstandard.frame_content_size(bytes(claim)) == 0xFFFF_FFFF
    tracemalloc.start()
    try:
        for frame in (bomb, of_unknown_size(bytes(64 * MIB)), bytes(claim)):
            tracemalloc.reset_peak()
            with pytest.raises(UnreadableEntry):
                unpack(frame)
            assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()
