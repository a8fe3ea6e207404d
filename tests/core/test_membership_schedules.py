"""The model's schedules of changing members, step by step: each loses an entry, or leaves it with
too few, when one rule is left out. Here the forbidden step is refused or put off, and in the end
the change succeeds, and after a quiet phase the new members hold all.

The stream begins on n1, n2, n3 at version 1, with w1 as its writer.

    verbelow        a member obeys the version below its own
    coverb          a change ends though too few, or none, of the new members hold an entry
    ptails          it ends though its commit point is below the tails that were read
    psent           its commit point was sent before the tails were read; also with ptails left out
    upfirst         a member obeys a version before it has adopted it
    mixver          acknowledgements that make a majority of the old members only are counted
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.by_hand import JUMP_MS, STREAM, Boss, NoAnswer, Stage
from walle.core.calls import REPEAT_MS_MIN
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
    NewWriterReply,
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
    """The change may end: the new members alone, everywhere, and a claim by them keeps all."""
    assert boss.has_ended
    new = stage.newest
    stage.publish(new._replace(version=new.version + 1, old_members=()))
    for name in stage.names:
        stage[name].joining.adopt(stage.newest)
    stage.settle()
    stage.check()
    stage.end_whole()


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


def test_queue_of_the_version_below() -> None:
    """What has waited for its predecessor no longer counts either."""
    stage, boss, w1 = changing("n1", "n2", "n4")
    w1.put(1, to="n3")
    w1.put(2, to="n3")
    w1.put(2, to="n1")
    boss.send(Adopt, "n1")
    assert w1.put(1, to="n1", version=JOINT).code == Code.OK
    assert stage.history("n1") == [1]
    joint_majority(stage, boss, "n1", "n2")
    for name in ("n1", "n2"):
        w1.put(1, to=name, version=JOINT)
        w1.put(to=name, commit=1, version=JOINT, mark=mark_of(stage, name))
    boss.send(Confirm, "n1", "n2")
    boss.send(AskHeld, "n1", "n2")
    end(stage, boss)


def is_backfill(_source: str, _target: str, message: Message) -> bool:
    return isinstance(message, Fetch) and bool(message.after)


def jump(stage: Stage, w1: Writer, name: str) -> None:
    """The member hears of commit point 2, and jumps to it."""
    for _ in range(2):
        w1.put(to=name, commit=2, version=JOINT, mark=mark_of(stage, name))
        stage.pass_ms(JUMP_MS + 1)
    assert [tuple(gap) for gap in stage[name].history.gaps()] == [(1, 2)]


def backfilled(stage: Stage, boss: Boss, *names: str) -> None:
    """The change waits until these have closed their gaps, and has its end then."""
    boss.send(AskHeld, *names)
    assert not boss.has_ended
    assert "a majority of the new members to hold [1, 2)" in boss.change.waits_for
    stage.lose = lambda _source, _target, _message: False
    stage.pass_ms(10_000)
    boss.pass_ms(STEP_MS)
    boss.pass_ms(PAUSE_MS)
    boss.send(AskHeld, *names)
    end(stage, boss)


def test_coverb() -> None:
    """The change waits until a majority of the new members hold every entry, proved: here but
    one of them holds entry 1."""
    stage = Stage(5, members=OLD)
    stage.lose = is_backfill
    w1 = stage.writer(1)
    for name in ("n1", "n3"):
        w1.put(1, to=name)
        w1.put(2, to=name)
    boss = begin(stage, "n1", "n2", "n4")
    boss.send(Adopt, "n2", "n1")
    w1.put(to="n2", version=JOINT)
    w1.put(1, to="n1", version=JOINT)
    boss.send(AskWriter, "n1", "n2")
    boss.send(Confirm, "n1", "n2")
    jump(stage, w1, "n2")
    w1.put(2, to="n1", commit=2, version=JOINT, mark=mark_of(stage, "n1"))
    boss.send(Confirm, "n1", "n2")
    backfilled(stage, boss, "n1", "n2")


def test_coverb_by_none() -> None:
    """No new member holds entry 1."""
    stage = Stage(5, members=OLD)
    stage.lose = is_backfill
    w1 = stage.writer(1)
    for name in ("n2", "n3"):
        w1.put(1, to=name)
        w1.put(2, to=name)
    boss = begin(stage, "n1", "n4", "n5")
    boss.send(Adopt, "n1", "n2", "n4")
    w1.put(to="n1", version=JOINT)
    w1.put(1, to="n2", version=JOINT)
    boss.send(AskWriter, "n1", "n2")
    boss.send(Confirm, "n1", "n2", "n3", "n4")
    jump(stage, w1, "n1")
    boss.send(Adopt, "n3")
    boss.send(Confirm, "n3")
    w1.put(2, to="n3", commit=2, version=JOINT, mark=mark_of(stage, "n3"))
    jump(stage, w1, "n4")
    boss.send(Confirm, "n1", "n3", "n4")
    backfilled(stage, boss, "n1", "n4")


def joint_majority(stage: Stage, boss: Boss, *names: str) -> int:
    """They have the joint version, and are asked to confirm a commit point. Returns the mark."""
    boss.send(Adopt, *names)
    boss.send(AskWriter, *(name for name in OLD if name in names))
    boss.send(Confirm, *names)
    (mark,) = {mark_of(stage, name) for name in names}
    return mark


def committed_unheard() -> tuple[Stage, Boss, Writer]:
    """Entry 1 is committed at the old version, and its writer has not heard of it; n1, n3 and n4
    have the joint version."""
    stage = Stage(5, members=OLD)
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    w1.put(1, to="n2")
    boss = begin(stage, "n1", "n4", "n5")
    boss.send(Adopt, "n1", "n3", "n4")
    w1.put(1, to="n1", version=JOINT)
    w1.put(1, to="n3", version=JOINT)
    return stage, boss, w1


def waits_for_entry_1(stage: Stage, boss: Boss, w1: Writer) -> None:
    """The change waits for a commit point, and has its end once that has come to entry 1."""
    names = ("n1", "n3", "n4")
    boss.send(Confirm, *names)
    assert not boss.asks(AskHeld)
    assert "entry 1 or above" in boss.change.waits_for
    for name in names:
        w1.put(1, to=name, commit=1, version=JOINT, mark=mark_of(stage, name))
    boss.send(Confirm, *names)
    boss.send(AskHeld, "n1", "n4")
    end(stage, boss)


def test_ptails_psent() -> None:
    """No commit point that comes along ends the change: tails are read first."""
    stage, boss, w1 = committed_unheard()
    w1.put(to="n4", version=JOINT)
    assert not boss.asks(Confirm)
    boss.send(AskWriter, "n1", "n3")
    waits_for_entry_1(stage, boss, w1)


def test_ptails() -> None:
    """The commit point must have come to the highest tail that was read."""
    stage, boss, w1 = committed_unheard()
    boss.send(AskWriter, "n1", "n3")
    boss.send(Adopt, "n2")
    boss.send(Confirm, "n1", "n2", "n3", "n4")
    for name in ("n1", "n2"):
        w1.put(1, to=name, version=JOINT, mark=mark_of(stage, name))
    w1.put(to="n4", version=JOINT, mark=mark_of(stage, "n4"))
    boss.send(Confirm, "n2")
    waits_for_entry_1(stage, boss, w1)


def test_psent() -> None:
    """A commit point that was sent before the tails were read does not do, whenever it comes."""
    stage = Stage(5, members=OLD)
    w1 = stage.writer(1)
    for name in OLD:
        w1.put(1, to=name)
    boss = begin(stage, "n1", "n4", "n5")
    names = ("n1", "n2", "n4")
    boss.send(Adopt, *names)
    w1.put(1, to="n4", version=JOINT)
    mark = joint_majority(stage, boss, *names)
    for name in names:
        w1.put(to=name, commit=1, version=JOINT)  # sent long ago
    boss.send(Confirm, *names)
    assert not boss.asks(AskHeld)
    for name in names:
        w1.put(to=name, commit=1, version=JOINT, mark=mark)
    boss.send(Confirm, *names)
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
    for name in everyone:
        w1.put(to=name, version=JOINT, mark=mark)
    later.send(Confirm, *everyone)
    assert not later.asks(AskHeld)
    for name in everyone:
        w1.put(to=name, version=JOINT, mark=mark_of(stage, name))
    later.send(Confirm, *everyone)
    later.send(AskHeld, "n1", "n4")
    end(stage, later)


def test_upfirst() -> None:
    """A member obeys nothing at the joint version before it has adopted that: a claim at the
    version below may still be under way there, and come to its end after the tails were read."""
    stage = Stage(5, members=OLD)
    w1, c2, c3 = stage.writer(1), stage.claim(2), stage.claim(3)
    c3.promise("n2")
    boss = begin(stage, "n1", "n4", "n5")
    boss.send(Adopt, "n2")
    assert w1.put(to="n1", version=JOINT).code == Code.BUSY
    c3.promise("n1")
    assert w1.put(to="n3", version=JOINT).code == Code.BUSY
    stage.lose = lambda _source, _target, message: isinstance(message, NewWriterReply)
    assert c2.promise("n3") is None
    assert c3.promise("n3") is None
    stage.lose = lambda *_: False
    assert c3.stamp("n1") == Code.OK
    boss.send(Adopt, "n3", "n4")
    with pytest.raises(NoAnswer):  # no majority tells n4 who the writer is
        w1.put(to="n4", version=JOINT)
    boss.send(Adopt, "n5", "n1")
    stage.pass_ms(2 * REPEAT_MS_MIN)
    boss.send(AskWriter, "n1", "n2", "n3")
    boss.send(Confirm, "n1", "n3", "n4", "n5")
    for name in ("n4", "n5"):
        assert w1.put(1, to=name, version=JOINT).code == Code.FENCED
    boss.send(Confirm, "n1", "n3", "n4", "n5")
    assert not boss.asks(AskHeld)
    assert c3.stamp("n2") == Code.STALE_VERSION
    assert c3.claimed is None
    c4 = stage.claim(4)
    for name in ("n1", "n3", "n4"):
        c4.promise(name)
    c4.bring_in("n1", "n3", "n4")
    w4 = c4.returns()
    for name in ("n1", "n3", "n4"):
        w4.put(to=name, version=JOINT, mark=mark_of(stage, name))
    boss.send(Confirm, "n1", "n3", "n4")
    boss.send(AskHeld, "n1", "n4")
    end(stage, boss)


def test_tails_are_read_from_members_that_have_the_version() -> None:
    """And only when majorities of the old and of the new members have it."""
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

    def arrive(self, name: str, *, version: int, is_heartbeat: bool = False) -> PutReply:
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
        return reply


def confirm_by_heartbeats(stage: Stage, boss: Boss, w1: Direct, *names: str) -> None:
    for _ in range(2):  # the first answers tell of the mark
        w1.heartbeat()
        for name in names:
            w1.arrive(name, version=JOINT, is_heartbeat=True)
    boss.send(Confirm, *names)


def test_mixver_before_the_reading() -> None:
    """A majority of the old members is none under the joint version."""
    stage = Stage(5, members=OLD)
    w1 = Direct(stage)
    boss = begin(stage, "n1", "n4", "n5")
    w1.adopt()
    w1.put(1)
    for name in ("n1", "n2"):
        boss.send(Adopt, name)
        w1.arrive(name, version=JOINT)
    assert w1.pipeline.committed == ORIGIN
    boss.send(Adopt, "n4")
    w1.arrive("n4", version=JOINT, is_heartbeat=True)
    assert w1.pipeline.committed == ORIGIN
    boss.send(AskWriter, "n1", "n2")
    boss.send(Confirm, "n1", "n2", "n4")
    w1.arrive("n4", version=JOINT)
    assert w1.pipeline.committed.entry_id == 1
    confirm_by_heartbeats(stage, boss, w1, "n1", "n2", "n4")
    boss.send(AskHeld, "n1", "n4")
    end(stage, boss)


def test_mixver() -> None:
    """Nor is it after the reading: the change may end without the entry, as the new members may."""
    stage = Stage(5, members=OLD)
    w1 = Direct(stage)
    boss = begin(stage, "n1", "n4", "n5")
    w1.adopt()
    boss.send(Adopt, "n1", "n2", "n4", "n3")
    for name in ("n1", "n2"):
        w1.arrive(name, version=JOINT, is_heartbeat=True)
    boss.send(AskWriter, "n1", "n2")
    boss.send(Confirm, "n1", "n3", "n4")
    confirm_by_heartbeats(stage, boss, w1, "n1", "n3", "n4")
    boss.send(AskHeld, "n1", "n4")
    w1.put(1)
    for name in ("n1", "n3"):
        w1.arrive(name, version=JOINT)
    assert w1.pipeline.committed == ORIGIN
    assert stage.truth.tip == ORIGIN
    end(stage, boss)


def test_acknowledgements_of_two_versions_never_make_one_majority() -> None:
    stage = Stage(5, members=OLD)
    w1 = Direct(stage)
    w1.put(1)
    answer = w1.arrive("n1", version=1)
    boss = begin(stage, "n1", "n4", "n5")
    w1.adopt()
    boss.send(Adopt, "n1", "n3", "n4")
    w1.arrive("n3", version=JOINT)
    w1.arrive("n2", version=1)  # at last; under the older version it is committed
    assert w1.pipeline.committed == ORIGIN
    assert stage.truth.tip.entry_id == 1
    boss.send(AskWriter, "n1", "n3")
    w1.arrive("n4", version=JOINT)
    w1.pipeline.receive("n1", answer, 0)  # once more
    assert w1.pipeline.committed == ORIGIN  # n1 has it, but has not said so under this version
    w1.arrive("n1", version=JOINT)
    assert w1.pipeline.committed.entry_id == 1
    boss.send(Confirm, "n1", "n3", "n4")
    confirm_by_heartbeats(stage, boss, w1, "n1", "n3", "n4")
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
