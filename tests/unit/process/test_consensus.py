"""The consensus process: what time it is when something has arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.process.stages import Writing
from walle import frame
from walle.config import NodeConfig
from walle.core.effects import Cut, Forward, Send
from walle.core.node import Recovered
from walle.ids import NO_IDENTITY, Position
from walle.limits import FRAME_HEAD_BYTES_MAX
from walle.messages import PROTOCOL_VERSION, ROLE_CLIENT, Failure, Hello, Welcome
from walle.process import consensus, mail, orders
from walle.process.consensus import Consensus
from walle.process.mail import Destination
from walle.ring.region import Region

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HELLO = Hello(PROTOCOL_VERSION, ROLE_CLIENT, NO_IDENTITY, "", NO_IDENTITY)


class PausedRing:
    """A ring whose reader is paused for a while just before it looks, as by the system."""

    def __init__(self, ring: Any, clock: Clock, then: Any) -> None:
        self._ring = ring
        self._clock = clock
        self._then = then

    def consume(self) -> list[memoryview]:
        self._clock.now_ns += 5_000_000_000
        self._then()
        views: list[memoryview] = self._ring.consume()
        return views

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ring, name)


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def read(self) -> int:
        return self.now_ns


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region()
    yield made
    made.close()


def test_the_time_is_never_before_that_at_which_a_message_came(
    region: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(consensus, "now_ns", clock.read)
    for parts in orders.pack_recovered(Recovered()):
        assert region.results.try_write(*parts)
    region.results.publish()
    loop: Any = Writing()
    config = NodeConfig("n1", "127.0.0.1:1", tmp_path, {"n1": "127.0.0.1:1"})
    running = Consensus(loop, region, config, bytes(16))
    came_ns: list[int] = []
    seen_ns: list[int] = []

    def come() -> None:
        head = memoryview(frame.encode_head(HELLO, 1))
        parts = mail.pack_arrived(Destination(mail.SESSION, 1), head, None)
        assert region.requests.try_write(*parts)
        region.requests.publish()
        came_ns.append(clock.now_ns)

    def open_session(_session: int, _hello: Hello) -> Failure:
        seen_ns.append(running.node.context.now_ns)
        return Failure(1, "")

    monkeypatch.setattr(running.node, "open_session", open_session)
    ring: Any = PausedRing(region.requests, clock, come)
    monkeypatch.setattr(region, "requests", ring)
    running.do_work()
    assert seen_ns == came_ns


def test_the_node_hears_of_damage(
    region: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parts in orders.pack_recovered(Recovered()):
        assert region.results.try_write(*parts)
    region.results.publish()
    loop: Any = Writing()
    config = NodeConfig("n1", "127.0.0.1:1", tmp_path, {"n1": "127.0.0.1:1"})
    running = Consensus(loop, region, config, bytes(16))
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(running.node, "damaged", lambda *what: told.append(what))
    cut = Cut(7, Position(3, 33), Position(5, 55))
    assert region.results.try_write(*orders.pack_damaged(cut))
    region.results.publish()
    running.do_work()
    assert told == [cut]


def test_another_node_at_the_address_of_one_is_told_of_once(
    region: Region, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It answers for as long as the old one is not removed: the link is made again and again."""
    for parts in orders.pack_recovered(Recovered()):
        assert region.results.try_write(*parts)
    region.results.publish()
    loop: Any = Writing()
    addresses = {"n1": "127.0.0.1:1", "n2": "127.0.0.1:2"}
    config = NodeConfig("n1", "127.0.0.1:1", tmp_path, addresses)
    running = Consensus(loop, region, config, bytes(16))
    running.start()
    for node_id in ("n3", "n3", "n2", "n3"):
        welcome = Welcome(PROTOCOL_VERSION, NO_IDENTITY, node_id, bytes(16))
        head = memoryview(frame.encode_head(welcome, 0))
        parts = mail.pack_arrived(Destination(mail.PEER, 1), head, None)
        assert region.requests.try_write(*parts)
        region.requests.publish()
        running.do_work()
    said = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert said == ["n3 answers at the address of n2"] * 2


def test_storage_hears_of_the_end_of_a_session(region: Region, tmp_path: Path) -> None:
    for parts in orders.pack_recovered(Recovered()):
        assert region.results.try_write(*parts)
    region.results.publish()
    loop: Any = Writing()
    config = NodeConfig("n1", "127.0.0.1:1", tmp_path, {"n1": "127.0.0.1:1"})
    running = Consensus(loop, region, config, bytes(16))
    assert region.requests.try_write(*mail.pack_closed(7))
    region.requests.publish()
    running.do_work()
    ended = [orders.unpack_ended(view) for view in region.orders.consume()]
    assert ended == [7]


def test_what_a_turn_answers_once_it_is_durable_goes_together_to_each_receiver(
    region: Region, tmp_path: Path
) -> None:
    for parts in orders.pack_recovered(Recovered()):
        assert region.results.try_write(*parts)
    region.results.publish()
    loop: Any = Writing()
    config = NodeConfig("n1", "127.0.0.1:1", tmp_path, {"n1": "127.0.0.1:1"})
    running = Consensus(loop, region, config, bytes(16))
    cut = Cut(7, Position(3, 33), Position(5, 55))
    texts = ["", "short", *["x" * 60_000] * 12, "the end"]
    actions = running.node.context.outbox.actions
    for number, text in enumerate(texts):
        actions += [Forward(Send(to, number, Failure(1, text))) for to in (5, 6, "n1")]
        actions.append(cut)
    running._flush()
    sequence = 0
    forwards: list[tuple[int, mail.Destination, bytes]] = []
    for view in region.orders.consume():
        if view[0] == orders.FORWARD:
            found = mail.unpack_mail(view[1:])
            forwards.append((sequence, found.to, bytes(found.head)))
        else:
            sequence, action = orders.unpack_order(view, region.arena)
            assert action == cut
    for session in (5, 6):
        heads = [head for _, to, head in forwards if to == (mail.SESSION, session)]
        assert [frame.decode_head(head) for head in _split(b"".join(heads))] == [
            (number, Failure(1, text)) for number, text in enumerate(texts)
        ]
        assert 1 < len(heads) < 5
        assert max(map(len, heads)) <= 2 * FRAME_HEAD_BYTES_MAX, "one message's size is bounded"
    last = [sequence for sequence, to, _ in forwards if to.kind == mail.SESSION][-2:]
    assert last == [len(texts)] * 2, "behind all that is to be durable first"
    own = [frame.decode_head(head)[0] for _, to, head in forwards if to == (mail.SELF, 0)]
    assert own == list(range(len(texts))), "the node itself is told one by one"


def _split(heads: bytes) -> Iterator[bytes]:
    while heads:
        size = frame.parse_header(heads, 0, size_max=FRAME_HEAD_BYTES_MAX).head_size
        yield heads[:size]
        heads = heads[size:]
