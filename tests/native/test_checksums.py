"""CRC32C and XXH64: published vectors, the twins, and the xxhash package."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest
import xxhash
from hypothesis import example, given
from hypothesis import strategies as st

from tests.native import twins
from walle.native import crc32c, crc32c_is_hardware, crc32c_portable, xxh64

if TYPE_CHECKING:
    from collections.abc import Callable

BOTH = pytest.mark.parametrize("crc", [crc32c, crc32c_portable])

# RFC 3720, B.4; its last row is an iSCSI read command.
READ_COMMAND = bytes.fromhex(
    "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018"
    "28000000 00000000 02000000 00000000"
)
CRC_VECTORS = [
    (b"", 0),
    (b"123456789", 0xE306_9283),
    (bytes(32), 0x8A91_36AA),
    (b"\xff" * 32, 0x62A8_AB43),
    (bytes(range(32)), 0x46DD_794E),
    (bytes(range(31, -1, -1)), 0x113F_DB5C),
    (READ_COMMAND, 0xD996_3A56),
]

XXH64_VECTORS = [
    (b"", 0, 0xEF46_DB37_51D8_E999),
    (b"a", 0, 0xD24E_C4F1_A98C_6E5B),
    (b"abc", 0, 0x44BC_2CF5_AD77_0999),
    (b"Nobody inspects the spammish repetition", 0, 0xFBCE_A83C_8A37_8BF1),
]

u64 = st.integers(0, twins.MASK_64)


@BOTH
@pytest.mark.parametrize(("data", "expected"), CRC_VECTORS)
def test_crc32c_of_published_vectors(crc: Callable[..., int], data: bytes, expected: int) -> None:
    assert crc(data) == expected
    assert twins.crc32c(data) == expected


@BOTH
@given(data=st.binary(max_size=400), start=st.integers(0, 0xFFFF_FFFF), skip=st.integers(0, 9))
def test_crc32c_is_its_twin_at_any_alignment(
    crc: Callable[..., int], data: bytes, start: int, skip: int
) -> None:
    assert crc(memoryview(data)[skip:], start) == twins.crc32c(data[skip:], start)


def test_crc32c_of_every_small_size_is_the_portable_one() -> None:
    # Lanes of the hardware version have up to 1,024 bytes; so these sizes meet every lane length,
    # every rest, and the step to a second round.
    data = os.urandom(3 * 1024 + 200)
    for size in range(len(data) + 1):
        view = memoryview(data)[:size]
        assert crc32c(view, size) == crc32c_portable(view, size), data[:size].hex()


@BOTH
@given(data=st.binary(max_size=20_000), cut=st.integers(0, 20_000))
def test_crc32c_continues(crc: Callable[..., int], data: bytes, cut: int) -> None:
    assert crc(data[cut:], crc(data[:cut])) == crc(data)


def test_crc32c_uses_the_hardware_where_the_processor_says_it_can() -> None:
    with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
        words = set(file.read().split())
    assert crc32c_is_hardware() == ({"sse4_2", "pclmulqdq"} <= words or "crc32" in words)


@pytest.mark.parametrize("function", [crc32c, crc32c_portable, xxh64])
def test_checksums_take_every_kind_of_buffer(function: Callable[..., int]) -> None:
    data = bytes(range(100))
    with mmap.mmap(-1, 100) as memory:
        memory[:] = data
        for buffer in (bytearray(data), memoryview(data), memory):
            assert function(buffer, 5) == function(data, 5)


@pytest.mark.parametrize("function", [crc32c, crc32c_portable, xxh64])
def test_checksums_refuse_what_is_not_contiguous_bytes(function: Callable[..., int]) -> None:
    with pytest.raises(BufferError):
        function(memoryview(bytes(10))[::2])
    with pytest.raises(TypeError):
        function("text")


@pytest.mark.parametrize(("data", "seed", "expected"), XXH64_VECTORS)
def test_xxh64_of_published_vectors(data: bytes, seed: int, expected: int) -> None:
    assert xxh64(data, seed) == expected
    assert twins.xxh64(data, seed) == expected


@given(data=st.binary(max_size=300), seed=u64, skip=st.integers(0, 9))
@example(data=b"", seed=twins.MASK_64, skip=0)
def test_xxh64_is_its_twin_and_the_package(data: bytes, seed: int, skip: int) -> None:
    expected = xxhash.xxh64_intdigest(data[skip:], seed)
    assert xxh64(memoryview(data)[skip:], seed) == expected
    assert twins.xxh64(data[skip:], seed) == expected


def test_xxh64_of_every_small_size_is_the_package() -> None:
    data = os.urandom(300)
    for size in range(len(data) + 1):
        assert xxh64(data[:size], size) == xxhash.xxh64_intdigest(data[:size], size), data.hex()
