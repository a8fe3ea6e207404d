"""The lease model's schedules: each lets two writers call themselves exclusive when a rule is left
out. At the start w1 is the writer, and every member has just renewed its lease."""

from __future__ import annotations

from tests.core.by_hand import STREAM, VERSION, Stage, writer_id
from walle.core.pipeline import Pipeline
from walle.errors import Code
from walle.ids import ORIGIN
from walle.limits import LEASE_MS_MIN, NS_PER_MS
from walle.messages import PutReply, Release, ReleaseReply, Stamp

LEASE_MS = LEASE_MS_MIN


def renewed() -> Stage:
    stage = Stage(has_leases=True)
    w1 = stage.writer(1)
    for name in stage.names:
        w1.heartbeat(0, name)
    return stage


def test_promise_is_answered_when_the_older_lease_has_run_out() -> None:
    stage = renewed()
    c2 = stage.claim(2)
    assert c2.promise("n1") is None
    assert stage["n1"].promise.writer == writer_id(2)
    stage.pass_ms(LEASE_MS - 1)
    assert stage["n1"].lease.remaining_ms(stage.now_ns) == 1
    assert c2.promised == set()
    stage.pass_ms(1)
    assert c2.promised == {"n1"}


def test_waitsame() -> None:
    """A repeated NewWriter is not answered earlier than the first."""
    stage = renewed()
    c2 = stage.claim(2)
    for name in ("n1", "n2"):
        assert c2.promise(name) is None
        assert c2.promise(name) is None
    stage.pass_ms(LEASE_MS / 2)
    assert c2.promise("n1") is None
    assert c2.letter(Stamp, "n1") is None
    stage.pass_ms(LEASE_MS / 2)
    assert c2.promised == {"n1", "n2"}


def test_maxold() -> None:
    """All older leases are waited for, not only that of the last promise."""
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
    """What is owed to older leases survives a restart; it counts from the restart then."""
    stage = renewed()
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
    stage = renewed()
    stage.pass_ms(LEASE_MS)
    stage.crash("n1")
    c2 = stage.claim(2)
    assert c2.promise("n1") is None
    stage.pass_ms(LEASE_MS)
    assert c2.promised == {"n1"}


def test_adoptwait() -> None:
    """Who adopts a promise still owes the older lease."""
    stage = renewed()
    c2 = stage.claim(2)
    assert c2.promise("n1") is None
    stage.writer(2).heartbeat(0, "n2")  # asks a majority, and adopts what n1 has promised
    assert stage["n2"].promise.writer == writer_id(2)
    assert c2.promise("n2") is None
    stage.pass_ms(LEASE_MS)
    assert c2.promised == {"n1", "n2"}


def test_relcmp() -> None:
    """A Release that comes after a newer promise ends nobody's lease."""
    stage = renewed()
    for name in ("n1", "n2"):
        release = Release(STREAM, VERSION, writer_id(1), ORIGIN, relay=0)
        assert stage.ask(name, release, ReleaseReply).code == Code.OK
    c2 = stage.claim(2)
    for name in ("n1", "n2"):
        assert c2.promise(name) == Code.OK
    c2.bring_in("n1", "n2")
    w2 = c2.returns()
    for name in ("n1", "n3"):
        w2.heartbeat(0, name)
    late = Release(STREAM, VERSION, writer_id(1), ORIGIN, relay=0)
    assert stage.ask("n3", late, ReleaseReply).code == Code.FENCED
    c3 = stage.claim(3)
    assert c3.promise("n2") == Code.OK
    assert c3.promise("n3") is None
    stage.pass_ms(LEASE_MS)
    assert c3.promised == {"n2", "n3"}


def test_release_does_not_end_what_is_owed_to_older_writers() -> None:
    stage = renewed()
    c2 = stage.claim(2)
    assert c2.promise("n1") is None
    release = Release(STREAM, VERSION, writer_id(2), ORIGIN, relay=0)
    assert stage.ask("n1", release, ReleaseReply).code == Code.OK
    assert c2.promise("n1") is None
    stage.pass_ms(LEASE_MS)
    assert c2.promised == {"n1"}


def pipeline(stage: Stage) -> Pipeline:
    """w1's, on a clock that runs as the members' do."""
    made = Pipeline(
        stream_id=STREAM,
        topology=stage.newest,
        writer=writer_id(1),
        lease_ms=LEASE_MS,
        tail=ORIGIN,
    )
    for name in stage.names:
        made.connected(name, stage.now_ns)
    made.take()
    return made


def test_sendtime() -> None:
    """The writer's lease counts from the sending of what a majority has acknowledged; from the
    acknowledgement on it would outlive what the members owe."""
    stage = Stage(has_leases=True)
    stage.pass_ms(LEASE_MS)
    w1 = pipeline(stage)
    sent_ns = stage.now_ns
    w1.heartbeat(sent_ns)
    puts = {each.node: each.put for each in w1.take()}
    replies = {"n1": stage.ask("n1", puts["n1"], PutReply)}
    stage.pass_ms(LEASE_MS / 2)
    replies["n2"] = stage.ask("n2", puts["n2"], PutReply)
    c2 = stage.claim(2)
    assert c2.promise("n1") is None
    assert c2.promise("n3") == Code.OK
    stage.pass_ms(LEASE_MS / 2)
    assert c2.promised == {"n1", "n3"}
    c2.bring_in("n1", "n3")
    assert c2.claimed is not None  # w2 may be exclusive from now on
    for name, reply in replies.items():
        w1.receive(name, reply, stage.now_ns)
    assert w1.acknowledged_transmission > 0
    assert w1.exclusive_until_ns() <= sent_ns + 3 * LEASE_MS * NS_PER_MS // 4 < stage.now_ns


def test_relsafe() -> None:
    """After its Release a writer's puts renew nothing, and nobody waits for it: so it must have
    stopped to call itself exclusive before it sent that."""
    stage = renewed()
    w1 = pipeline(stage)
    w1.heartbeat(stage.now_ns)
    late = {each.node: each.put for each in w1.take()}
    for name in ("n1", "n2"):
        release = Release(STREAM, VERSION, writer_id(1), ORIGIN, relay=0)
        assert stage.ask(name, release, ReleaseReply).code == Code.OK
        stage.ask(name, late[name], PutReply)
        assert stage[name].lease.remaining_ms(stage.now_ns) == 0
    c2 = stage.claim(2)
    for name in ("n1", "n2"):
        assert c2.promise(name) == Code.OK
    c2.bring_in("n1", "n2")
    w2 = c2.returns()
    assert stage.ask("n1", late["n1"], PutReply).code == Code.FENCED
    assert w2.heartbeat(0, "n1").code == Code.OK
