"""The topology manager, in a cluster of real nodes on a toy network."""

from __future__ import annotations

from typing import Any

import pytest

from walle.core.manager import LEASE_MS, Manager
from walle.errors import Code
from walle.ids import STREAM_CLUSTER
from walle.messages import (
    Adopt,
    CreateStream,
    Failure,
    NodeAddress,
    Put,
    PutReply,
    Release,
    SetMembers,
    SetStream,
    Stamp,
    StreamInfo,
    StreamSettings,
)
from walle.testing.cluster import Cluster, Mail


def formed(size: int = 3) -> Cluster:
    """A cluster that has its manager."""
    cluster = Cluster(size)
    cluster.run_until(lambda: bool(managers(cluster)))
    return cluster


def manager_of(cluster: Cluster, name: str) -> Manager:
    manager = cluster.nodes[name].manager
    assert manager is not None
    return manager


def managers(cluster: Cluster) -> list[str]:
    """The nodes that act as the manager."""
    return [
        name
        for name, node in cluster.nodes.items()
        if node.manager is not None and node.manager.is_acting
    ]


def followers(cluster: Cluster) -> list[str]:
    return [name for name in cluster.names if name not in managers(cluster)]


def create(
    cluster: Cluster, at: str, request: CreateStream | SetStream, request_id: int = 9
) -> Any:
    cluster.ask(at, request, request_id)
    cluster.run_until(lambda: bool(cluster.answers_to(request_id)))
    return cluster.answer(request_id)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_one_node_becomes_the_manager_and_writes_entry_1(size: int) -> None:
    cluster = formed(size)
    cluster.run(3 * LEASE_MS)
    assert len(managers(cluster)) == 1
    for node in cluster.nodes.values():
        assert node.cluster.applied_id == 1
        assert sorted(node.cluster.nodes) == cluster.names


@pytest.mark.parametrize("is_asked", [True, False])
def test_stream_is_created_whichever_node_is_asked(*, is_asked: bool) -> None:
    cluster = formed()
    asked = managers(cluster) if is_asked else followers(cluster)
    info = create(cluster, asked[0], CreateStream("/a", ()))
    assert isinstance(info, StreamInfo)
    assert (info.stream_id, info.name, info.version) == (2, "/a", 1)
    assert info.members == tuple(NodeAddress(name, f"{name}:1") for name in cluster.names)
    cluster.run(1_000)
    assert all(2 in node.members for node in cluster.nodes.values())


def test_creation_may_be_repeated_but_not_changed() -> None:
    cluster = formed()
    request = CreateStream("/a", (), StreamSettings(replicas=2))
    first = create(cluster, "n1", request, 7)
    assert create(cluster, "n2", request, 8) == first
    refused = create(cluster, "n3", CreateStream("/a", (), StreamSettings(replicas=3)), 9)
    assert isinstance(refused, Failure)
    assert refused.code == Code.STREAM_EXISTS


def test_impossible_stream_is_refused() -> None:
    refused = create(formed(), "n1", CreateStream("a", ()))
    assert isinstance(refused, Failure)
    assert refused.code == Code.BAD_REQUEST


def test_second_request_while_the_first_is_under_way_is_busy() -> None:
    cluster = formed()
    (manager,) = managers(cluster)
    for request_id in (7, 8):
        cluster.ask(manager, CreateStream("/a", ()), request_id, session=request_id)
    cluster.run_until(lambda: bool(cluster.answers_to(7) and cluster.answers_to(8)))
    busy = cluster.answer(8)
    assert isinstance(cluster.answer(7), StreamInfo)
    assert isinstance(busy, Failure)
    assert busy.code == Code.BUSY


def test_another_node_takes_over_when_the_manager_dies() -> None:
    cluster = formed()
    (dead,) = managers(cluster)
    create(cluster, dead, CreateStream("/a", ()))
    cluster.crash(dead)
    cluster.run(LEASE_MS / 2)
    assert managers(cluster) == [], "the lease is waited for"
    cluster.run_until(lambda: bool(managers(cluster)))
    assert all(node.cluster.find("/a") for node in cluster.nodes.values())


def test_manager_without_a_majority_creates_nothing() -> None:
    cluster = formed()
    (manager,) = managers(cluster)
    cluster.lose = lambda mail: mail.source == manager and mail.target != "client"
    cluster.run(LEASE_MS)
    busy = create(cluster, manager, CreateStream("/a", ()))
    assert isinstance(busy, Failure)
    assert "no majority" in busy.text


def test_manager_that_was_overtaken_steps_back_and_answers_what_waits() -> None:
    """Cut off, it cannot tell until it hears of the newer one."""
    cluster = formed()
    (old,) = managers(cluster)
    cluster.cut_off = {old}
    cluster.deliver(Mail("client", old, 1, 7, CreateStream("/a", ()), None))
    cluster.run_until(lambda: len(managers(cluster)) == 2)
    cluster.cut_off = set()
    cluster.run_until(lambda: bool(cluster.answers_to(7)))
    assert old not in managers(cluster)
    busy = cluster.answers_to(7)
    assert [each.code for each in busy if isinstance(each, Failure)] == [Code.BUSY]
    assert not any(each.cluster.find("/a") for each in cluster.nodes.values())


@pytest.mark.parametrize("name", ["/a", "/b"])
def test_manager_that_was_overtaken_does_not_take_anothers_change_for_its_own(name: str) -> None:
    """It learns of the newer one's change, an entry with the same id, before it learns of that."""
    cluster = formed()
    (old,) = managers(cluster)
    cluster.cut_off = {old}
    cluster.deliver(
        Mail("client", old, 1, 7, CreateStream("/a", (), StreamSettings(replicas=3)), None)
    )
    cluster.run_until(lambda: len(managers(cluster)) == 2)
    (new,) = {*managers(cluster)} - {old}
    cluster.run(100)
    created = create(cluster, new, CreateStream(name, (), StreamSettings(replicas=2)), 8)
    cluster.lose = lambda mail: mail.target == old and isinstance(mail.message, PutReply)
    cluster.cut_off = set()
    cluster.run_until(lambda: bool(cluster.answers_to(7)))
    assert cluster.nodes[old].cluster.find(name) is not None
    (busy,) = cluster.answers_to(7)
    assert isinstance(busy, Failure)
    assert busy.code == Code.BUSY
    assert isinstance(created, StreamInfo)


def test_manager_that_is_stopped_while_it_claims_does_not_become_one() -> None:
    cluster = Cluster(3)
    claimers: list[str] = []
    cluster.on_post = lambda mail: claimers.extend([mail.source] * isinstance(mail.message, Stamp))
    cluster.run_until(lambda: bool(claimers))
    stopped = claimers[0]
    cluster.nodes[stopped].stop()
    cluster.collect(stopped)
    cluster.run_until(lambda: bool(managers(cluster)))
    cluster.run(3 * LEASE_MS)
    assert len(managers(cluster)) == 1
    assert stopped not in managers(cluster)


def test_manager_that_stops_hands_its_lease_back() -> None:
    cluster = formed()
    (old,) = managers(cluster)
    node = cluster.nodes[old]
    releases: list[Mail] = []
    cluster.on_post = lambda mail: (
        releases.append(mail) if isinstance(mail.message, Release) else None
    )
    node.stop()
    seen = [node.is_releasing]
    cluster.collect(old)
    cluster.run_until(lambda: not node.is_releasing)
    seen.append(node.is_releasing)
    assert seen == [True, False]
    assert {mail.message.stream_id for mail in releases} == {STREAM_CLUSTER}
    begun_ns = cluster.now_ns
    cluster.run_until(lambda: bool(managers(cluster)))
    assert cluster.now_ns - begun_ns < LEASE_MS * 1_000_000 // 2
    assert managers(cluster) != [old]
    cluster.run(5 * LEASE_MS)
    assert old not in managers(cluster), "it does not come back"


def test_node_that_is_not_the_manager_stops_at_once() -> None:
    cluster = formed()
    node = cluster.nodes[followers(cluster)[0]]
    node.stop()
    assert not node.is_releasing


def test_manager_keeps_its_lease() -> None:
    cluster = formed()
    (manager,) = managers(cluster)
    beats: set[int] = set()
    cluster.on_post = lambda mail: (
        beats.add(mail.message.writer.ts) if isinstance(mail.message, Put) else None
    )
    cluster.run(10 * LEASE_MS)
    assert managers(cluster) == [manager]
    assert len(beats) == 1


def test_only_the_manager_puts_changes() -> None:
    cluster = formed()
    with pytest.raises(RuntimeError, match="only the manager"):
        manager_of(cluster, followers(cluster)[0])._put(b"{}")


# --- changes of members ---------------------------------------------------------------------------


def with_stream(*members: str) -> tuple[Cluster, str]:
    """Four nodes, of which these have the stream `/a`; and the manager's name."""
    cluster = formed(4)
    create(cluster, "n1", CreateStream("/a", members))
    cluster.run(100)
    (manager,) = managers(cluster)
    return cluster, manager


def change(cluster: Cluster, manager: str, *members: str, name: str = "/a") -> list[Any]:
    """What the manager answers, once it does."""
    answers: list[Any] = []
    manager_of(cluster, manager).change(SetMembers(name, members, "", 0), answers.append)
    cluster.collect(manager)
    return answers


def test_members_are_changed_through_a_joint_version() -> None:
    cluster, manager = with_stream("n1", "n2", "n3")
    answers = change(cluster, manager, "n1", "n2", "n4")
    assert answers == []
    cluster.run_until(lambda: bool(answers))
    assert [each.node_id for each in answers[0].old_members] == ["n1", "n2", "n3"]
    cluster.run_until(lambda: not any(node.cluster.joint for node in cluster.nodes.values()))
    cluster.run(1_000)
    assert manager_of(cluster, manager).changing.changes == {}
    for node in cluster.nodes.values():
        topology = node.members[2].topology
        assert (topology.version, topology.members) == (3, ("n1", "n2", "n4"))
    assert not cluster.nodes["n3"].members[2].is_named
    assert change(cluster, manager, "n1", "n2", "n4")[0].version == 3, "they are its members"


def test_one_change_at_a_time() -> None:
    cluster, manager = with_stream("n1", "n2", "n3")
    first = change(cluster, manager, "n1", "n2", "n4")
    (second,) = change(cluster, manager, "n1", "n3", "n4")
    assert second == Failure(Code.BUSY, "/a is being created or changed")
    cluster.run_until(lambda: bool(first))
    (third,) = change(cluster, manager, "n1", "n3", "n4")
    assert (third.code, "one change at a time" in third.text) == (Code.BUSY, True)


def test_impossible_change_is_refused() -> None:
    cluster, manager = with_stream("n1", "n2", "n3")
    (refused,) = change(cluster, manager, "n1", name="/b")
    assert refused.code == Code.UNKNOWN_STREAM


def test_change_is_taken_up_by_the_next_manager() -> None:
    cluster, manager = with_stream("n1", "n2", "n3")
    cluster.lose = lambda mail: isinstance(mail.message, Adopt)
    answers = change(cluster, manager, "n1", "n2", "n4")
    cluster.run_until(lambda: bool(answers))
    assert list(manager_of(cluster, manager).changing.changes) == [2]
    cluster.nodes[manager].stop()
    cluster.collect(manager)
    assert manager_of(cluster, manager).changing.changes == {}
    cluster.lose = lambda _mail: False
    cluster.run_until(lambda: not any(node.cluster.joint for node in cluster.nodes.values()))
    assert managers(cluster) != [manager]


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_asked", [True, False])
def test_settings_are_changed_whichever_node_is_asked(*, is_asked: bool) -> None:
    cluster = formed()
    at = (managers(cluster) if is_asked else followers(cluster))[0]
    kept = StreamSettings("zstd", 1_000, 60_000)
    created = create(cluster, at, CreateStream("/a", (), kept), 7)
    assert created.settings == kept
    changed = create(cluster, at, SetStream("/a", StreamSettings("none", 7)), 8)
    assert changed == created._replace(settings=StreamSettings("none", 7))
    cluster.run(1_000)
    applied_id = cluster.nodes[at].cluster.applied_id
    assert create(cluster, at, SetStream("/a", StreamSettings("none", 7)), 9) == changed
    for node in cluster.nodes.values():
        record = node.cluster.find("/a")
        assert record is not None
        assert record.settings == StreamSettings("none", 7)
        assert node.cluster.applied_id == applied_id, "a repetition changes nothing"


@pytest.mark.parametrize(
    ("name", "code"), [("/nope", Code.UNKNOWN_STREAM), ("/cluster", Code.BAD_REQUEST)]
)
def test_settings_of_no_users_stream_are_refused(name: str, code: Code) -> None:
    refused = create(formed(), "n1", SetStream(name, StreamSettings("none", 7)))
    assert isinstance(refused, Failure)
    assert refused.code == code


def test_manager_that_stops_answers_what_waits() -> None:
    cluster = formed()
    (name,) = managers(cluster)
    cluster.lose = lambda mail: isinstance(mail.message, Put)
    cluster.deliver(Mail("client", name, 1, 7, CreateStream("/a", ()), None))
    assert cluster.answers_to(7) == []
    cluster.nodes[name].stop()
    cluster.collect(name)
    cluster.run(10)
    busy = cluster.answer(7)
    assert isinstance(busy, Failure)
    assert busy.code == Code.BUSY
