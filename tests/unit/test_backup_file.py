"""The backup file: all of it comes out, or its lack is told, wherever it is cut or changed."""

from __future__ import annotations

import os
import resource
import struct
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from tests.unit.making import W1, W2, entries
from walle.client.backup import survey
from walle.client.backup_file import HEADER_BYTES, BackupFile, Header, open_backup
from walle.errors import CorruptionError, InvariantError, Refused
from walle.ids import IdRange, Position, WriterId
from walle.limits import ENTRY_DATA_BYTES_MAX
from walle.native import crc32c
from walle.record import HEADER_BYTES as TRAILER_BYTES
from walle.record import Encoder, decode_all, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from walle.record import Batch, Entry

ORIGIN = Position(6, 66)
HEADER = Header(bytes(range(16)), 9, "/größe/日本", ORIGIN)
FIRST = entries(3, ORIGIN, data=b"some data")
SECOND = entries(2, FIRST.last, writer=W2, data=b"other data than that")


def write(path: Path, *runs: Batch, header: Header = HEADER) -> bytes:
    """A file to which each run has added one batch; returns its bytes."""
    for run in runs:
        with open_backup(str(path), is_writable=True) as file:
            if file.is_empty:
                file.begin(header)
            file.find_end()
            file.append(run)
            file.finish(time_us=5)
    return path.read_bytes()


def read(path: Path) -> tuple[list[Entry], BackupFile]:
    """The entries, and the file as it was known when all had been taken."""
    with open_backup(str(path)) as file:
        found = [entry for batch in file.batches() for entry in decode_all(batch)]
    return found, file


def history(*batches: Batch) -> list[Entry]:
    return [entry for batch in batches for entry in decode_all(batch)]


ALL = history(FIRST, SECOND)


@pytest.fixture
def path() -> Iterator[Path]:
    """In memory: there are thousands of syncs here."""
    with TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory) / "a.backup"


def test_layout_is_as_drawn(path: Path) -> None:
    """By hand, as somebody would who has only the drawing."""
    data = write(path, FIRST)
    name = HEADER.name.encode()
    fixed = struct.pack("<8sII16sQQQH", b"WALLEBAK", 1, 512, HEADER.cluster_id, 9, 7, 66, len(name))
    assert data[:508] == (fixed + name).ljust(508, b"\0")
    assert data[508:512] == struct.pack("<I", crc32c(data[:508]))
    records = bytes(FIRST.payload.view())
    end = 512 + len(records)
    assert data[512:end] == records
    trailer = struct.pack("<QIQQQQ", FIRST.last.chain, 0, 0, FIRST.last.entry_id, end, 5)
    assert data[end:] == struct.pack("<I", crc32c(trailer)) + trailer


def test_each_run_goes_on_where_the_one_before_ended(path: Path) -> None:
    data = write(path, FIRST)
    longer = write(path, SECOND)
    assert longer[: len(data) - TRAILER_BYTES] == data[:-TRAILER_BYTES]
    found, file = read(path)
    assert (found, file.tail, file.is_complete) == (ALL, SECOND.last, True)
    assert file.header == HEADER
    assert file.held == IdRange(7, 12)


def test_a_run_that_adds_nothing_writes_nothing(path: Path) -> None:
    data = write(path, FIRST)
    with open_backup(str(path), is_writable=True) as file:
        file.find_end()
        file.finish(time_us=99)
    assert path.read_bytes() == data


def test_a_stream_without_entries(path: Path) -> None:
    with open_backup(str(path), is_writable=True) as file:
        file.begin(HEADER)
        file.find_end()
        file.finish(5)
    found, file = read(path)
    assert (found, file.tail, file.is_complete) == ([], ORIGIN, True)
    write(path, FIRST)
    assert read(path)[0] == history(FIRST)


def test_records_must_follow(path: Path) -> None:
    write(path, FIRST)
    with open_backup(str(path), is_writable=True) as file:
        file.find_end()
        with pytest.raises(InvariantError):
            file.append(FIRST)


def test_large_entries_span_what_is_read_at_once(path: Path) -> None:
    encoder, batches = Encoder(W1, ORIGIN), []
    for size in [ENTRY_DATA_BYTES_MAX - 40, 1, ENTRY_DATA_BYTES_MAX, 3] * 3:
        encoder.add(os.urandom(size), 0)
        batches.append(encoder.take())
    write(path, *batches)
    assert read(path)[0] == history(*batches)


# --- cut ------------------------------------------------------------------------------------------


def test_a_file_that_is_cut_anywhere_is_incomplete_and_can_be_gone_on_with(path: Path) -> None:
    whole = write(path, FIRST, SECOND)
    seen = set()
    for size in range(HEADER_BYTES, len(whole)):
        path.write_bytes(whole[:size])
        found, file = read(path)
        assert found == ALL[: len(found)]
        assert not file.is_complete
        seen.add(len(found))
        with open_backup(str(path), is_writable=True) as file:
            file.find_end()
            assert path.stat().st_size == file.end
            rest = Encoder(W2, file.tail)
            for entry in ALL[len(found) :]:
                rest.add(entry.data, 0)
            if len(found) < len(ALL):
                file.append(rest.take())
            file.finish(5)
        assert [entry.data for entry in read(path)[0]] == [entry.data for entry in ALL]
        assert read(path)[1].is_complete
    assert seen == set(range(len(ALL) + 1))


@pytest.mark.parametrize("size", [1, 8, HEADER_BYTES - 1])
def test_a_header_that_is_cut_is_no_backup(path: Path, size: int) -> None:
    path.write_bytes(write(path, FIRST)[:size])
    with pytest.raises(CorruptionError, match=r"at byte 0: expected the header .* another file"):
        read(path)


def test_rest_of_a_torn_write_may_be_anything(path: Path) -> None:
    whole = write(path, FIRST)[:-TRAILER_BYTES]
    for rest in (bytes(5000), b"\xff" * 100, os.urandom(5000), bytes(SECOND.payload.view())[:70]):
        path.write_bytes(whole + rest)
        found, file = read(path)
        assert (found, file.is_complete) == (history(FIRST), False)
        write(path, SECOND)
        assert read(path)[0] == ALL


# --- damage ---------------------------------------------------------------------------------------


def test_no_changed_bit_goes_unnoticed(path: Path) -> None:
    """Damage is told; but for that of the trailer, which leaves the file incomplete."""
    whole = write(path, FIRST, SECOND)
    for index in range(len(whole)):
        changed = bytearray(whole)
        changed[index] ^= 1 << index % 8
        path.write_bytes(changed)
        if index < len(whole) - TRAILER_BYTES:
            with pytest.raises(CorruptionError):
                read(path)
            continue
        found, file = read(path)
        assert (found, file.is_complete) == (ALL, False)
        with open_backup(str(path), is_writable=True) as file:
            file.find_end()
            file.finish(5)
        assert path.read_bytes() == whole, "a trailer is made anew"


def test_damage_is_told_with_its_place_and_the_remedy(path: Path) -> None:
    whole = bytearray(write(path, FIRST, SECOND))
    record_bytes = FIRST.payload.size // 3
    whole[HEADER_BYTES + record_bytes + 50] ^= 1
    path.write_bytes(whole)
    text = (
        f"at byte {HEADER_BYTES + record_bytes}: expected entry 8, found BAD_CRC; use another copy "
        "of the file, or begin another, or restore what is before it by --to 7"
    )
    with pytest.raises(CorruptionError, match=text):
        read(path)
    path.write_bytes(whole[:-TRAILER_BYTES])
    with (
        open_backup(str(path), is_writable=True) as file,
        pytest.raises(CorruptionError, match=text),
    ):
        file.find_end()
    assert path.read_bytes() == whole[:-TRAILER_BYTES], "what may be the last copy is not cut"


def test_damaged_last_record_is_no_torn_one_where_a_trailer_vouches_for_it(path: Path) -> None:
    whole = bytearray(write(path, FIRST))
    whole[-TRAILER_BYTES - 8] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CorruptionError, match="expected entry 9"):
        read(path)


@pytest.mark.parametrize("blank_bytes", [100, 1_500_000, 2_000_000, 2_097_152, 9_000_000])
def test_whole_record_behind_any_damage_is_found(path: Path, blank_bytes: int) -> None:
    """Wherever it lies in what is read at once, or between."""
    write(path, FIRST)
    last = entries(1, Position(99, 9), data=bytes(ENTRY_DATA_BYTES_MAX))
    good = path.read_bytes()[:-TRAILER_BYTES]
    path.write_bytes(good + bytes(blank_bytes & -8) + bytes(last.payload.view()))
    with pytest.raises(CorruptionError, match="expected entry 10, found BLANK"):
        read(path)


def test_good_records_of_another_history_are_damage(path: Path) -> None:
    """At the beginning, and where one read ends and the next begins."""
    records, trailer = bytes(FIRST.payload.view()), bytes(TRAILER_BYTES)
    path.write_bytes(HEADER._replace(origin=Position(6, 67)).encode() + records + trailer)
    with pytest.raises(CorruptionError, match="expected entry 7, found BAD_CHAIN; use another"):
        read(path)
    other = entries(2, Position(FIRST.last.entry_id, 1))
    path.write_bytes(HEADER.encode() + records + bytes(other.payload.view()))
    with pytest.raises(CorruptionError, match="expected entry 10, found BAD_CHAIN; use another"):
        read(path)


def test_trailer_must_follow_the_last_record(path: Path) -> None:
    whole = write(path, FIRST)[:-TRAILER_BYTES]
    place = WriterId(FIRST.last.entry_id, len(whole) + 8)
    trailer, _ = encode(0, place, 5, b"", FIRST.last.chain)
    path.write_bytes(whole + bytes(8) + trailer)
    with pytest.raises(CorruptionError, match="expected entry 10"):
        read(path)


def test_a_trailer_among_the_data_of_an_entry_is_none(path: Path) -> None:
    """Entries may hold backup files; the last run may have been interrupted right behind one."""
    inner = write(path, FIRST)
    path.unlink()
    batch = entries(1, ORIGIN, data=inner)
    assert len(inner) % 8 == 0, "nothing is padded behind the inner trailer"
    path.write_bytes(write(path, batch)[:-TRAILER_BYTES])
    found, file = read(path)
    assert ([entry.data for entry in found], file.is_complete) == ([inner], False)
    with open_backup(str(path), is_writable=True) as file:
        file.find_end()
        assert (file.tail, file.is_complete) == (batch.last, False)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "expected a backup file, found an empty one"),
        (b"some text", "expected the header of a backup file"),
        (bytes(1000), "expected the header of a backup file"),
        (b"WALLEBAK\2".ljust(1000), r"at byte 8: expected version 1, found .* use a newer"),
        (HEADER.encode()[:-1] + b"\0", r"at byte 508: expected CRC32C .* use another copy"),
    ],
    ids=range(5),
)
def test_what_is_no_backup_is_refused(path: Path, data: bytes, text: str) -> None:
    path.write_bytes(data)
    with pytest.raises(CorruptionError, match=text):
        read(path)


# --- the system -----------------------------------------------------------------------------------


def test_two_runs_do_not_write_the_same_file(path: Path) -> None:
    with open_backup(str(path), is_writable=True) as file:
        file.begin(HEADER)
        with (
            pytest.raises(Refused, match="is being written by another backup"),
            open_backup(str(path), is_writable=True),
        ):
            pass
        read(path)
    write(path, FIRST)


def test_trailer_comes_only_when_all_before_it_is_durable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_write, real_sync = os.pwrite, os.fsync

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        steps.append("trailer" if len(data) == TRAILER_BYTES else "records")
        return real_write(fd, data, offset)

    def fsync(fd: int) -> None:
        is_file = os.path.samestat(os.fstat(fd), path.stat())
        steps.append("sync" if is_file else "sync directory")
        real_sync(fd)

    with open_backup(str(path), is_writable=True) as file:
        file.begin(HEADER)
        monkeypatch.setattr(os, "pwrite", pwrite)
        monkeypatch.setattr(os, "fsync", fsync)
        file.append(FIRST)
        file.finish(5)
    durable = ["sync", "sync directory"]
    assert steps == ["records", *durable, "trailer", *durable]


def test_error_of_the_system_names_the_file_and_can_be_mended(path: Path) -> None:
    """A write that ends midway, as on a full disk: what is whole stays, the rest is repeated."""
    write(path, FIRST)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"File too large: '{path}'"):
            write(path, SECOND)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read(path)[0] == history(FIRST)
    write(path, SECOND)
    assert read(path)[0] == ALL


# --- what is wanted -------------------------------------------------------------------------------


@pytest.fixture
def timed(path: Path) -> BackupFile:
    """Entries 7 to 12, whose times do not always grow."""
    encoder = Encoder(W1, ORIGIN)
    for time_us in (10, 20, 20, 40, 30, 50):
        encoder.add(b"x", time_us)
    write(path, encoder.take())
    with open_backup(str(path)) as file:
        return BackupFile(str(path), os.dup(file._fd))


@pytest.mark.parametrize(
    ("to", "until_us", "end"),
    [
        (None, None, 13),
        (7, None, 8),
        (12, None, 13),
        (None, 50, 13),
        (None, 49, 12),
        (None, 39, 10),
        (None, 20, 10),
        (None, 10, 8),
    ],
)
def test_wanted_entries_end_at_an_id_or_before_a_later_time(
    timed: BackupFile, to: int | None, until_us: int | None, end: int
) -> None:
    assert survey(timed, to, until_us, lambda _count: None) == IdRange(7, end)


@pytest.mark.parametrize(
    ("to", "until_us", "text"),
    [
        (6, None, "holds entries 7 to 12 of .*, not 6"),
        (13, None, "holds entries 7 to 12 of .*, not 13"),
        (None, 9, "entry 7, the first in .*, is of a later time"),
    ],
)
def test_what_is_not_there_cannot_be_wanted(
    timed: BackupFile, to: int | None, until_us: int | None, text: str
) -> None:
    with pytest.raises(Refused, match=text):
        survey(timed, to, until_us, lambda _count: None)


def test_incomplete_file_serves_what_is_asked_for_by_id_alone(path: Path) -> None:
    path.write_bytes(write(path, FIRST, SECOND)[: -TRAILER_BYTES - 1])
    with open_backup(str(path)) as file:
        assert survey(file, 10, None, lambda _count: None) == IdRange(7, 11)
        for until_us in (None, 5):
            with pytest.raises(Refused, match=r"entries 7 to 10, but is incomplete: .* --to 10"):
                survey(file, None, until_us, lambda _count: None)


def test_damage_behind_what_is_wanted_does_not_matter(path: Path) -> None:
    whole = bytearray(write(path, FIRST, SECOND))
    whole[HEADER_BYTES + FIRST.payload.size + 50] ^= 1
    path.write_bytes(whole)
    with open_backup(str(path)) as file:
        assert survey(file, 9, None, lambda _count: None) == IdRange(7, 10)
        with pytest.raises(CorruptionError, match="--to 9"):
            survey(file, 10, None, lambda _count: None)
