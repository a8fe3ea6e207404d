"""The storage process meets damage: consensus hears of it, and the reader is told to repeat."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.storage.model import Driver, read_action
from tests.unit.process.stages import Room, Writing, mails
from walle import frame
from walle.core.effects import Action, Cut, Send
from walle.errors import Code, CorruptionError
from walle.limits import NS_PER_MS, NS_PER_S, SCRUB_PAUSE_MS, SCRUB_STEP_BYTES
from walle.messages import FetchReply
from walle.process import mail, orders, storage
from walle.process.mail import Destination
from walle.process.storage import Storage
from walle.ring.region import (
    DAMAGE_COUNT,
    SCRUB_DONE_BYTES,
    SCRUB_ENDED_US,
    SCRUB_PASSES,
    SCRUB_TOTAL_BYTES,
    Region,
)
from walle.storage.store import Store
from walle.testing.files import SimulatedFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAM = 5
READER = Destination(mail.SESSION, 7)


class Stage:
    """The storage process between its rings, with a store of a hundred entries, all but the last
    ten committed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 1
        monkeypatch.setattr(storage, "now_ns", lambda: self.now_ns)
        self.files = SimulatedFiles()
        self.store = Store(Path("/data"), self.files)
        self.driver = Driver(self.store)
        self.driver.create(STREAM)
        self.driver.append(STREAM, [100] * 100)
        self.driver.commit(STREAM, 90)
        self.store.sync()
        self.region = Region()
        loop: Any = Writing()
        room: Any = Room()
        self._loop = loop
        self.storage = Storage(
            loop, self.region, self.store, room, scrub_bytes_per_second=SCRUB_STEP_BYTES
        )
        self.storage.do_work()
        self.told()

    def rot(self, entry_id: int, *, in_memory: bool = False) -> None:
        (extent,) = self.store._logs[STREAM].runs
        place = self.store._reader.locate(extent, entry_id).offset + 60
        inode = self.files.names_now[extent.segment.path]
        assert inode is not None
        inode.data[place] ^= 1
        if not in_memory:
            inode.durable[place] ^= 1

    def order(self, action: Action) -> None:
        def to_frame(send: Send) -> tuple[Destination, bytes]:
            return READER, frame.encode_head(send.message, send.request_id)

        parts = orders.pack_order(1, action, gives_place=lambda _: False, to_frame=to_frame)
        self._loop.write(self.region.orders, self.region.storage_bell, parts)
        self.region.orders.publish()

    def read(self, *entry_ids: int) -> list[Any]:
        """What readers of these entries are answered: a failure, or of how many bytes."""
        for entry_id in entry_ids:
            send = Send("", entry_id, FetchReply(STREAM, entry_id))
            self.order(read_action(STREAM, entry_id, entry_id + 1)._replace(send=send))
        while self.storage.do_work():
            pass
        return [size or frame.decode_head(head)[1] for _, head, size in mails(self.region.durable)]

    def told(self) -> list[Cut]:
        """What consensus hears of damage."""
        views = self.region.results.consume()
        cuts = [orders.unpack_damaged(view) for view in views if view[0] == orders.DAMAGED]
        self.region.results.release()
        return cuts

    def pass_s(self, seconds: float) -> None:
        self.now_ns += int(seconds * NS_PER_S)
        self.storage.do_work()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(monkeypatch)
    yield made
    made.region.close()


def test_reader_of_what_is_damaged_is_told_to_repeat(stage: Stage) -> None:
    stage.rot(20)
    answers = stage.read(20, 19, 20)
    assert [getattr(each, "code", each) for each in answers] == [Code.BUSY, 152, Code.BUSY]
    assert answers[0].text == "an entry is damaged here; another member's copy takes its place"
    first, again = stage.told()
    assert first == again
    assert (first.after.entry_id, first.last.entry_id) == (19, 20)
    assert stage.region.counters[DAMAGE_COUNT] == 1
    stage.order(first)
    assert [getattr(each, "code", each) for each in stage.read(19, 21)] == [152, 152]
    assert stage.told() == []


def test_what_is_good_on_the_device_is_read_when_it_is_asked_for_again(stage: Stage) -> None:
    stage.rot(20, in_memory=True)
    assert [getattr(each, "code", each) for each in stage.read(20, 20)] == [Code.BUSY, 152]
    assert stage.told() == []
    assert stage.region.counters[DAMAGE_COUNT] == 0


def test_damage_that_reaches_the_commit_point_ends_the_process(stage: Stage) -> None:
    stage.rot(95)
    with pytest.raises(CorruptionError, match="takes the commit point"):
        stage.read(95)


def test_damage_is_searched_for_a_step_at_a_time(stage: Stage) -> None:
    """The rate here is one step a second; between two passes there is a pause."""
    counters = stage.region.counters
    stage.pass_s(SCRUB_PAUSE_MS / 1_000 - 1)
    assert counters[SCRUB_TOTAL_BYTES] == 0, "not before consensus has begun"
    stage.pass_s(1)
    assert counters[SCRUB_TOTAL_BYTES] == 15_200
    stage.pass_s(0.9)
    assert counters[SCRUB_DONE_BYTES] == 0
    stage.pass_s(0.1)
    assert counters[SCRUB_DONE_BYTES] == 13_680, "what is committed"
    assert (counters[SCRUB_PASSES], counters[SCRUB_ENDED_US]) == (0, 0)
    stage.pass_s(1)
    assert counters[SCRUB_PASSES] == 1
    assert counters[SCRUB_ENDED_US] > 0
    assert stage.storage.next_ns() == stage.now_ns + SCRUB_PAUSE_MS * NS_PER_MS
    assert stage.told() == []


def test_damage_that_nobody_reads_is_found(stage: Stage) -> None:
    stage.rot(20)
    for _ in range(10):
        stage.pass_s(1)
    (cut,) = stage.told()
    assert cut.last.entry_id == 20
    for _ in range(10):
        stage.pass_s(1)
    assert stage.told() == [cut], "it is told again, until it is cut out"
    assert stage.region.counters[DAMAGE_COUNT] == 1
    stage.order(cut)
    for _ in range(20):
        stage.pass_s(1)
    assert stage.told() == []


def test_a_process_that_stops_does_not_wait_for_the_search(stage: Stage) -> None:
    stage.now_ns += 10 * NS_PER_S
    assert not stage.storage.do_work()
