"""A client's writer by itself: what it does with puts, full disks, and a newer writer."""

from __future__ import annotations

import asyncio
from array import array
from typing import TYPE_CHECKING, Any

import pytest

import walle
from tests.unit.making import W1, W2, entries
from walle.client import turns as turns_module
from walle.client import writer as writer_module
from walle.client.client import Client
from walle.client.session import now_ns
from walle.client.writer import BATCHES_IN_FLIGHT_MAX, Writer
from walle.compression import FLAG_ZSTD, Decompressor, make_compressor
from walle.core.pipeline import COMMIT_NOTICE_MS
from walle.errors import Code
from walle.ids import ORIGIN, Position
from walle.limits import (
    BATCH_BYTES_MAX,
    ENTRY_DATA_BYTES_MAX,
    PIPELINE_BYTES_MAX,
    PUT_MANY_BYTES_MAX,
)
from walle.messages import (
    ClaimReply,
    NodeAddress,
    PutReply,
    StreamInfo,
    StreamSettings,
    WriterStatusReply,
)
from walle.record import check, decode_all, size_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from walle.core.pipeline import Outgoing
    from walle.record import Batch

NODES = ("n1", "n2", "n3")
MEMBERS = tuple(NodeAddress(node, f"{node}:1") for node in NODES)
INFO = StreamInfo(7, "/s", version=1, members=MEMBERS, old_members=(), first_entry_id=1)
LEASE_MS = 60_000
"""No heartbeat is due while a test runs."""


def answer(writer: Writer, node: str, code: Code, held: Position = ORIGIN) -> None:
    """A member answers all it was sent."""
    transmission = writer._pipeline.transmission
    writer.on_reply(node, PutReply(7, code, 1, W1, transmission, held, ORIGIN, ""))


def make_writer(client: Any = None, compression: str = "none") -> Writer:
    """It is not connected: a test answers for the members."""
    info = INFO._replace(settings=StreamSettings(compression))
    writer = Writer(client or Client(["n1:1"]), info, ClaimReply(7, 1, W1, ORIGIN), LEASE_MS)
    for node in NODES:
        writer._pipeline.connected(node, now_ns())
    return writer


async def blocked_writer() -> tuple[Writer, asyncio.Future[Position]]:
    """A writer, with one put in flight for which n1 and n2 have no space."""
    writer = make_writer()
    put = writer.put(b"in flight")
    await asyncio.sleep(0)
    answer(writer, "n3", Code.OK, writer.tail)
    answer(writer, "n1", Code.NO_SPACE)
    answer(writer, "n2", Code.NO_SPACE)
    return writer, put


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_put_is_refused_and_changes_nothing() -> None:
    async def test() -> None:
        writer, put = await blocked_writer()
        before = writer.tail
        text = "no majority of the members of /s has space .* disks of n1, n2 are full"
        with pytest.raises(walle.DiskFull, match=text):
            writer.put(b"refused")
        assert writer.tail == before
        assert not put.done()

    run(test())


def test_what_is_in_flight_becomes_durable_and_puts_are_taken_again() -> None:
    async def test() -> None:
        writer, put = await blocked_writer()
        answer(writer, "n2", Code.OK, writer.tail)
        assert await put == writer.tail
        writer.put(b"next")
        assert writer.tail.entry_id == 2

    run(test())


def test_nobody_waits_for_space_without_hearing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PIPELINE_ENTRIES_MAX", 1)

    async def test() -> None:
        writer, _ = await blocked_writer()
        assert not writer.has_room
        with pytest.raises(walle.DiskFull):
            await writer.drain()
        with pytest.raises(walle.DiskFull, match="outcome of what is in flight: unknown"):
            await writer.finish()

    run(test())


# --- many at once ---------------------------------------------------------------------------------


def batches_of(writer: Writer) -> list[Batch]:
    return writer._pipeline.uncommitted()


def data_of(batch: Batch) -> list[bytes]:
    return [entry.data for entry in decode_all(batch)]


def test_entries_put_in_one_turn_travel_together_in_order() -> None:
    async def test() -> None:
        writer = make_writer()
        puts = [writer.put(b"1"), writer.put_many([b"2", b"", b"4"]), writer.put(b"5")]
        assert not batches_of(writer)
        await asyncio.sleep(0)
        [batch] = batches_of(writer)
        assert data_of(batch) == [b"1", b"2", b"", b"4", b"5"]
        answer(writer, "n1", Code.OK, batch.position_at(3))
        answer(writer, "n2", Code.OK, batch.position_at(4))
        assert [put.done() for put in puts] == [True, False, False], "a majority has 3 entries"
        answer(writer, "n1", Code.OK, batch.position_at(4))
        assert [put.done() for put in puts] == [True, True, False]
        answer(writer, "n1", Code.OK, batch.last)
        answer(writer, "n2", Code.OK, batch.last)
        assert [await put for put in puts] == [batch.position_at(each) for each in (1, 4, 5)]
        assert writer.committed == writer.tail == batch.last

    run(test())


def test_batches_grow_while_several_are_in_flight() -> None:
    async def test() -> None:
        writer = make_writer()
        for count in range(1, BATCHES_IN_FLIGHT_MAX + 3):
            writer.put(b"%d" % count)
            await asyncio.sleep(0)
            assert len(batches_of(writer)) == min(count, BATCHES_IN_FLIGHT_MAX)
        first = batches_of(writer)[0]
        for node in ("n1", "n2"):
            answer(writer, node, Code.OK, first.last)
        await asyncio.sleep(0)
        *_, last = batches_of(writer)
        assert len(batches_of(writer)) == BATCHES_IN_FLIGHT_MAX
        assert data_of(last) == [b"%d" % (BATCHES_IN_FLIGHT_MAX + more) for more in (1, 2)]

    run(test())


async def become_durable(writer: Writer) -> None:
    """All that is in flight of it; the turn ends."""
    for node in ("n1", "n2"):
        answer(writer, node, Code.OK, writer._pipeline.tail)
    await asyncio.sleep(0)


def counts_of(writers: list[Writer]) -> list[int]:
    """How many batches each has in flight."""
    return [len(batches_of(writer)) for writer in writers]


def test_writers_of_a_client_send_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "TURNS", 2)
    monkeypatch.setattr(turns_module, "ONE_EACH", 2)
    monkeypatch.setattr(turns_module, "COUNTED_S", 60.0)

    async def test() -> None:
        client = Client(["n1:1"])
        writers = [make_writer(client) for _ in range(4)]
        for number in range(3):
            for writer in writers:
                writer.put(b"%d" % number)
            await asyncio.sleep(0)
        assert counts_of(writers) == [1, 1, 0, 0]
        await become_durable(writers[1])
        assert counts_of(writers) == [1, 0, 1, 0]
        await writers[0].close()
        await asyncio.sleep(0)
        assert counts_of(writers[1:]) == [0, 1, 1], "it has given its turn back"
        for writer in writers[2:]:
            assert data_of(batches_of(writer)[0]) == [b"0", b"1", b"2"]
        await become_durable(writers[3])
        assert counts_of(writers[1:]) == [1, 1, 0]
        assert data_of(batches_of(writers[1])[0]) == [b"1", b"2"]

    run(test())


def test_writer_that_waits_for_its_turn_tells_its_commit_point_by_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns_module, "TURNS", 1)
    monkeypatch.setattr(turns_module, "COUNTED_S", 60.0)

    async def test() -> None:
        client = Client(["n1:1"])
        first, second = make_writer(client), make_writer(client)
        told = watch(first)
        for writer in (first, second):
            writer.put(b"1")
        await asyncio.sleep(0)
        await become_durable(first)
        assert told == [(0, True)] * 3
        await asyncio.sleep(3 * COMMIT_NOTICE_MS / 1000)
        assert told == [(0, True)] * 3, "the second has its turn"
        await become_durable(second)
        assert told[3:] == [(1, False)] * 3, "there was nothing more to put"
        first.put(b"2")
        await asyncio.sleep(0)
        await become_durable(first)
        await asyncio.sleep(3 * COMMIT_NOTICE_MS / 1000)
        assert told[6:] == [(1, True)] * 3 + [(2, False)] * 3, "nobody waits: it is told soon"

    run(test())


def watch(writer: Writer) -> list[tuple[int, bool]]:
    """The commit point in each message that it sends from now on, and whether entries are."""
    told: list[tuple[int, bool]] = []
    take = writer._pipeline.take
    take()  # what its connections have begun with

    def noted() -> list[Outgoing]:
        outgoing = take()
        told.extend((each.put.committed.entry_id, each.batch is not None) for each in outgoing)
        return outgoing

    writer._pipeline.take = noted  # type: ignore[method-assign]
    return told


def test_writer_that_has_ended_has_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it was to be flushed in the turn of the loop in which it ended."""
    monkeypatch.setattr(turns_module, "TURNS", 1)
    monkeypatch.setattr(turns_module, "COUNTED_S", 60.0)

    async def test() -> None:
        writer = make_writer()
        writer.put(b"in flight")
        await asyncio.sleep(0)
        writer.put(b"waits")
        for node in ("n1", "n2"):
            answer(writer, node, Code.FENCED)
        other = make_writer(writer._client)
        other.put(b"other")
        await asyncio.sleep(0)
        assert counts_of([other]) == [1]
        await writer.close()
        await asyncio.sleep(0)
        assert not writer._client.links.turns.is_contended

    run(test())


def test_full_batch_waits_for_no_turn_and_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns_module, "TURNS", 1)


def test_full_batch_waits_for_nothing() -> None:
    async def test() -> None:
        writer = make_writer()
        for _ in range(BATCHES_IN_FLIGHT_MAX):
            writer.put(b"small")
            await asyncio.sleep(0)
        writer.put_many([bytes(BATCH_BYTES_MAX // 2)] * 2)
        assert len(batches_of(writer)) == BATCHES_IN_FLIGHT_MAX + 1

    run(test())


def test_more_than_a_batch_goes_at_once_and_is_one_put() -> None:
    async def test() -> None:
        writer = make_writer()
        put = writer.put_many([b"x" * 1000] * 1000)
        assert writer._encoder.size < BATCH_BYTES_MAX
        assert len(batches_of(writer)) == 1000 * size_of(1000) // BATCH_BYTES_MAX
        await asyncio.sleep(0)
        assert sum(batch.count for batch in batches_of(writer)) == 1000
        assert all(batch.payload.size <= BATCH_BYTES_MAX for batch in batches_of(writer))
        for node in ("n1", "n3"):
            answer(writer, node, Code.OK, writer.tail)
        assert await put == writer.tail
        assert not writer._uncommitted

    run(test())


def test_buffers_may_be_used_again_at_once() -> None:
    async def test() -> None:
        writer = make_writer()
        buffer, words = bytearray(b"first"), array("I", [1])
        datas: list[Any] = [b"other", buffer, memoryview(words)]
        writer.put(memoryview(buffer)[1:])
        writer.put_many(datas)
        buffer[:] = b"again"
        words[0] = 0
        await asyncio.sleep(0)
        [batch] = batches_of(writer)
        found = data_of(batch)
        assert found == [b"irst", b"other", b"first", b"\1\0\0\0"]

    run(test())


def test_tail_may_be_asked_after_each_put() -> None:
    """It takes a chain, so what was put is encoded by itself; it travels together all the same."""

    async def test() -> None:
        writer = make_writer()
        tails = []
        for number in range(5):
            writer.put(b"%d" % number)
            tails.append(writer.tail)
        writer.put_many([b"5"] * 3)
        large = BATCH_BYTES_MAX - 200
        writer.put(bytearray(large))
        await asyncio.sleep(0)
        first, second = batches_of(writer)
        assert tails == [first.position_at(entry_id) for entry_id in range(1, 6)]
        assert data_of(first) == [b"0", b"1", b"2", b"3", b"4", b"5", b"5", b"5"]
        assert check(first.payload, where="test") == first
        assert (second.before, data_of(second)) == (first.last, [bytes(large)])

    run(test())


def test_what_cannot_be_put_is_refused_and_changes_nothing() -> None:
    async def test() -> None:
        writer = make_writer(compression="zstd")
        wrong: Any = "text"
        refused: Any
        for refused in ([b"good", wrong], wrong):
            with pytest.raises(TypeError):
                writer.put_many(refused)
            writer.compressor = None if writer.compressor else make_compressor("zstd")
        with pytest.raises(walle.LocalProtocolError, match="no entries"):
            writer.put_many(iter([]))
        with pytest.raises(walle.LocalProtocolError, match="entry 2 has 1048577 bytes"):
            writer.put_many([b"good", bytes(ENTRY_DATA_BYTES_MAX + 1)])
        with pytest.raises(walle.LocalProtocolError, match=r"of 8389425 bytes, .* 8388608 may"):
            writer.put_many([b"x", *[bytes(PUT_MANY_BYTES_MAX // 16)] * 16])
        assert (writer.tail, writer._encoder.size, len(writer._waiting)) == (ORIGIN, 0, 0)

    run(test())


def test_each_of_many_entries_is_compressed() -> None:
    async def test() -> None:
        writer = make_writer(compression="zstd")
        datas: list[Any] = [b"text " * 100, b"short", bytearray(b"more " * 100)]
        writer.put_many(datas)
        await asyncio.sleep(0)
        [batch] = batches_of(writer)
        stored = list(decode_all(batch))
        assert [entry.flags for entry in stored] == [FLAG_ZSTD, 0, FLAG_ZSTD]
        assert [Decompressor("/s").unpack(entry).data for entry in stored] == datas

    run(test())


def test_puts_are_refused_while_too_much_waits_to_be_sent() -> None:
    async def test() -> None:
        writer = make_writer()
        large = [bytes(ENTRY_DATA_BYTES_MAX // 2)] * 15
        while writer.has_room:
            writer.put_many(large)
        sent = writer._pipeline.uncommitted()
        sent_bytes = sum(batch.payload.size for batch in sent)
        assert PIPELINE_BYTES_MAX <= sent_bytes < PIPELINE_BYTES_MAX + 2 * ENTRY_DATA_BYTES_MAX
        for _ in range(PIPELINE_BYTES_MAX * 2 // (15 * ENTRY_DATA_BYTES_MAX)):
            writer.put_many(large)
        before = writer.tail
        with pytest.raises(walle.Busy, match="wait to be sent"):
            writer.put_many(large)
        with pytest.raises(walle.Busy, match="wait to be sent"):
            writer.put(b"")
        assert writer.tail == before
        assert writer._pipeline.uncommitted() == sent

    run(test())


# --- the end --------------------------------------------------------------------------------------


def test_nobody_waits_for_room_in_a_writer_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PIPELINE_ENTRIES_MAX", 1)

    async def test() -> None:
        writer = make_writer()
        writer.put(b"in flight")
        await asyncio.sleep(0)
        draining = asyncio.create_task(writer.drain())
        await asyncio.sleep(0)
        await writer.close()
        with pytest.raises(walle.LocalProtocolError, match="closed"):
            await draining

    run(test())


def test_puts_end_though_closing_is_cancelled_again_and_again() -> None:
    async def test() -> None:
        writer = make_writer()
        put = writer.put(b"in flight")
        writer._tasks.append(asyncio.create_task(asyncio.sleep(60)))
        closing = asyncio.create_task(writer.close())
        for _ in range(3):
            await asyncio.sleep(0)
            closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        with pytest.raises(walle.Unavailable, match="outcome: unknown"):
            await put

    run(test())


# --- a newer writer -------------------------------------------------------------------------------


class Successor:
    """What a client finds of a stream that another writer has claimed.

    history: its committed entries.
    """

    def __init__(self, history: list[walle.Entry]) -> None:
        self.history = history
        self.links = Client(["n1:1"]).links

    async def writer_status(self, _stream: str) -> WriterStatusReply:
        return WriterStatusReply(7, 1, W2, "next:1", 1_000, 1_000, 1)

    async def committed(self, _stream: str) -> Position:
        return Position(self.history[-1].entry_id, self.history[-1].chain)

    async def read(self, _stream: str, *, start: int, end: int) -> AsyncIterator[walle.Entry]:
        for entry in self.history[start - 1 : end - 1]:
            yield entry


@pytest.mark.parametrize("kept", range(5))
def test_newer_writers_history_tells_what_of_the_puts_is_durable(kept: int) -> None:
    async def test() -> None:
        successor = Successor([])
        writer = make_writer(successor)
        puts = [writer.put(b"1"), writer.put_many([b"2", b"3"]), writer.put(b"4")]
        await asyncio.sleep(0)
        [batch] = batches_of(writer)
        ours = list(decode_all(batch))[:kept]
        theirs = entries(3, batch.position_at(kept), W2)
        successor.history = [*ours, *decode_all(theirs)]
        for node in ("n1", "n2"):
            lost = PutReply(7, Code.FENCED, 1, W2, 1, ORIGIN, ORIGIN, "next:1")
            writer.on_reply(node, lost)
        results = await asyncio.gather(*puts, return_exceptions=True)
        for result, last_id in zip(results, (1, 3, 4), strict=True):
            if last_id <= kept:
                assert result == batch.position_at(last_id)
            else:
                assert isinstance(result, walle.WriterLost)
                assert result.outcome is walle.Outcome.NOT_WRITTEN
        assert writer.committed == batch.position_at(kept), "which tells of each entry"

    run(test())
