"""Jumps to a commit point, and what may happen while one is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.by_hand import JUMP_MS, STREAM, VERSION, Stage, writer_id
from tests.core.test_schedules import claimed, no_backfill
from walle.core import effects
from walle.core.calls import REPEAT_MS_MIN
from walle.errors import Code
from walle.ids import ORIGIN, Position
from walle.messages import Fetch, Put, PutReply, Stamp, StampReply

if TYPE_CHECKING:
    from tests.core.by_hand import Writer


def committed_without(stage: Stage, writer: Writer, count: int) -> None:
    """Entries 1 up to `count` are committed at n2 and n3."""
    for entry_id in range(1, count + 1):
        writer.put(entry_id, to="n2", commit=entry_id - 1)
        writer.put(entry_id, to="n3", commit=entry_id - 1)
    writer.heartbeat(count, "n2")
    writer.heartbeat(count, "n3")


def test_jump_leaves_a_gap_and_backfill_closes_it() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    committed_without(stage, w1, 4)
    stage.lose = no_backfill
    w1.heartbeat_and_jump(4, "n1")
    history = stage["n1"].history
    assert (history.committed, history.tail) == (w1.position(4), w1.position(4))
    assert [tuple(gap) for gap in history.gaps()] == [(1, 4)]
    assert w1.put(5, to="n1").held == w1.position(5)
    stage.lose = lambda *_: False
    stage.pass_ms(3_000)
    assert stage.history("n1") == [1] * 5
    stage.check_storage()


def test_jump_takes_the_entry_from_the_reorder_queue() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    committed_without(stage, w1, 4)
    stage.lose = lambda _source, _target, message: isinstance(message, Fetch)
    w1.put(2, to="n1")
    w1.put(4, 5, to="n1", commit=4)
    stage.pass_ms(JUMP_MS + 1)
    assert stage["n1"].history.committed == w1.position(4)
    assert stage["n1"].history.tail == w1.position(5)


def test_jump_is_not_made_for_a_writer_that_is_superseded_before() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    committed_without(stage, w1, 4)
    w1.heartbeat(4, "n1")
    stage.claim(2).promise("n1")
    stage.pass_ms(1_000)
    assert stage["n1"].history.committed == ORIGIN
    stage.end_whole()


def test_jump_is_not_made_for_a_writer_that_is_superseded_while_the_record_is_fetched() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    committed_without(stage, w1, 4)
    stage.lose = lambda _source, _target, message: isinstance(message, Fetch)
    w1.heartbeat_and_jump(4, "n1")
    stage.claim(2).promise("n1")
    stage.lose = lambda *_: False
    stage.pass_ms(1_000)
    assert stage["n1"].history.committed == ORIGIN
    stage.end_whole()


def test_jump_waits_for_entries_on_their_way() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    committed_without(stage, w1, 4)
    w1.heartbeat(4, "n1")
    stage.pass_ms(JUMP_MS - 1)
    for entry_id in (1, 2, 3, 4):
        w1.put(entry_id, to="n1", commit=4)
    stage.pass_ms(100)
    assert stage["n1"].history.gaps() == []
    assert stage["n1"].history.committed == w1.position(4)


@pytest.mark.parametrize("first", [1, 2])
def test_jump_keeps_what_arrived_meanwhile(first: int) -> None:
    """The missing entry came after all, in a put that told an older commit point; and so did its
    successor, which this member has acknowledged."""
    stage = Stage()
    w1 = stage.writer(1)
    if first == 2:
        stage.lose = no_backfill  # so that the live run does not begin at the commit point
        committed_without(stage, w1, 1)
        w1.heartbeat_and_jump(1, "n1")
    w1.put(1, first, to="n2")
    w1.put(1, first, to="n3")
    w1.heartbeat(first, "n1")
    w1.put(1, first, to="n1", commit=first - 1)
    w1.put(first + 1, to="n1", commit=first - 1)
    w1.put(first + 1, to="n2", commit=first)  # now it is committed
    stage.pass_ms(JUMP_MS + 1)
    assert stage["n1"].history.tail == w1.position(first + 1)
    stage.check()


def test_learned_commit_point_keeps_what_arrived_meanwhile() -> None:
    """While the record of a commit point that another member told is fetched, puts arrive."""
    stage = Stage()
    w1 = stage.writer(1)
    committed_without(stage, w1, 1)
    stage.lose = lambda _source, _target, message: isinstance(message, Fetch)
    stage["n1"].learn_committed(w1.position(1))
    stage.settle()
    w1.put(1, to="n1")
    w1.put(2, to="n1")
    w1.put(2, to="n2")  # now it is committed
    stage.lose = lambda *_: False
    stage.pass_ms(2 * REPEAT_MS_MIN)
    assert stage["n1"].history.tail == w1.position(2)
    stage.check()


def test_storage_leaves_the_old_run_where_the_core_does() -> None:
    stage = Stage()
    stage.lose = no_backfill
    w1 = stage.writer(1)
    committed_without(stage, w1, 4)
    w1.put(1, to="n1")
    w1.heartbeat(1, "n1")  # storage hears of it after COMMIT_ORDER_MS
    w1.heartbeat_and_jump(4, "n1")
    stage.check_storage()


def test_member_jumps_again_after_it_learned_a_commit_point_during_a_jump() -> None:
    """A jump's record is fetched while the member learns of that commit point another way."""
    stage = Stage()
    w1 = stage.writer(1)
    committed_without(stage, w1, 6)
    stage.lose = lambda _source, _target, message: isinstance(message, Fetch)
    w1.put(1, to="n1")
    w1.heartbeat(3, "n1")
    stage.pass_ms(JUMP_MS + 1)  # it asks for entry 3
    w1.heartbeat(5, "n1")  # and has to go on to 5 then
    for entry_id in (2, 3, 4):
        w1.put(entry_id, to="n1", commit=1)
    stage["n1"].learn_committed(w1.position(4))
    stage.lose = no_backfill
    stage.pass_ms(1_000)
    w1.heartbeat(6, "n1")
    stage.pass_ms(5_000)
    assert stage["n1"].history.committed == w1.position(6)


def test_conflicting_suffix_is_set_aside_by_a_jump() -> None:
    stage = Stage()
    stage.lose = no_backfill
    w1 = stage.writer(1)
    for entry_id in (1, 2, 3):
        w1.put(entry_id, to="n1")
    w2 = claimed(stage, 2, "n2", "n3")
    committed_without(stage, w2, 4)
    w2.heartbeat_and_jump(4, "n1")
    assert [run.last for run in stage["n1"].history.aside] == [w1.position(3)]
    stage.lose = lambda *_: False
    stage.pass_ms(5_000)
    assert stage.history("n1") == [2, 2, 2, 2]
    assert stage["n1"].history.aside == []


def test_conflicting_suffix_is_dropped_where_no_gap_is_left() -> None:
    """The commit point's entry builds on the member's own: what conflicts is proved outside."""
    stage = Stage()
    stage.lose = no_backfill
    w1 = stage.writer(1)
    for entry_id in (1, 2, 3):
        w1.put(entry_id, to="n1")
    w2 = claimed(stage, 2, "n2", "n3")
    committed_without(stage, w2, 1)
    w2.heartbeat_and_jump(1, "n1")
    assert stage.history("n1") == [2]
    assert stage["n1"].history.aside == []
    assert stage["n1"].accepted == writer_id(2)


def test_jump_on_another_members_word_leaves_accepted() -> None:
    stage = Stage()
    stage.lose = no_backfill
    w2 = claimed(stage, 2, "n2", "n3")
    committed_without(stage, w2, 3)
    stage["n1"].learn_committed(w2.position(3))
    stage.settle()
    assert stage["n1"].history.committed == w2.position(3)
    assert stage["n1"].accepted == writer_id(1)
    assert w2.put(4, to="n1").held == w2.position(4)
    assert stage["n1"].accepted == writer_id(2)


def test_jump_while_a_claim_reads_tails() -> None:
    """The member's suffix was overtaken between its answer and the Sync, which finds nothing left
    to do."""
    stage = Stage()
    stage.lose = no_backfill
    w1 = stage.writer(1)
    committed_without(stage, w1, 3)
    w1.put(1, to="n1")
    c2 = stage.claim(2)
    c2.promise("n1")
    stage["n1"].learn_committed(w1.position(3))
    stage.settle()
    assert [run.start for run in stage["n1"].history.runs] == [3]
    c2.promise("n2")
    stage.lose = lambda *_: False
    assert c2.sync("n1") == Code.OK
    c2.promise("n3")
    c2.bring_in("n2", "n3")
    assert c2.returns().tail == w1.position(3)
    stage.end_whole()


def test_stamp_after_a_jump_is_refused_by_a_member_that_no_longer_has_that_tail() -> None:
    stage = Stage()
    stage.lose = no_backfill
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    c2 = stage.claim(2)
    c2.promise("n1")
    c2.promise("n2")
    assert c2.letter(Stamp, "n1") is not None
    w3 = claimed(stage, 3, "n2", "n3")
    committed_without(stage, w3, 3)
    stage["n1"].learn_committed(w3.position(3))
    stage.settle()
    assert stage["n1"].history.tail == w3.position(3)
    assert c2.stamp("n1") == Code.CONFLICT
    assert stage["n1"].accepted == writer_id(1)
    stage.end_whole()


def test_sync_does_not_drop_what_was_learned_to_be_committed() -> None:
    """An old claim's Sync comes after the member learned a newer writer's commit point."""
    stage = Stage()
    w1 = stage.writer(1)
    w1.put(1, to="n2")
    c2 = stage.claim(2)
    c2.promise("n1")
    c2.promise("n2")  # chooses n2's entry, and lets n1 have it
    w3 = claimed(stage, 3, "n2", "n3")
    for name in ("n2", "n3"):
        w3.put(2, to=name)
    for entry_id in (1, 2):
        stage["n1"].learn_committed(w3.position(entry_id))
        stage.settle()
    assert c2.sync("n1") == Code.CONFLICT
    assert stage.history("n1") == [1, 3]
    stage.end_whole()


def test_wrong_record_is_not_jumped_to() -> None:
    """What a peer sends is checked against the chain that the writer told."""
    stage = Stage()
    w1 = stage.writer(1)
    committed_without(stage, w1, 2)
    stage.lose = lambda _source, _target, message: isinstance(message, Fetch)
    told = Position(2, 12345)
    put = Put(STREAM, VERSION, w1.id, 1, told, relay=0)
    stage.ask("n1", put, PutReply)
    stage.lose = lambda *_: False
    stage.pass_ms(5_000)
    assert stage["n1"].history.committed == ORIGIN


def test_commit_point_that_contradicts_the_members_is_refused_with_an_alarm() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    for name in stage.names:
        w1.put(1, to=name)
    w1.heartbeat(1, "n1")
    put = Put(STREAM, VERSION, w1.id, 9, Position(1, 12345), relay=0)
    assert stage.ask("n1", put, PutReply).code == Code.DIVERGED
    assert "contradicts" in stage.alarms[0]
    assert stage["n1"].history.committed == w1.position(1)


def test_repeated_stamp_is_answered() -> None:
    stage = Stage()
    w2 = claimed(stage, 2, "n1", "n2")
    w2.put(1, to="n1")
    stamp = Stamp(STREAM, VERSION, w2.id, ORIGIN)
    assert stage.ask("n1", stamp, StampReply).code == Code.OK
    assert stage["n1"].history.tail == w2.position(1)


def test_storage_hears_of_a_commit_point_before_it_has_moved_too_far() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    ordered: list[effects.Commit] = []
    disk = stage.places["n1"].disk
    execute = disk.execute

    def watch(action: effects.Action) -> None:
        ordered.extend([action] if isinstance(action, effects.Commit) else [])
        execute(action)

    disk.execute = watch  # type: ignore[method-assign]
    w1.put(1, 3_000, to="n1")
    w1.put(1, 3_000, to="n2")
    w1.heartbeat(1_000, "n1")
    assert ordered == []
    w1.heartbeat(1_024, "n1")
    assert [each.committed.entry_id for each in ordered] == [1_024]
    w1.heartbeat(1_030, "n1")
    stage.pass_ms(60)
    assert [each.committed.entry_id for each in ordered] == [1_024, 1_030]


def test_commit_point_that_cannot_be_is_refused() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    put = Put(STREAM, VERSION, w1.id, 1, Position(2**64 - 1, 1), relay=0)
    assert stage.ask("n1", put, PutReply).code == Code.BAD_REQUEST
    stage.pass_ms(5_000)
    assert stage["n1"].history.committed == ORIGIN
