"""The storage process's rounds: no reader holds up what is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from tests.unit.process.stages import Disk, Room, Writing, mails
from walle import frame
from walle.core import effects
from walle.core.effects import ReadRecords, Recipient, Send
from walle.core.timers import NEVER
from walle.errors import Code
from walle.ids import NO_WRITER, ORIGIN
from walle.limits import (
    CONFIRM_MS,
    FETCH_BYTES_MAX,
    MIB,
    NS_PER_MS,
    READ_ROUND_BYTES,
    READS_QUEUED_SESSION_MAX,
)
from walle.messages import Failure, FetchReply, PutReply
from walle.process import mail, orders, storage
from walle.process.mail import Destination
from walle.process.storage import Storage
from walle.ring.region import FREE_BYTES, HAS_RESERVE, HAS_SPACE, SYNCED, Region

if TYPE_CHECKING:
    from collections.abc import Iterator

READER = Destination(mail.SESSION, 7)
WRITER = Destination(mail.SESSION, 8)
ITSELF = Destination(mail.SELF, 0)
RECORDS = memoryview(bytes(FETCH_BYTES_MAX))
SET = effects.SetAccepted(2, NO_WRITER)


class Stage:
    """The storage process between its rings, with a disk that gives as much as is asked for."""

    def __init__(self) -> None:
        self.region = Region()
        self.disk = Disk(lambda read: [RECORDS[: read.bytes_max]])
        loop: Any = Writing()
        store: Any = self.disk
        self.room = Room()
        reserve: Any = self.room
        self.storage = Storage(loop, self.region, store, reserve, scrub_bytes_per_second=0)
        self._loop = loop
        self._sequence = 0

    def order(self, action: effects.Action, to: Destination = READER) -> None:
        """Puts an order into the ring; what it sends goes to `to`."""
        if type(action) not in effects.UNSYNCED:
            self._sequence += 1

        def to_frame(send: Send) -> tuple[Destination, bytes]:
            return to, frame.encode_head(send.message, send.request_id)

        parts = orders.pack_order(
            self._sequence, action, gives_place=lambda _: False, to_frame=to_frame
        )
        self.write(parts)

    def write(self, parts: list[Any]) -> None:
        self._loop.write(self.region.orders, self.region.storage_bell, parts)
        self.region.orders.publish()

    def read(
        self,
        number: int,
        to: Destination = READER,
        size: int = FETCH_BYTES_MAX,
        others: tuple[Recipient, ...] = (),
    ) -> None:
        send = Send("", number, FetchReply(2, 1))
        self.order(ReadRecords(2, 1, 9, size, None, aside=False, send=send, others=others), to)

    def answer(self, number: int, to: Destination = WRITER) -> None:
        reply = PutReply(2, Code.OK, 1, NO_WRITER, 1, ORIGIN, ORIGIN, "")
        self.order(effects.Forward(Send("", number, reply)), to)

    def sent(self) -> list[tuple[int, int]]:
        """What the network gets: request ids, and bytes of records."""
        return [(frame.request_id_of(head), size) for _, head, size in mails(self.region.durable)]


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    made.storage.do_work()
    mails(made.region.results)
    yield made
    made.region.close()


def test_a_read_waits_for_the_syncs_and_answers_of_its_round(stage: Stage) -> None:
    def answer(read: ReadRecords) -> list[memoryview]:
        stage.disk.done.append("read")
        return [RECORDS[:8]]

    stage.disk.read = answer
    stage.order(SET)
    stage.read(1)
    stage.order(SET)
    stage.answer(2)
    stage.storage.do_work()
    assert stage.disk.done == ["SetAccepted", "SetAccepted", "sync", "read"]
    assert stage.sent() == [(2, 0), (1, 8)]


def test_an_answer_is_visible_only_after_the_sync(stage: Stage) -> None:
    seen = []
    sync = stage.disk.sync

    def look() -> None:
        seen.append(stage.sent())
        sync()
        seen.append(stage.sent())

    stage.disk.sync = look  # type: ignore[method-assign]
    for number in (1, 2):
        stage.order(SET)
        stage.answer(number)
    stage.storage.do_work()
    assert seen == [[], []]
    assert stage.sent() == [(1, 0), (2, 0)]


def test_an_answer_without_room_waits_for_it_after_the_sync(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for room makes visible what is written already."""
    monkeypatch.setattr(stage.region.durable, "try_write", lambda *_parts: False)
    monkeypatch.setattr(stage.storage, "_to_network", lambda _parts: stage.disk.done.append("sent"))
    stage.order(SET)
    stage.answer(1)
    stage.storage.do_work()
    assert stage.disk.done == ["SetAccepted", "sync", "sent"]


def test_what_is_idle_is_confirmed_in_a_round(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000
    monkeypatch.setattr("walle.process.storage.now_ns", lambda: now)
    assert stage.storage.next_ns() == NEVER
    stage.order(SET)
    stage.storage.do_work()
    stage.disk.has_unconfirmed = True
    stage.storage.do_work()
    assert stage.storage.next_ns() == now + CONFIRM_MS * NS_PER_MS
    now = stage.storage.next_ns() - 1
    stage.storage.do_work()
    assert stage.disk.done == ["SetAccepted", "sync"]
    now += 1
    stage.order(SET)
    stage.storage.do_work()
    assert stage.disk.done[2:] == ["confirm", "SetAccepted", "sync"]
    assert stage.storage.next_ns() == NEVER
    stage.disk.has_unconfirmed = True
    stage.storage.do_work()
    now = stage.storage.next_ns()
    stage.storage.do_work()
    assert stage.disk.done[5:] == ["confirm", "sync"], "without an order, too"
    assert stage.region.counters[SYNCED] == 2


def test_only_so_much_is_read_between_two_rounds(stage: Stage) -> None:
    for number in range(1, 11):
        stage.read(number)
    stage.storage.do_work()
    at_once = -(-READ_ROUND_BYTES // FETCH_BYTES_MAX)  # what was begun is ended
    assert [number for number, _ in stage.sent()] == list(range(1, at_once + 1))
    stage.answer(99)
    stage.storage.do_work()
    assert stage.sent()[0] == (99, 0), "an answer goes before the reads that wait"
    assert not stage.storage.may_sleep()
    while stage.storage.do_work():
        stage.sent()
    assert stage.storage.may_sleep()


def test_small_reads_are_bounded_too(stage: Stage) -> None:
    for number in range(1, 201):
        stage.read(number, size=8)
    stage.storage.do_work()
    assert 10 < len(stage.sent()) < 100


def test_a_session_that_asks_for_too_much_is_told_to_repeat(stage: Stage) -> None:
    many = READS_QUEUED_SESSION_MAX + 3
    for number in range(1, many + 1):
        stage.read(number, size=0)
    stage.read(1_000, WRITER, size=8)
    refused = []
    read = []
    while stage.storage.do_work():
        for to, head, size in mails(stage.region.durable):
            request_id, message = frame.decode_head(head)
            if isinstance(message, Failure):
                assert (to, message.code, size) == (READER, Code.BUSY, 0)
                refused.append(request_id)
            else:
                read.append(request_id)
    assert refused == [many - 2, many - 1, many]
    assert read.index(1_000) <= 1, "another session waits for one of its reads, not for all"
    assert len(read) == READS_QUEUED_SESSION_MAX + 1


def test_reads_wait_for_the_network_without_holding_up_writers(stage: Stage) -> None:
    for number in range(1, 101):
        stage.read(number)
    while stage.storage.do_work():
        pass
    assert stage.storage.may_sleep(), "there is no room, so the bell will ring"
    stage.order(SET)
    stage.answer(999)
    stage.storage.do_work()
    assert stage.disk.done[-1] == "sync"
    durable = stage.region.durable
    durable.consume(READ_ROUND_BYTES * 4)
    assert durable.release(), "the bell must ring"
    assert stage.storage.do_work()
    numbers = []
    while True:
        numbers += [number for number, _ in stage.sent()]
        if not stage.storage.do_work():
            break
    assert 999 in numbers
    assert numbers[-1] == 100


def test_nothing_is_read_while_consensus_has_no_room(stage: Stage) -> None:
    for number in range(1, 101):
        stage.read(number, ITSELF)
    while stage.storage.do_work():
        pass
    assert len(stage.storage._to_consensus) == 1, "what is kept does not grow"
    assert stage.storage.may_sleep()
    got = 0
    while found := len(mails(stage.region.results)):
        got += found
        while stage.storage.do_work():
            pass
    assert got == 100


def test_reads_of_a_session_that_has_ended_are_not_carried_out(stage: Stage) -> None:
    stage.order(SET)
    with patch.object(stage.region.durable, "arm_producer", return_value=True):  # it is full
        for number in (1, 2, 3):
            stage.read(number)
        stage.read(10, WRITER)
        stage.storage.do_work()
        assert stage.region.counters[SYNCED] == 1
        stage.write(orders.pack_ended(READER.number))
        stage.storage.do_work()
    stage.storage.do_work()
    assert stage.sent() == [(10, FETCH_BYTES_MAX)]
    assert stage.region.counters[SYNCED] == 1


def test_what_many_wait_for_is_read_once_and_goes_to_each(stage: Stage) -> None:
    reads: list[ReadRecords] = []

    def answer(read: ReadRecords) -> list[memoryview]:
        reads.append(read)
        return [RECORDS[:8]]

    stage.disk.read = answer
    stage.read(1, others=(Recipient(50, 2), Recipient(51, 3)))
    stage.storage.do_work()
    assert len(reads) == 1
    found = mails(stage.region.durable)
    assert [(to.number, frame.request_id_of(head)) for to, head, _ in found] == [
        (READER.number, 1),
        (50, 2),
        (51, 3),
    ]
    assert {size for _, _, size in found} == {8}


def test_the_end_of_one_session_does_not_take_the_answer_from_the_others(stage: Stage) -> None:
    with patch.object(stage.region.durable, "arm_producer", return_value=True):  # it is full
        stage.read(1, others=(Recipient(50, 2),))
        stage.read(4)
        stage.storage.do_work()
        stage.write(orders.pack_ended(READER.number))
        stage.storage.do_work()
    stage.storage.do_work()
    assert [number for number, _ in stage.sent()] == [1, 2]


def test_all_who_share_a_read_are_told_that_it_was_refused(stage: Stage) -> None:
    many = READS_QUEUED_SESSION_MAX + 1
    for number in range(1, many + 1):
        stage.read(number, size=8, others=(Recipient(50, 1_000 + number),))
    stage.storage.do_work()
    found = [(frame.decode_head(head)) for _, head, _ in mails(stage.region.durable)]
    refused = [request_id for request_id, message in found if isinstance(message, Failure)]
    assert refused == [many, 1_000 + many]


def test_others_are_told_whether_there_is_space_and_operators_when_that_changes(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for has_space, has_reserve, left_bytes, told in (
        (True, True, 256 * MIB, []),
        (False, True, 255 * MIB, ["the disk is full: 255 MiB are free, less than disk_reserve"]),
        (False, True, 10 * MIB, []),
        (False, False, 0, ["the disk has no space left at all"]),
        (True, True, 320 * MIB, ["the disk has space again: 320 MiB are free"]),
    ):
        stage.room.has_space, stage.room.has_reserve = has_space, has_reserve
        stage.room.left_bytes = left_bytes
        stage.room.look()
        caplog.clear()
        stage.storage.do_work()
        counters = stage.region.counters
        assert (counters[HAS_SPACE], counters[HAS_RESERVE]) == (has_space, has_reserve)
        assert counters[FREE_BYTES] == left_bytes
        assert len(caplog.messages) == len(told)
        assert all(
            text.startswith(start) for text, start in zip(caplog.messages, told, strict=True)
        )


def test_disk_is_looked_at_again_after_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [10**15]
    monkeypatch.setattr(storage, "now_ns", lambda: now[0])
    stage.storage.do_work()
    looks = stage.room.looks
    stage.storage.do_work()
    assert stage.room.looks == looks
    now[0] += storage.LOOK_MS * NS_PER_MS
    stage.storage.do_work()
    assert stage.room.looks == looks + 1
    assert "drop spare" not in stage.disk.done
    stage.room.has_space = False
    now[0] += storage.LOOK_MS * NS_PER_MS
    stage.storage.do_work()
    assert stage.disk.done[-1] == "drop spare"
