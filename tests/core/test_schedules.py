"""The schedules that model checking found: each loses data when one rule is left out.

A test is named after the rule or the fault; its steps are the schedule's, up to the forbidden one,
which must be refused or do no harm. Durability, agreement, coverage and foresight are checked after
every step; so what a test asserts besides is the refusal. Then comes the quiet phase.

    restamp                 a claim re-stamps entries while it copies them
    discard                 a jump discards the suffix that it overtakes; also under a newer writer
    stampchk, syncchk       a Stamp, a Sync is obeyed though another writer is promised
    syncacc                 a Sync is obeyed by a stamped member; also once its claim has returned
    jumpacc, hbraise        a jump, or a commit point that is held, leaves `accepted` as it was
    heldraise               so does an entry that is held
    syncjumpacc, synclower  a Sync's jump raises `accepted`, its truncation lowers it
    queue                   what waited in a queue is appended after a newer promise
    taillate                a tail is told after a newer promise
    stampprefix             a Stamp is obeyed though the tail is longer
    partial, accfirst       of one put `accepted` is durable after the entry, before the truncation
    chainw                  the chain leaves out the writer's id
    doubt                   a member that has lost what it acknowledged tells its tail, because it
                            holds all up to a newer commit point of the same writer
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.by_hand import STREAM, VERSION, NoAnswer, Stage, writer_id
from walle.core import reading
from walle.core.calls import REPEAT_MS_MIN
from walle.errors import Code
from walle.ids import ORIGIN, IdRange
from walle.messages import (
    AskWriterReply,
    Fetch,
    NewWriterReply,
    ReadTail,
    ReadTailReply,
    Stamp,
    StampReply,
    Sync,
    SyncReply,
)

if TYPE_CHECKING:
    from tests.core.by_hand import Writer
    from walle.messages import Message


def no_backfill(_source: str, _target: str, message: Message) -> bool:
    """Loses the fetches of backfill and of Sync; a jump's are delivered."""
    return isinstance(message, Fetch) and bool(message.after)


def claimed(stage: Stage, number: int, *names: str) -> Writer:
    """A whole claim, by these members."""
    claim = stage.claim(number)
    for name in names:
        assert claim.promise(name) == Code.OK
    claim.bring_in(*names)
    return claim.returns()


def doubts(stage: Stage, name: str) -> bool:
    return stage[name].is_damaged


def delayed_sync(stage: Stage, number: int, to: str) -> int:
    """The Sync that gives a member the empty history."""
    sync = Sync(STREAM, VERSION, writer_id(number), "n1", ORIGIN, ORIGIN, jump=0)
    return stage.ask(to, sync, SyncReply).code


# --- the four holes of the original ---------------------------------------------------------------


def test_restamp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that dies while it copies leaves a shorter history, not a newer one."""
    monkeypatch.setattr(reading, "FETCH_BYTES_MAX", 1)
    stage = Stage()
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    w1.put(1, to="n2")
    w1.put(2, to="n1")
    w1.put(2, to="n2")
    w1.heartbeat(2, "n1")
    c2 = stage.claim(2)
    c2.promise("n3")
    c2.promise("n2")
    fetches = []

    def lose_second_fetch(_source: str, _target: str, message: Message) -> bool:
        fetches.extend([message] * isinstance(message, Fetch))
        return len(fetches) > 1

    stage.lose = lose_second_fetch
    assert c2.sync("n3") is None
    assert stage.history("n3") == [1]
    assert stage["n3"].accepted == writer_id(1)
    stage.lose = lambda *_: False
    w3 = claimed(stage, 3, "n1", "n3")
    assert w3.tail == w1.position(2)
    assert stage.history("n3") == stage.history("n1") == [1, 1]
    stage.end_whole()


def test_discard() -> None:
    """A suffix that a jump overtakes may be one of the majority's copies: it is kept aside."""
    stage = Stage()
    stage.lose = no_backfill
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    w1.put(1, to="n2")
    w1.put(2, to="n1")
    w1.put(2, to="n2")
    w1.heartbeat_and_jump(2, "n3")
    w1.put(3, to="n1")
    w1.put(3, to="n3")
    w1.heartbeat_and_jump(3, "n2")
    w1.put(4, to="n3")
    w1.put(4, to="n2")
    w1.heartbeat_and_jump(4, "n1")
    assert [len(stage[name].history.aside) for name in stage.names] == [1, 1, 0]
    stage.end_whole()
    assert stage.history("n1") == [1, 1, 1, 1, 99]


def test_discard_under_a_newer_writer() -> None:
    stage = Stage()
    stage.lose = no_backfill
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    w1.put(1, to="n2")
    w1.put(2, to="n1")
    w1.put(2, to="n2")
    w1.heartbeat_and_jump(2, "n3")
    w2 = claimed(stage, 2, "n1", "n2")
    w2.put(3, to="n3")
    w2.put(3, to="n1")
    w2.heartbeat_and_jump(3, "n2")
    assert [run.last for run in stage["n2"].history.aside] == [w1.position(2)]
    stage.end_whole()
    assert stage.history("n1") == [1, 1, 2, 99]


# --- the text taken literally ---------------------------------------------------------------------


def test_sync_after_its_claim_returned() -> None:
    stage = Stage()
    w2 = claimed(stage, 2, "n1", "n2")
    w2.put(1, to="n3")
    w2.put(1, to="n1")
    w2.heartbeat_and_jump(1, "n2")
    assert delayed_sync(stage, 2, "n2") == Code.NOT_PROMISED
    assert stage.history("n2") == [2]
    stage.end_whole()


def test_stampchk() -> None:
    """A Stamp counts only while its claim's writer is the promised one."""
    stage = Stage()
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    c2 = stage.claim(2)
    c2.promise("n2")
    c2.promise("n1")
    assert c2.stamp("n1") == Code.OK
    c3 = stage.claim(3)
    c3.promise("n3")
    c3.promise("n2")
    assert c3.stamp("n3") == Code.OK
    c4 = stage.claim(4)
    c4.promise("n1")
    c4.promise("n2")
    assert c3.stamp("n2") == Code.FENCED
    assert c3.claimed is None
    assert c4.sync("n2") == Code.OK
    stamp = Stamp(STREAM, VERSION, writer_id(2), w1.position(1))
    assert stage.ask("n2", stamp, StampReply).code == Code.FENCED
    assert stage["n2"].accepted == writer_id(1)
    c4.bring_in("n1", "n2")
    assert c4.returns().tail == w1.position(1)
    stage.end_whole()


def test_syncchk() -> None:
    """A Sync counts only while its claim's writer is the promised one, and is not stamped."""
    stage = Stage()
    c2 = stage.claim(2)
    for name in stage.names:
        c2.promise(name)
    c2.bring_in("n1", "n2")
    w2 = c2.returns()
    w2.put(1, to="n1")
    w2.put(1, to="n2")
    w2.heartbeat_and_jump(1, "n3")
    assert delayed_sync(stage, 2, "n3") == Code.NOT_PROMISED
    stage.claim(3).promise("n3")
    assert delayed_sync(stage, 2, "n3") == Code.FENCED
    assert delayed_sync(stage, 4, "n3") == Code.NOT_PROMISED
    assert stage.history("n3") == [2]
    stage.end_whole()


def test_syncacc() -> None:
    """A member that is stamped already refuses to be synced."""
    stage = Stage()
    w2 = claimed(stage, 2, "n1", "n2")
    w2.put(1, to="n1")
    w2.put(1, to="n2")
    assert delayed_sync(stage, 2, "n1") == Code.NOT_PROMISED
    assert delayed_sync(stage, 2, "n2") == Code.NOT_PROMISED
    assert stage.history("n1") == stage.history("n2") == [2]
    stage.end_whole()


@pytest.mark.parametrize("count", [1, 3])
def test_jumpacc(count: int) -> None:
    """A jump on a writer's word makes its history the member's: `accepted` follows; whether the
    jump leaves a gap or not."""
    stage = Stage()
    c2 = stage.claim(2)
    for name in stage.names:
        c2.promise(name)
    c2.bring_in("n1", "n2")
    w2 = c2.returns()
    for name in ("n1", "n2"):
        w2.put(1, count, to=name)
    stage.lose = no_backfill
    w2.heartbeat_and_jump(count, "n3")
    assert stage["n3"].accepted == writer_id(2)
    assert [run.start for run in stage["n3"].history.runs] == [count]
    assert delayed_sync(stage, 2, "n3") == Code.NOT_PROMISED
    stage.end_whole()


def test_hbraise() -> None:
    """A commit point that is held makes the history the writer's, and drops what follows it."""
    stage = Stage()
    w1 = stage.writer(1)
    for name in stage.names:
        w1.put(1, to=name)
    w1.put(2, to="n3")
    w2 = claimed(stage, 2, "n1", "n2")
    assert stage["n3"].accepted == writer_id(1)
    reply = w2.heartbeat(1, "n3")
    assert (reply.code, reply.held) == (Code.OK, w1.position(1))
    assert stage["n3"].accepted == writer_id(2)
    assert stage.history("n3") == [1]
    stage.end_whole()


def test_heldraise() -> None:
    """An entry that is held already is acknowledged only under the writer that puts it."""
    stage = Stage()
    w2 = claimed(stage, 2, "n1", "n2")
    w2.put(1, to="n1")
    w2.put(1, to="n2")
    stage["n3"].learn_committed(w2.position(1))
    stage.settle()
    assert stage.history("n3") == [2]
    assert stage["n3"].accepted == writer_id(1)
    reply = w2.put(1, to="n3")
    assert (reply.held, stage["n3"].accepted) == (w2.position(1), writer_id(2))
    stage.end_whole()


@pytest.mark.parametrize("committed_id", [1, 2])
def test_syncjumpacc(committed_id: int) -> None:
    """A jump that a Sync orders leaves `accepted` alone: it is not the whole chosen history;
    whether the jump leaves a gap or not."""
    stage = Stage()
    w1 = stage.writer(1)
    for entry_id in range(1, committed_id + 2):
        w1.put(entry_id, to="n1")
        w1.put(entry_id, to="n2")
    w1.heartbeat(committed_id, "n1")
    w1.heartbeat(committed_id + 1, "n2")
    c2 = stage.claim(2)
    c2.promise("n3")
    c2.promise("n1")
    stage.lose = no_backfill
    assert c2.sync("n3") is None
    assert stage["n3"].history.committed == w1.position(committed_id)
    assert stage["n3"].accepted == writer_id(1)
    stage.lose = lambda *_: False
    w3 = claimed(stage, 3, "n2", "n3")
    assert w3.tail == w1.position(committed_id + 1)
    stage.end_whole()


def test_queue() -> None:
    """What has waited for its predecessor is not appended after a newer promise, whose tail does
    not tell of it."""
    stage = Stage()
    w1 = stage.writer(1)
    for name in ("n2", "n3"):
        w1.put(1, to=name)
    w1.put(2, to="n3")
    assert w1.put(2, to="n1").held == ORIGIN
    c2 = stage.claim(2)
    c2.promise("n1")
    c2.promise("n2")
    stage["n1"].learn_committed(w1.position(1))
    stage.settle()
    assert stage.history("n1") == [1]
    assert stage.truth.tip == w1.position(1)
    c2.bring_in("n1", "n2")
    assert c2.returns().tail == w1.position(1)
    stage.end_whole()


def test_queue_of_a_missed_claim() -> None:
    """What has waited for news of its writer is not appended after a newer promise."""
    stage = Stage()
    w2 = claimed(stage, 2, "n2", "n3")
    w2.put(1, to="n2")
    stage.lose = lambda _source, _target, message: isinstance(message, AskWriterReply)
    with pytest.raises(NoAnswer):
        w2.put(1, to="n1")
    c3 = stage.claim(3)
    c3.promise("n1")
    c3.promise("n3")
    stage.lose = lambda *_: False
    stage.pass_ms(2 * REPEAT_MS_MIN)
    assert stage.history("n1") == []
    c3.bring_in("n1", "n3")
    assert c3.returns().tail == ORIGIN
    stage.end_whole()


def test_taillate() -> None:
    """A member that has promised a newer writer does not tell its tail to an older claim."""
    stage = Stage()
    c2, c3, c4 = stage.claim(2), stage.claim(3), stage.claim(4)
    c2.promise("n1")
    stage.lose = lambda _source, _target, message: isinstance(message, NewWriterReply)
    assert c3.promise("n2") is None
    stage.lose = lambda *_: False
    c4.promise("n3")
    c4.promise("n2")
    c4.stamp("n2")

    def late(number: int) -> int:
        question = ReadTail(STREAM, VERSION, writer_id(number), 0)
        return stage.ask("n2", question, ReadTailReply).code

    assert late(3) == Code.FENCED
    c4.stamp("n3")
    w4 = c4.returns()
    w4.put(1, to="n2")
    w4.put(1, to="n3")
    w4.heartbeat(1, "n2")
    assert late(2) == Code.FENCED
    c3.promise("n1")
    for claim in (c2, c3):
        assert claim.letter(Sync, "n1") is None
        assert claim.letter(Stamp, "n1") is None
    stage.end_whole()


def test_stampprefix() -> None:
    """A Stamp is refused by a member that holds more than the chosen history."""
    stage = Stage()
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    c2 = stage.claim(2)
    c2.promise("n2")
    c2.promise("n3")
    c2.stamp("n2")
    c3 = stage.claim(3)
    c3.promise("n1")
    c3.promise("n2")
    stamp = Stamp(STREAM, VERSION, writer_id(3), ORIGIN)
    assert stage.ask("n1", stamp, StampReply).code == Code.CONFLICT
    assert stage["n1"].accepted == writer_id(1)
    c3.bring_in("n1", "n2")
    w3 = c3.returns()
    assert w3.put(1, to="n1").held == w3.position(1)
    assert stage.history("n1") == [3]
    stage.end_whole()


@pytest.mark.parametrize("kept_actions", range(5))
def test_partial(kept_actions: int) -> None:
    """A crash between a put's actions leaves nothing that later counts for more than it is; once
    it is repeated and acknowledged, it counts for no less."""
    stage = Stage()
    w2 = claimed(stage, 2, "n1", "n2")
    stage.crash_unsynced("n3", lambda: w2.put(1, to="n3"), kept_actions)
    assert w2.put(1, to="n3").held == w2.position(1)
    w2.put(1, to="n1")
    c3 = stage.claim(3)
    c3.promise("n3")
    c3.promise("n2")
    c3.bring_in("n2", "n3")
    assert c3.returns().tail == w2.position(1)
    stage.end_whole()


@pytest.mark.parametrize("kept_actions", range(6))
def test_accfirst(kept_actions: int) -> None:
    """The truncation is durable before the entry and `accepted`."""
    stage = Stage()
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    w2 = claimed(stage, 2, "n2", "n3")
    stage.crash_unsynced("n1", lambda: w2.put(1, to="n1"), kept_actions)
    assert w2.put(1, to="n1").held == w2.position(1)
    assert stage.history("n1") == [2]
    stage.end_whole()


def test_chainw() -> None:
    """Equal data of two writers are two histories: the chain covers the writer's id."""
    stage = Stage()
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    w3 = claimed(stage, 3, "n2", "n3")
    assert w3.position(1) != w1.position(1)
    w3.put(1, to="n1")
    w3.put(1, to="n2")
    assert stage.history("n1") == [3]
    w4 = claimed(stage, 4, "n1", "n3")
    assert w4.tail == w3.position(1)
    stage.end_whole()


def test_synclower() -> None:
    """A Sync that truncates does not lower `accepted`."""
    stage = Stage()
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    w1.put(1, to="n2")
    w1.put(2, to="n1")
    c2 = stage.claim(2)
    c2.promise("n3")
    c2.promise("n2")
    c2.stamp("n2")
    c3 = stage.claim(3)
    c3.promise("n1")
    c3.promise("n2")
    assert c3.sync("n1") == Code.OK
    assert stage.history("n1") == [1]
    assert stage["n1"].accepted == writer_id(1)
    c3.bring_in("n1", "n2")
    assert c3.returns().tail == w1.position(1)
    stage.end_whole()


def test_doubt() -> None:
    """What a member acknowledged and lost may be committed later, behind the commit points told
    meanwhile: the writer counts the acknowledgement when another member's comes."""
    stage = Stage()
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    w1.put(1, to="n2")
    w1.put(2, to="n1")
    stage.damage("n1", 2)
    w1.heartbeat(1, to="n1")
    assert stage["n1"].history.tail == stage["n1"].history.committed == w1.position(1)
    assert doubts(stage, "n1")
    w1.put(2, to="n2")
    assert stage.truth.tip == w1.position(2)
    c2 = stage.claim(2)
    c2.promise("n1")
    c2.promise("n3")
    assert c2.letter(Sync, "n1") is None, "nothing can be chosen yet"
    c2.promise("n2")
    c2.bring_in("n1", "n2")
    assert c2.returns().tail == w1.position(2)
    assert not doubts(stage, "n1")
    stage.end_whole()


@pytest.mark.parametrize("is_held", [True, False])
def test_doubt_ends_with_a_commit_point_at_what_was_lost(is_held: bool) -> None:
    """All that was acknowledged is held then, or lies in a gap that is known."""
    stage = Stage()
    w1 = stage.writer(1)
    for entry_id in (1, 2, 3):
        w1.put(entry_id, to="n1")
        w1.put(entry_id, to="n2")
    stage.damage("n1", 2)
    if is_held:
        w1.put(2, 3, to="n1")
        w1.heartbeat(2, to="n1")
        assert doubts(stage, "n1")
        w1.heartbeat(3, to="n1")
    else:
        stage.lose = no_backfill
        w1.heartbeat_and_jump(3, to="n1")
        assert stage["n1"].history.gaps() == [IdRange(1, 3)]
    assert not doubts(stage, "n1")
    stage.lose = lambda *_: False
    assert claimed(stage, 2, "n1", "n3").tail == w1.position(3)
    stage.end_whole()
