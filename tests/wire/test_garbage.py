"""Garbage sent to a real node: each gets a clear Failure or a closed connection within its bound,
while another client is served, memory stays within bounds and no process restarts (watch.py)."""

from __future__ import annotations

import random
import ssl
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.clusters import wait_until
from tests.golden import invalid
from tests.golden.test_golden_frames import EXAMPLES, HELLO
from tests.wire.peer import ANSWER_S, Peer, make_batch, peers
from tests.wire.peer import HELLO as HELLO_MESSAGE
from walle import frame
from walle.errors import Code
from walle.ids import NO_WRITER, ORIGIN, WriterId
from walle.limits import (
    FRAME_BYTES_MAX,
    FRAME_MS_MAX,
    HANDSHAKE_MS_MAX,
    SESSION_UNSENT_BYTES_MAX,
    SESSIONS_COUNT_MAX,
)
from walle.messages import (
    NODE_ONLY,
    PROTOCOL_VERSION,
    ROLE_CLIENT,
    Describe,
    Failure,
    Hello,
    ListStreams,
    Put,
    PutReply,
    Read,
    ReadReply,
    Status,
    StatusReply,
    StreamList,
    Welcome,
    WriterStatus,
    WriterStatusReply,
)

if TYPE_CHECKING:
    from tests.clusters import DevNodes
    from tests.golden.test_golden_frames import Example
    from tests.wire.watch import Watch

SEED = 7_411
SWEEP_S = 10.0
"""How much later than its bound a node, or the machine, may notice that something took too long."""
TOO_LONG = "took too long to arrive"
NOBODY = bytes(16)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("watch")]


@pytest.fixture
def address(nodes: DevNodes) -> str:
    """The node that is molested."""
    return nodes.addresses[0]


def assert_refused(peer: Peer, code: Code, says: str, within_s: float = ANSWER_S) -> None:
    """The node says so, with request id 0 or that of the Hello, and closes."""
    failure = peer.last_words(within_s)
    assert failure is not None, "closed without a word"
    assert failure.code == code
    assert says in failure.text


def assert_alive(peer: Peer) -> None:
    """The session goes on."""
    assert isinstance(peer.ask(Status(0)), StatusReply)


# --- refused at once ------------------------------------------------------------------------------


def test_random_bytes_are_refused(address: str) -> None:
    draw = random.Random(SEED)
    print(f"bytes are drawn from seed {SEED}")  # noqa: T201 - shown with a failure
    for is_greeting in (False, True):
        for size in (24, 25, 100, 5_000, 300_000):
            with Peer(address, is_greeting=is_greeting) as peer:
                peer.send_bytes(draw.randbytes(size))
                failure = peer.last_words(ANSWER_S)
                # It may be lost with what the node does not read any more.
                assert failure is None or "not a frame of the WALLE protocol" in failure.text


def test_a_tls_client_is_refused(address: str) -> None:
    context = ssl.create_default_context()
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    with Peer(address, is_greeting=False) as peer:
        peer.send_bytes(outgoing.read())
        assert_refused(peer, Code.BAD_REQUEST, "not a frame of the WALLE protocol")


def test_an_http_client_is_refused(address: str) -> None:
    with Peer(address, is_greeting=False) as peer:
        peer.send_bytes(f"GET / HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        assert_refused(peer, Code.BAD_REQUEST, "not a frame of the WALLE protocol")


@pytest.mark.parametrize(
    "case",
    [case for case in invalid.cases() if case.end == "node"],
    ids=lambda case: case.name,
)
def test_what_the_golden_files_call_invalid_is_refused(address: str, case: invalid.Case) -> None:
    with Peer(address, is_greeting=case.is_open) as peer:
        peer.send_bytes(case.data[: case.refused_after])
        failure = peer.last_words(ANSWER_S)
    assert failure is not None, "closed without a word"
    assert failure.code == Code.BAD_REQUEST
    assert TOO_LONG not in failure.text, "it need not be waited for"


@pytest.mark.parametrize(
    ("hello", "code", "says"),
    [
        (
            Hello(PROTOCOL_VERSION + 1, ROLE_CLIENT, NOBODY, "", NOBODY),
            Code.BAD_REQUEST,
            f"speaks protocol version {PROTOCOL_VERSION}, not {PROTOCOL_VERSION + 1}",
        ),
        (
            Hello(PROTOCOL_VERSION, ROLE_CLIENT, b"another cluster!", "", NOBODY),
            Code.WRONG_CLUSTER,
            "not to " + b"another cluster!".hex(),
        ),
        (Hello(PROTOCOL_VERSION, 7, NOBODY, "", NOBODY), Code.BAD_REQUEST, "no role has number 7"),
        (
            Hello(PROTOCOL_VERSION, 1, NOBODY, "n9", NOBODY),
            Code.WRONG_CLUSTER,
            "which has no node n9",
        ),
        (
            Hello(PROTOCOL_VERSION, 1, NOBODY, "n2", b"a forged identi."),
            Code.WRONG_CLUSTER,
            "another identity",
        ),
    ],
    ids=["version", "cluster", "role", "unknown node", "forged node"],
)
def test_a_wrong_hello_is_refused(address: str, hello: Hello, code: Code, says: str) -> None:
    with Peer(address, is_greeting=False) as peer:
        request_id = peer.send(hello)
        answer = peer.receive()
        assert answer is not None
        assert answer.request_id == request_id
        assert isinstance(answer.message, Failure)
        assert answer.message.code == code
        assert says in answer.message.text
        assert peer.receive() is None


# --- refused, and the session goes on -------------------------------------------------------------


def _of(kinds: frozenset[type]) -> list[Example]:
    """One golden frame of each of these types."""
    return list(
        {type(each.message): each for each in EXAMPLES if type(each.message) in kinds}.values()
    )


ANSWERS = frozenset(
    type(each.message)
    for each in EXAMPLES
    if type(each.message).__name__.endswith(("Reply", "Info", "List"))
) | {Failure}


@pytest.mark.parametrize("example", _of(ANSWERS), ids=lambda example: example.name)
def test_an_answer_is_no_request(address: str, example: Example) -> None:
    with Peer(address) as peer:
        reply = peer.ask(example.message, example.records)
        assert reply == Failure(Code.BAD_REQUEST, "an answer to no question")
        assert_alive(peer)


@pytest.mark.parametrize("example", _of(NODE_ONLY), ids=lambda example: example.name)
def test_a_client_may_not_ask_what_nodes_ask(address: str, example: Example) -> None:
    with Peer(address) as peer:
        assert peer.ask(example.message) == Failure(Code.BAD_REQUEST, "only nodes may ask that")
        assert_alive(peer)


def test_a_put_under_nobodys_writer_id_is_not_taken(address: str, nodes: DevNodes) -> None:
    """Neither of an older writer nor of one that never claimed."""
    with Peer(address) as peer:
        info = peer.create("/forged")
        claimed = peer.claim(info)
        assert peer.put(claimed, 1, ORIGIN, None).code == Code.OK
        for writer, code in (
            (WriterId(1, 1), Code.FENCED),
            (WriterId(claimed.writer.ts + 1, 1), Code.BUSY),
        ):
            batch = make_batch(writer, ORIGIN, b"forged")
            put = Put(info.stream_id, info.version, writer, 1, ORIGIN, relay=0)
            reply = peer.ask(put, bytes(batch.payload.view()))
            assert isinstance(reply, PutReply)
            assert reply.code == code
            assert reply.held == ORIGIN
        assert peer.writer_status(info.stream_id).writer == claimed.writer
    assert nodes.cli("read", "/forged", "--raw") == b""


# --- what has a bound in time ---------------------------------------------------------------------


def test_silence_and_half_frames_end_within_their_bounds(address: str) -> None:
    """All wait at the same time: it is the node's patience that this test waits out."""
    put = frame.encode_head(Put(1, 1, NO_WRITER, 1, ORIGIN, 0), 1, 1_000)
    before = (b"", HELLO[:10], HELLO[:40], b"GET / HTTP/1.1\r\n\r\n")
    after = (put[:1], put[:30], put + bytes(500))
    with (
        peers(address, len(before), is_greeting=False) as strangers,
        peers(address, len(after)) as guests,
    ):
        for peer, sent in zip(strangers + guests, before + after, strict=True):
            peer.send_bytes(sent)
        for peer in strangers + guests:
            bound_ms = FRAME_MS_MAX if peer in guests else HANDSHAKE_MS_MAX
            within_s = bound_ms / 1000 + SWEEP_S
            assert_refused(peer, Code.BAD_REQUEST, TOO_LONG, within_s)


def test_a_trickle_does_not_extend_the_bound(address: str) -> None:
    """A byte now and then is no progress: the frame's time counts from its first byte."""
    put = frame.encode_head(Put(1, 1, NO_WRITER, 1, ORIGIN, 0), 1, 1_000) + bytes(1_000)
    stop = threading.Event()
    with Peer(address) as peer:

        def trickle() -> None:
            for index in range(len(put)):
                peer.send_bytes(put[index : index + 1])
                if stop.wait(0.2):
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            # What the node does not read any more resets the connection: its words may be lost.
            peer.last_words(FRAME_MS_MAX / 1000 + SWEEP_S)
        finally:
            stop.set()
            thread.join()


def test_an_idle_session_is_left_alone(address: str) -> None:
    """Silence between frames is nobody's fault."""
    with Peer(address) as peer, Peer(address, is_greeting=False) as other:
        other.send_bytes(HELLO[:10])
        assert other.last_words(HANDSHAKE_MS_MAX / 1000 + SWEEP_S) is not None  # time has passed
        assert_alive(peer)


# --- what has a bound in memory -------------------------------------------------------------------


def test_half_frames_end_within_their_bound(address: str, watch: Watch) -> None:
    head = frame.encode_head(Put(1, 1, NO_WRITER, 1, ORIGIN, 0), 1, (FRAME_BYTES_MAX - 200) & -8)
    with peers(address, 40) as many:
        for peer in many:
            peer.send_bytes(head + bytes(FRAME_BYTES_MAX // 2))
        watch.look()
        for peer in many:
            failure = peer.last_words(FRAME_MS_MAX / 1000 + SWEEP_S)
            assert failure is None or failure.code in {Code.BUSY, Code.BAD_REQUEST}


def test_a_client_that_never_reads_its_answers_is_cut_off(address: str, watch: Watch) -> None:
    with Peer(address) as peer:
        info = peer.create("/large")
        claimed = peer.claim(info)
        batch = make_batch(claimed.writer, claimed.tail, bytes(500_000))
        assert peer.put(claimed, 1, claimed.tail, batch).code == Code.OK
    read = Read(info.stream_id, 1, 1 << 20, 0, 0, 0)
    wanted = 8 * SESSION_UNSENT_BYTES_MAX // 500_000
    with Peer(address) as peer:
        mine = peer.socket.getsockname()
        assert is_served(mine)
        for _ in range(wanted):
            peer.send(read)
        with Peer(address) as other:
            assert isinstance(other.ask(read), ReadReply), "others are served meanwhile"
        watch.look()
        wait_until(lambda: not is_served(mine), "the node has ended the session")
        peer.last_words(ANSWER_S)  # what it was sent before that can still be read


def is_served(client: tuple[str, int]) -> bool:
    """Whether a process has the other end of the client's connection."""
    ends = psutil.net_connections("tcp")
    return any(end.raddr == client and end.pid is not None for end in ends)


# --- floods ---------------------------------------------------------------------------------------


def test_thousands_of_tiny_requests_are_all_answered(address: str, watch: Watch) -> None:
    with Peer(address) as peer:
        info = peer.create("/tiny")
        peer.insist(Read(info.stream_id, 1, 0, 0, 0, 0))  # by now this node knows the stream, too
        requests = {
            WriterStatus(info.stream_id, 1, NO_WRITER, 0): WriterStatusReply,
            Read(info.stream_id, 1, 0, 0, 0, 0): ReadReply,
            Describe("/tiny"): type(info),
            ListStreams(0): StreamList,
        }
        expected = {}
        frames = []
        for number in range(20_000):
            message, reply = list(requests.items())[number % len(requests)]
            frames.append(frame.encode_head(message, number + 1))
            expected[number + 1] = reply
        sender = threading.Thread(target=peer.send_bytes, args=(b"".join(frames),))
        sender.start()
        for _ in range(len(expected)):
            answer = peer.receive(30)
            assert answer is not None
            assert isinstance(answer.message, expected.pop(answer.request_id))
        sender.join()
        watch.look()


def test_connections_beyond_the_bound_are_told_so(address: str, watch: Watch) -> None:
    """Those that are in stay in, and there is room again once some have gone."""
    refused = 0
    with ExitStack() as stack:
        first = stack.enter_context(Peer(address))
        for count in range(1, SESSIONS_COUNT_MAX + 20):
            peer = stack.enter_context(Peer(address, is_greeting=False))
            peer.send(HELLO_MESSAGE)
            answer = peer.receive()
            if answer is not None and isinstance(answer.message, Welcome):
                assert count < SESSIONS_COUNT_MAX
                continue
            refused += 1  # its words may be lost: it has said Hello, which nobody reads
            if answer is not None:
                assert isinstance(answer.message, Failure)
                assert answer.message.code == Code.BUSY
        assert refused >= 20
        watch.look()
        assert_alive(first)
    with Peer(address) as peer:
        assert_alive(peer)


def test_a_flood_of_connections_that_say_nothing_passes(address: str, watch: Watch) -> None:
    with peers(address, SESSIONS_COUNT_MAX + 100, is_greeting=False) as silent:
        watch.look()
        for peer in silent:
            peer.last_words(HANDSHAKE_MS_MAX / 1000 + SWEEP_S)
    with Peer(address) as peer:
        assert_alive(peer)
