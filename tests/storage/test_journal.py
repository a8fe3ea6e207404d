"""The journal: torn, damaged, missing, full; and what its bytes must look like."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from tests.storage.model import CLUSTER_ID, Driver, Model, check_recovered
from walle.core import effects
from walle.errors import CorruptionError, InvariantError
from walle.ids import NO_WRITER, ORIGIN, Position
from walle.native import crc32c
from walle.storage import journal, manifest
from walle.storage.manifest import ExtentKey, ExtentRecord, Kind, StreamRecord, Update
from walle.storage.store import Store
from walle.testing.files import Inode, SimulatedFiles

DIRECTORY = Path("/data")
JOURNALS = DIRECTORY / "journal"
BLOCK = journal.BLOCK_BYTES

pytestmark = pytest.mark.usefixtures("small_files")


class Bench:
    """A store with one stream, and a model of it before each round."""

    def __init__(self) -> None:
        self.files = SimulatedFiles()
        self.driver = Driver(Store(DIRECTORY, self.files))
        self.driver.do(effects.SetCluster(CLUSTER_ID, ()))
        self.driver.create(1)
        self.driver.store.sync()
        self.models: list[Model] = []

    def promise(self, count: int = 1) -> None:
        """Rounds with a promise each."""
        for _ in range(count):
            self.models.append(self.driver.model.copy())
            self.driver.promise(1)
            self.driver.store.sync()

    @property
    def path(self) -> Path:
        """The newest journal."""
        return max(path for path in self.files.names_now if path.suffix == ".journal")

    @property
    def inode(self) -> Inode:
        inode = self.files.names_now[self.path]
        assert inode is not None
        return inode

    @property
    def end(self) -> int:
        """Where the last frame ends, rounded up to a block."""
        return -(-len(self.inode.data.rstrip(b"\0")) // BLOCK) * BLOCK

    def change(self, offset: int, new: bytes) -> None:
        for data in (self.inode.data, self.inode.durable):
            data[offset : offset + len(new)] = new

    def check(self, model: Model) -> Store:
        store = Store(DIRECTORY, self.files)
        check_recovered(store.recovered(), model)
        return store

    def check_refused(self, match: str = "the promises of this node cannot be trusted") -> None:
        names = dict(self.files.names_now)
        with pytest.raises(CorruptionError, match=match):
            Store(DIRECTORY, self.files)
        assert self.files.names_now == names, "what cannot be read is not touched"


@pytest.fixture
def bench() -> Bench:
    return Bench()


# --- the last frame -------------------------------------------------------------------------------


def test_torn_frame_is_cut_wherever_it_is_torn() -> None:
    """In the first copy, or in the second: then the first one is whole, and the frame holds."""
    torn_at, end = 0, 1
    while torn_at < end:
        bench = Bench()
        bench.promise(3)
        start = bench.end - 2 * BLOCK
        size = len(bench.inode.data[start : start + BLOCK].rstrip(b"\0"))
        end = BLOCK + size
        bench.change(start + torn_at, bytes(2 * BLOCK - torn_at))
        is_whole = torn_at >= size
        torn_bytes = len(bytes(bench.inode.data[start:]).rstrip(b"\0"))
        store = bench.check(bench.driver.model if is_whole else bench.models[-1])
        if 0 < torn_at < size:
            assert f"ends with {torn_bytes} bytes of a frame" in store.findings[0]
        else:
            assert not store.findings
        torn_at += 3


def test_torn_frame_of_many_blocks_is_cut(bench: Bench) -> None:
    """Any part of a frame may have come to the disk, in any order, and it is not damage."""
    for stream_id in range(2, 40):
        bench.driver.create(stream_id)
    bench.driver.store.sync()
    before = bench.driver.model.copy()
    start = bench.end
    for stream_id in range(1, 40):
        bench.driver.promise(stream_id)
    bench.driver.store.sync()
    size = (bench.end - start) // 2
    assert size >= 2 * BLOCK
    bench.change(start, bytes(BLOCK))
    bench.change(start + 2 * size - BLOCK, bytes(BLOCK))
    torn_bytes = len(bytes(bench.inode.data[start:]).rstrip(b"\0"))
    assert torn_bytes > BLOCK
    assert f"ends with {torn_bytes} bytes of a frame" in bench.check(before).findings[0]


def test_torn_frame_does_not_come_back(bench: Bench) -> None:
    bench.promise(2)
    for start in (bench.end - 2 * BLOCK, bench.end - BLOCK):
        bench.change(start + 4, b"\xff")
    store = bench.check(bench.models[-1])
    store.execute(effects.SetPromise(1, effects.Promise(bench.driver.new_writer(), "", 1, 0)))
    store.sync()
    states = Store(DIRECTORY, bench.files).recovered().states
    assert states[0].promise.address == ""


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", range(1, 9))
def test_one_copy_of_a_frame_is_enough(bench: Bench, distance: int) -> None:
    """Damage anywhere in the other forgets no promise, in the last frame neither."""
    bench.promise(3)
    start = bench.end - distance * BLOCK
    block = bytes(bench.inode.data[start : start + BLOCK])
    inode = bench.inode
    for place in range(0, BLOCK, 7):
        bench.change(start + place, bytes([block[place] ^ 4]))
        bench.check(bench.driver.model)
        # What recovery has changed, but for the file that is damaged here, is undone.
        bench.files.names_now = {
            path: each for path, each in bench.files.names_now.items() if path.parent != JOURNALS
        }
        bench.files.names_now[JOURNALS / "00000001.journal"] = inode
        bench.change(start, block)


def test_frame_without_a_good_copy_before_a_good_one_is_refused(bench: Bench) -> None:
    bench.promise(4)
    start = bench.end - 6 * BLOCK
    frame = bytes(bench.inode.data[start : start + BLOCK])
    for place in range(len(frame.rstrip(b"\0"))):
        for copy in (start, start + BLOCK):
            bench.change(copy + place, bytes([frame[place] ^ 4]))
        bench.check_refused()
        for copy in (start, start + BLOCK):
            bench.change(copy, frame)
    bench.check(bench.driver.model)


def test_lost_frame_before_a_good_one_is_refused(bench: Bench) -> None:
    bench.promise(4)
    bench.change(bench.end - 4 * BLOCK, bytes(2 * BLOCK))
    bench.check_refused()


def test_damaged_snapshot_is_refused(bench: Bench) -> None:
    """With nothing behind it, and with good frames."""
    for _ in range(2):
        for copy in (BLOCK, 2 * BLOCK):
            bench.change(copy + 9, bytes([bench.inode.data[copy + 9] ^ 1]))
        bench.check_refused()
        for copy in (BLOCK, 2 * BLOCK):
            bench.change(copy + 9, bytes([bench.inode.data[copy + 9] ^ 1]))
        bench.promise()


@pytest.mark.parametrize("offset", [0, 13, 17, 25, 33])
def test_damaged_header_is_refused(bench: Bench, offset: int) -> None:
    bench.change(offset, bytes([bench.inode.data[offset] ^ 1]))
    bench.check_refused()


def test_journal_of_another_format_version_is_left_alone(bench: Bench) -> None:
    head = bytearray(bench.inode.data[:32])
    head[8] = 9
    bench.change(0, bytes(head) + crc32c(head).to_bytes(4, "little"))
    bench.check_refused("expected format version 3, found version 9; run the release")


def test_shortened_journal_is_refused(bench: Bench) -> None:
    inode = bench.inode
    for size in (0, 100, BLOCK, BLOCK + 10):
        inode.data = inode.durable[:size]
        bench.check_refused()


def test_missing_journal_is_refused_where_there_are_streams(bench: Bench) -> None:
    bench.driver.append(1, [1])
    bench.driver.store.sync()
    del bench.files.names_now[bench.path]
    bench.check_refused()


def test_journal_of_another_number_is_refused(bench: Bench) -> None:
    bench.files.rename(bench.path, JOURNALS / "00000099.journal")
    bench.check_refused()
    bench.files.rename(JOURNALS / "00000099.journal", JOURNALS / "backup.journal")
    bench.check_refused()


def test_frame_that_makes_no_sense_is_refused(bench: Bench) -> None:
    """Its CRC is good: it is a bug's work, or somebody's."""
    body = b"\x07" * 30
    head = struct.pack("<IQQ", len(body), bench.driver.store._journal.sequence + 1, 1)
    bench.change(bench.end, crc32c(head + body).to_bytes(4, "little") + head + body)
    bench.check_refused()


# --- replacing ------------------------------------------------------------------------------------


def test_full_journal_is_replaced(bench: Bench) -> None:
    numbers = set()
    for _ in range(100):
        bench.promise()
        assert len(bench.files.names(JOURNALS)) == 1
        numbers.add(bench.path)
    assert len(numbers) > 3
    bench.check(bench.driver.model)


def test_journal_grows_with_what_it_must_hold(bench: Bench) -> None:
    for stream_id in range(2, 400):
        bench.driver.create(stream_id)
    bench.driver.store.sync()
    bench.promise(20)
    assert len(bench.inode.data) > 2 * journal.BYTES_MIN
    bench.check(bench.driver.model)


def test_older_journal_that_was_left_behind_is_ignored_and_removed(bench: Bench) -> None:
    old_path, old = bench.path, bench.inode
    bench.promise(3)
    store = bench.check(bench.driver.model)
    store.close()
    assert bench.path != old_path
    bench.files.names_now[old_path] = old
    bench.check(bench.driver.model)
    assert len(bench.files.names(JOURNALS)) == 1


def test_unfinished_journal_is_ignored_and_removed(bench: Bench) -> None:
    bench.promise(3)
    bench.files.create(JOURNALS / "00000002.new", 100)
    bench.check(bench.driver.model)
    assert len(bench.files.names(JOURNALS)) == 1


def test_nothing_is_appended_before_there_is_a_snapshot() -> None:
    one = journal.Journal(JOURNALS, SimulatedFiles(), number=1, sequence=1)
    with pytest.raises(InvariantError):
        one.append(b"x")
    with pytest.raises(InvariantError):
        _ = one.file


# --- bodies ---------------------------------------------------------------------------------------

EXTENT = ExtentRecord(3, Kind.RUN, 1, 1 << 20, 9, 12288, 16384, 10, 77, Position(20, 5), 0)
STREAM = StreamRecord(
    1, 2, 1, 0, NO_WRITER, 0, 0, NO_WRITER, ORIGIN, 0, "/é", "", ("a",), (), (EXTENT,),
    (ExtentKey(1, 4096),),
)  # fmt: skip


def test_update_is_decoded_as_it_was_encoded() -> None:
    update = Update((effects.SetCluster(b"c" * 16, ()),), (STREAM, STREAM._replace(stream_id=2)))
    assert manifest.decode(manifest.encode(update)) == update


def test_any_bytes_decode_to_an_update_or_to_nothing() -> None:
    body = manifest.encode(Update((), (STREAM,)))
    for size in range(len(body)):
        assert manifest.decode(body[:size]) is None
    for place in range(len(body)):
        manifest.decode(body[:place] + bytes([body[place] ^ 0xFF]) + body[place + 1 :])


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 3},
        {"offset": 12280},
        {"offset": 12292},
        {"offset": (1 << 20) + 8},
        {"end": 12288},
        {"end": 16385},
        {"end": (1 << 20) + 8},
        {"first_id": 0},
        {"first_id": 21},
        {"is_sealed": 0, "offset": 12292},
    ],
)
def test_extent_that_cannot_be_is_neither_written_nor_believed(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    update = Update((), (STREAM._replace(extents=(EXTENT._replace(**change),)),))
    with pytest.raises(InvariantError):
        manifest.encode(update)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "_is_sound", lambda _extent: True)
        body = manifest.encode(update)
    assert manifest.decode(body) is None


def test_manifest_is_the_sum_of_its_updates() -> None:
    one = manifest.Manifest()
    one.apply(Update((), (STREAM,)))
    other = EXTENT._replace(offset=16384, end=17000)
    one.apply(
        Update((), (STREAM._replace(extents=(other,), removed=(EXTENT.key, ExtentKey(8, 8))),))
    )
    assert one.extents == {1: {ExtentKey(3, 16384): other}}
