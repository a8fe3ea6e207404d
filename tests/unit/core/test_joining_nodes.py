"""Nodes that join a cluster, follow it though no members of `/cluster`, move, and are removed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.core.bench import NodeBench
from tests.unit.core.served import Served
from walle.core import nodes as nodes_module
from walle.core.cluster import (
    ClusterState,
    encode_form,
    encode_members,
    encode_node,
    encode_remove_node,
    encode_trim,
)
from walle.core.effects import SetCluster
from walle.core.registration import Registration
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import STREAM_CLUSTER, Position
from walle.messages import (
    Adopt,
    AskWriter,
    ClusterInfo,
    CreateStream,
    Describe,
    Failure,
    ListNodes,
    NodeRecord,
    Read,
    RegisterNode,
    RemoveNode,
    SetMembers,
    StreamInfo,
)
from walle.testing.cluster import PEER_SESSIONS

CLUSTER_BYTES = 16


def joined(*at: str) -> Served:
    """A cluster of three that n4 has joined."""
    served = Served()
    served.join("n4", *(at or ("n1", "n2")))
    served.run_until(lambda: knows(served, "n4"))
    return served


def knows(served: Served, name: str) -> bool:
    """Whether every node that runs knows the node as it is."""
    return all(
        node.cluster.nodes.get(name) == served.nodes[name].node for node in served.nodes.values()
    )


def insist(served: Served, at: str, message: Any) -> Any:
    """Asks until the node is not busy."""
    while True:
        answer = served.call(at, message)
        if not (isinstance(answer, Failure) and answer.code == Code.BUSY):
            return answer
        served.run(100)


def manager(served: Served) -> str:
    (name,) = [
        name
        for name, node in served.nodes.items()
        if node.manager is not None and node.manager.is_acting
    ]
    return name


# --- joining --------------------------------------------------------------------------------------


def test_node_that_has_joined_serves_like_the_others() -> None:
    served = joined()
    assert insist(served, "n4", Describe("/s")).name == "/s"
    made = insist(served, "n4", CreateStream("/t", ("n1", "n2", "n4")))
    assert isinstance(made, StreamInfo)
    served.run_until(lambda: made.stream_id in served.nodes["n4"].members)
    info = served.call("n4", ListNodes())
    assert info == served.call("n1", ListNodes())
    assert [node.node_id for node in info.nodes] == ["n1", "n2", "n3", "n4"]
    assert info.members == ("n1", "n2", "n3")


def test_node_that_has_joined_finds_the_cluster_again() -> None:
    """Also when those where it joined are nowhere to be found."""
    served = joined("n1")
    made = insist(served, "n4", CreateStream("/t", ("n3", "n4")))
    served.run_until(lambda: made.stream_id in served.nodes["n4"].members)
    served.crash("n1")
    served.restart("n4")
    served.run_until(lambda: served.nodes["n4"].cluster.find("/t") is not None)
    assert served.nodes["n4"].peers() == {name: f"{name}:1" for name in ("n1", "n2", "n3")}
    assert insist(served, "n4", Describe("/s")).name == "/s"


def test_node_waits_for_a_cluster_that_is_not_formed() -> None:
    served = Served()
    for name in served.names:
        served.crash(name)
        served.disks[name] = served._make_disk()
    served.start("n2")
    served.join("n4", "n2")
    served.run(1_000)
    answer = served.call("n2", ListNodes())
    assert answer == Failure(Code.BUSY, "n2 belongs to no cluster yet: too few of its nodes run")
    served.start("n1")
    served.start("n3")
    served.run_until(lambda: knows(served, "n4"))


def test_interrupted_join_is_repeated() -> None:
    served = Served()
    served.lose = lambda mail: isinstance(mail.message, ClusterInfo) and mail.target == "n4"
    served.join("n4", "n1")
    served.run(2_000)
    assert not served.nodes["n4"].cluster.nodes
    served.lose = lambda mail: isinstance(mail.message, RegisterNode) and mail.source == "n4"
    served.run(2_000)
    served.crash("n4", kept=0)
    served.lose = lambda _mail: False
    served.start("n4")
    served.run_until(lambda: knows(served, "n4"))


def test_node_registers_at_another_one_when_the_first_does_not_answer() -> None:
    served = Served()
    served.lose = lambda mail: isinstance(mail.message, RegisterNode) and mail.target == "n1"
    served.join("n4", "n1", "n2")
    served.run_until(lambda: knows(served, "n4"))


def test_nodes_of_different_clusters_cannot_be_joined_at_once() -> None:
    served = Served()
    served.nodes["n2"].cluster.cluster_id = b"another cluster!"
    served.join("n4", "n1", "n2")
    served.run_until(lambda: "n4" in served.fatal)
    assert "these nodes belong to different clusters: n1:1 to " in served.fatal["n4"]


def test_node_joins_while_the_manager_fails_over() -> None:
    served = Served()
    dead = manager(served)
    served.crash(dead)
    at = next(name for name in served.nodes)
    served.join("n4", at)
    served.run_until(lambda: knows(served, "n4"))
    served.start(dead)
    served.run_until(lambda: knows(served, "n4"))


def test_answer_of_another_kind_tells_nothing_of_the_cluster() -> None:
    bench = NodeBench()
    joined_to: list[SetCluster] = []
    Registration(
        bench.context,
        node=record(),
        cluster=ClusterState(),
        join=("h:1", "h:2"),
        on_joined=joined_to.append,
    ).start()
    asked = bench.asked(ListNodes)
    bench.reply(asked["h:1"], Failure(Code.BAD_REQUEST, "what?"))
    assert bench.asked(RegisterNode) == {}
    info = ClusterInfo(b"c" * 16, 9, (record(),), 3, ("n1",), ("n2",), 5, 6)
    bench.reply(asked["h:2"], info)
    bench.reply(bench.asked(RegisterNode)["h:2"], info)
    assert joined_to == [
        SetCluster(b"c" * 16, (record(),), StreamTopology(3, ("n1",), ("n2",), 5, 6), 9)
    ]
    assert bench.is_idle
    looked, joined = bench.context.outbox.notes
    assert looked == "looks for the cluster at h:1, h:2", "so that who waits for it knows why"
    assert joined == f"joins the cluster {(b'c' * 16).hex()}"


def test_member_that_does_not_know_the_node_yet_catches_up() -> None:
    served = Served()
    served.cut_off = {"n3"}
    served.join("n4", "n1")
    served.run_until(lambda: "n4" in served.nodes["n1"].cluster.nodes)
    served.run_until(lambda: bool(served.nodes["n4"].cluster.nodes))
    notes = served.nodes["n4"].context.outbox.notes
    served.cut_off = set()
    served.ask("n4", Describe("/unknown"))  # which n4 asks all members of `/cluster` about
    served.run_until(lambda: knows(served, "n4"))
    assert notes[-1] == "n3 refuses this node: n3 does not know n4 yet"


def test_node_that_is_no_member_of_the_cluster_stream_looks_when_it_lacks_something() -> None:
    served = joined()
    served.run(5_000)
    made = insist(served, "n1", CreateStream("/t", ("n1", "n4")))
    refused = served.call("n4", Read(made.stream_id, 1, 1, 0, 0, 0))
    assert refused.code == Code.BUSY
    served.run(100)
    assert made.stream_id in served.nodes["n4"].members


def test_request_is_refused_for_a_while_when_no_member_knows_of_a_manager() -> None:
    served = joined()
    for name in ("n1", "n2"):
        served.crash(name)
    served.run(5_000)
    busy = served.call("n4", CreateStream("/t", ()))
    assert busy == Failure(Code.BUSY, "the cluster has no topology manager at the moment")


def test_all_follow_on_when_the_members_of_the_cluster_stream_change() -> None:
    served = joined()
    insist(served, "n1", SetMembers("/cluster", ("n1", "n2", "n4"), "", 0))
    ended = StreamTopology(3, ("n1", "n2", "n4"))
    served.run_until(
        lambda: all(
            node.cluster.streams[STREAM_CLUSTER].topology == ended for node in served.nodes.values()
        )
    )
    for name in ("n3", "n4"):
        served.restart(name)
    served.run_until(lambda: knows(served, "n4"))
    served.crash("n1")
    assert insist(served, "n3", CreateStream("/t", ("n2", "n3"))).name == "/t"
    served.run_until(
        lambda: all(node.cluster.find("/t") is not None for node in served.nodes.values())
    )
    assert manager(served) in ("n2", "n4")


# --- names and identities -------------------------------------------------------------------------


def test_wiped_node_is_refused_under_its_name_until_that_is_removed() -> None:
    served = joined()
    served.crash("n4")
    served.join("n4", "n1", identity=b"after the wipe  ")
    served.run_until(lambda: "n4" in served.fatal)
    assert "its data directory was replaced" in served.fatal["n4"]
    assert "walle node remove n4" in served.fatal["n4"]
    assert isinstance(insist(served, "n2", RemoveNode("n4")), ClusterInfo)
    served.join("n4", "n1", identity=b"after the wipe  ")
    served.run_until(lambda: knows(served, "n4"))


def test_new_node_is_no_member_of_what_the_old_one_of_its_name_was() -> None:
    """It reads of that when it follows `/cluster` from the beginning."""
    served = joined()
    made = insist(served, "n1", CreateStream("/t", ("n1", "n2", "n4")))
    insist(served, "n1", SetMembers("/t", ("n1", "n2", "n3"), "", 0))
    served.run_until(lambda: is_removable(served, "n4"))
    served.crash("n4")
    served.join("n4", "n1", identity=b"after the wipe  ")
    served.run_until(lambda: knows(served, "n4"))
    served.run_until(lambda: served.nodes["n4"].cluster.find("/t") is not None)
    assert made.stream_id not in served.nodes["n4"].members
    late = Adopt(made.stream_id, "/t", 1, ("n1", "n2", "n4"), (), 1, 0)
    served.nodes["n4"].receive("n1", 1, late, None)
    served.restart("n4")
    served.run(2_000)
    assert made.stream_id not in served.nodes["n4"].members


def is_removable(served: Served, name: str) -> bool:
    return isinstance(insist(served, "n1", RemoveNode(name)), ClusterInfo)


def test_removed_node_must_not_run_any_more() -> None:
    served = joined()
    insist(served, "n1", RemoveNode("n4"))
    served.run_until(lambda: "n4" in served.fatal)
    assert "n4 was removed from the cluster" in served.fatal["n4"]
    served.start("n4")
    served.run_until(lambda: "n4" not in served.nodes)
    assert "with an empty data directory, it can join" in served.fatal["n4"]
    refused = insist(served, "n1", RegisterNode(record("n9", served.identities["n4"])))
    assert refused.code == Code.REMOVED
    assert all("n4" not in node.peers() for node in served.nodes.values())


def test_removed_node_may_ask_no_more_than_a_client() -> None:
    served = joined()
    session = PEER_SESSIONS + served.names.index("n4")
    node = served.nodes["n1"]
    served.run_until(lambda: node._may_ask(session, AskWriter(STREAM_CLUSTER, 1)))
    insist(served, "n1", RemoveNode("n4"))
    served.run_until(lambda: "n4" not in node.cluster.nodes)
    assert not node._may_ask(session, AskWriter(STREAM_CLUSTER, 1))


def test_removal_may_be_repeated_and_is_refused_while_streams_need_the_node() -> None:
    served = joined()
    for index in range(7):
        insist(served, "n1", CreateStream(f"/t{index}", ("n1", "n2", "n4")))
    refused = insist(served, "n4", RemoveNode("n4"))
    assert refused == Failure(
        Code.BAD_REQUEST,
        "n4 is a member of /t0, /t1, /t2, /t3, /t4 and 2 more: `walle node drain n4` moves them to "
        "other nodes; where none can take its place, add a node first",
    )
    assert "n3 is a member of /cluster, /s:" in insist(served, "n1", RemoveNode("n3")).text
    assert "no node 'n7'; the nodes are n1, n2, n3, n4" in (
        insist(served, "n1", RemoveNode("n7")).text
    )
    served = joined()
    known = served.call("n1", ListNodes())
    assert insist(served, "n1", RegisterNode(served.nodes["n4"].node)) == known
    first = insist(served, "n1", RemoveNode("n4"))
    assert insist(served, "n2", RemoveNode("n4")) == first


def test_no_stream_is_created_on_a_node_that_is_being_removed() -> None:
    served = joined()
    at = manager(served)
    served.ask(at, RemoveNode("n4"), 7)
    served.ask(at, CreateStream("/t", ("n1", "n4")), 8)
    served.ask(at, RemoveNode("n4"), 9)
    served.run_until(lambda: all(served.answers_to(each) for each in (7, 8, 9)))
    assert isinstance(served.answer(7), ClusterInfo)
    busy = served.answer(8)
    assert isinstance(busy, Failure)
    assert "another change is under way" in busy.text
    served = joined()
    at = manager(served)
    served.ask(at, CreateStream("/t", ("n1", "n4")), 7)
    served.ask(at, RemoveNode("n4"), 8)
    served.run_until(lambda: all(served.answers_to(each) for each in (7, 8)))
    assert served.answer(8).code == Code.BUSY


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["n2", "n4"])
def test_node_that_starts_with_another_address_is_known_by_it(name: str) -> None:
    served = joined()
    served.crash(name)
    served.addresses[name] = f"{name}:2"
    served.start(name)
    served.run_until(lambda: knows(served, name))
    for other in set(served.names) - {name}:
        assert served.nodes[other].peers()[name] == f"{name}:2"
    served.restart("n4")
    assert served.nodes["n4"].cluster.nodes[name].address == f"{name}:2", "from its disk"
    served.run_until(lambda: served.nodes["n4"].cluster.find("/s") is not None)
    assert served.nodes["n4"].cluster.nodes[name].address == f"{name}:2"


def test_node_whose_settings_the_cluster_refuses_does_not_run() -> None:
    served = joined()
    served.crash("n4")
    served.addresses["n4"] = "nowhere"
    served.start("n4")
    served.run_until(lambda: "n4" in served.fatal)
    assert "address: must be host:port" in served.fatal["n4"]


def test_what_is_known_does_not_go_back_while_entries_are_read() -> None:
    """A node that starts again would look for the others where they were at first."""
    three = [record(name, name.encode() * 8) for name in ("n1", "n2", "n3")]
    moved = three[1]._replace(address="h:2")
    four = StreamTopology(2, ("n1", "n2", "n4"), ("n1", "n2", "n3"))
    entries = [
        encode_form(b"c" * 16, three),
        encode_node(record()),
        encode_node(moved),
        encode_members(STREAM_CLUSTER, four),
        encode_members(STREAM_CLUSTER, four._replace(version=3, old_members=())),
        encode_trim(STREAM_CLUSTER, Position(1, 7)),
        encode_remove_node(three[2]),
    ]
    before, after = ClusterState(), ClusterState()
    for entry_id, entry in enumerate(entries, start=1):
        before.apply(entry_id, entry)
    known = before.known()
    assert known.nodes == (three[0], moved, record())
    assert known.topology == StreamTopology(3, ("n1", "n2", "n4"), (), 2, 7)
    after.know(known)
    for entry_id, entry in enumerate(entries, start=1):
        after.apply(entry_id, entry)
        assert after.known() == known
    assert after.removed == before.removed == {three[2].identity: "n3"}
    assert after.registered == before.registered
    after.apply(len(entries) + 1, encode_node(three[0]._replace(capacity=9)))
    assert after.nodes["n1"].capacity == 9


# --- what may be registered -----------------------------------------------------------------------


def record(node_id: str = "n4", identity: bytes = b"4" * 16, **changes: Any) -> NodeRecord:
    return NodeRecord(node_id, "h:1", identity)._replace(**changes)


@pytest.mark.parametrize(
    ("node", "text"),
    [
        (record("-"), "must be a node id"),
        (record(address="h"), "must be host:port"),
        (record(identity=bytes(16)), "an identity that is not all zeros"),
        (record(address="\x01" * 60_000), "... is longer than 255 bytes"),
        (record(zone="z" * 64), "a zone has at most 63 bytes"),
        (record(zone="a\nb"), "no control characters"),
        (record(capacity=0), "a capacity of 0; 1 to 1000000 are possible"),
        (record("n1"), "knows n1 by another identity"),
        (record("n4", b"1" * 16), "this identity is that of n1"),
    ],
)
def test_impossible_node_is_refused(node: NodeRecord, text: str) -> None:
    cluster = ClusterState()
    cluster.form(b"c" * CLUSTER_BYTES, [record("n1", b"1" * 16)])
    refusal = nodes_module.plan_node(cluster, node)
    assert refusal is not None
    assert text in refusal.text


def test_nodes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes_module, "NODES_COUNT_MAX", 1)
    cluster = ClusterState()
    cluster.form(b"c" * CLUSTER_BYTES, [record("n1", b"1" * 16)])
    refusal = nodes_module.plan_node(cluster, record())
    assert refusal is not None
    assert "1 nodes at most" in refusal.text
    assert nodes_module.plan_node(cluster, record("n1", b"1" * 16, address="h:2")) is None
