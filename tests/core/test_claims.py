"""Claims whose coordinators die, whose messages come late or twice, and members they left out."""

from __future__ import annotations

from itertools import combinations, count, product
from typing import TYPE_CHECKING

import pytest

from tests.core.by_hand import STREAM, VERSION, NoAnswer, Stage, writer_id
from tests.core.test_schedules import claimed, no_backfill
from walle.core import reorder, syncing
from walle.core.calls import REPEAT_MS_MIN
from walle.errors import Code
from walle.ids import NO_WRITER, ORIGIN, Position
from walle.messages import (
    Fetch,
    FetchReply,
    NewWriter,
    NewWriterReply,
    Release,
    ReleaseReply,
    Stamp,
    StampReply,
    Sync,
    SyncReply,
)

if TYPE_CHECKING:
    from tests.core.by_hand import Coordinator, Letter, Writer
    from walle.messages import Message


def uneven(stage: Stage) -> Writer:
    """Three members whose suffixes differ: 3 is committed, n1 has 4 besides, n3 lags behind."""
    w1 = stage.writer(1)
    for entry_id in (1, 2, 3):
        w1.put(entry_id, to="n1", commit=entry_id - 1)
        w1.put(entry_id, to="n2", commit=entry_id - 1)
    w1.put(1, to="n3")
    w1.put(4, to="n1", commit=3)
    return w1


STEPS = (NewWriter, Sync, Stamp)
MESSAGES = 20
"""So many a claim by three members has, where all are brought in."""
ORDERS = [("n1", "n3", "n2"), ("n3", "n2", "n1"), ("n2", "n3", "n1")]


def lives(claim: Coordinator, order: tuple[str, ...], count: int, *, is_deep: bool) -> bool:
    """The coordinator dies once it has sent and received so many messages; whether its claim has
    returned before.

    order, is_deep: whose messages are delivered first, and whether that member is brought in before
        the next one hears anything, or all are brought through each step.
    """
    left = count

    def is_lost(source: str, target: str, _message: Message) -> bool:
        nonlocal left
        is_its = claim.context.node_id in (source, target)
        left -= is_its
        return is_its and left < 0

    def turn(letter: Letter) -> tuple[int, int]:
        step, place = STEPS.index(type(letter.message)), order.index(letter.target)
        return (place, step) if is_deep else (step, place)

    claim.stage.lose = is_lost
    delivered: list[Letter] = []
    while left > 0 and claim.claimed is None:
        letter = min((each for each in claim.letters if each not in delivered), key=turn)
        delivered.append(letter)
        left -= 1
        claim.stage.open(letter, object)
    claim.stage.lose = lambda *_: False
    return claim.claimed is not None


@pytest.mark.parametrize("majority", [*combinations(("n1", "n2", "n3"), 2)])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("is_deep", [True, False])
def test_coordinator_dies_after_each_message(
    majority: tuple[str, ...], order: tuple[str, ...], *, is_deep: bool
) -> None:
    """Whatever majority claims next, the committed entries are in its history; and it does no harm
    that all which the dead one has sent comes then, once more or at last."""
    for messages in count():
        stage = Stage()
        w1, c2 = uneven(stage), stage.claim(2)
        has_returned = lives(c2, order, messages, is_deep=is_deep)
        w3 = claimed(stage, 3, *majority)
        assert w3.tail in (w1.position(3), w1.position(4))
        for letter in [*c2.letters]:
            stage.open(letter, object)
        stage.end_whole()
        if has_returned:
            break


def test_second_coordinator_dies_as_well() -> None:
    for first, second in product(range(MESSAGES + 1), repeat=2):
        stage = Stage()
        w1 = uneven(stage)
        lives(stage.claim(2), ("n3", "n2", "n1"), first, is_deep=False)
        lives(stage.claim(3), ("n1", "n3", "n2"), second, is_deep=True)
        w4 = claimed(stage, 4, "n2", "n3")
        assert w4.tail in (w1.position(3), w1.position(4))


@pytest.mark.parametrize("kept_actions", range(4))
def test_member_crashes_in_the_middle_of_a_sync(
    kept_actions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "FETCH_BYTES_MAX", 1)
    stage = Stage()
    w1 = uneven(stage)
    c2 = stage.claim(2)
    c2.promise("n3")
    c2.promise("n2")
    stage.crash_unsynced("n3", lambda: c2.sync("n3"), kept_actions)
    assert stage["n3"].accepted == writer_id(1)
    w3 = claimed(stage, 3, "n1", "n3")
    assert w3.tail == w1.position(4)


def test_sync_takes_more_than_one_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "FETCH_BYTES_MAX", 1)
    stage = Stage()
    w1 = stage.writer(1)
    for entry_id in (1, 2, 3, 4):
        w1.put(entry_id, to="n1")
    c2 = stage.claim(2)
    c2.promise("n1")
    c2.promise("n3")
    assert c2.sync("n3") == Code.OK
    c2.stamp("n3")
    c2.stamp("n1")
    assert c2.returns().tail == w1.position(4)


def test_repeated_sync_does_not_undo_the_first() -> None:
    stage = Stage()
    uneven(stage)
    c2 = stage.claim(2)
    c2.promise("n1")
    c2.promise("n3")
    assert c2.sync("n3") == Code.OK
    stage.lose = lambda _source, _target, message: isinstance(message, Fetch)
    c2.sync("n3")
    assert c2.stamp("n3") == Code.OK


def test_sync_that_is_repeated_while_it_runs_is_answered_once_it_is_done() -> None:
    stage = Stage()
    uneven(stage)
    c2 = stage.claim(2)
    c2.promise("n1")
    c2.promise("n3")
    stage.lose = lambda _source, _target, message: isinstance(message, Fetch)
    assert c2.sync("n3") is None
    assert c2.sync("n3") is None
    stage.lose = lambda *_: False
    stage.pass_ms(2 * REPEAT_MS_MIN)
    assert c2.letter(Stamp, "n3") is not None


def test_sync_from_a_source_that_has_nothing_is_refused() -> None:
    stage = Stage()
    w1 = uneven(stage)
    stage.claim(2).promise("n3")
    sync = Sync(STREAM, VERSION, writer_id(2), "n2", w1.position(1), Position(4, 99), jump=0)
    assert stage.ask("n3", sync, SyncReply).code == Code.CONFLICT


def test_sync_base_that_is_not_held_is_refused() -> None:
    stage = Stage()
    uneven(stage)
    stage.claim(2).promise("n3")
    sync = Sync(STREAM, VERSION, writer_id(2), "n2", Position(1, 99), Position(4, 99), jump=0)
    assert stage.ask("n3", sync, SyncReply).code == Code.CONFLICT
    assert stage.history("n3") == [1]


def test_sync_below_the_commit_point_is_refused() -> None:
    stage = Stage()
    w1 = uneven(stage)
    stage.claim(2).promise("n1")
    for jump in (0, 1):
        sync = Sync(STREAM, VERSION, writer_id(2), "n2", w1.position(1), w1.position(1), jump=jump)
        assert stage.ask("n1", sync, SyncReply).code == Code.CONFLICT
    assert stage.history("n1") == [1, 1, 1, 1]


def test_member_far_behind_jumps_in_a_sync() -> None:
    stage = Stage()
    stage.lose = no_backfill
    w1 = stage.writer(1)
    for entry_id in range(1, 6):
        w1.put(entry_id, to="n1", commit=max(0, entry_id - 2))
        w1.put(entry_id, to="n2", commit=max(0, entry_id - 2))
    stage.lose = lambda _source, _target, _message: False
    c2 = stage.claim(2)
    c2.promise("n3")
    c2.promise("n1")
    assert c2.sync("n3") == Code.OK
    assert stage["n3"].history.tail == w1.position(5)
    assert stage["n3"].history.committed == w1.position(3)
    assert stage["n3"].accepted == writer_id(1)
    c2.bring_in("n1", "n3")
    stage.pass_ms(5_000)
    assert stage.history("n3") == [1] * 5


def test_claim_counts_a_member_that_promises_late() -> None:
    stage = Stage()
    uneven(stage)
    c2 = stage.claim(2)
    c2.promise("n1")
    c2.promise("n2")
    c2.stamp("n1")
    c2.promise("n3")  # after the choice
    c2.bring_in("n3")
    assert c2.returns().tail.entry_id == 4


def test_late_member_with_a_longer_suffix_is_cut() -> None:
    stage = Stage()
    w1 = uneven(stage)
    c2 = stage.claim(2)
    c2.promise("n2")
    c2.promise("n3")
    c2.promise("n1")
    c2.bring_in("n1", "n2")
    assert c2.returns().tail == w1.position(3)
    assert stage.history("n1") == [1, 1, 1]


def test_claim_begins_anew_above_a_newer_promise() -> None:
    stage = Stage()
    c2, c5 = stage.claim(2), stage.claim(5)
    c5.promise("n1")
    assert c2.promise("n1") == Code.FENCED
    c2.pass_ms(100)
    newest = c2.letter(NewWriter, "n1")
    assert newest is not None
    assert newest.message.writer > writer_id(5)
    c2.promise("n1")
    c2.promise("n2")
    c2.bring_in("n1", "n2")
    assert c2.returns().id > writer_id(5)


def test_claim_goes_on_though_one_member_refuses() -> None:
    stage = Stage()
    c2 = stage.claim(2)
    letter = c2.letter(NewWriter, "n3")
    assert letter is not None
    refusal = NewWriterReply(STREAM, Code.UNAVAILABLE, VERSION, NO_WRITER)
    c2.context.calls.receive("n3", letter.request_id, refusal, None)
    assert claim_by(c2, "n1", "n2").tail == ORIGIN


def claim_by(claim: Coordinator, *names: str) -> Writer:
    for name in names:
        claim.promise(name)
    claim.bring_in(*names)
    return claim.returns()


def test_answers_that_come_twice_count_once() -> None:
    stage = Stage(5)
    c2 = stage.claim(2)
    for name in ("n1", "n2"):
        for _ in range(3):
            c2.promise(name)
    assert c2.letter(Stamp, "n1") is None
    c2.promise("n3")
    c2.stamp("n1")
    c2.stamp("n1")
    c2.stamp("n2")
    c2.stamp("n2")
    assert c2.claimed is None
    c2.stamp("n3")
    assert c2.claimed is not None


def test_stamp_of_an_older_claim_comes_late() -> None:
    stage = Stage()
    w1 = uneven(stage)
    c2 = stage.claim(2)
    c2.promise("n1")
    c2.promise("n2")
    delayed: Letter | None = c2.letter(Stamp, "n1")
    assert delayed is not None
    w3 = claimed(stage, 3, "n1", "n2")
    answer = stage.open(delayed, StampReply)
    assert answer is not None
    assert answer.code == Code.FENCED
    assert stage["n1"].accepted == w3.id
    assert w3.tail == w1.position(4)


# --- members that a claim left out ----------------------------------------------------------------


def test_unstamped_member_drops_its_suffix_when_the_writer_puts() -> None:
    stage = Stage()
    w1 = uneven(stage)
    c2 = stage.claim(2)
    w2 = claim_by(c2, "n2", "n3")
    assert w2.tail == w1.position(3)
    reply = w2.put(4, to="n1", commit=3)
    assert reply.held == w2.position(4)
    assert stage.history("n1") == [1, 1, 1, 2]
    assert stage["n1"].accepted == writer_id(2)


def test_unstamped_member_drops_its_suffix_when_the_writer_tells_its_commit_point() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    w1.put(2, to="n1")
    w1.put(1, to="n2")
    w2 = claim_by(stage.claim(2), "n2", "n3")
    assert w2.tail == w1.position(1)
    assert stage["n1"].accepted == writer_id(1)
    assert w2.heartbeat(1, "n1").held == w1.position(1)
    assert stage.history("n1") == [1]


def test_unstamped_member_learns_who_the_writer_is_from_a_majority() -> None:
    stage = Stage()
    w2 = claim_by(stage.claim(2), "n1", "n2")
    assert stage["n3"].promise.writer == writer_id(1)
    assert w2.put(1, to="n3").code == Code.OK
    assert stage["n3"].promise.writer == writer_id(2)
    assert stage["n3"].promise.address == "c2"


def test_member_does_not_believe_a_puts_own_word_about_its_writer() -> None:
    stage = Stage()
    stranger = stage.writer(9)
    reply = stranger.put(1, to="n1")
    assert reply.code == Code.BUSY
    assert stage["n1"].promise.writer == writer_id(1)
    assert stage.history("n1") == []


def test_put_of_an_older_writer_is_refused_and_names_the_newer_one() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    claim_by(stage.claim(2), "n1", "n2")
    reply = w1.put(1, to="n1")
    assert (reply.code, reply.promised, reply.address) == (Code.FENCED, writer_id(2), "c2")


def test_put_of_another_writers_records_is_refused() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    w2 = stage.writer(2)
    reply = w1.put_batch(w2.batch(1, 1), to="n1")
    assert reply.code == Code.BAD_REQUEST
    assert stage.history("n1") == []


@pytest.mark.parametrize("version", [0, 2])
def test_put_under_another_version_is_not_taken(version: int) -> None:
    stage = Stage()
    reply = stage.writer(1).put(1, to="n1", version=version)
    assert reply.code == (Code.STALE_VERSION if version == 0 else Code.BUSY)
    assert stage.history("n1") == []


def test_nobody_is_not_a_writer() -> None:
    """On a stream that was never claimed, a put without a claim is refused."""
    stage = Stage(is_fresh=True)
    reply = stage.writer(0).put(1, to="n1")
    assert reply.code != Code.OK
    assert stage.history("n1") == []


# --- durability -----------------------------------------------------------------------------------


def test_nothing_is_told_before_it_is_durable() -> None:
    stage = Stage()
    w1 = uneven(stage)
    stage.is_syncing = False
    with pytest.raises(NoAnswer):
        w1.put(4, to="n2")
    c2 = stage.claim(2)
    assert c2.promise("n2") is None
    assert c2.promise("n3") is None
    stage.is_syncing = True
    assert c2.promise("n2") == c2.promise("n3") == Code.OK
    stage.is_syncing = False
    assert c2.sync("n3") is None
    stage.is_syncing = True
    assert c2.sync("n3") == Code.OK
    stage.is_syncing = False
    assert c2.stamp("n3") is None


# --- release --------------------------------------------------------------------------------------


def test_release_tells_the_commit_point() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    w1.put(1, to="n1")
    w1.put(1, to="n2")
    release = Release(STREAM, VERSION, w1.id, w1.position(1), relay=0)
    assert stage.ask("n1", release, ReleaseReply).code == Code.OK
    assert stage["n1"].history.committed == w1.position(1)


def test_release_is_obeyed_only_while_its_writer_is_the_promised_one() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    claim_by(stage.claim(2), "n1", "n2")
    for writer, code in ((w1.id, Code.FENCED), (writer_id(3), Code.NOT_PROMISED)):
        release = Release(STREAM, VERSION, writer, ORIGIN, relay=0)
        assert stage.ask("n1", release, ReleaseReply).code == code


# --- puts -----------------------------------------------------------------------------------------


def test_entries_that_come_out_of_order_are_appended_in_order() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    for entry_id in (4, 2, 5, 3):
        assert w1.put(entry_id, to="n1").held == ORIGIN
    assert w1.put(1, to="n1").held == w1.position(5)
    assert stage.history("n1") == [1] * 5


def test_early_entries_of_another_history_are_not_appended() -> None:
    """A writer must not tell two histories; if it does, what builds on the other one waits in
    vain."""
    stage = Stage()
    w1 = stage.writer(1)
    forged = stage.writer(1)
    forged.data = b"other"
    forged.put(2, to="n1")
    assert w1.put(1, to="n1").held == w1.position(1)
    assert w1.put(2, to="n1").held == w1.position(2)


def test_repeated_put_changes_nothing() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    for _ in range(3):
        assert w1.put(1, 3, to="n1").held == w1.position(3)
    assert w1.put(2, 4, to="n1").held == w1.position(4)
    assert stage.history("n1") == [1] * 4


def test_reorder_queue_keeps_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reorder, "REORDER_COUNT_MAX", 2)
    stage = Stage()
    w1 = stage.writer(1)
    for entry_id in (2, 3, 4):
        w1.put(entry_id, to="n1")
    assert w1.put(1, to="n1").held == w1.position(1)
    assert w1.put(2, to="n1").held == w1.position(4)


def test_early_entries_of_an_older_writer_take_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reorder, "REORDER_COUNT_MAX", 2)
    stage = Stage()
    w1 = stage.writer(1)
    for entry_id in (8, 9):
        w1.put(entry_id, to="n1")
    w2 = claim_by(stage.claim(2), "n1", "n2")
    w2.put(2, to="n1")
    assert w2.put(1, to="n1").held == w2.position(2)


def test_put_that_would_change_a_committed_entry_is_refused_with_an_alarm() -> None:
    stage = Stage()
    w1 = stage.writer(1)
    for name in ("n1", "n2"):
        w1.put(1, 2, to=name)
    w1.heartbeat(2, "n1")
    forged = stage.writer(1, Position(1, w1.position(1).chain))
    forged.data = b"other"
    assert forged.put_batch(forged.batch(2, 3), to="n1").code == Code.BUSY  # a majority is asked
    stage.settle()
    assert forged.put_batch(forged.batch(2, 3), to="n1").code == Code.DIVERGED
    assert len(stage.alarms) == 1
    assert stage["n1"].history.tail == w1.position(2)


def test_put_that_a_newer_writers_commit_point_has_overtaken_is_no_alarm() -> None:
    """The member has learned the commit point from others, and of the newer claim only now."""
    stage = Stage()
    stage.lose = no_backfill
    w1 = stage.writer(1)
    w2 = claim_by(stage.claim(2), "n2", "n3")
    for name in ("n2", "n3"):
        w2.put(1, to=name)
    w2.heartbeat(1, "n2")
    stage["n1"].learn_committed(w2.position(1))
    stage.settle()
    assert stage["n1"].promise.writer == writer_id(1)
    w1.data = b"other"
    assert w1.put(1, to="n1").code == Code.BUSY
    stage.settle()
    assert w1.put(1, to="n1").code == Code.FENCED
    assert stage.alarms == []


def test_fetch_is_answered_from_aside_runs_too() -> None:
    stage = Stage()
    stage.lose = no_backfill
    w1 = stage.writer(1)
    w1.put(1, 2, to="n1")
    w2 = claim_by(stage.claim(2), "n2", "n3")
    for name in ("n2", "n3"):
        w2.put(1, 4, to=name)
    w2.heartbeat_and_jump(4, "n1")
    answer = stage.ask("n1", Fetch(STREAM, 1, 5, 1, 0, 1 << 20), FetchReply)
    assert answer.start == 1
