"""The manager leaves a stream to what is left of its members, and `/cluster` to what was set."""

from __future__ import annotations

import pytest

from tests.unit.core.test_cluster import with_stream
from tests.unit.core.test_manager import formed, manager_of, managers
from walle.core.cluster import Refusal, StreamRecord, encode_members
from walle.core.manager import LEASE_MS
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import STREAM_CLUSTER
from walle.messages import CreateStream, RecoverStream, StreamInfo


def asked(*members: str, version: int = 1, name: str = "/s") -> RecoverStream:
    return RecoverStream(name, version, members)


def test_members_that_are_left_are_the_only_ones() -> None:
    plan = with_stream("n1", "n2", "n3").plan_recovery(asked("n3", "n1"))
    assert isinstance(plan, StreamRecord)
    assert plan.topology == StreamTopology(2, ("n1", "n3"))


def test_change_that_was_under_way_is_given_up() -> None:
    cluster = with_stream("n1", "n2", "n3")
    cluster.apply(3, encode_members(2, StreamTopology(2, ("n1", "n4"), ("n1", "n2", "n3"))))
    plan = cluster.plan_recovery(asked("n4", version=2))
    assert isinstance(plan, StreamRecord)
    assert plan.topology == StreamTopology(3, ("n4",))


def test_recovery_may_be_repeated() -> None:
    cluster = with_stream("n1", "n2", "n3")
    cluster.apply(3, encode_members(2, StreamTopology(2, ("n1",))))
    assert cluster.plan_recovery(asked("n1")) == cluster.find("/s")


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (asked("n4"), Code.BAD_REQUEST, "/s is recovered with one or two of n1, n2, n3"),
        (asked(), Code.BAD_REQUEST, "one or two of"),
        (asked("n1", "n2", "n3"), Code.BAD_REQUEST, "one or two of"),
        (asked("n1", version=7), Code.BAD_REQUEST, "has version 1, not 7 any more; look again"),
        (asked("n1", name="/none"), Code.UNKNOWN_STREAM, "no stream /none"),
        (asked("n1", name="/cluster"), Code.BAD_REQUEST, "/cluster cannot be changed but"),
    ],
)
def test_impossible_recovery_is_refused(request_: RecoverStream, code: Code, text: str) -> None:
    refusal = with_stream("n1", "n2", "n3").plan_recovery(request_)
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert text in refusal.text


def test_manager_recovers_a_stream() -> None:
    cluster = formed(3)
    cluster.ask("n1", CreateStream("/s", ("n1", "n2", "n3")), 1)
    cluster.run_until(lambda: bool(cluster.answers_to(1)))
    for request_id in (2, 3):
        cluster.ask("n1", asked("n2"), request_id)
        cluster.run(1_000)
        info = cluster.answer(request_id)
        assert isinstance(info, StreamInfo)
        assert (info.version, [each.node_id for each in info.members]) == (2, ["n2"])
    cluster.ask("n1", asked("n9"), 4)
    cluster.run_until(lambda: bool(cluster.answers_to(4)))
    assert cluster.answer(4).code == Code.BAD_REQUEST
    cluster.run(1_000)
    assert not cluster.nodes["n1"].members[2].is_named
    assert cluster.nodes["n2"].members[2].topology.members == ("n2",)


def test_manager_tells_of_members_that_were_set_by_hand() -> None:
    """As on the files of a stopped node: the entries do not know of it."""
    cluster = formed(1)
    (name,) = managers(cluster)
    manager, member = manager_of(cluster, name), cluster.nodes[name].members[STREAM_CLUSTER]
    topology = StreamTopology(1_001, (name,))
    manager.stop()
    member.set_topology(topology)
    for _ in range(2):
        manager.watch()
        cluster.run(2 * LEASE_MS)
        manager.stop()
    assert cluster.nodes[name].cluster.topology_of(STREAM_CLUSTER) == topology
    assert cluster.nodes[name].cluster.applied_id == 2, "once"
