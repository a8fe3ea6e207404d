"""A client's readers: what they ask for, what they share, and what of it they give."""

from __future__ import annotations

import asyncio
import math
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.performance.one_client import Node
from tests.performance.one_node import feed
from tests.unit.making import W1
from walle import frame
from walle.client import reader, reads
from walle.client.inbox import RECEIVE_BYTES, Inbox
from walle.client.reader import read_answers, read_batches
from walle.client.reads import READS_AHEAD, READS_AHEAD_MAX, Flight, Reads
from walle.client.sessions import Sessions
from walle.compression import UNPACKED_BYTES, Compressor, Decompressor
from walle.errors import Code, CorruptionError, NotHeld, Trimmed, Unavailable, UnreadableEntry
from walle.ids import ORIGIN, Position
from walle.limits import FETCH_BYTES_MAX
from walle.messages import Failure, NodeAddress, Read, ReadReply, StreamInfo
from walle.record import Encoder, decode_all, size_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from walle.record import Batch, Entry

INFO = StreamInfo(7, "/s", 1, (NodeAddress("n1", "here:1"),), (), 1)
CHANCE = random.Random(3)
SIZES = [CHANCE.choice([0, 10, 3_000, 9_000]) for _ in range(2_000)]


class Stream:
    """In place of a client: one whose only node holds a stream.

    asked: all reads that have come. busy: how many are being answered.
    waited: set once one waits for what is to come.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._encoder = Encoder(W1, ORIGIN)
        self._batch: Batch | None = None
        self.sizes = list(sizes)
        self.committed = len(sizes)
        self.first_id = 1
        self.asked: list[Read] = []
        self.busy = self.busy_max = 0
        self.changed = asyncio.Event()
        self.waited = asyncio.Event()
        self.sessions = Sessions(None)
        self.reads = Reads(self)  # type: ignore[arg-type]
        self._chains = [0]
        for size in sizes:
            self._encoder.add(bytes(size), 0)
            self._chains.append(self._encoder.take().last.chain)

    @property
    def addresses(self) -> list[str]:
        return ["here:1"]

    async def describe(self, _name: str, **_options: Any) -> StreamInfo:
        return INFO

    async def ask(
        self, read: Read, _reply_type: type[ReadReply], **_options: Any
    ) -> tuple[ReadReply, Batch | None]:
        self.asked.append(read)
        self.busy += 1
        self.busy_max = max(self.busy, self.busy_max)
        try:
            await asyncio.sleep(0.001)
            if read.wait_ms and read.start > self.committed:
                self.waited.set()
                await self.changed.wait()
        finally:
            self.busy -= 1
        start = read.start or self.first_id
        end = min(read.end or self.committed + 1, self.committed + 1)
        reply = ReadReply(7, self.first_id, Position(self.committed, self._chains[self.committed]))
        return reply, self.batch(start, end) if self.first_id <= start < end else None

    def batch(self, start: int, end: int) -> Batch:
        encoder = Encoder(W1, Position(start - 1, self._chains[start - 1]))
        while encoder.last_id + 1 < end and encoder.size < FETCH_BYTES_MAX:
            encoder.add(bytes(self.sizes[encoder.last_id]), 0)
        return encoder.take()

    def commit(self, entry_id: int) -> None:
        self.committed = entry_id
        self.changed.set()
        self.changed = asyncio.Event()


async def ids(batches: AsyncGenerator[list[Entry], None], count: int) -> list[int]:
    """So many, or all."""
    found: list[int] = []
    async for entries in batches:
        found += [entry.entry_id for entry in entries]
        if len(found) >= count:
            break
    await batches.aclose()
    return found


def follow(stream: Stream, start: int = 1) -> AsyncGenerator[list[Entry], None]:
    return read_batches(stream, "/s", start=start, follow=True)  # type: ignore[arg-type]


# --- history --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [SIZES, [1_000] * 2_000, [100_000] * 30, [0]])
@pytest.mark.parametrize("end", [None, 1_500, 7])
def test_history_comes_whole_and_in_order_with_more_on_its_way(
    sizes: list[int], end: int | None
) -> None:
    async def run() -> None:
        stream = Stream(sizes)
        client: Any = stream
        found = await ids(read_batches(client, "/s", end=end), len(sizes))
        assert found == list(range(1, min(end or len(sizes) + 1, len(sizes) + 1)))
        assert stream.asked[0].linearizable
        assert not any(read.linearizable for read in stream.asked[1:])
        assert stream.busy_max <= 1 + READS_AHEAD
        if end is None and sum(map(size_of, sizes)) > 4 * FETCH_BYTES_MAX:
            assert stream.busy_max == 1 + READS_AHEAD

    asyncio.run(run())


def test_nothing_is_on_its_way_when_a_reader_ends() -> None:
    async def run() -> None:
        stream = Stream([1_000] * 3_000)
        client: Any = stream
        answers = read_answers(client, "/s", start=1)
        await anext(answers)
        await asyncio.sleep(0)
        assert stream.busy == 1 + READS_AHEAD
        await answers.aclose()
        await asyncio.sleep(0)
        assert not stream.busy
        assert stream.reads.may_read_ahead

    asyncio.run(run())


def test_readers_of_one_client_ask_for_a_bounded_number_of_pieces_ahead() -> None:
    async def run() -> None:
        stream = Stream([1_000] * 3_000)
        starts = range(1, 401, 20)
        found = await asyncio.gather(*(ids(follow(stream, start), 2_000) for start in starts))
        assert [each[0] for each in found] == list(starts)
        assert stream.busy_max <= len(starts) + READS_AHEAD_MAX

    asyncio.run(run())


def test_what_was_trimmed_is_told() -> None:
    async def run() -> None:
        stream = Stream([10] * 20)
        stream.first_id = 5
        assert await ids(follow(stream, 0), 16) == list(range(5, 21))
        with pytest.raises(Trimmed):
            await ids(follow(stream, 4), 1)

    asyncio.run(run())


def test_what_does_not_follow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        stream = Stream([10_000] * 200)
        monkeypatch.setattr(stream, "batch", lambda *_: Stream([1]).batch(1, 2))
        assert stream.asked == []
        with pytest.raises(CorruptionError):
            await ids(follow(stream, 3), 200)

    asyncio.run(run())


# --- followers ------------------------------------------------------------------------------------


def test_followers_of_one_client_share_what_they_ask_for() -> None:
    async def run() -> None:
        stream = Stream([100] * 300)
        stream.committed = 100
        tasks = [asyncio.create_task(ids(follow(stream), 300)) for _ in range(100)]
        for committed in (101, 150, 300):
            while not stream.asked or stream.asked[-1].start <= stream.committed:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            for _ in range(200):  # turns, by which the last follower waits, too
                await asyncio.sleep(0)
            stream.commit(committed)
        found = await asyncio.gather(*tasks)
        assert found == [list(range(1, 301))] * 100
        assert [read.start for read in stream.asked] == [1, 101, 102, 151]

    asyncio.run(run())


def test_the_end_of_one_follower_does_not_end_what_another_waits_for() -> None:
    async def run() -> None:
        stream = Stream([100] * 10)
        stream.committed = 5
        first, second = [asyncio.create_task(ids(follow(stream), 10)) for _ in range(2)]
        await asyncio.sleep(0.02)
        first.cancel()
        await asyncio.sleep(0.01)
        assert stream.busy == 1
        stream.commit(10)
        assert await second == list(range(1, 11))

    asyncio.run(run())


def test_what_nobody_waits_for_any_more_is_joined_by_nobody() -> None:
    """It is being cancelled, which takes some turns: who wants the same meanwhile asks anew."""

    async def run() -> None:
        stream = Stream([100] * 10)
        stream.committed = 5
        read = Read(7, 6, FETCH_BYTES_MAX, 10_000, linearizable=0, local=0)
        left = stream.reads.begin("/s", read, None)
        await asyncio.sleep(0.02)
        left.leave()
        flight = stream.reads.begin("/s", read, None)
        await asyncio.sleep(0.02)
        assert stream.reads.begin("/s", read, None) is flight
        stream.commit(10)
        answer = await flight.wait()
        assert answer.batch is not None
        assert answer.batch.first_id == 6

    asyncio.run(run())


def test_linearizable_reads_are_not_shared() -> None:
    """Each has to begin after what it is to see."""

    async def run() -> None:
        stream = Stream([100] * 10)
        client: Any = stream
        await asyncio.gather(*(ids(read_batches(client, "/s"), 10) for _ in range(3)))
        assert len(stream.asked) == 3

    asyncio.run(run())


def test_reads_end_with_their_client() -> None:
    async def run() -> None:
        stream = Stream([100])
        task, other = [asyncio.create_task(ids(follow(stream, 2), 1)) for _ in range(2)]
        await stream.waited.wait()
        other.cancel()
        stream.reads.close()
        with pytest.raises(Unavailable, match="closed"):
            await task
        with pytest.raises(asyncio.CancelledError):
            await other
        assert not stream.busy

    asyncio.run(run())


# --- silence --------------------------------------------------------------------------------------

PAIR = INFO._replace(members=(NodeAddress("n1", "here:1"), NodeAddress("n2", "there:1")))


class Other(Sessions):
    """Of a client that hears nothing of what its first member is asked. Another one has entries
    that the first does not hear of; at times it says nothing, either.

    first_paused_s: for how long an answer of the first one has not gone on.
    asked: what the other one was.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__(None)
        self.prefer("here:1")
        self.first_paused_s = math.inf
        self.asked: list[Read] = []
        self.committed = stream.committed
        self.is_silent = False
        self._stream = stream

    def paused_s(self, address: str) -> float:
        assert address == "here:1"
        return self.first_paused_s

    async def get(self, address: str) -> Any:
        assert address == "there:1"
        return self

    async def request(self, read: Read, _timeout_s: float) -> tuple[ReadReply, Batch | None]:
        self.asked.append(read)
        if self.is_silent:
            await asyncio.Event().wait()
        reply = ReadReply(7, 1, Position(self.committed, 0))
        if read.start > self.committed:
            return reply, None
        return reply, self._stream.batch(read.start, self.committed + 1)


class Parted(Stream):
    """The first member, and the client that has another one.

    answers: whether it answers what need not wait.
    """

    answers = True

    def __init__(self, sizes: Sequence[int], committed: int) -> None:
        super().__init__(sizes)
        self.committed = committed
        self.other = self.sessions = Other(self)

    async def describe(self, _name: str, **_options: Any) -> StreamInfo:
        return PAIR

    async def ask(
        self, read: Read, _reply_type: type[ReadReply], **_options: Any
    ) -> tuple[ReadReply, Batch | None]:
        if not self.answers:
            await asyncio.Event().wait()
        return await super().ask(read, _reply_type)


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "SILENCE_S", 0.02)


def begin(stream: Stream, start: int) -> Flight:
    """A read that may wait."""
    read = Read(7, start, FETCH_BYTES_MAX, 10_000, linearizable=0, local=1)
    return stream.reads.begin("/s", read, None)


@pytest.mark.usefixtures("_impatient")
def test_who_waits_for_what_comes_gets_it_of_another_member() -> None:
    async def run() -> None:
        stream = Parted([10] * 9, committed=5)
        flight = begin(stream, 6)
        while len(stream.other.asked) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        stream.other.committed = 9
        answer = await flight.wait()
        assert [entry.entry_id for entry in answer.entries] == [6, 7, 8, 9]
        assert stream.sessions.preferred == "there:1"
        assert not stream.busy, "the first one is not asked any more"

    asyncio.run(run())


@pytest.mark.usefixtures("_impatient")
def test_a_quiet_stream_has_its_other_members_asked_seldom_and_for_no_wait() -> None:
    async def run() -> None:
        stream = Parted([10] * 9, committed=5)
        begun_s = asyncio.get_running_loop().time()
        flights = [begin(stream, 6) for _ in range(100)]
        await asyncio.sleep(0.5)
        asked = stream.other.asked
        passed_s = asyncio.get_running_loop().time() - begun_s
        assert 0 < len(asked) <= passed_s / reads.SILENCE_S
        assert {(read.start, read.wait_ms) for read in asked} == {(6, 0)}
        assert stream.sessions.preferred == "here:1"
        stream.commit(9)
        for flight in flights:
            assert (await flight.wait()).last.entry_id == 9

    asyncio.run(run())


@pytest.mark.usefixtures("_impatient")
def test_another_member_that_says_nothing_holds_up_nobody() -> None:
    async def run() -> None:
        stream = Parted([10] * 9, committed=5)
        stream.other.is_silent = True
        flight = begin(stream, 6)
        while not stream.other.asked:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        stream.commit(9)
        assert (await flight.wait()).last.entry_id == 9

    asyncio.run(run())


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("follow", [False, True])
def test_a_member_that_does_not_answer_is_not_waited_for(follow: bool) -> None:
    async def run() -> None:
        stream = Parted([10] * 9, committed=9)
        stream.answers = False
        client: Any = stream
        found = await ids(read_batches(client, "/s", start=3, follow=follow), 7)
        assert found == list(range(3, 10))

    asyncio.run(run())


@pytest.mark.usefixtures("_impatient")
def test_what_is_on_its_way_is_not_asked_of_another() -> None:
    """Asked for twice it would take longer."""

    async def run() -> None:
        stream = Parted([10] * 9, committed=9)
        stream.answers = False
        stream.other.first_paused_s = 0.0
        flight = begin(stream, 3)
        await asyncio.sleep(0.1)
        assert not stream.other.asked
        stream.other.first_paused_s = 0.1
        answer = await flight.wait()
        assert [entry.entry_id for entry in answer.entries] == list(range(3, 10))
        flight.leave()

    asyncio.run(run())


@pytest.mark.usefixtures("_impatient")
def test_a_member_that_does_not_answer_is_left_though_another_is_preferred_by_now() -> None:
    async def run() -> None:
        stream = Parted([10] * 9, committed=9)
        stream.answers = False
        flight = begin(stream, 3)
        stream.sessions.prefer("there:1")
        assert (await flight.wait()).before.entry_id == 2
        flight.leave()

    asyncio.run(run())


@pytest.mark.usefixtures("_impatient")
def test_a_read_of_one_member_is_answered_by_no_other() -> None:
    async def run() -> None:
        stream = Parted([10] * 9, committed=5)
        stream.other.committed = 9
        client: Any = stream
        batches = read_batches(client, "/s", start=1, node="n1", follow=True)
        following = asyncio.create_task(ids(batches, 9))
        await stream.waited.wait()
        await asyncio.sleep(0.1)
        assert not stream.other.asked
        stream.commit(9)
        assert await following == list(range(1, 10))

    asyncio.run(run())


# --- gaps -----------------------------------------------------------------------------------------


class Lacking(Stream):
    """No member that can be reached holds it; they can get it from one that cannot."""

    async def ask(
        self, read: Read, _reply_type: type[ReadReply], **_options: Any
    ) -> tuple[ReadReply, Batch | None]:
        if read.local:
            self.asked.append(read)
            raise NotHeld("a gap")
        return await super().ask(read, _reply_type)


def test_a_member_passes_on_only_what_none_within_reach_holds() -> None:
    async def run() -> None:
        holding, lacking = Stream([10] * 5), Lacking([10] * 5)
        for stream, local in ((holding, [1]), (lacking, [1, 0])):
            assert await ids(follow(stream), 5) == [1, 2, 3, 4, 5]
            assert [read.local for read in stream.asked] == local
        client: Any = Lacking([10])
        with pytest.raises(NotHeld):
            await ids(read_batches(client, "/s", node="n1"), 1)

    asyncio.run(run())


# --- data -----------------------------------------------------------------------------------------


def packed(datas: Sequence[bytes]) -> list[Entry]:
    encoder = Encoder(W1, ORIGIN)
    for data in datas:
        stored, flags = Compressor().pack(data)
        encoder.add(stored, 0, flags)
    return decode_all(encoder.take())


def test_data_that_grow_come_in_lists_of_a_bounded_size() -> None:
    data = [bytes(UNPACKED_BYTES // 4)] * 10
    lists = list(Decompressor("/s").unpack_all(packed(data)))
    assert [len(each) for each in lists] == [4, 4, 2]
    assert [entry.data for each in lists for entry in each] == data


def test_entries_before_an_unreadable_one_come_first() -> None:
    entries = packed([bytes(100), b"plain", bytes(200)])
    entries[2] = entries[2]._replace(data=b"no frame")
    lists = Decompressor("/s").unpack_all(entries)
    assert [entry.data for entry in next(lists)] == [bytes(100), b"plain"]
    with pytest.raises(UnreadableEntry):
        next(lists)


# --- the buffer -----------------------------------------------------------------------------------


def test_what_is_received_is_given_once_it_is_a_frame() -> None:
    inbox = Inbox()
    sent = CHANCE.randbytes(3 * RECEIVE_BYTES)
    inbox.room()[:100] = sent[:100]
    found = inbox.received(100)
    assert found is not None
    inbox.handled(40, len(sent) - 40)
    received = 100
    while True:
        room = inbox.room()
        size = min(len(room), 50_000)
        room[:size] = sent[received : received + size]
        received += size
        found = inbox.received(size)
        if found is not None:
            break
        assert received < len(sent)
    assert bytes(found) == sent[40:], "no more than the frame was asked for"
    inbox.handled(len(found), 24)
    assert len(inbox.room()) == len(found), "another of that size is received at once"
    inbox.received(30)
    inbox.handled(30, 24)
    assert len(inbox.room()) == RECEIVE_BYTES


def test_it_is_known_how_long_an_answer_has_not_gone_on() -> None:
    node = Node("n1")
    session = node.session
    frames = frame.encode_head(Failure(Code.BUSY, "later"), 7) * 2
    half = len(frames) // 2
    assert session.paused_s == math.inf
    for sent, is_on_its_way in (
        (frames[: half - 1], True),
        (frames[half - 1 : half + 1], True),
        (frames[half + 1 :], False),
    ):
        feed(session, sent)
        assert (session.paused_s < math.inf) == is_on_its_way
    node.transport.close()


def test_pieces_fit_an_answer() -> None:
    assert reader.PIECE_BYTES < FETCH_BYTES_MAX
