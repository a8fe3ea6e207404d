"""Snapshots of `/cluster`: what they tell, when they are written, and who begins with one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.core.served import Served
from walle.core import manager, snapshot
from walle.core.cluster import (
    ClusterState,
    encode_create_stream,
    encode_delete_stream,
    encode_form,
    encode_members,
    encode_node,
    encode_remove_node,
    encode_trim,
)
from walle.core.topology import StreamTopology
from walle.errors import Code
from walle.ids import STREAM_CLUSTER, Position
from walle.messages import (
    CreateStream,
    DeleteStream,
    Describe,
    Failure,
    NodeRecord,
    Read,
    StreamInfo,
    StreamSettings,
)

if TYPE_CHECKING:
    from walle.core.manager import Manager

CLUSTER_ID = bytes(range(16))
BEFORE = Position(9, 255)
MOVED = NodeRecord("n1", "h:9", b"1" * 16)
FACTS = ("cluster_id", "nodes", "streams", "joint", "registered", "removed", "snapshot")


def node(number: int) -> NodeRecord:
    return NodeRecord(f"n{number}", f"h:{number}", b"%d" % number * 16)


def changed() -> ClusterState:
    """A cluster with some of everything, after entry 9."""
    cluster = ClusterState()
    four = StreamTopology(2, ("n1", "n4"), ("n1", "n2"))
    entries = [
        encode_form(CLUSTER_ID, [node(1), node(2), node(3)]),
        encode_create_stream(
            "/a", ["n1", "n2"], StreamSettings("zstd", replicas=2), Position(7, 3)
        ),
        encode_create_stream("/b", ["n1", "n2"]),
        encode_node(node(4)),
        encode_delete_stream(3),
        encode_create_stream("/b", ["n1"]),
        encode_members(2, four),
        encode_remove_node(node(3)),
        encode_trim(6, Position(5, 6)),
    ]
    for entry_id, entry in enumerate(entries, start=1):
        cluster.apply(entry_id, entry)
    return cluster


def facts(cluster: ClusterState) -> dict[str, Any]:
    return {name: getattr(cluster, name) for name in FACTS}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PART_ITEMS", 3)
    monkeypatch.setattr(snapshot, "INTERVAL_ENTRIES", 6)


def test_who_begins_with_a_snapshot_knows_what_all_entries_tell() -> None:
    old, new = changed(), ClusterState()
    new.form(CLUSTER_ID, [node(1), node(2), node(3)])
    parts = snapshot.encode_snapshot(old, BEFORE)
    assert len(parts) == 3, "three nodes, a removed one, three streams"
    for entry_id, part in enumerate(parts, start=10):
        assert new.applied_id == 0
        assert old.apply(entry_id, part) is new.apply(entry_id, part) is None
    assert facts(old) == facts(new)
    assert (old.applied_id, old.begun_id) == (12, 0)
    assert (new.applied_id, new.begun_id) == (12, 12)
    assert new.snapshot == (BEFORE, 12)
    assert [each for each in range(1, 14) if new.is_deleted(each)] == [3, 4, 5, *range(7, 13)]
    assert new.find("/b") == new.streams[6]


def test_what_was_known_of_a_later_time_does_not_go_back() -> None:
    old = changed()
    parts = snapshot.encode_snapshot(old, BEFORE)
    later = StreamTopology(3, ("n1",))
    for entry_id, entry in enumerate(
        [*parts, encode_node(MOVED), encode_members(STREAM_CLUSTER, later)], start=10
    ):
        old.apply(entry_id, entry)
    new = ClusterState()
    new.know(old.known())
    for entry_id, part in enumerate(parts, start=10):
        new.apply(entry_id, part)
    assert new.nodes["n1"] == MOVED
    assert new.streams == old.streams


def test_incomplete_snapshot_means_nothing() -> None:
    old, new = changed(), ClusterState()
    new.form(CLUSTER_ID, [node(1), node(2), node(3)])
    lost = snapshot.encode_snapshot(old, BEFORE)[:2]
    for entry_id, part in enumerate(lost, start=10):
        old.apply(entry_id, part)
        new.apply(entry_id, part)
    assert old.snapshot.last_id == 1
    whole = snapshot.encode_snapshot(old, Position(11, 1))
    for entry_id, part in enumerate(whole, start=12):
        old.apply(entry_id, part)
        new.apply(entry_id, part)
    assert facts(old) == facts(new)
    assert new.snapshot == (Position(11, 1), 14)


# --- on nodes -------------------------------------------------------------------------------------


def insist(served: Served, request: Any) -> Any:
    """Repeats what is refused as busy."""
    while True:
        answer = served.call("n1", request)
        if not isinstance(answer, Failure) or answer.code != Code.BUSY:
            return answer
        served.run(50)


def churn(served: Served, count: int = 8) -> int:
    """Creates and deletes streams; returns the id of the last one created."""
    stream_id = 0
    for _ in range(count):
        info = insist(served, CreateStream("/x", ()))
        assert isinstance(info, StreamInfo)
        stream_id = info.stream_id
        assert insist(served, DeleteStream("/x", stream_id)).members == ()
    return stream_id


def first_id(served: Served) -> int:
    answer: StreamInfo = insist(served, Describe("/cluster"))
    return answer.first_entry_id


def test_node_that_was_away_leaves_what_was_deleted_and_joins_what_was_created() -> None:
    served = Served()
    served.crash("n3")
    insist(served, DeleteStream("/s", served.stream_id))
    gone = churn(served)
    made = insist(served, CreateStream("/y", ("n1", "n2", "n3"))).stream_id
    churn(served)
    assert first_id(served) > served.stream_id
    served.start("n3")
    served.run(15_000)
    state = served.nodes["n3"].cluster
    assert state.begun_id > 0
    assert facts(state) == facts(served.nodes["n1"].cluster)
    assert served.nodes["n3"].members.keys() == {STREAM_CLUSTER, made}
    for stream_id in (served.stream_id, gone):
        answer = served.call("n3", Read(stream_id, 1, 1_000, 0, 0, 0))
        assert answer == Failure(Code.UNKNOWN_STREAM, f"stream {stream_id} was deleted")


def test_restarted_nodes_begin_with_the_snapshot_and_the_next_manager_goes_on() -> None:
    served = Served()
    churn(served)
    begins_at = first_id(served)
    assert begins_at > 1
    for name in served.names:
        served.restart(name)
    served.run(10_000)
    assert first_id(served) == begins_at
    states = [each.cluster for each in served.nodes.values()]
    assert all(each.begun_id and facts(each) == facts(states[0]) for each in states)
    churn(served)
    assert first_id(served) > begins_at


def test_nothing_else_is_put_while_a_snapshot_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served()
    monkeypatch.setattr(manager, "is_due", lambda _cluster: True)
    boss = next(each.manager for each in served.nodes.values() if is_acting(each.manager))
    answers: list[Any] = []
    assert boss is not None
    boss.change(CreateStream("/y", ()), answers.append)
    assert answers == [Failure(Code.BUSY, "a snapshot of /cluster is being written")]


def is_acting(boss: Manager | None) -> bool:
    return boss is not None and boss.is_acting
