"""The model's schedules of changing members, step by step: each loses an entry, or leaves it with
too few, when one rule is left out. Here the forbidden step is refused or put off, and in the end
the change succeeds.

The stream begins on n1, n2, n3 at version 1, with w1 as its writer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.by_hand import STREAM, Boss, Stage
from walle.core.pipeline import Pipeline
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import ORIGIN
from walle.messages import (
    Adopt,
    AskHeld,
    AskWriter,
    AskWriterReply,
    Confirm,
    ConfirmReply,
    Fetch,
    Put,
    PutReply,
)

if TYPE_CHECKING:
    from tests.core.by_hand import Writer
    from walle.core.pipeline import Outgoing
    from walle.messages import Message

OLD = ("n1", "n2", "n3")
JOINT = 2
PAUSE_MS = 250
STEP_MS = 2_001


def changing(*members: str) -> tuple[Stage, Boss, Writer]:
    """The joint version is published, and nobody has heard of it."""
    stage = Stage(5, members=OLD)
    return stage, begin(stage, *members), stage.writer(1)


def begin(stage: Stage, *members: str) -> Boss:
    stage.publish(StreamTopology(JOINT, members, OLD))
    return Boss(stage)


def mark_of(stage: Stage, name: str) -> int:
    """What a writer hears from that member."""
    return stage[name].joining.mark


def end(stage: Stage, boss: Boss) -> None:
    """The new members alone, everywhere: a claim by them keeps everything."""
    assert boss.has_ended
    new = stage.newest
    stage.publish(new._replace(version=new.version + 1, old_members=()))
    for name in stage.names:
        stage[name].joining.adopt(stage.newest)
    stage.settle()
    stage.pass_ms(1_000)
    stage.check()
    names = stage.newest.members
    claim = stage.claim(9)
    for name in names:
        claim.promise(name)
    for name in names:
        if claim.claimed is None:
            claim.bring_in(name)
    w9 = claim.returns()
    assert w9.tail >= stage.truth.tip
    for name in names:
        w9.put(to=name, commit=w9.tail.entry_id, version=stage.newest.version)
    stage.pass_ms(10_000)
    assert len({tuple(stage.history(name)) for name in names}) == 1
    assert len(stage.history(names[0])) == w9.tail.entry_id
    assert not stage.alarms


def test_verbelow() -> None:
    """Once a member has the joint version, a put at the version below no longer counts."""
    stage, boss, w1 = changing("n1", "n2", "n4")
    w1.put(1, to="n3")
    boss.send(Adopt, "n1", "n2")
    w1.put(to="n1", version=JOINT)
    w1.put(to="n2", version=JOINT)
    boss.send(AskWriter, "n1", "n2")
    assert boss.asks(Confirm)
    assert w1.put(1, to="n1").code == Code.STALE_VERSION
    assert stage.history("n1") == []
    boss.send(Confirm, "n1", "n2")
    w1.put(1, to="n1", version=JOINT, mark=mark_of(stage, "n1"))
    boss.send(Confirm, "n1", "n2")
    assert not boss.asks(AskHeld)  # n2 has heard of no commit point since the tails were read
    w1.put(1, to="n2", version=JOINT)
    for name in ("n1", "n2"):
        w1.put(to=name, commit=1, version=JOINT, mark=mark_of(stage, name))
    boss.send(Confirm, "n1", "n2")
    boss.send(AskHeld, "n1", "n2")
    end(stage, boss)


def is_backfill(_source: str, _target: str, message: Message) -> bool:
    return isinstance(message, Fetch) and bool(message.after)


@pytest.mark.parametrize(
    ("new", "holders", "jumping"),
    [(("n1", "n2", "n4"), ("n1", "n3"), ("n2",)), (("n1", "n4", "n5"), ("n2", "n3"), ("n1", "n4"))],
    ids=["by one", "by none"],
)
def test_coverb(new: tuple[str, ...], holders: tuple[str, ...], jumping: tuple[str, ...]) -> None:
    """The change waits until a majority of the new members hold every entry, proved."""
    stage = Stage(5, members=OLD)
    stage.lose = is_backfill
    w1 = stage.writer(1)
    for name in holders:
        w1.put(1, 2, to=name)
    boss = begin(stage, *new)
    told = (*OLD, *(name for name in new if name not in OLD))
    boss.send(Adopt, *told)
    boss.send(AskWriter, "n1", "n3")
    marked = (*holders, *jumping)
    boss.send(Confirm, *marked)
    for name in marked:
        w1.put(to=name, commit=2, version=JOINT, mark=mark_of(stage, name))
    stage.pass_ms(100)  # those without the entries jump
    for name in marked:
        w1.put(to=name, commit=2, version=JOINT, mark=mark_of(stage, name))
    assert stage.history(jumping[0]) == [1]
    boss.send(Confirm, *marked)
    boss.send(AskHeld, *(set(marked) & set(new)))
    assert not boss.has_ended
    assert "to hold" in boss.change.waits_for
    stage.lose = lambda _source, _target, _message: False
    stage.pass_ms(10_000)
    boss.pass_ms(STEP_MS)
    boss.pass_ms(PAUSE_MS)
    boss.send(AskHeld, *(set(marked) & set(new)))
    end(stage, boss)


def joint_majority(stage: Stage, boss: Boss, *names: str) -> int:
    """They have the joint version, and are asked to confirm a commit point. Returns the mark."""
    boss.send(Adopt, *names)
    boss.send(AskWriter, *(name for name in OLD if name in names))
    boss.send(Confirm, *names)
    (mark,) = {mark_of(stage, name) for name in names}
    return mark


def test_ptails() -> None:
    """The commit point must have come to the highest tail that was read."""
    stage = Stage(5, members=OLD)
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    w1.put(1, to="n2")
    boss = begin(stage, "n1", "n4", "n5")
    mark = joint_majority(stage, boss, "n1", "n3", "n4")
    for name in ("n1", "n3", "n4"):
        w1.put(to=name, version=JOINT, mark=mark)
        boss.send(Confirm, name)
    assert not boss.asks(AskHeld)
    assert "entry 1 or above" in boss.change.waits_for
    for name in ("n1", "n3", "n4"):
        w1.put(1, to=name, version=JOINT, mark=mark)
        w1.put(to=name, commit=1, version=JOINT, mark=mark)
        boss.send(Confirm, name)
    boss.send(AskHeld, "n1", "n4")
    end(stage, boss)


def test_psent() -> None:
    """A commit point that was sent before the tails were read does not do, whenever it comes."""
    stage, boss, w1 = changing("n1", "n4", "n5")
    for name in ("n1", "n2", "n4"):
        boss.send(Adopt, name)
        w1.put(to=name, version=JOINT)
    w1.put(1, to="n1", version=JOINT)
    w1.put(1, to="n3")
    mark = joint_majority(stage, boss, "n2", "n1", "n4")
    for name in ("n1", "n2", "n4"):
        w1.put(to=name, version=JOINT)  # sent long ago
        boss.send(Confirm, name)
    assert not boss.asks(AskHeld)
    for name in ("n1", "n2", "n4"):
        w1.put(1, to=name, version=JOINT, mark=mark)
        w1.put(to=name, commit=1, version=JOINT, mark=mark)
        boss.send(Confirm, name)
    boss.send(AskHeld, "n1", "n4")
    end(stage, boss)


def test_mark_of_a_slow_clock() -> None:
    """What was sent after a former manager's mark shows nothing of a later one's that is lower."""
    stage, boss, w1 = changing("n1", "n4", "n5")
    everyone = ("n1", "n2", "n4")
    boss.pass_ms(1)
    mark = joint_majority(stage, boss, *everyone)
    for name in everyone:
        w1.put(to=name, version=JOINT, mark=mark)
    low = Confirm(STREAM, JOINT, mark - 1, 0)
    answer = stage.ask("n1", low, ConfirmReply)
    assert (answer.code, answer.mark) == (Code.CONFLICT, mark)

    later = Boss(stage, wall_us=0)
    later.send(Adopt, *everyone)
    later.send(AskWriter, "n1", "n2")
    later.send(Confirm, *everyone)
    assert not later.asks(AskHeld)
    later.pass_ms(STEP_MS)
    later.pass_ms(PAUSE_MS)
    later.send(AskWriter, "n1", "n2")
    later.send(Confirm, *everyone)
    assert mark_of(stage, "n1") > mark
    assert not later.asks(AskHeld)
    for name in everyone:
        w1.put(to=name, version=JOINT, mark=mark_of(stage, name))
    later.send(Confirm, *everyone)
    later.send(AskHeld, "n1", "n4")
    end(stage, later)


def test_upfirst() -> None:
    """Tails are read only when a majority of the old and of the new members have the version, and
    only from members that have it."""
    stage, boss, w1 = changing("n1", "n4", "n5")
    boss.send(Adopt, "n1", "n2")
    assert not boss.asks(AskWriter)
    boss.send(Adopt, "n4")
    assert boss.asks(AskWriter)
    boss.send(AskWriter, "n1", "n3")
    assert not boss.asks(Confirm)
    ask = AskWriter(STREAM, JOINT)
    assert stage.ask("n3", ask, AskWriterReply).code == Code.BUSY
    w1.put(1, to="n1", version=JOINT)
    boss.send(AskWriter, "n2")
    assert boss.asks(Confirm)
    assert "entry 0 or above" in boss.change.waits_for  # n1 was read before its put


class Direct:
    """The real pipeline of w1 at work: which of its messages arrive, the test says."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.writer = stage.writer(1)
        topology = stage.newest
        self.pipeline = Pipeline(
            stream_id=STREAM,
            topology=topology,
            writer=self.writer.id,
            lease_ms=60_000,
            tail=ORIGIN,
        )
        self.sent: list[Outgoing] = []
        self.connect()

    def connect(self) -> None:
        for name in self.pipeline.topology.everyone:
            self.pipeline.connected(name, 0)
        self.sent += self.pipeline.take()

    def put(self, entry_id: int) -> None:
        self.pipeline.put(self.writer.batch(entry_id, entry_id), 0)
        self.sent += self.pipeline.take()

    def adopt(self) -> None:
        self.pipeline.adopt(self.stage.newest, 0)
        self.connect()

    def heartbeat(self) -> None:
        self.pipeline.heartbeat(0)
        self.sent += self.pipeline.take()

    def arrive(self, name: str, *, version: int, is_heartbeat: bool = False) -> None:
        """The newest message to that member under that version arrives, and its answer here."""
        found = [
            each
            for each in self.sent
            if each.node == name
            and each.put.version == version
            and is_heartbeat == (each.batch is None)
        ]
        put: Put = found[-1].put
        reply = self.stage.ask(name, put, PutReply, found[-1].batch)
        self.pipeline.receive(name, reply, 0)
        self.sent += self.pipeline.take()


def test_mixver() -> None:
    """Acknowledgements given under two versions never make one majority."""
    stage = Stage(5, members=OLD)
    w1 = Direct(stage)
    w1.put(1)
    w1.arrive("n1", version=1)
    boss = begin(stage, "n1", "n4", "n5")
    w1.adopt()
    boss.send(Adopt, "n1", "n3", "n4")
    w1.arrive("n3", version=JOINT)
    assert w1.pipeline.committed == ORIGIN  # n1 and n3 have it, but not under one version
    w1.arrive("n2", version=1)  # at last; under the older version it is committed
    assert w1.pipeline.committed == ORIGIN
    assert stage.truth.tip.entry_id == 1
    w1.arrive("n1", version=JOINT)
    assert w1.pipeline.committed == ORIGIN  # a majority of the old members alone
    boss.send(AskWriter, "n1", "n3")
    w1.arrive("n4", version=JOINT)
    assert w1.pipeline.committed.entry_id == 1
    boss.send(Confirm, "n1", "n3", "n4")
    for _ in range(2):  # the first answers tell of the mark
        w1.heartbeat()
        for name in ("n1", "n3", "n4"):
            w1.arrive(name, version=JOINT, is_heartbeat=True)
    boss.send(Confirm, "n1", "n3", "n4")
    boss.send(AskHeld, "n1", "n4")
    end(stage, boss)


def test_mark_of_the_version_before_is_forgotten() -> None:
    """A writer's mark shows something of the version alone under which it was made."""
    stage, boss, _ = changing("n1", "n4", "n5")
    w1 = Direct(stage)
    joint_majority(stage, boss, "n1", "n2", "n4")
    w1.heartbeat()
    w1.arrive("n1", version=JOINT, is_heartbeat=True)
    assert w1.pipeline.mark == mark_of(stage, "n1") > 0
    stage.publish(StreamTopology(JOINT + 1, ("n1", "n4", "n5")))
    w1.adopt()
    assert w1.pipeline.mark == 0
    assert mark_of(stage, "n4") > 0
    stage["n4"].joining.adopt(stage.newest)
    stage.settle()
    assert mark_of(stage, "n4") == 0
