"""Well-formed requests that ask for too much, or for what they must not: a node survives them.

Each test has a cluster of its own: what it finds may last.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

import pytest

from tests.clusters import DevNodes, wait_until
from tests.wire.peer import Peer, make_batch, peers
from walle import frame
from walle.errors import Code
from walle.ids import NO_WRITER, ORIGIN, STREAM_CLUSTER, Position, WriterId
from walle.limits import FETCH_BYTES_MAX, FRAME_BYTES_MAX, FRAME_MS_MAX, READS_WAITING_MAX
from walle.messages import (
    Claim,
    CreateStream,
    Describe,
    Failure,
    ListStreams,
    Put,
    PutReply,
    Read,
    ReadReply,
    Release,
    ReleaseReply,
    Status,
    StatusReply,
    StreamInfo,
    StreamList,
    WriterStatus,
    WriterStatusReply,
)
from walle.record import encode

if TYPE_CHECKING:
    from pathlib import Path

    from tests.wire.watch import Watch
    from walle.messages import Message

FOR_EVER_MS = 2**32 - 1
SWEEP_S = 10.0
"""How much later than its bound a node, or the machine, may notice that something took too long."""
READ_STALL_FACTOR_MAX = 50
"""By how much a put may take longer beside a greedy reader. Behind all of its reads it would take
thousands of times as long."""

pytestmark = pytest.mark.slow


# --- too large an answer --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        Describe("/" + "a" * 60_000),
        CreateStream("/" + "\0" * 60_000, ()),
        CreateStream("/a", ("\0" * 60_000,)),
    ],
    ids=["describe", "create", "create on a node"],
)
def test_a_long_name_is_refused(own_watch: Watch, message: Message) -> None:
    with Peer(own_watch.address) as peer:
        reply = peer.ask(message)
    assert isinstance(reply, Failure)
    assert reply.code in {Code.BAD_REQUEST, Code.UNKNOWN_STREAM}
    own_watch.finish()


@pytest.mark.parametrize("message", [ListStreams(0), Status(0)], ids=["list", "status"])
def test_many_streams_are_listed_or_refused(own_watch: Watch, message: Message) -> None:
    with Peer(own_watch.address) as peer:
        for number in range(900):
            created = peer.insist(CreateStream("/" + "s" * 248 + f"{number:06}", ()))
            assert isinstance(created, StreamInfo)
        reply = peer.ask(message)
        assert isinstance(reply, StreamList | StatusReply | Failure)
    own_watch.finish()


# --- what clients must not do ---------------------------------------------------------------------


def test_clients_do_not_write_the_clusters_stream(own_watch: Watch) -> None:
    with Peer(own_watch.address) as peer:
        reply = peer.ask(Claim(STREAM_CLUSTER, "a client", 1_000, 5_000, 1))
        assert isinstance(reply, Failure)
        assert reply.code == Code.BAD_REQUEST
    own_watch.finish()


def _forged(tail: Position, *writers: WriterId) -> bytes:
    """One record of each of these writers."""
    out, (entry_id, chain) = b"", tail
    for writer in writers:
        entry_id += 1
        data, chain = encode(entry_id, writer, 1, b"forged", chain)
        out += data
    return out


@pytest.mark.parametrize(
    ("relay", "is_mixed"),
    [(0, False), (0, True), (1, False)],
    ids=["direct", "direct, some of them", "relayed"],
)
def test_records_of_another_writer_are_refused(
    own_watch: Watch, *, relay: int, is_mixed: bool
) -> None:
    with Peer(own_watch.address) as peer:
        claimed = peer.claim(peer.create("/forged"), lease_ms=10_000)
        assert peer.put(claimed, 1, claimed.tail, None).code == Code.OK
        other = WriterId(1, 1)
        writers = (claimed.writer, other) if is_mixed else (other,)
        put = Put(claimed.stream_id, claimed.version, claimed.writer, 2, claimed.tail, relay)
        reply = peer.ask(put, _forged(claimed.tail, *writers))
        assert isinstance(reply, PutReply)
        assert reply.code == Code.BAD_REQUEST


def test_puts_of_invented_writers_do_not_stop_the_node(own_watch: Watch) -> None:
    with Peer(own_watch.address) as peer, Peer(own_watch.address) as other:
        info = peer.create("/invented")
        future_us = (time.time_ns() // 1000) * 2
        puts = [
            Put(info.stream_id, info.version, WriterId(future_us + index, 1), 1, ORIGIN, relay=1)
            for index in range(30_000)
        ]
        peer.send_bytes(b"".join(frame.encode_head(put, 1) for put in puts))
        other.ask(Status(0))
    own_watch.finish()


# --- what must end with its session ---------------------------------------------------------------


def test_reads_that_wait_end_with_their_session(own_watch: Watch) -> None:
    with Peer(own_watch.address) as peer:
        info = peer.create("/waited")
        with Peer(own_watch.address) as waiting:
            for _ in range(READS_WAITING_MAX):
                waiting.send(Read(info.stream_id, 1_000, 1, FOR_EVER_MS, 0, 0))
            waiting.ask(Status(0))  # the node has come to all of them
        read = Read(info.stream_id, 1, 1, 0, 0, 0)
        wait_until(lambda: isinstance(peer.ask(read), ReadReply), "reads are served")
    own_watch.finish()


def test_a_read_that_need_not_wait_is_served(own_watch: Watch) -> None:
    with Peer(own_watch.address) as peer, Peer(own_watch.address) as waiting:
        info = peer.create("/waited")
        for _ in range(READS_WAITING_MAX):
            waiting.send(Read(info.stream_id, 1_000, 1, FOR_EVER_MS, 0, 0))
        waiting.ask(Status(0))
        assert isinstance(peer.insist(Read(info.stream_id, 1, 1, 0, 0, 0)), ReadReply)


def test_watches_end_with_their_session(own_watch: Watch) -> None:
    with Peer(own_watch.address) as peer:
        info = peer.create("/watched")
        with Peer(own_watch.address) as waiting:
            watch = WriterStatus(info.stream_id, 1, NO_WRITER, FOR_EVER_MS)
            waiting.send_bytes(
                b"".join(frame.encode_head(watch, index + 1_000) for index in range(50_000))
            )
            waiting.ask(Status(0))
        watch = watch._replace(wait_ms=0)  # it is told at once, once there is a place for it
        wait_until(lambda: isinstance(peer.ask(watch), WriterStatusReply), "others may watch")
        peer.claim(info)
    own_watch.finish()


def test_a_claim_ends_with_its_session(own_watch: Watch) -> None:
    with Peer(own_watch.address) as peer:
        info = peer.create("/claimed")
        claimed = peer.claim(info, lease_ms=1_000)
        assert peer.put(claimed, 1, claimed.tail, None).code == Code.OK
        with Peer(own_watch.address) as waiting:
            waiting.send(Claim(info.stream_id, "gone", 1_000, FOR_EVER_MS, 0))
            waiting.ask(Status(0))
        until_s = time.monotonic() + 5.0  # the lease, and what a relay adds to it
        while time.monotonic() < until_s:
            assert peer.writer_status(info.stream_id).writer == claimed.writer


def test_a_relay_ends_with_the_writers_release(own_nodes: DevNodes) -> None:
    with Peer(own_nodes.addresses[0]) as peer, ExitStack() as stack:
        members = [stack.enter_context(Peer(address)) for address in own_nodes.addresses]
        info = peer.create("/released")
        claimed = peer.claim(info, lease_ms=3_000)
        assert peer.put(claimed, 1, claimed.tail, None).code == Code.OK
        release = Release(info.stream_id, claimed.version, claimed.writer, claimed.tail, relay=1)
        reply = peer.ask(release)
        assert isinstance(reply, ReleaseReply)
        assert reply.code == Code.OK

        def remaining_ms() -> int:
            views = [member.writer_status(info.stream_id, local=True) for member in members]
            return max(view.remaining_lease_ms for view in views)

        # A majority has the release when it is answered; the third member is about to have it.
        wait_until(lambda: not remaining_ms(), "all members know of the release", 2.0)
        until_s = time.monotonic() + 2.0
        while time.monotonic() < until_s:
            assert remaining_ms() == 0


# --- who asks for more than can be read -----------------------------------------------------------


def test_who_reads_all_and_more_does_not_hold_up_writers(tmp_path: Path) -> None:
    """All of it comes at once, before anything of it is answered, and no answer is taken."""
    with DevNodes(tmp_path, 1) as nodes, Peer(nodes.addresses[0]) as peer:
        claimed = peer.claim(peer.create("/read"), lease_ms=60_000)
        batch = make_batch(claimed.writer, claimed.tail, *[bytes(60_000)] * 30)
        assert peer.put(claimed, 1, claimed.tail, batch).code == Code.OK
        tail = batch.last
        assert peer.put(claimed, 2, tail, None).code == Code.OK

        def put_many(first_transmission: int) -> float:
            nonlocal tail
            took_s = []
            for transmission in range(first_transmission, first_transmission + 25):
                batch = make_batch(claimed.writer, tail, b"put")
                started_s = time.monotonic()
                assert peer.put(claimed, transmission, tail, batch).code == Code.OK
                took_s.append(time.monotonic() - started_s)
                tail = batch.last
            return median(took_s)

        alone_s = put_many(3)
        with Peer(nodes.addresses[0]) as greedy:
            read = frame.encode_head(Read(claimed.stream_id, 1, FETCH_BYTES_MAX, 0, 0, 0), 1)
            sender = threading.Thread(target=greedy.send_bytes, args=(100_000 * read,))
            sender.start()
            beside_s = put_many(40)
        sender.join()
        assert beside_s < READ_STALL_FACTOR_MAX * alone_s


# --- memory ---------------------------------------------------------------------------------------

UNFINISHED = frame.encode_head(
    Put(1, 1, NO_WRITER, 1, ORIGIN, 0), 1, (FRAME_BYTES_MAX - 200) // 8 * 8
) + bytes(FRAME_BYTES_MAX * 7 // 8)


def test_200_unfinished_frames_are_bounded_in_memory(own_watch: Watch) -> None:
    with peers(own_watch.address, 200) as many:
        for each in many:
            each.send_bytes(UNFINISHED)
        with Peer(own_watch.address) as peer:  # the node has come to what was sent before this
            peer.ask(Status(0))
        own_watch.look()
        for each in many:
            failure = each.last_words(FRAME_MS_MAX / 1000 + SWEEP_S)
            assert failure is None or failure.code in {Code.BUSY, Code.BAD_REQUEST}
    own_watch.finish()


def test_unfinished_frames_are_not_paid_for_by_others(own_watch: Watch) -> None:
    with Peer(own_watch.address) as idle, peers(own_watch.address, 60) as many:
        for each in many:
            each.send_bytes(UNFINISHED)
        for each in many:
            each.last_words(FRAME_MS_MAX / 1000 + SWEEP_S)
        assert isinstance(idle.ask(Status(0)), StatusReply)


def test_many_clients_that_do_not_read_are_bounded_in_memory(own_watch: Watch) -> None:
    with Peer(own_watch.address) as peer, peers(own_watch.address, 100) as deaf:
        claimed = peer.claim(peer.create("/large"))
        batch = make_batch(claimed.writer, claimed.tail, bytes(500_000))
        assert peer.put(claimed, 1, claimed.tail, batch).code == Code.OK
        read = Read(claimed.stream_id, 1, 1 << 20, 0, 0, 0)
        for each in deaf:
            each.send_bytes(19 * frame.encode_head(read, 1))
        peer.ask(read, timeout_s=30.0)  # the node has come to what was sent before this
        own_watch.look()
    own_watch.finish()
