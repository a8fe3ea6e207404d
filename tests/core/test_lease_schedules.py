"""The lease model's schedules: each lets two writers call themselves exclusive when a rule is left
out. At the start w1 is the writer, and every member has just renewed its lease. In the end the
next writer is exclusive, w1 no more, and the quiet phase follows.

    waitsame    a repeated NewWriter is answered at once
    maxold      only the last promise's lease is waited for
    bootold     a restart forgets what is owed to older leases
    bootlease   after a restart no lease is assumed
    adoptwait   who adopts a promise forgets the older lease
    relcmp      a Release is obeyed after a newer promise
    relsafe     a writer is exclusive after it has sent its Release
    sendtime    a writer is exclusive from the acknowledgement on
    clocks that run 5/3 apart: there two may be exclusive, but their writes are not
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.by_hand import STREAM, VERSION, Stage, writer_id
from walle.core.pipeline import Pipeline
from walle.errors import Code
from walle.ids import ORIGIN
from walle.limits import LEASE_MS_MIN
from walle.messages import PutReply, Release, ReleaseReply, Stamp
from walle.record import Encoder
from walle.testing.cluster import Cluster

if TYPE_CHECKING:
    from tests.core.by_hand import Coordinator
    from walle.core.pipeline import Outgoing
    from walle.testing.cluster import Mail

LEASE_MS = LEASE_MS_MIN


class Leader:
    """A writer at work, on a clock that runs at `rate` times the members'."""

    def __init__(self, stage: Stage, number: int, rate: float = 1.0) -> None:
        self.stage = stage
        self._rate = rate
        self.pipeline = Pipeline(
            stream_id=STREAM,
            topology=stage.newest,
            writer=writer_id(number),
            lease_ms=LEASE_MS,
            tail=ORIGIN,
        )
        for name in stage.names:
            self.pipeline.connected(name, self.now_ns)
        self._sent: dict[str, Outgoing] = {}
        self._answers: list[tuple[str, PutReply]] = []

    @property
    def now_ns(self) -> int:
        return int(self.stage.now_ns * self._rate)

    def is_exclusive(self) -> bool:
        return self.now_ns < self.pipeline.exclusive_until_ns()

    def beat(self) -> None:
        """It sends a heartbeat."""
        self.pipeline.heartbeat(self.now_ns)
        self._sent = {each.node: each for each in self.pipeline.take()}

    def put(self) -> None:
        """It sends its next entry."""
        encoder = Encoder(self.pipeline.writer, self.pipeline.tail)
        encoder.add(b"data", 0)
        self.pipeline.put(encoder.take(), self.now_ns)
        self._sent = {each.node: each for each in self.pipeline.take()}

    def reaches(self, *names: str) -> None:
        """What it sent last arrives at these members, whose answers are on their way."""
        for name in names:
            sent = self._sent[name]
            self._answers.append((name, self.stage.ask(name, sent.put, PutReply, sent.batch)))

    def hears(self) -> None:
        """The answers arrive."""
        answers, self._answers = self._answers, []
        for name, reply in answers:
            self.pipeline.receive(name, reply, self.now_ns)


def begun(rate: float = 1.0) -> tuple[Stage, Leader]:
    """w1 is exclusive: all members have renewed its lease."""
    stage = Stage(has_leases=True)
    w1 = Leader(stage, 1, rate)
    w1.beat()
    w1.reaches(*stage.names)
    w1.hears()
    assert w1.is_exclusive()
    return stage, w1


def beats_on() -> tuple[Stage, Leader]:
    """So it is, and its next heartbeat has reached n1 and n2."""
    stage, w1 = begun()
    w1.beat()
    w1.reaches("n1", "n2")
    return stage, w1


def returned(claim: Coordinator, by: tuple[str, ...], heard: tuple[str, ...]) -> Leader:
    """The claim returns, and its writer's first heartbeat makes it exclusive."""
    claim.bring_in(*by)
    assert claim.claimed is not None
    leader = Leader(claim.stage, claim.claimed.writer.ts)
    leader.beat()
    leader.reaches(*heard)
    leader.hears()
    assert leader.is_exclusive()
    return leader


def waits_for(w1: Leader, claim: Coordinator, *names: str) -> None:
    """These members have promised the claim's writer, and answer once w1's lease has run out."""
    stage = w1.stage
    w1.hears()
    assert w1.is_exclusive()
    stage.pass_ms(LEASE_MS - 1)
    assert claim.promised == set()
    stage.pass_ms(1)
    assert claim.promised == set(names)
    returned(claim, names, names)
    assert not w1.is_exclusive()
    stage.end_whole()


def release(stage: Stage, number: int, to: str) -> int:
    message = Release(STREAM, VERSION, writer_id(number), ORIGIN, relay=0)
    return stage.ask(to, message, ReleaseReply).code


def test_promise_is_answered_when_the_older_lease_has_run_out() -> None:
    stage, w1 = beats_on()
    c2 = stage.claim(2)
    for name in ("n1", "n2"):
        assert c2.promise(name) is None
        assert stage[name].promise.writer == writer_id(2)
        assert stage[name].lease.remaining_ms(stage.now_ns) == LEASE_MS
    waits_for(w1, c2, "n1", "n2")


def test_waitsame() -> None:
    """A repeated NewWriter is not answered earlier than the first."""
    stage, w1 = beats_on()
    c2 = stage.claim(2)
    for name in ("n1", "n2"):
        assert c2.promise(name) is None
        assert c2.promise(name) is None
    assert c2.letter(Stamp, "n1") is None
    waits_for(w1, c2, "n1", "n2")


def test_maxold() -> None:
    """All older leases are waited for, not only that of the last promise, which never began."""
    stage, w1 = beats_on()
    c2, c3 = stage.claim(2), stage.claim(3)
    for name in ("n1", "n2"):
        assert c2.promise(name) is None
    for name in ("n1", "n2"):
        assert c3.promise(name) is None
    waits_for(w1, c3, "n1", "n2")


def test_longest_of_all_older_leases_is_waited_for() -> None:
    stage = Stage(has_leases=True)
    c2 = stage.claim(2, lease_ms=10 * LEASE_MS)
    stage.pass_ms(LEASE_MS)
    for name in ("n1", "n2"):
        assert c2.promise(name) == Code.OK
    c2.bring_in("n1", "n2")
    w2 = c2.returns()
    for name in ("n1", "n2"):
        w2.heartbeat(0, name)
    c3 = stage.claim(3)
    assert c3.promise("n1") is None  # w3's lease is short, and never begins
    c4 = stage.claim(4)
    assert c4.promise("n1") is None
    assert c4.promise("n2") is None
    stage.pass_ms(10 * LEASE_MS - 1)
    assert c4.promised == set()
    stage.pass_ms(1)
    assert c4.promised == {"n1", "n2"}


def test_bootold() -> None:
    """What is owed to older leases survives a restart."""
    stage, w1 = beats_on()
    c2 = stage.claim(2)
    for name in ("n1", "n2"):
        assert c2.promise(name) is None
    for name in ("n1", "n2"):
        stage.crash(name)
        assert c2.promise(name) is None
    waits_for(w1, c2, "n1", "n2")


def test_older_lease_counts_from_the_restart() -> None:
    """The member cannot know when it was renewed."""
    stage, _ = beats_on()
    c2 = stage.claim(2)
    assert c2.promise("n1") is None
    stage.pass_ms(LEASE_MS / 2)
    stage.crash("n1")
    assert c2.promise("n1") is None
    stage.pass_ms(LEASE_MS - 1)
    assert c2.promised == set()
    stage.pass_ms(1)
    assert c2.promised == {"n1"}


def test_bootlease() -> None:
    """After a restart the promised writer is taken to have just renewed its lease."""
    stage, w1 = beats_on()
    c2 = stage.claim(2)
    for name in ("n1", "n2"):
        stage.crash(name)
        assert c2.promise(name) is None
    waits_for(w1, c2, "n1", "n2")


def test_adoptwait() -> None:
    """Who adopts a promise still owes the older lease."""
    stage, w1 = beats_on()
    c2 = stage.claim(2)
    assert c2.promise("n1") is None
    for name in ("n2", "n3"):
        stage.writer(2).heartbeat(0, name)  # asks a majority, and adopts what n1 has promised
        assert stage[name].promise.writer == writer_id(2)
        assert c2.promise(name) is None
    waits_for(w1, c2, "n1", "n2", "n3")


def test_relcmp() -> None:
    """A Release that comes after a newer promise ends nobody's lease."""
    stage, _ = begun()
    for name in ("n1", "n2"):
        assert release(stage, 1, name) == Code.OK
    c2 = stage.claim(2)
    for name in ("n1", "n2"):
        assert c2.promise(name) == Code.OK
    w2 = returned(c2, ("n1", "n2"), ("n1", "n3"))
    assert release(stage, 1, "n3") == Code.FENCED
    c3 = stage.claim(3)
    assert c3.promise("n2") == Code.OK
    assert c3.promise("n3") is None
    assert w2.is_exclusive()
    stage.pass_ms(LEASE_MS)
    assert c3.promised == {"n2", "n3"}
    returned(c3, ("n2", "n3"), ("n1", "n2"))
    assert not w2.is_exclusive()
    stage.end_whole()


def test_release_does_not_end_what_is_owed_to_older_writers() -> None:
    stage, w1 = beats_on()
    c2 = stage.claim(2)
    for name in ("n1", "n2"):
        assert c2.promise(name) is None
        assert release(stage, 2, name) == Code.OK
        assert c2.promise(name) is None
    waits_for(w1, c2, "n1", "n2")


def test_relsafe() -> None:
    """A writer stops to be exclusive before it sends its Release: here the topology manager."""
    cluster = Cluster(3)

    def acting() -> list[str]:
        managers = {name: node.manager for name, node in cluster.nodes.items()}
        return [name for name, each in managers.items() if each is not None and each.is_acting]

    cluster.run_until(lambda: bool(acting()))
    (old,) = acting()
    seen: list[list[str]] = []

    def on_post(mail: Mail) -> None:
        seen.extend([acting()] * isinstance(mail.message, Release))

    cluster.on_post = on_post
    cluster.nodes[old].stop()
    assert seen == [[]], "to itself"
    cluster.collect(old)
    assert seen == [[], [], []]
    cluster.run_until(lambda: bool(acting()))
    assert old not in acting()


def test_put_after_its_writers_release_renews_nothing() -> None:
    """So nobody waits for that writer any more."""
    stage, w1 = begun()
    w1.beat()
    for name in ("n1", "n2"):
        assert release(stage, 1, name) == Code.OK
        w1.reaches(name)
        assert stage[name].lease.remaining_ms(stage.now_ns) == 0
    c2 = stage.claim(2)
    for name in ("n1", "n2"):
        assert c2.promise(name) == Code.OK
    returned(c2, ("n1", "n2"), ("n1", "n2"))
    stage.end_whole()


def overtaken(rate: float) -> tuple[Leader, Leader]:
    """w1's heartbeat is under way for as long as the lease; meanwhile w2 becomes exclusive."""
    stage, w1 = begun(rate)
    w1.beat()
    w1.reaches("n1")
    stage.pass_ms(LEASE_MS)
    w1.reaches("n2")
    c2 = stage.claim(2)
    assert c2.promise("n1") == Code.OK
    assert c2.promise("n3") == Code.OK
    w2 = returned(c2, ("n1", "n3"), ("n1", "n2"))
    w1.hears()
    return w1, w2


def test_sendtime() -> None:
    """The writer's lease counts from the sending of what a majority has acknowledged; from the
    acknowledgement on it would outlive what the members owe."""
    w1, w2 = overtaken(rate=1.0)
    assert w1.pipeline.acknowledged_transmission == w1.pipeline.transmission
    assert not w1.is_exclusive()
    assert w2.is_exclusive()
    w1.stage.end_whole()


@pytest.mark.parametrize(("rate", "are_both"), [(3 / 4, False), (3 / 5, True)])
def test_clocks_that_run_apart(rate: float, *, are_both: bool) -> None:
    """Members whose clocks run 4/3 times as fast as the writer's are what a lease allows for; with
    5/3 two writers may call themselves exclusive. What they write is exclusive all the same."""
    w1, w2 = overtaken(rate)
    assert (w1.is_exclusive(), w2.is_exclusive()) == (are_both, True)
    w1.put()
    w1.reaches(*w1.stage.names)
    w2.put()
    w2.reaches("n1", "n2")
    for writer in (w1, w2):
        writer.hears()
    assert w1.pipeline.lost is not None
    assert w1.pipeline.committed == ORIGIN
    assert w2.pipeline.committed == w2.pipeline.tail == w1.stage.truth.tip
    w1.stage.end_whole()
    assert w1.stage.history("n3") == [2, 99]
