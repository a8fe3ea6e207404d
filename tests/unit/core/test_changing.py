"""Members that are changed on request, members that leave, and streams that are deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.core.bench import SESSION, STREAM, MemberBench, Truth
from tests.unit.core.served import Served
from tests.unit.making import THREE, W1
from walle.core.effects import Leave, SetTopology
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import NO_WRITER, ORIGIN, STREAM_CLUSTER
from walle.messages import (
    Adopt,
    AdoptReply,
    AskHeldReply,
    ChangeInfo,
    Claim,
    CreateStream,
    DeleteStream,
    Describe,
    DescribeChange,
    Failure,
    Gap,
    Put,
    PutReply,
    Read,
    ReadReply,
    Release,
    SetMembers,
    StreamInfo,
    StreamSettings,
    WriterStatus,
)

if TYPE_CHECKING:
    from walle.core.manager import Manager
    from walle.testing.cluster import Mail

TRUTH = Truth(9)
WITHOUT = StreamTopology(3, ("n2", "n3"))
DELETED = StreamTopology(3, ())


def acting(served: Served) -> str:
    """The name of the node that is the manager, once there is one."""

    def found() -> list[str]:
        return [name for name, node in served.nodes.items() if is_acting(node.manager)]

    served.run_until(lambda: bool(found()))
    (name,) = found()
    return name


def is_acting(manager: Manager | None) -> bool:
    return manager is not None and manager.is_acting


def insist(served: Served, message: Any, at: str = "n1") -> Any:
    """Asks until the node is not busy."""
    while True:
        answer = served.call(at, message)
        if not (isinstance(answer, Failure) and answer.code == Code.BUSY):
            return answer
        served.run(100)


def set_members(served: Served, name: str, *members: str, force: int = 0) -> Any:
    return insist(served, SetMembers(name, members, "", force))


def is_done(served: Served) -> bool:
    return not any(node.cluster.joint for node in served.nodes.values())


# --- members that leave ---------------------------------------------------------------------------


def test_member_that_is_left_out_keeps_its_promise_and_nothing_else() -> None:
    bench = MemberBench(TRUTH.held(9))
    member = bench.member
    member.joining.adopt(WITHOUT)
    assert bench.actions(SetTopology)[0].topology == WITHOUT
    assert bench.actions(Leave) == [Leave(STREAM)]
    assert member.history.is_empty
    assert (member.accepted, member.promise.writer) == (NO_WRITER, W1)
    member.joining.adopt(WITHOUT)
    assert bench.actions(Leave) == [], "it has left"


def test_node_that_died_before_it_left_leaves_when_it_starts() -> None:
    bench = MemberBench(TRUTH.held(9), topology=WITHOUT)
    assert bench.actions(Leave) == [Leave(STREAM)]


def test_who_waits_at_a_member_that_leaves_is_told_the_others() -> None:
    bench = MemberBench(TRUTH.held(9))
    member = bench.member
    member.reading.read(SESSION, 1, Read(STREAM, 10, 1_000, 5_000, 0, 0))
    member.watching.status(SESSION, 2, WriterStatus(STREAM, 1, W1, 5_000))
    assert bench.answers() == []
    member.joining.adopt(WITHOUT)
    told = bench.answers()
    assert [each.code for each in told] == [Code.NOT_A_MEMBER] * 2
    assert "n1 is not a member of /s; its members are n2, n3" in told[0].text


def test_who_waits_at_a_member_of_a_deleted_stream_is_told_that() -> None:
    bench = MemberBench(TRUTH.held(9))
    bench.member.reading.read(SESSION, 1, Read(STREAM, 10, 1_000, 5_000, 0, 0))
    bench.member.joining.adopt(DELETED)
    assert bench.answers() == [Failure(Code.UNKNOWN_STREAM, "stream /s was deleted")]


def test_commit_point_that_was_missing_is_of_no_interest_any_more() -> None:
    """A fetch for a jump is under way, and its record comes late."""
    bench = MemberBench(TRUTH.held(2))
    member = bench.member
    put = Put(STREAM, THREE.version, W1, 1, TRUTH.at(5), relay=0)
    member.put(SESSION, 1, put, None)
    member.joining.adopt(WITHOUT)
    bench.pass_ms(10_000)
    member.jump_to(TRUTH.at(5), TRUTH.batch(5, 5), W1)
    assert member.history.is_empty
    assert member.history.committed == ORIGIN


def test_node_is_a_member_again_with_nothing_but_its_promise() -> None:
    bench = MemberBench(TRUTH.held(9))
    member = bench.member
    member.joining.adopt(WITHOUT)
    member.joining.adopt(StreamTopology(4, ("n1", "n2"), ("n2", "n3")))
    assert member.is_named
    assert member.history.is_empty
    assert (member.accepted, member.promise.writer) == (NO_WRITER, W1)


# --- on request -----------------------------------------------------------------------------------


@pytest.fixture
def served() -> Served:
    return Served(4)


def test_change_tells_what_it_waits_for(served: Served) -> None:
    served.lose = lambda mail: isinstance(mail.message, AdoptReply)
    (new,) = set(served.names) - set(served.members)
    members = (new, *served.members[1:])
    assert len(set_members(served, "/s", *members).old_members) == 3
    told = insist(served, DescribeChange("/s"))
    assert isinstance(told, ChangeInfo)
    assert "to take the new version" in told.waits_for
    assert told.ranges == ()
    served.lose = lambda _mail: False
    served.run_until(lambda: is_done(served))
    told = insist(served, DescribeChange("/s"))
    assert {each.node_id for each in told.stream.members} == set(members)
    assert told == ChangeInfo(told.stream, "", ())


def test_change_to_a_node_that_is_down_is_taken_back(served: Served) -> None:
    (new,) = set(served.names) - set(served.members)
    served.crash(new)
    assert set_members(served, "/s", new).old_members
    served.run(5_000)
    assert not is_done(served)
    back = set_members(served, "/s", *served.members)
    assert (back.version, back.old_members) == (3, ())
    served.start(new)
    served.run_until(lambda: is_done(served))
    member = served.nodes[new].members.get(served.stream_id)
    assert member is None or not member.is_named
    claim = Claim(served.stream_id, "app:1", 1_000, wait_ms=5_000, force=0)
    assert insist(served, claim, served.members[0]).version == 3


def test_another_node_is_placed_in_the_place_of_one(served: Served) -> None:
    (new,) = set(served.names) - set(served.members)
    info = insist(served, SetMembers("/s", (), served.members[0], force=0))
    assert {each.node_id for each in info.members} == {new, *served.members[1:]}
    served.run_until(lambda: is_done(served))


def test_member_that_was_left_out_answers_so(served: Served) -> None:
    gone = served.members[0]
    set_members(served, "/s", *served.members[1:])
    served.run_until(lambda: not served.nodes[gone].members[served.stream_id].is_named)
    answer = served.call(gone, Read(served.stream_id, 1, 1_000, 0, 0, 0))
    assert answer.code == Code.NOT_A_MEMBER
    put = served.call(gone, Put(served.stream_id, 2, W1, 1, ORIGIN, relay=0))
    assert isinstance(put, PutReply)
    assert put.code == Code.STALE_VERSION


@pytest.mark.parametrize(
    "request_",
    [SetMembers("/no", ("n1",), "", 0), DescribeChange("/no"), DeleteStream("/no", 77)],
)
def test_unknown_streams_are_refused(served: Served, request_: Any) -> None:
    assert insist(served, request_).code == Code.UNKNOWN_STREAM


# --- deletion -------------------------------------------------------------------------------------


def delete(served: Served, at: str = "n1") -> Any:
    return insist(served, DeleteStream("/s", served.stream_id), at)


def is_gone(served: Served) -> bool:
    return all(node.cluster.is_deleted(served.stream_id) for node in served.nodes.values())


def test_deleted_stream_is_nowhere_any_more(served: Served) -> None:
    info = delete(served)
    assert isinstance(info, StreamInfo)
    assert info.members == ()
    served.run_until(lambda: is_gone(served))
    stream_id = served.stream_id
    for name, node in served.nodes.items():
        assert stream_id not in node.members
        assert served.call(name, Read(stream_id, 1, 1_000, 0, 0, 0)).code == Code.UNKNOWN_STREAM
        claim = served.call(name, Claim(stream_id, "a:1", 1_000, 500, 0))
        assert claim == Failure(Code.UNKNOWN_STREAM, f"stream {stream_id} was deleted")
    assert delete(served) == info, "repeated"
    put = served.call("n1", Put(stream_id, 1, W1, 1, ORIGIN, relay=0))
    assert (put.code, put.version) == (Code.NOT_A_MEMBER, (1 << 64) - 1)


def test_name_of_a_deleted_stream_is_free(served: Served) -> None:
    delete(served)
    made = insist(served, CreateStream("/s", (), StreamSettings(replicas=3)))
    assert made.stream_id > served.stream_id
    assert insist(served, Describe("/s")).stream_id == made.stream_id
    refused = insist(served, DeleteStream("/s", 1_000))
    assert refused.code == Code.BAD_REQUEST


def test_stream_is_deleted_whatever_is_under_way_with_it(served: Served) -> None:
    served.lose = lambda mail: isinstance(mail.message, Adopt)
    (new,) = set(served.names) - set(served.members)
    set_members(served, "/s", new)
    manager = acting(served)
    assert delete(served, manager).members == ()
    boss = served.nodes[manager].manager
    assert boss is not None
    assert boss.changing.changes == {}
    served.run_until(lambda: is_gone(served))


def test_what_was_told_late_does_not_bring_a_deleted_stream_back(served: Served) -> None:
    delete(served)
    served.run_until(lambda: is_gone(served))
    late = Adopt(served.stream_id, "/s", 2, ("n1", "n2"), ("n1", "n2", "n3"), 1, 0)
    served.nodes["n1"].receive("n2", 5, late, None)
    served.collect("n1")
    assert served.stream_id not in served.nodes["n1"].members


def test_claim_under_way_ends_with_the_stream(served: Served) -> None:
    served.lose = lambda mail: type(mail.message).__name__ == "NewWriterReply"
    served.ask("n1", Claim(served.stream_id, "a:1", 1_000, 30_000, 1), 9)
    served.run(10)
    delete(served)
    served.run_until(lambda: bool(served.answers_to(9)))
    answer = served.answer(9)
    assert isinstance(answer, Failure)
    assert answer.text == "/s was not claimed: it was deleted"


# --- `/cluster` itself ----------------------------------------------------------------------------


def cluster_members(served: Served) -> set[tuple[str, ...]]:
    """As each node knows them."""
    return {node.cluster.streams[STREAM_CLUSTER].topology.members for node in served.nodes.values()}


@pytest.mark.parametrize("stays", [True, False])
def test_members_of_the_cluster_stream_change(served: Served, *, stays: bool) -> None:
    manager = acting(served)
    others = [name for name in served.names if name != manager]
    members = tuple(sorted([manager, *others[:2]] if stays else others))
    set_members(served, "/cluster", *members)
    served.run_until(lambda: is_done(served) and cluster_members(served) == {members})
    assert acting(served) in members
    assert isinstance(insist(served, CreateStream("/t", ()), served.names[-1]), StreamInfo)


def test_node_that_was_left_out_of_the_cluster_stream_comes_back(served: Served) -> None:
    manager = acting(served)
    others = tuple(name for name in served.names if name != manager)
    set_members(served, "/cluster", *others)
    served.run_until(lambda: is_done(served) and cluster_members(served) == {others})
    served.restart(manager)
    set_members(served, "/cluster", manager)
    served.run_until(lambda: is_done(served) and cluster_members(served) == {(manager,)})
    served.run_until(lambda: acting(served) == manager)


@pytest.mark.parametrize("ms", [0, 0.3, 1, 2, 5, 20])
def test_manager_fails_while_the_cluster_streams_members_change(served: Served, ms: float) -> None:
    manager = acting(served)
    others = tuple(name for name in served.names if name != manager)
    boss = served.nodes[manager].manager
    assert boss is not None
    boss.change(SetMembers("/cluster", others, "", force=0), lambda _answer: None)
    served.collect(manager)
    served.run(ms)
    served.crash(manager)
    served.run(10_000)
    served.start(manager)
    set_members(served, "/cluster", *others)
    served.run_until(lambda: is_done(served) and cluster_members(served) == {others})


def test_only_successor_is_told_by_who_was_left_out() -> None:
    """n1 hands `/cluster` to n2, dies when it alone knows that, and tells n2 when it is back."""
    served = Served(2, 2)
    set_members(served, "/cluster", "n1")
    served.run_until(lambda: is_done(served) and cluster_members(served) == {("n1",)})
    last_id = served.nodes["n1"].cluster.applied_id

    def tells_the_end(mail: Mail) -> bool:
        """Of the entry behind the joint version, that it is committed."""
        message = mail.message
        if isinstance(message, Put):
            return message.committed.entry_id > last_id + 1
        return isinstance(message, Release) or (isinstance(message, Adopt) and message.version == 5)

    served.lose = tells_the_end
    set_members(served, "/cluster", "n2")
    served.run_until(lambda: not served.nodes["n1"].members[STREAM_CLUSTER].is_named)
    served.crash("n1")
    served.lose = lambda mail: isinstance(mail.message, ReadReply)  # n1 cannot read it, either
    served.run(10_000)
    assert not is_acting(served.nodes["n2"].manager)
    served.start("n1")
    served.run_until(lambda: acting(served) == "n2")


def test_next_manager_of_a_changed_cluster_stream_is_one_of_its_members(served: Served) -> None:
    first = acting(served)
    members = tuple(sorted([first, *[name for name in served.names if name != first][:2]]))
    set_members(served, "/cluster", *members)
    served.run_until(lambda: is_done(served) and cluster_members(served) == {members})
    served.lose = lambda mail: first in (mail.source, mail.target)
    served.run(5_000)
    served.lose = lambda mail: type(mail.message).__name__ == "NewWriterReply"
    served.run(20_000)
    served.lose = lambda _mail: False
    assert acting(served) in members


def test_successors_are_told_until_a_majority_of_them_knows(served: Served) -> None:
    manager = acting(served)
    others = tuple(name for name in served.names if name != manager)
    served.lose = lambda mail: (
        isinstance(mail.message, Adopt) and mail.message.version == 3 and mail.target != others[0]
    )
    set_members(served, "/cluster", *others)
    served.run(3_000)
    served.lose = lambda _mail: False
    served.run_until(lambda: is_done(served) and cluster_members(served) == {others})


def test_cluster_stream_may_become_smaller_where_nobody_can_take_a_place(served: Served) -> None:
    insist(served, SetMembers("/cluster", (), "n4", force=0))
    served.run_until(lambda: is_done(served) and cluster_members(served) == {("n1", "n2", "n3")})


def test_change_is_forced_where_too_few_are_known_to_hold_an_entry(served: Served) -> None:
    """The other new member never tells what it holds, so it counts as holding nothing."""
    served.lose = lambda mail: isinstance(mail.message, AskHeldReply)
    manager = acting(served)
    members = (manager, next(name for name in served.names if name != manager))
    set_members(served, "/cluster", *members)
    served.run(5_000)
    assert insist(served, DescribeChange("/cluster"), manager).ranges == (Gap(1, 4),)
    set_members(served, "/cluster", *members, force=1)
    served.run_until(lambda: is_done(served))
    assert any("ends by force" in alarm for alarm in served.alarms)


def test_who_cannot_claim_the_cluster_stream_tries_again(served: Served) -> None:
    """Its claim fails for want of a majority."""
    first = acting(served)
    other = next(name for name in served.names if name != first)
    served.crash(first)
    served.lose = lambda mail: mail.source == other
    served.run(30_000)
    served.lose = lambda _mail: False
    served.start(first)
    assert acting(served)
