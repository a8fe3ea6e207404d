"""Who may connect, and who answers."""

from __future__ import annotations

import pytest

from walle.core.cluster import ClusterState
from walle.core.handshake import Handshake
from walle.errors import Code
from walle.ids import NO_IDENTITY
from walle.messages import (
    PROTOCOL_VERSION,
    ROLE_CLIENT,
    ROLE_NODE,
    Failure,
    Hello,
    NodeRecord,
    Welcome,
)

OURS = b"our cluster     "
THEIRS = b"another cluster "
ID1 = b"identity of n1  "
ID2 = b"identity of n2  "
WIPED = b"a new directory "
GONE = b"identity of n3  "


CLIENT = Hello(PROTOCOL_VERSION, ROLE_CLIENT, NO_IDENTITY, "", NO_IDENTITY)


def handshake(*, is_formed: bool = True, joins: bool = False) -> Handshake:
    """That of n1, in a cluster of n1 and n2."""
    cluster = ClusterState()
    if is_formed:
        cluster.form(OURS, [NodeRecord("n1", "h1:1", ID1), NodeRecord("n2", "h2:1", ID2)])
        cluster.removed[GONE] = "n3"
    return Handshake("n1", ID1, cluster, joins=joins)


def hello(
    cluster_id: bytes = OURS,
    node_id: str = "n2",
    identity: bytes = ID2,
    *,
    role: int = ROLE_NODE,
    protocol: int = PROTOCOL_VERSION,
) -> Hello:
    return Hello(protocol, role, cluster_id, node_id, identity)


def test_hello_tells_who_this_node_is() -> None:
    assert handshake().hello() == Hello(PROTOCOL_VERSION, ROLE_NODE, OURS, "n1", ID1)
    assert handshake(is_formed=False).hello().cluster_id == NO_IDENTITY


def test_node_that_has_not_joined_speaks_as_a_client() -> None:
    assert handshake(is_formed=False, joins=True).hello() == CLIENT
    assert handshake(joins=True).hello().role == ROLE_NODE
    anyone = Welcome(1, THEIRS, "n7", WIPED)
    assert handshake(is_formed=False, joins=True).check_welcome("h2:1", anyone) is None


@pytest.mark.parametrize(
    "good",
    [
        hello(),
        hello(NO_IDENTITY),  # restarted before it heard that the cluster is formed
        hello(role=ROLE_CLIENT, node_id="", identity=NO_IDENTITY),
        hello(NO_IDENTITY, role=ROLE_CLIENT, node_id="", identity=NO_IDENTITY),
    ],
)
def test_members_and_clients_are_welcome(good: Hello) -> None:
    assert handshake().answer(good) == Welcome(PROTOCOL_VERSION, OURS, "n1", ID1)


@pytest.mark.parametrize(
    ("bad", "code", "text"),
    [
        (hello(protocol=9), Code.BAD_REQUEST, "speaks protocol version 1, not 9"),
        (hello(role=7), Code.BAD_REQUEST, "no role has number 7"),
        (hello(THEIRS), Code.WRONG_CLUSTER, f"belongs to cluster {OURS.hex()}, not to"),
        (hello(THEIRS, role=ROLE_CLIENT), Code.WRONG_CLUSTER, THEIRS.hex()),
        (hello(NO_IDENTITY, node_id="n9"), Code.WRONG_CLUSTER, "has no node n9: it must join"),
        (hello(NO_IDENTITY, identity=WIPED), Code.WRONG_CLUSTER, "restore that directory"),
        (hello(node_id="n9"), Code.BUSY, "n1 does not know n9 yet"),
        (hello(identity=WIPED), Code.BUSY, "n1 does not know n2 yet"),
        (hello(node_id="n3", identity=GONE), Code.REMOVED, "n3 was removed from the cluster"),
        (hello(NO_IDENTITY, "n3", GONE), Code.REMOVED, "it can join as a new node"),
    ],
)
def test_others_are_refused_with_the_reason(bad: Hello, code: Code, text: str) -> None:
    """Who is not known, but speaks of this cluster, has joined it a moment ago."""
    answer = handshake().answer(bad)
    assert isinstance(answer, Failure)
    assert answer.code == code
    assert text in answer.text


@pytest.mark.parametrize("cluster_id", [NO_IDENTITY, THEIRS])
def test_node_without_a_cluster_talks_to_everybody(cluster_id: bytes) -> None:
    """It learns from a Probe or a Form whether it can belong to them."""
    answer = handshake(is_formed=False).answer(hello(cluster_id, "n7", WIPED))
    assert answer == Welcome(PROTOCOL_VERSION, NO_IDENTITY, "n1", ID1)


@pytest.mark.parametrize("bad", [hello(protocol=9), hello(role=7)])
def test_wrong_protocol_is_refused_even_without_a_cluster(bad: Hello) -> None:
    assert isinstance(handshake(is_formed=False).answer(bad), Failure)


@pytest.mark.parametrize(
    ("welcome", "wrong"),
    [
        (Welcome(1, OURS, "n2", ID2), None),
        (Welcome(1, NO_IDENTITY, "n2", ID2), None),
        (Welcome(1, OURS, "n3", ID2), "n3 answers at the address of n2"),
        (Welcome(1, NO_IDENTITY, "n3", ID2), "n3 answers at the address of n2"),
        (Welcome(1, THEIRS, "n2", ID2), f"n2 belongs to cluster {THEIRS.hex()}"),
        (Welcome(1, OURS, "n2", WIPED), "n2 answers with another identity"),
    ],
)
def test_welcome_is_checked(welcome: Welcome, wrong: str | None) -> None:
    found = handshake().check_welcome("n2", welcome)
    assert (found is None) == (wrong is None)
    assert wrong is None or wrong in (found or "")


def test_welcome_cannot_be_checked_before_there_is_a_cluster() -> None:
    found = handshake(is_formed=False).check_welcome("n2", Welcome(1, THEIRS, "n2", WIPED))
    assert found is None
