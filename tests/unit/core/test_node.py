"""One node as its clients see it: dispatch, lists, status, sessions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from tests.unit.core.bench import Truth
from tests.unit.core.served import Served
from tests.unit.making import W1, entries
from walle.core import forwarding, status
from walle.errors import Code
from walle.ids import ANY_WRITER, NO_WRITER, ORIGIN, STREAM_CLUSTER, Position
from walle.messages import (
    NODE_ONLY,
    Adopt,
    AdoptReply,
    AskCommitted,
    AskHeld,
    AskOldest,
    AskWriter,
    Claim,
    Confirm,
    CreateStream,
    Describe,
    Failure,
    Fetch,
    Form,
    FormReply,
    ListStreams,
    NewWriter,
    Probe,
    Put,
    PutReply,
    Read,
    ReadTail,
    Release,
    SetMembers,
    Stamp,
    Status,
    StreamInfo,
    Sync,
    Welcome,
    WriterStatus,
    encoded_size,
)
from walle.testing.cluster import Cluster, client_hello

if TYPE_CHECKING:
    from walle.messages import Message

ANYONE = bytes(16)
NODES_QUESTIONS = (
    NewWriter(2, 1, W1, "", 100, ANY_WRITER),
    ReadTail(2, 1, W1, 0),
    Sync(2, 1, W1, "n2", ORIGIN, ORIGIN, 0),
    Stamp(2, 1, W1, ORIGIN),
    AskWriter(2, 1),
    AskCommitted((2,)),
    Fetch(2, 1, 2, 0, 0, 1),
    AskOldest(2, 0, 0),
    Probe(),
    Form(ANYONE, ()),
    Adopt(2, "/s", 2, ("n1",), ("n2",), 1, 0),
    Confirm(2, 1, 1, 0),
    AskHeld(2, 1),
)
CHANGES_OF_CLUSTER = (
    Put(STREAM_CLUSTER, 1, W1, 1, ORIGIN, 0),
    Put(STREAM_CLUSTER, 1, W1, 1, ORIGIN, 1),
    Claim(STREAM_CLUSTER, "me", 1_000, 1_000, 1),
    Release(STREAM_CLUSTER, 1, W1, ORIGIN, 0),
)


@pytest.fixture(scope="module")
def served() -> Served:
    """Four nodes; one of them is not a member of `/s`. Only looked at."""
    return Served(4)


def stranger(served: Served) -> str:
    (name,) = set(served.names) - set(served.members)
    return name


def refusal(answer: Any) -> tuple[int, str]:
    assert isinstance(answer, Failure)
    return answer.code, answer.text


# --- who may ask what -----------------------------------------------------------------------------


def test_every_question_of_nodes_is_tried() -> None:
    assert {type(each) for each in NODES_QUESTIONS} == NODE_ONLY


@pytest.mark.parametrize("message", NODES_QUESTIONS, ids=lambda each: type(each).__name__)
def test_client_may_not_ask_what_nodes_ask_of_each_other(served: Served, message: Message) -> None:
    assert refusal(served.call("n1", message)) == (Code.BAD_REQUEST, "only nodes may ask that")


@pytest.mark.parametrize("message", CHANGES_OF_CLUSTER, ids=lambda each: type(each).__name__)
def test_client_may_not_write_what_nodes_write(served: Served, message: Message) -> None:
    text = "only nodes may ask that: they alone write /cluster"
    assert refusal(served.call("n1", message)) == (Code.BAD_REQUEST, text)


@pytest.mark.parametrize("message", [FormReply(0, ANYONE), Welcome(1, ANYONE, "n", ANYONE)])
def test_answer_to_no_question_is_refused(served: Served, message: Message) -> None:
    assert refusal(served.call("n1", message)) == (Code.BAD_REQUEST, "an answer to no question")


@pytest.mark.parametrize(
    "message",
    [Read(99, 1, 1, 0, 0, 0), WriterStatus(99, 1, NO_WRITER, 0), Claim(99, "", 100, 0, 0)],
)
def test_stream_that_is_not_known_yet_may_be_asked_for_again(
    served: Served, message: Message
) -> None:
    assert refusal(served.call("n1", message)) == (Code.BUSY, "n1 does not know stream 99 yet")


def test_node_that_is_not_a_member_names_those_that_are(served: Served) -> None:
    name = stranger(served)
    code, text = refusal(served.call(name, Read(served.stream_id, 1, 1, 0, 0, 0)))
    assert code == Code.NOT_A_MEMBER
    members = ", ".join(served.members)
    assert text == f"{name} is not a member of /s; its members are {members}"


def test_put_is_refused_in_its_own_form(served: Served) -> None:
    """So that a writer's pipeline hears of it."""
    put = Put(served.stream_id, 1, W1, 8, ORIGIN, 0)
    answer = served.call(stranger(served), put, entries(1))
    assert isinstance(answer, PutReply)
    assert (answer.code, answer.transmission) == (Code.NOT_A_MEMBER, 8)


# --- what there is --------------------------------------------------------------------------------


def test_streams_are_listed_in_order_of_their_ids(served: Served) -> None:
    page = served.call(stranger(served), ListStreams(0))
    assert [each.name for each in page.streams] == ["/cluster", "/s"]
    assert page.more == 0
    page = served.call("n1", ListStreams(STREAM_CLUSTER))
    assert [each.name for each in page.streams] == ["/s"]


def test_long_list_comes_in_pages(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = served.call("n1", ListStreams(0)).streams
    monkeypatch.setattr(status, "LIST_BYTES_MAX", encoded_size(whole[0]))
    first = served.call("n1", ListStreams(0))
    assert (first.streams, first.more) == (whole[:1], 1)
    second = served.call("n1", ListStreams(STREAM_CLUSTER))
    assert (second.streams, second.more) == (whole[1:], 0)


def test_page_holds_as_much_as_fits() -> None:
    sizes = [60_000, 60_000, 60_000]
    assert status.page(sizes, lambda size: size) == (sizes[:2], 1)
    assert status.page(sizes[:2], lambda size: size) == (sizes[:2], 0)
    assert status.page([], lambda _: 1) == ([], 0)


def test_stream_is_described_by_any_node(served: Served) -> None:
    for name in served.names:
        info = served.call(name, Describe("/s"))
        assert isinstance(info, StreamInfo)
        assert (info.stream_id, len(info.members)) == (served.stream_id, 3)


def test_name_that_nobody_knows_is_told_with_the_remedy(served: Served) -> None:
    code, text = refusal(served.call("n1", Describe("/t")))
    assert code == Code.UNKNOWN_STREAM
    assert text == "no stream /t: `walle stream create /t` makes it"


def test_member_hears_of_damage_to_its_stream(served: Served) -> None:
    node, stream_id = served.nodes["n1"], served.stream_id
    told: list[tuple[Position, Position]] = []
    backfill = node.members[stream_id].backfill
    with patch.object(backfill, "open_gap", lambda after, last: told.append((after, last))):
        node.damaged(stream_id, ORIGIN, Position(3, 33))
        node.damaged(99, ORIGIN, Position(5, 55))
    assert told == [(ORIGIN, Position(3, 33))]


def test_status_tells_of_the_node_and_its_streams(served: Served) -> None:
    reply = served.call("n2", Status(0))
    status = json.loads(reply.json)
    assert (status["id"], status["address"]) == ("n2", "n2:1")
    assert [node["id"] for node in status["nodes"]] == served.names
    streams = {each["name"]: each for each in status["streams"]}
    assert streams["/cluster"]["committed_id"] == served.stream_id
    assert streams["/cluster"]["gaps"] == []
    assert streams["/cluster"]["backfill"] is None


def test_status_tells_how_far_a_gap_is_filled() -> None:
    served = Served()
    member, truth = served.nodes["n1"].members[served.stream_id], Truth(9)
    member.history = truth.with_gap(2, 7, 9)

    def stream() -> dict[str, Any]:
        (found,) = json.loads(served.call("n1", Status(STREAM_CLUSTER)).json)["streams"]
        return dict(found)

    assert stream()["gaps"] == [[3, 7]]
    assert stream()["backfill"] == {"gap": [3, 7], "filled_id": 2, "bytes_per_second": 0}
    member.history.add_fill(truth.batch(3, 4))
    member.backfill.rate.add(member.context.now_ns, 4_000_000)
    now = stream()["backfill"]
    assert (now["gap"], now["filled_id"]) == ([3, 7], 4)
    assert now["bytes_per_second"] > 0


# --- a cluster that is not formed, or cannot decide -----------------------------------------------


def lonely() -> Cluster:
    """n2, whose cluster is not formed: n1, the seed, is down."""
    cluster = Cluster(3, is_started=False)
    cluster.start("n2")
    return cluster


def asked(cluster: Cluster, message: Message, name: str = "n2") -> tuple[int, str]:
    cluster.ask(name, message, 7)
    cluster.run(10_000)
    return refusal(cluster.answer(7))


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Describe("/s"), "the cluster's topology cannot be read at the moment"),
        (CreateStream("/s", ()), "the cluster has no topology manager at the moment"),
        (Read(2, 1, 1, 0, 0, 0), "n2 does not know stream 2 yet"),
    ],
)
def test_node_of_no_cluster_may_be_asked_again(message: Message, text: str) -> None:
    assert asked(lonely(), message) == (Code.BUSY, text)


def test_node_of_no_cluster_stops_at_once() -> None:
    node = lonely().nodes["n2"]
    node.stop()
    assert not node.is_releasing


def test_name_that_cannot_be_told_unknown_without_a_majority_is_busy() -> None:
    served = Served()
    served.lose = lambda mail: mail.source == "n1" and mail.target != "client"
    text = "the cluster's topology cannot be read at the moment"
    assert asked(served, Describe("/t"), "n1") == (Code.BUSY, text)


def test_impossible_name_is_told_at_once(served: Served) -> None:
    code, text = refusal(served.call("n1", Describe("t")))
    assert code == Code.BAD_REQUEST
    assert "begins with '/'" in text


def test_requests_to_the_manager_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "QUESTIONS_COUNT_MAX", 1)
    served = Served()
    managers = {name: node.manager for name, node in served.nodes.items()}
    follower = next(name for name, each in managers.items() if each and not each.is_acting)
    served.lose = lambda mail: isinstance(mail.message, CreateStream) and mail.source == follower
    for request_id in (7, 8):
        served.ask(follower, CreateStream("/t", ()), request_id)
    served.run(10)
    assert refusal(served.answer(8)) == (
        Code.BUSY,
        "1 requests to create or change streams wait here already",
    )
    served.run(10_000)
    code, text = refusal(served.answer(7))
    assert code == Code.BUSY
    assert text.endswith("does not answer")


def test_what_the_manager_says_is_handed_on_though_it_stays_busy() -> None:
    served = Served(4)
    managers = {name: node.manager for name, node in served.nodes.items()}
    follower = next(name for name, each in managers.items() if each and not each.is_acting)
    (new,) = set(served.names) - set(served.members)
    served.lose = lambda mail: isinstance(mail.message, AdoptReply)
    served.call(follower, SetMembers("/s", (new,), "", 0))
    code, text = refusal(served.call(follower, SetMembers("/s", (new, "n1"), "", 0)))
    assert code == Code.BUSY
    assert text.startswith(f"/s is being moved to {new}; one change at a time")


# --- lives ----------------------------------------------------------------------------------------


def test_node_that_starts_again_takes_up_what_it_was() -> None:
    served = Served()
    served.cut_off = {"n2"}
    served.restart("n2")
    node = served.nodes["n2"]
    assert node.cluster.cluster_id == served.nodes["n1"].cluster.cluster_id
    assert sorted(node.members) == [STREAM_CLUSTER, served.stream_id]
    served.cut_off = set()
    served.run(3_000)
    assert node.cluster.find("/s") is not None


def test_session_of_another_cluster_is_not_opened() -> None:
    served = Served()
    node = served.nodes["n1"]
    hello = client_hello()._replace(cluster_id=b"another cluster ")
    code, _ = refusal(node.open_session(99_999, hello))
    assert code == Code.WRONG_CLUSTER
    assert 99_999 not in node.context.sessions._endings


# --- refused by another node ----------------------------------------------------------------------


def test_node_whose_hello_is_refused_stops_or_raises_an_alarm() -> None:
    """One that belongs to no cluster must not run on; another may be right itself."""
    served = Served()
    failure = Failure(Code.WRONG_CLUSTER, "who are you?")
    node = served.nodes["n1"]
    node.refused("n2", failure)
    assert node.context.outbox.alarms == ["n2 refuses this node: who are you?"]
    served.disks["n3"] = type(served.disks["n3"])()
    served.cut_off = {"n3"}
    served.nodes.pop("n3")
    wiped = served.start("n3")
    wiped.refused("n2", failure)
    assert wiped.context.outbox.fatal == "n2 refuses this node: who are you?"


def test_peers_are_all_the_others(served: Served) -> None:
    assert served.nodes["n2"].peers() == {"n1": "n1:1", "n3": "n3:1", "n4": "n4:1"}


def test_session_that_ends_takes_its_requests_along() -> None:
    served = Served()
    node = served.nodes["n1"]
    node.open_session(9, client_hello())
    served.ask("n1", Read(served.stream_id, 1, 1, 60_000, 0, 0), 77, session=9)
    served.run(10)
    node.close_session(9)
    served.run(61_000)
    assert served.answers_to(77) == []
