"""A writer's puts in flight while members have no space on their disks."""

from __future__ import annotations

from tests.unit.core.writing import Bench
from tests.unit.making import MS
from walle.core.pipeline import RESEND_MS, STALLED_MS
from walle.core.topology import StreamTopology
from walle.errors import Code

MIB = 1 << 20
LARGE = bytes(MIB // 2)


def test_member_without_space_is_sent_heartbeats_and_now_and_then_one_batch() -> None:
    bench = Bench()
    bench.put(data=LARGE)
    bench.put(data=LARGE)
    bench.pipeline.take()
    bench.answer("n1", "n1", code=Code.NO_SPACE)
    assert set(bench.pipeline.full) == {"n1"}
    bench.put()
    bench.pass_ms(RESEND_MS - 1)
    bench.answer("n1")
    assert bench.batches("n1") == []
    bench.pass_ms(1)
    assert bench.batches("n1") == [1]
    bench.answer("n1", code=Code.NO_SPACE)
    bench.pass_ms(RESEND_MS)
    assert bench.batches("n1") == [1]


def test_member_that_has_space_again_is_sent_all_it_missed() -> None:
    bench = Bench()
    first = bench.put()
    bench.put()
    bench.pipeline.take()
    bench.answer("n1", code=Code.NO_SPACE)
    bench.put()
    bench.pass_ms(RESEND_MS)
    bench.pipeline.take()
    bench.answer("n1", held=first.last)
    assert bench.spans("n1") == [(2, 3)]
    assert not bench.pipeline.full


def test_full_minority_blocks_nothing() -> None:
    bench = Bench()
    batch = bench.put()
    bench.answer("n1", code=Code.NO_SPACE)
    assert bench.pipeline.blocked_by(bench.now_ns) == []
    bench.answer("n2", "n3", held=batch.last)
    assert bench.pipeline.committed == batch.last
    bench.now_ns += 2 * STALLED_MS * MS
    assert bench.pipeline.blocked_by(bench.now_ns) == [], "nothing is in flight"


def test_full_majority_blocks_what_is_in_flight_until_there_is_space() -> None:
    bench = Bench()
    batch = bench.put()
    bench.answer("n3", held=batch.last)
    bench.answer("n2", "n1", code=Code.NO_SPACE)
    assert bench.pipeline.blocked_by(bench.now_ns) == ["n1", "n2"]
    bench.pass_ms(RESEND_MS)
    bench.answer("n2", held=batch.last)
    assert bench.pipeline.blocked_by(bench.now_ns) == []
    assert bench.pipeline.committed == batch.last


def test_full_disk_is_taken_for_the_reason_when_nothing_is_committed_for_long() -> None:
    """The other member that would be needed is down."""
    bench = Bench(is_connected=False)
    bench.connect("n1", "n2")
    bench.now_ns += 2 * STALLED_MS * MS
    batch = bench.put()
    bench.answer("n1", code=Code.NO_SPACE)
    bench.answer("n2", held=batch.last)
    bench.now_ns += (STALLED_MS - 1) * MS
    assert bench.pipeline.blocked_by(bench.now_ns) == []
    bench.now_ns += MS
    assert bench.pipeline.blocked_by(bench.now_ns) == ["n1"]
    bench.connect("n3")
    bench.answer("n3", held=batch.last)
    bench.put()
    assert bench.pipeline.blocked_by(bench.now_ns) == []


def test_newer_topology_knows_of_no_full_disks() -> None:
    bench = Bench()
    bench.put()
    bench.answer("n1", "n2", code=Code.NO_SPACE)
    bench.pipeline.adopt(StreamTopology(2, ("n1", "n2", "n4")), bench.now_ns)
    assert bench.pipeline.blocked_by(bench.now_ns) == []
