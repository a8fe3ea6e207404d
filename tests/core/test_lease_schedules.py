"""The lease model's schedules: each lets two writers call themselves exclusive when a rule is left
out. At the start w1 is the writer, and every member has just renewed its lease."""

from __future__ import annotations

from tests.core.by_hand import STREAM, VERSION, Stage, writer_id
from walle.errors import Code
from walle.ids import ORIGIN
from walle.limits import LEASE_MS_MIN
from walle.messages import Release, ReleaseReply, Stamp

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
