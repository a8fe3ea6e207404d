"""The manager's side of trims and of retention: what is asked of whom, and what is put."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.core.bench import NodeBench, Truth
from walle.core.cluster import (
    ClusterState,
    encode_create_stream,
    encode_form,
    encode_members,
    encode_settings,
    encode_trim,
)
from walle.core.topology import StreamTopology
from walle.core.trimming import ASK_MS, NO_BOUND, RETENTION_MS, Trimming
from walle.errors import Code
from walle.messages import (
    Adopt,
    AskOldest,
    Failure,
    NodeRecord,
    Read,
    ReadReply,
    StreamInfo,
    StreamSettings,
    TrimStream,
)

if TYPE_CHECKING:
    from collections.abc import Callable

TRUTH = Truth(12)
NODES = [NodeRecord(f"n{index}", f"n{index}:1", bytes(16)) for index in (1, 2, 3, 4)]
WALL_US = 1_000_000_000
BOUNDED = StreamSettings(retention_max_bytes=1_000)
GAP = Failure(Code.GAP, "a gap")


class Bench(NodeBench):
    """The manager of a cluster with the streams 2, /a, and 3, /b."""

    def __init__(self, a: StreamSettings = BOUNDED, b: StreamSettings | None = None) -> None:
        super().__init__()
        self.context.wall_us = WALL_US
        self.cluster = ClusterState()
        self.cluster.apply(1, encode_form(bytes(16), NODES))
        self.cluster.apply(2, encode_create_stream("/a", ["n1", "n2", "n3"], a))
        self.cluster.apply(3, encode_create_stream("/b", ["n2", "n3"], b or StreamSettings()))
        self.puts: list[tuple[str, dict[str, Any]]] = []
        self.refusal: Failure | None = None
        self.results: list[Any] = []
        self.trimming = Trimming(self.context, self.cluster, self._put)

    def _put(
        self, name: str, change: bytes, answer: Callable[[StreamInfo | Failure], None]
    ) -> None:
        if self.refusal is not None:
            answer(self.refusal)
            return
        self.puts.append((name, json.loads(change)))
        record = self.cluster.apply(self.cluster.applied_id + 1, change)
        assert record is not None
        answer(self.cluster.info(record))

    def trim(self, entry_id: int = 0, before_us: int = 0, name: str = "/a") -> None:
        self.trimming.trim(TrimStream(name, entry_id, before_us), self.results.append)

    def oldest(self) -> list[tuple[int, int, int]]:
        """What is newly asked about the oldest entries: stream, time, bytes."""
        return [tuple(each.message) for each in self.asked(AskOldest).values()][:1]

    def refused(self) -> list[tuple[int, int, int]]:
        """The same; no member can tell."""
        asked = self.asked(AskOldest)
        for each in asked.values():
            self.reply(each, GAP)
        return [tuple(each.message) for each in asked.values()][:1]

    def answer(
        self, kind: type[Any], entry_id: int | None, *nodes: str, first: int = 1, last: int = 9
    ) -> None:
        """These nodes answer the newest question of that kind with that entry's record."""
        asked = self.asked(kind)
        reply = ReadReply(2, first, TRUTH.at(last))
        batch = None if entry_id is None else TRUTH.batch(entry_id, entry_id)
        for node in nodes:
            self.reply(asked[node], reply, batch)


def trim_to(entry_id: int, stream_id: int = 2) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encode_trim(stream_id, TRUTH.at(entry_id - 1)))
    return found


# --- on request -----------------------------------------------------------------------------------


def test_first_record_to_stay_tells_the_chain_of_the_one_before() -> None:
    bench = Bench()
    bench.trim(5)
    asked = bench.asked(Read)
    assert set(asked) == {"n1", "n2", "n3"}
    assert asked["n2"].message == Read(2, 5, 1, 0, linearizable=1, local=0)
    bench.reply(asked["n2"], ReadReply(2, 1, TRUTH.at(9)), TRUTH.batch(5, 5))
    assert bench.puts == [("/a", trim_to(5))]
    assert [each.first_entry_id for each in bench.results] == [5]


def test_all_members_are_told() -> None:
    bench = Bench()
    bench.trim(5)
    bench.answer(Read, 5, "n1")
    told = bench.asked(Adopt)
    assert set(told) == {"n1", "n2", "n3"}
    topology = StreamTopology(1, ("n1", "n2", "n3"), (), 5, TRUTH.at(4).chain)
    assert told["n1"].message == Adopt(2, "/a", *topology)


def test_last_committed_entry_stays_whatever_is_asked_for() -> None:
    bench = Bench()
    bench.trim(500)
    bench.answer(Read, None, "n1", last=9)
    asked = bench.asked(Read)
    assert asked["n1"].message == Read(2, 9, 1, 0, linearizable=0, local=0)
    bench.reply(asked["n1"], ReadReply(2, 1, TRUTH.at(9)), TRUTH.batch(9, 9))
    assert bench.puts == [("/a", trim_to(9))]


@pytest.mark.parametrize(("first", "last"), [(7, 9), (7, 6), (1, 0)])
def test_nothing_is_put_where_there_is_nothing_to_trim(first: int, last: int) -> None:
    """The members begin later already; or they hold nothing."""
    bench = Bench()
    bench.trim(5)
    bench.answer(Read, None, "n1", first=first, last=last)
    assert bench.puts == []
    assert [type(each) for each in bench.results] == [StreamInfo]
    assert bench.asked(Read) == {}


def test_member_that_cannot_read_the_record_leaves_it_to_another() -> None:
    bench = Bench()
    bench.trim(5)
    asked = bench.asked(Read)
    bench.reply(asked["n1"], GAP)
    bench.reply(asked["n2"], ReadReply(2, 1, TRUTH.at(9)), None)
    assert bench.results == []
    bench.reply(asked["n3"], ReadReply(2, 1, TRUTH.at(9)), TRUTH.batch(5, 5))
    assert bench.puts == [("/a", trim_to(5))]


def test_trim_is_given_up_when_nobody_can_tell() -> None:
    bench = Bench()
    bench.trim(5)
    bench.pass_ms(ASK_MS)
    assert [each.code for each in bench.results] == [Code.UNAVAILABLE]


def test_time_is_looked_up_by_the_members() -> None:
    bench = Bench()
    bench.trim(before_us=777)
    asked = bench.asked(AskOldest)
    assert asked["n3"].message == AskOldest(2, 777, NO_BOUND)
    bench.reply(asked["n3"], ReadReply(2, 1, TRUTH.at(9)), TRUTH.batch(4, 4))
    assert bench.puts == [("/a", trim_to(4))]


def test_time_before_which_nothing_was_written_trims_nothing() -> None:
    bench = Bench()
    bench.trim(before_us=777)
    bench.answer(AskOldest, 1, "n1")
    assert bench.puts == []
    assert [each.first_entry_id for each in bench.results] == [1]


@pytest.mark.parametrize("is_joint", [True, False])
def test_stream_that_changes_while_its_record_is_read_is_looked_at_again(is_joint: bool) -> None:
    bench = Bench()
    bench.trim(5)
    if is_joint:
        joint = StreamTopology(2, ("n1", "n4"), ("n1", "n2", "n3"))
        bench.cluster.apply(4, encode_members(2, joint))
    else:
        bench.cluster.apply(4, encode_trim(2, TRUTH.at(6)))
    bench.answer(Read, 5, "n1")
    assert bench.puts == []
    (result,) = bench.results
    if is_joint:
        assert result.code == Code.BUSY
    else:
        assert result.first_entry_id == 7


def test_manager_that_cannot_put_says_so_and_tells_nobody() -> None:
    bench = Bench()
    bench.refusal = Failure(Code.BUSY, "no majority")
    bench.trim(5)
    bench.answer(Read, 5, "n1")
    assert bench.results == [bench.refusal]
    assert bench.asked(Adopt) == {}


# --- retention ------------------------------------------------------------------------------------


def test_bounds_are_looked_after_every_few_seconds() -> None:
    bench = Bench()
    bench.trimming.start()
    assert bench.oldest() == []
    for _ in range(3):
        bench.pass_ms(RETENTION_MS)
        bench.answer(AskOldest, 1, "n1")
    assert bench.puts == []


def test_bound_that_is_exceeded_by_a_tenth_is_restored() -> None:
    bench = Bench(StreamSettings(retention_max_bytes=1_000, retention_max_age_ms=50_000))
    bench.trimming.start()
    bench.pass_ms(RETENTION_MS)
    asked = bench.asked(AskOldest)
    assert asked["n1"].message == AskOldest(2, WALL_US - 55_000_000, 1_100)
    bench.reply(asked["n1"], ReadReply(2, 1, TRUTH.at(9)), TRUTH.batch(2, 2))
    asked = bench.asked(AskOldest)
    assert asked["n1"].message == AskOldest(2, WALL_US - 50_000_000, 1_000)
    bench.reply(asked["n1"], ReadReply(2, 1, TRUTH.at(9)), TRUTH.batch(4, 4))
    assert bench.puts == [("/a", trim_to(4))]


@pytest.mark.parametrize(
    ("settings", "before_us", "bytes_max"),
    [
        (StreamSettings("none", 1_000, 0), 0, 1_100),
        (StreamSettings("none", 0, 1_000), WALL_US - 1_100_000, NO_BOUND),
        (StreamSettings("none", NO_BOUND, NO_BOUND), 0, NO_BOUND),
    ],
)
def test_each_bound_stands_for_itself(
    settings: StreamSettings, before_us: int, bytes_max: int
) -> None:
    bench = Bench(settings)
    bench.trimming.start()
    bench.pass_ms(RETENTION_MS)
    assert bench.oldest() == [(2, before_us, bytes_max)]


def test_streams_come_one_after_the_other_and_those_without_bounds_not_at_all() -> None:
    bench = Bench(BOUNDED, BOUNDED)
    bench.cluster.apply(4, encode_create_stream("/c", ["n1"]))
    bench.trimming.start()
    bench.pass_ms(RETENTION_MS)
    seen = bench.refused() + bench.refused()
    assert sorted(stream_id for stream_id, *_ in seen) == [2, 3]
    assert bench.refused() == [], "then comes a pause"
    bench.pass_ms(RETENTION_MS)
    assert bench.refused() == seen[:1]


def test_stream_whose_members_change_is_passed_over() -> None:
    bench = Bench(BOUNDED, BOUNDED)
    bench.cluster.apply(4, encode_members(2, StreamTopology(2, ("n1", "n4"), ("n1", "n2", "n3"))))
    bench.trimming.start()
    bench.pass_ms(RETENTION_MS)
    assert bench.refused() == [(3, 0, 1_100)]
    assert bench.refused() == []


def test_newest_settings_count() -> None:
    bench = Bench()
    bench.trimming.start()
    bench.cluster.apply(4, encode_settings(2, StreamSettings("none", 500)))
    bench.pass_ms(RETENTION_MS)
    assert bench.refused() == [(2, 0, 550)]
    bench.cluster.apply(5, encode_settings(2, StreamSettings()))
    bench.pass_ms(RETENTION_MS)
    assert bench.oldest() == []


@pytest.mark.parametrize("step", [1, 2, 3])
def test_retention_goes_on_after_whatever_fails(step: int) -> None:
    """Nobody answers; then nobody answers the second time; then the entry cannot be put."""
    bench = Bench()
    bench.refusal = Failure(Code.BUSY, "no majority")
    bench.trimming.start()
    bench.pass_ms(RETENTION_MS)
    for _ in range(step - 1):
        bench.answer(AskOldest, 4, "n2")
    if step < 3:
        bench.pass_ms(ASK_MS)
    bench.refusal = None
    bench.asked(AskOldest)
    bench.pass_ms(RETENTION_MS)
    for _ in range(2):
        bench.answer(AskOldest, 4, "n2")
    assert bench.puts == [("/a", trim_to(4))]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_nothing_is_looked_after_by_a_former_manager(step: int) -> None:
    bench = Bench()
    bench.trimming.stop()
    bench.trimming.start()
    for number in range(step):
        bench.pass_ms(RETENTION_MS if number == 0 else 0)
        asked = bench.asked(AskOldest)["n1"]
        if number < step - 1:
            bench.reply(asked, ReadReply(2, 1, TRUTH.at(9)), TRUTH.batch(4, 4))
    bench.trimming.stop()
    bench.asked(AskOldest)
    bench.pass_ms(10 * RETENTION_MS)
    assert bench.oldest() == []
    assert bench.puts == []
    assert bench.is_idle
