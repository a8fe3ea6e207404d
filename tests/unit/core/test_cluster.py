"""What the entries of `/cluster` say, and which streams may be created."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walle.core.cluster import (
    ClusterState,
    Refusal,
    StreamRecord,
    cluster_topology,
    encode_create_stream,
    encode_delete_stream,
    encode_form,
    encode_members,
    encode_node,
    encode_remove_node,
    encode_settings,
    encode_trim,
)
from walle.core.effects import SetCluster
from walle.core.topology import DELETED, StreamTopology
from walle.errors import Code, InvariantError
from walle.ids import STREAM_CLUSTER, Position
from walle.limits import ENTRY_ID_MAX, MEMBERS_COUNT_MAX, STREAM_NAME_BYTES_MAX
from walle.messages import (
    UNCHANGED,
    CreateStream,
    DeleteStream,
    NodeAddress,
    NodeRecord,
    RecoverStream,
    SetMembers,
    SetStream,
    StreamSettings,
)

CLUSTER_ID = bytes(range(16))
NAMES = st.text(min_size=1, max_size=10)
ZSTD = StreamSettings(compression="zstd")
KEPT = StreamSettings(retention_max_bytes=1_000, retention_max_age_ms=60_000)
LEASES = StreamSettings(replicas=2, lease_min_ms=500, lease_max_ms=2_000)
BEGINNING = Position(100, 2**64 - 1)


def nodes(count: int) -> tuple[NodeRecord, ...]:
    return tuple(
        NodeRecord(f"n{index}", f"host{index}:1", bytes([index] * 16), f"z{index}", 10 * index)
        for index in range(1, count + 1)
    )


def formed(count: int = 3) -> ClusterState:
    cluster = ClusterState()
    cluster.apply(1, encode_form(CLUSTER_ID, nodes(count)))
    return cluster


# --- entries --------------------------------------------------------------------------------------


def test_first_entry_forms_the_cluster_and_creates_its_stream() -> None:
    cluster = formed()
    assert cluster.cluster_id == CLUSTER_ID
    assert tuple(cluster.nodes.values()) == nodes(3)
    record = cluster.find("/cluster")
    assert record == StreamRecord(STREAM_CLUSTER, "/cluster", cluster_topology(nodes(3)))
    assert record.topology.members == ("n1", "n2", "n3")
    assert cluster.applied_id == 1


def test_form_repeats_what_a_node_knew_before_its_first_entry() -> None:
    cluster = ClusterState()
    cluster.form(CLUSTER_ID, nodes(3))
    before = (cluster.cluster_id, cluster.nodes, cluster.streams)
    cluster.apply(1, encode_form(CLUSTER_ID, nodes(3)))
    assert (cluster.cluster_id, cluster.nodes, cluster.streams) == before


def test_whatever_becomes_known_of_the_cluster_changes_what_it_is_as_of() -> None:
    cluster = ClusterState()
    seen = [cluster.as_of]
    cluster.know(SetCluster(CLUSTER_ID, nodes(3)))
    seen.append(cluster.as_of)
    cluster.know(SetCluster(CLUSTER_ID, nodes(4), applied_id=1))
    seen.append(cluster.as_of)
    for entry_id, entry in enumerate(
        (
            encode_form(CLUSTER_ID, nodes(3)),
            encode_node(nodes(5)[4]),
            encode_create_stream("/s", ["n1", "n2"]),
            encode_remove_node(nodes(5)[4]),
        ),
        1,
    ):
        cluster.apply(entry_id, entry)
        seen.append(cluster.as_of)
    assert sorted(cluster.nodes) == ["n1", "n2", "n3", "n4"]
    assert len(set(seen)) == len(seen)


def test_streams_id_is_that_of_the_entry_that_created_it() -> None:
    cluster = formed()
    record = cluster.apply(5, encode_create_stream("/a", ["n1", "n3"]))
    assert record == StreamRecord(5, "/a", StreamTopology(1, ("n1", "n3")))
    assert cluster.streams[5] == cluster.find("/a") == record
    assert cluster.applied_id == 5
    assert cluster.find("/b") is None


@given(NAMES, st.lists(NAMES, max_size=4))
def test_any_name_and_members_survive(name: str, members: list[str]) -> None:
    record = formed().apply(2, encode_create_stream(name, members))
    assert record is not None
    assert (record.name, record.topology.members) == (name, tuple(members))


def test_settings_and_origin_of_a_stream_survive() -> None:
    cluster = formed()
    record = cluster.apply(2, encode_create_stream("/a", ["n1"], ZSTD, BEGINNING))
    assert record is not None
    assert (record.settings, record.topology.origin) == (ZSTD, BEGINNING)
    info = cluster.info(record)
    assert (info.settings, info.first_entry_id) == (ZSTD, 101)
    moved = StreamTopology(2, ("n2",), ("n1",), *record.topology[3:])
    changed = cluster.apply(3, encode_members(2, moved))
    assert changed == record._replace(topology=moved), "a change of members leaves them alone"


def test_entries_are_json_that_any_tool_reads() -> None:
    assert json.loads(encode_create_stream("/a", ["n1"], ZSTD, Position(100, 255))) == {
        "change": "create_stream",
        "name": "/a",
        "members": ["n1"],
        "settings": {
            "compression": "zstd",
            "retention_max_bytes": 0,
            "retention_max_age_ms": 0,
            "replicas": 0,
            "lease_min_ms": 0,
            "lease_max_ms": 0,
        },
        "first": 101,
        "chain": "00000000000000ff",
    }
    assert json.loads(encode_form(CLUSTER_ID, nodes(1))) == {
        "change": "form",
        "cluster": CLUSTER_ID.hex(),
        "nodes": [
            {
                "id": "n1",
                "address": "host1:1",
                "identity": "01" * 16,
                "zone": "z1",
                "capacity": 10,
            }
        ],
    }


def test_change_of_a_later_version_ends_the_node() -> None:
    with pytest.raises(InvariantError, match="/cluster entry 9: change 'paint'"):
        formed().apply(9, b'{"change": "paint"}')


def test_info_names_members_with_their_addresses() -> None:
    topology = StreamTopology(3, ("n1", "n9"), ("n2",), first_entry_id=7)
    info = formed().info(StreamRecord(5, "/a", topology))
    assert info.members == (NodeAddress("n1", "host1:1"), NodeAddress("n9", ""))
    assert info.old_members == (NodeAddress("n2", "host2:1"),)
    assert (info.stream_id, info.name, info.version, info.first_entry_id) == (5, "/a", 3, 7)


# --- plans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (CreateStream("", ()), "begins with '/'"),
        (CreateStream("/", ()), "2 to 255 bytes"),
        (CreateStream("orders", ()), "'orders': a stream's name begins with '/'"),
        (CreateStream("/" + "ä" * 128, ()), "2 to 255 bytes"),
        (CreateStream("/a", ("n1", "n7")), "no node 'n7'; the nodes are n1, n2, n3"),
        (CreateStream("/a", ("n1", "n1")), "named twice"),
        (CreateStream("/a", (), StreamSettings(replicas=4)), "4 replicas cannot be on 3 nodes: n1"),
        (CreateStream("/a", (), StreamSettings("lz4")), "'lz4'; it is one of none, zstd"),
        (CreateStream("/a", (), origin=Position(0, 1)), "no stream can begin behind 0:"),
        (CreateStream("/a", (), origin=Position(ENTRY_ID_MAX, 1)), "no stream can begin"),
    ],
)
def test_impossible_stream_is_refused_with_the_rule(request_: CreateStream, text: str) -> None:
    plan = formed().plan_stream(request_)
    assert isinstance(plan, Refusal)
    assert plan.code is Code.BAD_REQUEST
    assert text in plan.text


def test_more_members_than_any_stream_may_have_are_refused() -> None:
    cluster = formed(MEMBERS_COUNT_MAX + 1)
    wanted = StreamSettings(replicas=MEMBERS_COUNT_MAX + 1)
    plan = cluster.plan_stream(CreateStream("/a", (), wanted))
    assert isinstance(plan, Refusal)
    assert f"{MEMBERS_COUNT_MAX} are possible" in plan.text
    wanted = StreamSettings(replicas=MEMBERS_COUNT_MAX)
    assert not isinstance(cluster.plan_stream(CreateStream("/a", (), wanted)), Refusal)


@pytest.mark.parametrize(
    ("size", "replicas", "expected"), [(5, 0, 3), (2, 0, 2), (1, 0, 1), (5, 5, 5), (5, 1, 1)]
)
def test_replicas_are_three_if_nothing_is_said(size: int, replicas: int, expected: int) -> None:
    plan = formed(size).plan_stream(CreateStream("/a", (), StreamSettings(replicas=replicas)))
    assert not isinstance(plan, Refusal)
    assert len(plan.members) == expected
    assert list(plan.members) == sorted(plan.members)
    assert plan.settings.replicas == replicas, "the cluster may grow later"


def test_longest_name_is_allowed_and_members_are_sorted() -> None:
    name = "/" + "x" * (STREAM_NAME_BYTES_MAX - 1)
    plan = formed().plan_stream(CreateStream(name, ("n3", "n1"), ZSTD))
    assert plan == CreateStream(name, ("n1", "n3"), ZSTD._replace(replicas=2))


@pytest.mark.parametrize(
    ("request_", "is_same"),
    [
        (CreateStream("/a", ()), True),
        (CreateStream("/a", (), LEASES), True),
        (CreateStream("/a", ("n3", "n1")), True),
        (CreateStream("/a", (), StreamSettings(replicas=3)), False),
        (CreateStream("/a", (), StreamSettings(lease_min_ms=200)), False),
        (CreateStream("/a", ("n1", "n2")), False),
        (CreateStream("/cluster", ("n1",)), False),
        (CreateStream("/a", (), ZSTD), False),
        (CreateStream("/a", (), KEPT), False),
        (CreateStream("/a", (), origin=BEGINNING), False),
        (CreateStream("/z", (), ZSTD, BEGINNING), True),
        (CreateStream("/z", ()), True),
        (CreateStream("/z", (), origin=BEGINNING._replace(chain=8)), False),
    ],
)
def test_stream_that_exists_may_be_created_again_if_it_is_the_same(
    request_: CreateStream, is_same: bool
) -> None:
    cluster = formed()
    cluster.apply(2, encode_create_stream("/a", ["n1", "n3"], LEASES))
    cluster.apply(3, encode_create_stream("/z", ["n1", "n2"], ZSTD, BEGINNING))
    plan = cluster.plan_stream(request_)
    if is_same:
        assert not isinstance(plan, Refusal)
    else:
        assert isinstance(plan, Refusal)
        assert plan.code is Code.STREAM_EXISTS
        assert "n1, n" in plan.text


# --- members --------------------------------------------------------------------------------------


def with_stream(*members: str) -> ClusterState:
    cluster = formed(5)
    cluster.apply(2, encode_create_stream("/s", members))
    return cluster


def asked(*members: str, name: str = "/s", without: str = "") -> SetMembers:
    return SetMembers(name, members, without, force=0)


def planned(cluster: ClusterState, *members: str, without: str = "") -> StreamRecord:
    plan = cluster.plan_members(asked(*members, without=without))
    assert isinstance(plan, StreamRecord)
    return plan


def test_change_of_members_is_joint_first() -> None:
    cluster = with_stream("n1", "n2", "n3")
    joint = planned(cluster, "n5", "n1", "n4")
    assert joint == StreamRecord(2, "/s", StreamTopology(2, ("n1", "n4", "n5"), ("n1", "n2", "n3")))
    assert cluster.find("/s") == StreamRecord(2, "/s", StreamTopology(1, ("n1", "n2", "n3")))


def test_members_entries_apply_one_after_the_other() -> None:
    cluster = with_stream("n1", "n2", "n3")
    joint = planned(cluster, "n1", "n4", "n5")
    assert cluster.apply(3, encode_members(2, joint.topology)) == joint
    assert cluster.joint == {2}
    assert {each.node_id for each in cluster.info(joint).old_members} == {"n1", "n2", "n3"}
    alone = joint.topology._replace(version=3, old_members=())
    assert cluster.apply(4, encode_members(2, alone)) == StreamRecord(2, "/s", alone)
    assert cluster.joint == set()


def test_version_that_was_reached_meanwhile_has_no_effect() -> None:
    """The end of a change and a recovery were put at the same time."""
    cluster = with_stream("n1", "n2", "n3")
    joint = planned(cluster, "n1", "n2", "n4").topology
    cluster.apply(3, encode_members(2, joint))
    recovery = cluster.plan_recovery(RecoverStream("/s", joint.version, ("n1",)))
    assert isinstance(recovery, StreamRecord)
    alone = joint._replace(version=joint.version + 1, old_members=())
    cluster.apply(4, encode_members(2, recovery.topology))
    assert cluster.apply(5, encode_members(2, alone)) is None
    assert cluster.find("/s") == recovery
    assert cluster.joint == set()


def test_change_to_the_present_members_is_none() -> None:
    cluster = with_stream("n1", "n2", "n3")
    assert planned(cluster, "n3", "n2", "n1") == cluster.find("/s")


def test_one_change_at_a_time() -> None:
    cluster = with_stream("n1", "n2", "n3")
    joint = planned(cluster, "n1", "n2", "n4")
    cluster.apply(3, encode_members(2, joint.topology))
    assert planned(cluster, "n4", "n2", "n1") == joint
    refusal = cluster.plan_members(asked("n1", "n2", "n5"))
    assert isinstance(refusal, Refusal)
    assert refusal.code == Code.BUSY
    assert "being moved to n1, n2, n4" in refusal.text


def test_change_can_be_taken_back() -> None:
    cluster = with_stream("n1", "n2", "n3")
    cluster.apply(3, encode_members(2, planned(cluster, "n4", "n5").topology))
    back = planned(cluster, "n3", "n2", "n1")
    assert back.topology == StreamTopology(3, ("n1", "n2", "n3"))
    assert cluster.apply(4, encode_members(2, back.topology)) == back
    assert cluster.joint == set()


@pytest.mark.parametrize(
    ("name", "members", "code", "text"),
    [
        ("/t", ("n1",), Code.UNKNOWN_STREAM, "no stream /t: `walle"),
        ("/" + "t" * 60_000, ("n1",), Code.BAD_REQUEST, "tt'...: a stream's name begins with '/'"),
        ("/s", ("n1", "n9"), Code.BAD_REQUEST, "no node 'n9'; the nodes are n1, n2, n3, n4, n5"),
        ("/s", ("n1", "n1"), Code.BAD_REQUEST, "a node is named twice"),
        ("/s", (), Code.BAD_REQUEST, "takes either the new ones, or one that"),
    ],
)
def test_impossible_members_are_refused(
    name: str, members: tuple[str, ...], code: Code, text: str
) -> None:
    refusal = with_stream("n1", "n2", "n3").plan_members(asked(*members, name=name))
    assert isinstance(refusal, Refusal)
    assert refusal.code == code
    assert text in refusal.text


def test_too_many_members_are_refused() -> None:
    refusal = formed(8).plan_members(asked(*formed(8).nodes, name="/cluster"))
    assert refusal == Refusal(Code.BAD_REQUEST, "8 members; 1 to 7 are possible")


def test_members_of_the_cluster_stream_change_like_others() -> None:
    cluster = formed(5)
    joint = cluster.plan_members(asked("n1", "n2", "n3", name="/cluster"))
    assert isinstance(joint, StreamRecord)
    assert cluster.apply(2, encode_members(STREAM_CLUSTER, joint.topology)) == joint
    assert cluster.joint == {STREAM_CLUSTER}


def test_another_node_takes_the_place_of_one() -> None:
    cluster = with_stream("n1", "n2", "n3")
    joint = planned(cluster, without="n2")
    assert {"n1", "n3"} < set(joint.topology.members) <= {"n1", "n3", "n4", "n5"}
    assert joint.topology.old_members == ("n1", "n2", "n3")
    cluster.apply(3, encode_members(2, joint.topology))
    assert planned(cluster, without="n2") == joint  # repeated
    assert planned(cluster, without="n4" if "n5" in joint.topology.members else "n5") == joint


def test_node_whose_place_nobody_can_take() -> None:
    cluster = with_stream("n1", "n2", "n3", "n4", "n5")
    refusal = cluster.plan_members(asked(without="n2"))
    assert isinstance(refusal, Refusal)
    assert "no other node can take the place of n2 in /s" in refusal.text
    refusal = cluster.plan_members(asked(without="n9"))
    assert isinstance(refusal, Refusal)
    assert "no node 'n9'" in refusal.text


# --- deletion -------------------------------------------------------------------------------------


def test_deleted_stream_has_no_members_and_its_name_is_free() -> None:
    cluster = with_stream("n1", "n2", "n3")
    joint = planned(cluster, "n1", "n2", "n4")
    cluster.apply(3, encode_members(2, joint.topology))
    deleted = cluster.apply(4, encode_delete_stream(2))
    assert deleted == StreamRecord(2, "/s", DELETED)
    assert [each for each in range(7) if cluster.is_deleted(each)] == [2, 3, 4]
    assert cluster.find("/s") is None
    assert cluster.joint == set()
    assert cluster.topology_of(2) == DELETED
    cluster.apply(5, encode_create_stream("/s", ("n1",)))
    assert cluster.find("/s") == cluster.streams[5]


@pytest.mark.parametrize(
    "late",
    [
        encode_members(2, StreamTopology(2, ("n1",), ("n1", "n2", "n3"))),
        encode_settings(2, StreamSettings()),
        encode_trim(2, Position(1, 1)),
        encode_delete_stream(2),
    ],
)
def test_what_comes_for_a_deleted_stream_has_no_effect(late: bytes) -> None:
    cluster = with_stream("n1", "n2", "n3")
    cluster.apply(3, encode_delete_stream(2))
    assert cluster.apply(4, late) is None
    assert cluster.applied_id == 4
    assert cluster.is_deleted(2)
    assert set(cluster.streams) == {STREAM_CLUSTER}


def test_deletion_is_planned_for_the_stream_that_is_meant() -> None:
    cluster = with_stream("n1", "n2", "n3")
    assert cluster.plan_deletion(DeleteStream("/s", 2)) == cluster.find("/s")
    other = cluster.plan_deletion(DeleteStream("/s", 3))
    assert other == Refusal(Code.BAD_REQUEST, "/s is stream 2 now, not 3")
    refusal = cluster.plan_deletion(DeleteStream("/cluster", STREAM_CLUSTER))
    assert isinstance(refusal, Refusal)
    assert "cannot be changed but in its members" in refusal.text
    deleted = cluster.apply(3, encode_delete_stream(2))
    assert cluster.plan_deletion(DeleteStream("/s", 2)) == deleted
    refusal = cluster.plan_deletion(DeleteStream("/s", 9))
    assert isinstance(refusal, Refusal)
    assert refusal.code == Code.UNKNOWN_STREAM


# --- trims and settings ---------------------------------------------------------------------------


def test_trim_moves_the_beginning_and_nothing_else() -> None:
    cluster = with_stream("n1", "n2", "n3")
    before = cluster.streams[2].topology
    origin = Position(9, 2**64 - 1)
    record = cluster.apply(3, encode_trim(2, origin))
    assert record is not None
    assert record.topology == before.trimmed(origin)
    assert record.topology.version == before.version
    assert cluster.streams[2] == record
    assert cluster.apply(4, encode_trim(2, Position(5, 1))) == record, "never back again"
    joint = planned(cluster, "n1", "n2", "n4")
    assert cluster.apply(5, encode_members(2, joint.topology)) == joint
    assert joint.topology.origin == origin


def test_trim_entry_is_json_that_any_tool_reads() -> None:
    assert json.loads(encode_trim(2, Position(9, 255))) == {
        "change": "trim",
        "stream": 2,
        "first": 10,
        "chain": "00000000000000ff",
    }


def test_settings_are_those_of_the_last_entry() -> None:
    cluster = formed()
    created = cluster.apply(2, encode_create_stream("/s", ["n1"], KEPT))
    assert created is not None
    assert created.settings == KEPT
    assert cluster.info(created).settings == KEPT
    for number, settings in enumerate((ZSTD, StreamSettings(), KEPT), start=3):
        changed = cluster.apply(number, encode_settings(2, settings))
        assert changed == created._replace(settings=settings) == cluster.find("/s")


def test_stream_is_not_trimmed_while_its_members_change() -> None:
    cluster = with_stream("n1", "n2", "n3")
    assert cluster.plan_trim("/s") == cluster.find("/s")
    cluster.apply(3, encode_members(2, planned(cluster, "n1", "n2", "n4").topology))
    refusal = cluster.plan_trim("/s")
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.text[:25]) == (Code.BUSY, "/s is being moved to n1, ")
    assert cluster.plan_change("/s") == cluster.find("/s"), "but its settings may be changed"


@pytest.mark.parametrize(
    ("name", "code"), [("/t", Code.UNKNOWN_STREAM), ("/cluster", Code.BAD_REQUEST)]
)
def test_what_is_no_users_stream_is_neither_trimmed_nor_set(name: str, code: Code) -> None:
    cluster = with_stream("n1", "n2", "n3")
    for plan in (cluster.plan_trim(name), cluster.plan_change(name)):
        assert isinstance(plan, Refusal)
        assert plan.code == code


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (UNCHANGED, KEPT),
        (UNCHANGED._replace(compression="zstd"), KEPT._replace(compression="zstd")),
        (UNCHANGED._replace(retention_max_bytes=0), KEPT._replace(retention_max_bytes=0)),
        (UNCHANGED._replace(retention_max_age_ms=7), KEPT._replace(retention_max_age_ms=7)),
        (UNCHANGED._replace(replicas=5), KEPT._replace(replicas=5)),
        (UNCHANGED._replace(lease_min_ms=200), KEPT._replace(lease_min_ms=200)),
        (UNCHANGED._replace(lease_max_ms=200), KEPT._replace(lease_max_ms=200)),
        (ZSTD, ZSTD),
    ],
)
def test_settings_are_changed_one_by_one(wanted: StreamSettings, expected: StreamSettings) -> None:
    cluster = with_stream("n1", "n2", "n3")
    cluster.apply(3, encode_settings(2, KEPT))
    planned = cluster.plan_settings(SetStream("/s", wanted))
    assert planned == StreamRecord(2, "/s", StreamTopology(1, ("n1", "n2", "n3")), expected)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (StreamSettings("lz4"), "compression 'lz4'; it is one of none, zstd"),
        (StreamSettings(replicas=8), "8 replicas; 7 are possible"),
        (StreamSettings(lease_min_ms=99), "leases from 99 to 60000 ms; they lie between 100 and"),
        (StreamSettings(lease_max_ms=60_001), "leases from 100 to 60001 ms; they lie between"),
        (
            StreamSettings(lease_min_ms=500, lease_max_ms=400),
            "leases from 500 to 400 ms; they lie between 100 and 60000 ms, the shortest first",
        ),
    ],
)
def test_settings_that_no_stream_can_have_are_refused(settings: StreamSettings, text: str) -> None:
    for refusal in (
        with_stream("n1", "n2", "n3").plan_settings(SetStream("/s", settings)),
        formed().plan_stream(CreateStream("/a", (), settings)),
    ):
        assert isinstance(refusal, Refusal)
        assert refusal.code is Code.BAD_REQUEST
        assert refusal.text.startswith(text)
