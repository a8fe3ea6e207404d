"""The topology manager, in a cluster of real nodes on a toy network."""

from __future__ import annotations

from typing import Any

import pytest

from walle.core.manager import LEASE_MS, Manager
from walle.errors import Code
from walle.ids import STREAM_CLUSTER
from walle.messages import CreateStream, Failure, NodeAddress, Put, Release, StreamInfo
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


def create(cluster: Cluster, at: str, request: CreateStream, request_id: int = 9) -> Any:
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
    info = create(cluster, asked[0], CreateStream("/a", 0, ()))
    assert isinstance(info, StreamInfo)
    assert (info.stream_id, info.name, info.version) == (2, "/a", 1)
    assert info.members == tuple(NodeAddress(name, f"{name}:1") for name in cluster.names)
    cluster.run(1_000)
    assert all(2 in node.members for node in cluster.nodes.values())


def test_creation_may_be_repeated_but_not_changed() -> None:
    cluster = formed()
    request = CreateStream("/a", 2, ())
    first = create(cluster, "n1", request, 7)
    assert create(cluster, "n2", request, 8) == first
    refused = create(cluster, "n3", CreateStream("/a", 3, ()), 9)
    assert isinstance(refused, Failure)
    assert refused.code == Code.STREAM_EXISTS


def test_impossible_stream_is_refused() -> None:
    refused = create(formed(), "n1", CreateStream("a", 0, ()))
    assert isinstance(refused, Failure)
    assert refused.code == Code.BAD_REQUEST


def test_second_request_while_the_first_is_under_way_is_busy() -> None:
    cluster = formed()
    (manager,) = managers(cluster)
    for request_id in (7, 8):
        cluster.ask(manager, CreateStream("/a", 0, ()), request_id, session=request_id)
    cluster.run_until(lambda: bool(cluster.answers_to(7) and cluster.answers_to(8)))
    busy = cluster.answer(8)
    assert isinstance(cluster.answer(7), StreamInfo)
    assert isinstance(busy, Failure)
    assert busy.code == Code.BUSY


def test_another_node_takes_over_when_the_manager_dies() -> None:
    cluster = formed()
    (dead,) = managers(cluster)
    create(cluster, dead, CreateStream("/a", 0, ()))
    cluster.crash(dead)
    cluster.run(LEASE_MS / 2)
    assert managers(cluster) == [], "the lease is waited for"
    cluster.run_until(lambda: bool(managers(cluster)))
    assert all(node.cluster.find("/a") for node in cluster.nodes.values())


def test_manager_that_was_overtaken_steps_back_and_answers_what_waits() -> None:
    """Cut off, it cannot tell until it hears of the newer one."""
    cluster = formed()
    (old,) = managers(cluster)
    cluster.cut_off = {old}
    cluster.deliver(Mail("client", old, 1, 7, CreateStream("/a", 0, ()), None))
    cluster.run_until(lambda: len(managers(cluster)) == 2)
    cluster.cut_off = set()
    cluster.run_until(lambda: bool(cluster.answers_to(7)))
    assert old not in managers(cluster)
    busy = cluster.answers_to(7)
    assert [each.code for each in busy if isinstance(each, Failure)] == [Code.BUSY]
    assert not any(each.cluster.find("/a") for each in cluster.nodes.values())


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
