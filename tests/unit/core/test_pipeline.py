"""A writer's puts in flight, driven answer by answer."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.unit.core.writing import BEAT_MS, LEASE_MS, STREAM, Bench
from tests.unit.making import MS, THREE, W1, W2, entries
from walle.core.pipeline import COMMIT_NOTICE_MS, RESEND_MS, RETRY_MS
from walle.core.timers import NEVER
from walle.core.topology import StreamTopology
from walle.errors import Code, InvariantError
from walle.ids import ORIGIN, Position
from walle.limits import (
    MEMBER_BACKLOG_BATCHES_MAX,
    MEMBER_BACKLOG_BYTES_MAX,
    PIPELINE_BYTES_MAX,
)
from walle.record import Encoder

if TYPE_CHECKING:
    from walle.record import Batch

MIB = 1 << 20
LARGE = bytes(MIB // 2)


# --- sending --------------------------------------------------------------------------------------


def test_put_goes_to_every_member_with_the_commit_point_and_its_own_number() -> None:
    bench = Bench()
    for _ in range(2):
        batch = bench.put()
        sent = bench.pipeline.take()
        assert [each.node for each in sent] == ["n1", "n2", "n3"]
        assert all(each.batch is batch for each in sent)
        assert {each.put.transmission for each in sent} == {bench.pipeline.transmission}
        assert {each.put.writer for each in sent} == {W1}
        assert {each.put.committed for each in sent} == {bench.pipeline.committed}
        bench.answer("n1", "n2", held=batch.last)


def test_every_sending_has_a_greater_number_than_those_before() -> None:
    bench = Bench(is_connected=False)
    bench.connect("n1", "n2")
    bench.put()
    bench.pipeline.heartbeat(bench.now_ns)
    bench.pass_ms(BEAT_MS)
    numbers = [each.put.transmission for each in bench.take()]
    assert len(numbers) == 4
    assert numbers == sorted(set(numbers))


def test_member_that_is_not_connected_is_sent_nothing() -> None:
    bench = Bench(is_connected=False)
    bench.put()
    bench.pipeline.heartbeat(bench.now_ns)
    bench.pass_ms(LEASE_MS)
    assert bench.pipeline.take() == []
    assert bench.pipeline.next_ns() == NEVER


def test_put_that_does_not_build_on_the_last_one_is_a_bug() -> None:
    bench = Bench()
    bench.put()
    with pytest.raises(InvariantError, match="a put builds on the tail"):
        bench.pipeline.put(entries(1), bench.now_ns)


def test_connected_member_is_sent_a_heartbeat_and_all_it_has_not_acknowledged() -> None:
    bench = Bench()
    first, _ = bench.put(), bench.put()
    bench.answer("n3", held=first.last)
    bench.pipeline.disconnected("n3")
    bench.put()
    bench.pipeline.take()
    bench.connect("n3")
    sent = bench.take("n3")
    assert sent[0].batch is None
    assert [(each.batch.first_id, each.batch.last_id) for each in sent[1:] if each.batch] == [
        (2, 3)
    ]


def test_strangers_are_ignored() -> None:
    bench = Bench()
    bench.put()
    bench.pipeline.take()
    bench.connect("n9")
    bench.pipeline.disconnected("n9")
    bench.pipeline.paused("n9", is_paused=True)
    bench.answer("n9", "n1", held=Position(1, 0))
    assert bench.pipeline.take() == []
    assert bench.pipeline.committed == ORIGIN


def test_paused_member_gets_what_it_missed_once_the_way_is_free() -> None:
    bench = Bench()
    bench.pipeline.paused("n2", is_paused=True)
    bench.put()
    bench.answer("n1", "n3", held=bench.put().last)
    bench.pipeline.paused("n2", is_paused=False)
    assert bench.batches("n2") == []
    bench.pipeline.feed(bench.now_ns)
    assert bench.spans("n2") == [(1, 2)], "in one piece"


# --- heartbeats -----------------------------------------------------------------------------------


def test_silent_writer_renews_its_lease_several_times_in_its_length() -> None:
    bench = Bench()
    assert bench.pipeline.next_ns() == bench.now_ns + BEAT_MS * MS
    bench.pass_ms(BEAT_MS - 1)
    assert bench.pipeline.take() == []
    bench.pass_ms(1)
    assert [each.batch for each in bench.take()] == [None]


def test_heartbeats_of_writers_that_began_at_different_times_are_due_together() -> None:
    benches = [Bench() for _ in range(5)]
    for number, bench in enumerate(benches):
        bench.pass_ms(number)
        bench.put()
        bench.pipeline.take()
    assert len({bench.pipeline.next_ns() for bench in benches}) == 1
    assert all(bench.pipeline.next_ns() <= bench.now_ns + BEAT_MS * MS for bench in benches)


def test_commit_point_is_told_soon_where_no_put_carries_it() -> None:
    bench = Bench()
    batch = bench.put()
    bench.answer("n1", "n2", held=batch.last)
    bench.pipeline.take()
    assert bench.pipeline.next_ns() == bench.now_ns + COMMIT_NOTICE_MS * MS
    bench.pass_ms(COMMIT_NOTICE_MS)
    assert [each.put.committed for each in bench.pipeline.take()] == 3 * [batch.last]
    assert bench.pipeline.next_ns() > bench.now_ns + COMMIT_NOTICE_MS * MS


# --- commit ---------------------------------------------------------------------------------------


def test_entry_is_committed_once_a_majority_holds_it() -> None:
    bench = Bench()
    batch = bench.put(3)
    bench.answer("n1", held=batch.last)
    assert bench.pipeline.committed == ORIGIN
    bench.answer("n2", held=batch.position_at(2))
    assert bench.pipeline.committed == batch.position_at(2)
    assert bench.pipeline.uncommitted() == [batch]
    bench.answer("n3", held=batch.last)
    assert bench.pipeline.committed == batch.last
    assert bench.pipeline.uncommitted() == []


def test_joint_topology_needs_a_majority_of_both_sets() -> None:
    bench = Bench(StreamTopology(2, ("a", "b", "c"), ("a", "x", "y")))
    batch = bench.put()
    bench.answer("a", "b", held=batch.last)
    assert bench.pipeline.committed == ORIGIN
    bench.answer("x", held=batch.last)
    assert bench.pipeline.committed == batch.last


def test_claimed_tail_counts_as_committed() -> None:
    tail = Position(10, 77)
    bench = Bench(tail=tail)
    assert bench.pipeline.committed == tail
    bench.answer("n1", "n2", "n3", held=Position(4, 1))
    assert bench.pipeline.committed == tail


def test_answer_of_another_history_commits_nothing() -> None:
    bench = Bench()
    bench.put()
    bench.answer("n1", "n2", "n3", held=Position(1, 1))
    assert bench.pipeline.committed == ORIGIN


def test_member_that_is_ahead_of_all_that_was_put_here_commits_nothing() -> None:
    bench = Bench()
    bench.answer("n1", "n2", "n3", held=entries(3).last)
    assert bench.pipeline.committed == ORIGIN


def test_member_that_is_ahead_counts_once_all_that_was_put_here() -> None:
    """A thin client's later puts may have reached it another way, or it may hold another history:
    only its chain tells."""
    bench = Bench()
    batch = bench.put()
    later = Encoder(bench.pipeline.writer, batch.last)
    later.add(b"", 0)
    following = later.take()
    ahead = following.last
    bench.answer("n1", "n2", held=ahead)
    assert bench.pipeline.committed == ORIGIN
    bench.pipeline.put(following, bench.now_ns)
    bench.answer("n1", "n2", held=ahead)
    assert bench.pipeline.committed == ahead


@pytest.mark.parametrize(
    "wrong", [{"stream_id": STREAM + 1}, {"version": 2}, {"version": 0}, {"code": Code.BUSY}]
)
def test_answer_that_does_not_count_commits_nothing(wrong: dict[str, int]) -> None:
    """A majority is counted under one version only."""
    bench = Bench()
    batch = bench.put()
    bench.answer("n1", held=batch.last)
    bench.answer("n2", "n3", held=batch.last, **wrong)  # type: ignore[arg-type]
    assert bench.pipeline.committed == ORIGIN
    assert bench.pipeline.exclusive_until_ns() == 0


def test_older_answer_after_a_newer_one_takes_nothing_back() -> None:
    bench = Bench()
    first, second = bench.put(), bench.put()
    newest = bench.pipeline.transmission
    bench.answer("n1", "n2", held=second.last)
    bench.answer("n1", "n2", held=first.last, transmission=newest - 1)
    assert bench.pipeline.committed == second.last
    assert bench.pipeline.acknowledged_transmission == newest


# --- back-pressure --------------------------------------------------------------------------------


def test_batches_are_in_flight_until_they_are_committed() -> None:
    bench = Bench()

    def looks() -> tuple[bool, int]:
        return bench.pipeline.has_outgoing, bench.pipeline.batches_in_flight

    assert looks() == (False, 0)
    batches = [bench.put(count) for count in (1, 2)]
    assert looks() == (True, 2)
    bench.pipeline.take()
    bench.answer("n1", "n2", held=batches[1].position_at(2))
    assert looks() == (False, 1), "half of the second is not committed"
    bench.answer("n1", "n2", held=batches[1].last)
    assert looks() == (False, 0)


def test_room_ends_with_what_is_uncommitted() -> None:
    bench = Bench()
    batches = []
    while bench.has_room():
        batches.append(bench.put(data=LARGE))
    sizes = [each.payload.size for each in batches]
    assert sum(sizes[:-1]) < PIPELINE_BYTES_MAX <= sum(sizes)
    bench.answer("n1", "n2", held=batches[1].last)
    assert bench.has_room()
    assert bench.pipeline.uncommitted() == batches[2:]


def test_member_that_does_not_answer_is_sent_no_more_than_its_backlog() -> None:
    bench = Bench()
    for _ in range(20):
        batch = bench.put(data=LARGE)
        bench.answer("n1", "n2", held=batch.last)
    count = len(bench.batches("n3"))
    assert (count - 1) * len(LARGE) < MEMBER_BACKLOG_BYTES_MAX <= count * (len(LARGE) + 64)


def test_member_that_has_answered_half_of_its_backlog_is_sent_more() -> None:
    bench = Bench()
    batches = [bench.put(data=LARGE) for _ in range(20)]
    count = len(bench.batches("n3"))
    assert count < 20
    bench.answer("n3", held=batches[1].last)
    assert bench.batches("n3") == []
    bench.answer("n3", held=batches[count // 2].last)
    assert bench.batches("n3") == list(range(count + 1, 21))


def test_what_a_member_lags_behind_by_goes_in_large_batches() -> None:
    bench = Bench()
    large = [bench.put(data=LARGE) for _ in range(MEMBER_BACKLOG_BYTES_MAX // len(LARGE))]
    bench.pipeline.take()
    small = [bench.put() for _ in range(100)]
    assert bench.batches("n3") == []
    bench.answer("n3", held=large[-1].last)
    assert bench.spans("n3") == [(small[0].first_id, small[-1].last_id)]
    bench.put()
    assert bench.spans("n3") == [(small[-1].last_id + 1,) * 2], "it keeps up again"


def test_member_that_does_not_answer_is_sent_few_small_batches() -> None:
    """What it has to do once its disk answers again must not grow with how many puts there were."""
    bench = Bench()
    few = MEMBER_BACKLOG_BATCHES_MAX
    batches = []
    for _ in range(1_000):
        batches.append(bench.put())
        bench.answer("n1", "n2", held=batches[-1].last)
    assert len(bench.batches("n3")) == few
    bench.answer("n3", held=batches[few // 2 - 2].last)
    assert bench.batches("n3") == []
    bench.answer("n3", held=batches[few // 2 - 1].last)
    assert bench.spans("n3") == [(few + 1, 1_000)]


def test_slow_member_is_sent_more_though_the_window_has_moved_on() -> None:
    bench = Bench()
    batches = []
    for _ in range(20):
        batches.append(bench.put(data=LARGE))
        bench.answer("n1", "n2", held=batches[-1].last)
    count = len(bench.batches("n3"))
    bench.answer("n3", held=batches[count - 1].last)
    assert bench.batches("n3") == list(range(count + 1, 21))
    bench.answer("n3", held=batches[-1].last)
    assert bench.pipeline._links["n3"].unacknowledged_bytes == 0


def test_member_that_fell_behind_the_window_is_fed_from_its_begin() -> None:
    """It jumps and backfills the rest."""
    bench = Bench()
    size = len(LARGE) + 48
    count = 2 * MEMBER_BACKLOG_BYTES_MAX // size + 2
    for _ in range(count):
        batch = bench.put(data=LARGE)
        bench.answer("n1", "n2", held=batch.last)
    bench.pipeline.take()
    bench.pass_ms(RESEND_MS)
    bench.answer("n3")
    ids = bench.batches("n3")
    kept = MEMBER_BACKLOG_BYTES_MAX // size
    assert ids == list(range(count - kept + 1, count + 1))


def test_what_all_have_acknowledged_is_forgotten() -> None:
    bench = Bench()
    batch = bench.put()
    bench.answer("n1", "n2", held=batch.last)
    assert len(bench.pipeline._window) == 1, "kept for n3"
    bench.answer("n3", held=batch.last)
    bench.put()
    bench.answer("n1", "n2", held=bench.pipeline.tail)
    assert [each.first_id for each in bench.pipeline._window] == [2]


# --- repetition -----------------------------------------------------------------------------------


def test_what_was_lost_on_the_way_is_sent_again_once_the_member_says_so() -> None:
    bench = Bench()
    bench.put()
    batch = bench.put()
    bench.pipeline.take()
    bench.answer("n1", "n2", held=batch.last)
    bench.pass_ms(RESEND_MS)
    assert bench.batches("n3") == [], "it is asked first how far it is"
    bench.answer("n3")
    sent = bench.pipeline.take()
    assert [(each.batch.first_id, each.batch.last_id) for each in sent if each.batch] == [(1, 2)]
    assert {each.node for each in sent} == {"n3"}
    bench.answer("n3")
    assert bench.batches("n3") == [], "and once"


def test_slow_member_is_sent_nothing_again_however_slow_it_is() -> None:
    """What it was sent waits for its disk, and so do its answers."""
    bench = Bench()
    for _ in range(10):
        batch = bench.put()
        bench.answer("n1", "n2", held=batch.last)
        assert bench.batches("n3") == [batch.first_id]
        bench.pass_ms(RESEND_MS)
        assert bench.batches("n3") == []
    bench.answer("n3", held=batch.last)
    assert bench.batches("n3") == []
    assert bench.pipeline._links["n3"].unacknowledged_bytes == 0


def test_only_an_answer_to_the_question_shows_that_something_is_lost() -> None:
    bench = Bench()
    first, _ = bench.put(), bench.put()
    transmission = bench.pipeline.transmission
    bench.pass_ms(RESEND_MS)
    bench.put()
    bench.pipeline.take()
    bench.answer("n3", transmission=transmission)
    assert bench.batches("n3") == []
    bench.answer("n3", held=first.last)
    assert bench.spans("n3") == [(2, 3)]


def test_question_is_answered_however_long_the_way_is() -> None:
    """Longer than until the next one is due."""
    bench = Bench()
    bench.put()
    bench.pipeline.take()
    bench.pass_ms(RESEND_MS)
    question = bench.pipeline.transmission
    bench.pass_ms(RESEND_MS)
    assert bench.batches("n3") == []
    bench.answer("n3", transmission=question)
    assert bench.batches("n3") == [1]


def test_what_was_sent_after_the_question_is_not_lost_yet() -> None:
    bench = Bench()
    first = bench.put()
    bench.pass_ms(RESEND_MS)
    transmission = bench.pipeline.transmission
    bench.put()
    bench.pipeline.take()
    bench.answer("n3", held=first.last, transmission=transmission)
    assert bench.batches("n3") == []


def test_member_that_makes_progress_is_not_asked() -> None:
    bench = Bench()
    first, _ = bench.put(), bench.put()
    bench.pipeline.take()
    bench.now_ns += (RESEND_MS - 1) * MS
    bench.answer("n1", "n2", "n3", held=first.last)
    bench.pass_ms(2)
    bench.answer("n3", held=first.last)
    assert bench.batches("n3") == []


def test_busy_member_is_asked_again_after_a_pause_and_once() -> None:
    bench = Bench()
    bench.put()
    bench.pipeline.take()
    bench.answer("n1", code=Code.BUSY)
    bench.now_ns += (RETRY_MS - 1) * MS
    bench.answer("n1", code=Code.BUSY)
    bench.pass_ms(0)
    assert bench.batches("n1") == []
    bench.pass_ms(1)
    assert bench.batches("n1") == [1]
    bench.pass_ms(RETRY_MS)
    assert bench.batches("n1") == []


# --- the end of a writer --------------------------------------------------------------------------


def test_writer_is_lost_when_no_majority_is_left() -> None:
    """One refusal may be a claim whose coordinator died."""
    bench = Bench()
    batch = bench.put()
    bench.pipeline.take()
    bench.answer("n1", code=Code.FENCED, promised=W2)
    assert bench.lost() is None
    bench.put()
    assert bench.take("n1") == []
    bench.answer("n2", code=Code.FENCED, promised=W2)
    lost = bench.lost()
    assert lost is not None
    assert (lost.promised, lost.address) == (W2, "app:1")
    bench.answer("n3", held=batch.last)
    assert bench.pipeline.committed == ORIGIN


def test_member_that_refused_is_sent_nothing_when_it_is_reached_again() -> None:
    bench = Bench()
    bench.answer("n1", code=Code.FENCED, promised=W2)
    bench.put()
    bench.take()
    bench.pipeline.disconnected("n1")
    bench.connect("n1")
    assert bench.take() == []


def test_two_members_are_enough_though_one_refuses() -> None:
    bench = Bench()
    batch = bench.put()
    bench.answer("n1", code=Code.FENCED, promised=W2)
    bench.answer("n2", "n3", held=batch.last)
    assert bench.pipeline.committed == batch.last
    assert bench.pipeline.exclusive_until_ns() > 0


# --- versions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [Code.STALE_VERSION, Code.NOT_A_MEMBER])
def test_newer_version_is_noticed(code: Code) -> None:
    bench = Bench()
    bench.answer("n1", code=code, version=5)
    bench.answer("n2", code=code, version=3)
    assert bench.pipeline.stale_version == 5


def test_older_version_is_not_stale() -> None:
    bench = Bench(StreamTopology(4, ("n1", "n2", "n3")))
    bench.answer("n1", code=Code.STALE_VERSION, version=4)
    bench.answer("n2", code=Code.STALE_VERSION, version=3)
    assert bench.pipeline.stale_version == 0


def adopted() -> tuple[Bench, Batch]:
    """A put acknowledged by n1 under version 1; version 2 has n4 in place of n3."""
    bench = Bench()
    batch = bench.put()
    bench.answer("n1", held=batch.last)
    bench.answer("n2", code=Code.STALE_VERSION, version=2)
    bench.pipeline.take()
    bench.pipeline.adopt(StreamTopology(2, ("n1", "n2", "n4")), bench.now_ns)
    return bench, batch


def test_newer_topology_asks_again_for_what_is_not_committed() -> None:
    bench, _ = adopted()
    assert bench.pipeline.stale_version == 0
    sent = bench.pipeline.take()
    assert [each.node for each in sent if each.batch] == ["n1", "n2"]
    assert {each.put.version for each in sent} == {2}
    bench.connect("n4")
    assert bench.batches("n4") == [1]


def test_answers_under_two_versions_are_no_majority() -> None:
    bench, batch = adopted()
    bench.answer("n2", held=batch.last)
    assert bench.pipeline.committed == ORIGIN
    assert bench.pipeline.exclusive_until_ns() == 0
    bench.answer("n1", held=batch.last)
    assert bench.pipeline.committed == batch.last


def test_topology_that_is_not_newer_changes_nothing() -> None:
    bench = Bench()
    batch = bench.put()
    bench.answer("n1", held=batch.last)
    bench.pipeline.take()
    bench.pipeline.adopt(StreamTopology(1, ("n7",)), bench.now_ns)
    assert bench.pipeline.topology == THREE
    assert bench.pipeline.take() == []


def test_writer_without_a_majority_lets_leases_lapse() -> None:
    """The minority that hears of it must not owe it a lease for ever: others wait for that."""
    bench = Bench()
    beats = []
    for _ in range(10 * LEASE_MS // BEAT_MS):
        bench.pass_ms(BEAT_MS)
        beats += [bench.now_ns] * len(bench.take("n1"))
        bench.answer("n1")
    gaps = [later - earlier for earlier, later in pairwise(beats)]
    assert max(gaps) > LEASE_MS * MS


def test_writer_that_has_its_majority_again_beats_as_before() -> None:
    bench = Bench()
    bench.pass_ms(9 * LEASE_MS)
    bench.answer("n1", "n2", "n3")
    bench.pipeline.take()
    bench.pass_ms(BEAT_MS)
    assert len(bench.take("n1")) == 1


def test_member_with_another_history_holds_nothing() -> None:
    """Also when its history is longer than all that was put here."""
    bench = Bench()
    bench.put()
    bench.answer("n1", "n2", held=Position(9, 12345))
    assert bench.pipeline.committed == ORIGIN


# --- marks ----------------------------------------------------------------------------------------


def marks(bench: Bench) -> set[int]:
    """The marks of what is sent next."""
    bench.pipeline.take()
    bench.pipeline.heartbeat(bench.now_ns)
    return {each.put.mark for each in bench.pipeline.take()}


def test_highest_mark_that_was_answered_is_echoed_to_every_member() -> None:
    bench = Bench()
    assert marks(bench) == {0}
    bench.answer("n2", mark=7)
    bench.answer("n1", mark=5)
    assert marks(bench) == {7}
    assert bench.put() is not None
    assert {each.put.mark for each in bench.pipeline.take()} == {7}


def test_mark_of_another_version_is_not_echoed() -> None:
    bench = Bench()
    bench.answer("n1", mark=7, version=2)
    assert marks(bench) == {0}
    bench.answer("n1", mark=7)
    bench.pipeline.adopt(StreamTopology(2, ("n1", "n2", "n4")), bench.now_ns)
    assert marks(bench) == {0}
    bench.answer("n1", mark=8, version=1)
    assert marks(bench) == {0}
    bench.answer("n1", mark=6)
    assert marks(bench) == {6}
