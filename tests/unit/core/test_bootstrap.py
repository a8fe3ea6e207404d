"""Forming a cluster, once: nobody hears of the decision before it is durable at the seed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.unit.core.bench import SESSION, NodeBench
from walle.core.bootstrap import Bootstrap
from walle.core.cluster import ClusterState
from walle.errors import Code
from walle.ids import NO_IDENTITY
from walle.messages import Failure, Form, FormReply, NodeRecord, Probe, ProbeReply

if TYPE_CHECKING:
    from collections.abc import Iterable

ADDRESSES = {"n1": "h1:1", "n2": "h2:1", "n3": "h3:1"}
IDS = {name: name.encode() * 8 for name in ADDRESSES}
OLD = b"an older cluster"
NODES = tuple(
    NodeRecord(name, ADDRESSES[name], IDS[name], f"zone {name}", 7) for name in sorted(ADDRESSES)
)


def probed(name: str, cluster_id: bytes) -> ProbeReply:
    """What the node answers; the address by which it knows itself is not asked for."""
    (node,) = (each for each in NODES if each.node_id == name)
    return ProbeReply(node._replace(address="elsewhere:1"), cluster_id)


class FormBench(NodeBench):
    """n1 is one of the nodes that form the cluster; the seed, unless others come before it."""

    def __init__(self, addresses: dict[str, str] | None = None, cluster_id: bytes = b"") -> None:
        super().__init__()
        self.cluster = ClusterState()
        if cluster_id:
            self.cluster.form(cluster_id, NODES)
        self.formed: list[tuple[bytes, tuple[NodeRecord, ...]]] = []
        self.bootstrap = Bootstrap(
            self.context,
            node=NODES[0],
            cluster=self.cluster,
            initial_cluster=ADDRESSES if addresses is None else addresses,
            on_formed=self._on_formed,
        )
        self.bootstrap.start()

    def _on_formed(self, cluster_id: bytes, nodes: tuple[NodeRecord, ...]) -> None:
        self.formed.append((cluster_id, nodes))
        self.cluster.form(cluster_id, nodes)

    def probed(self, names: Iterable[str], cluster_id: bytes = NO_IDENTITY) -> None:
        """Those nodes answer who they are."""
        asked = self.asked(Probe)
        for name in names:
            self.reply(asked[name], probed(name, cluster_id))

    def form(self, form: Form, sender: int | str = SESSION) -> None:
        self.bootstrap.form(sender, 5, form)

    def fatal(self) -> str | None:
        return self.context.outbox.fatal


def test_seed_decides_once_all_have_answered_and_tells_itself_first() -> None:
    bench = FormBench()
    bench.probed(["n2", "n3"])
    ((cluster_id, nodes),) = bench.formed
    assert nodes == NODES
    assert cluster_id != NO_IDENTITY
    told = bench.asked(Form)
    assert set(told) == {"n1"}, "the others hear of it once it is durable here"
    bench.form(told["n1"].message, "n1")
    assert {name: each.message for name, each in bench.asked(Form).items()} == {
        "n2": Form(cluster_id, NODES),
        "n3": Form(cluster_id, NODES),
    }


def test_seed_waits_for_the_last_one() -> None:
    bench = FormBench()
    bench.probed(["n3"])
    assert bench.formed == []
    bench.pass_ms(60_000)
    assert set(bench.asked(Probe)) == {"n2"}
    assert bench.context.outbox.notes == ["waits for n2, n3, to form a cluster together"]


def test_lone_node_forms_at_once() -> None:
    bench = FormBench({"n1": "h1:1"})
    ((_, nodes),) = bench.formed
    assert nodes == NODES[:1]
    (told,) = bench.asked(Form).values()
    bench.form(told.message, "n1")
    assert bench.asked(Form) == {}
    assert bench.context.outbox.notes == []


def test_cluster_ids_are_all_of_the_randomness_given() -> None:
    bench = FormBench({})
    bench.context.random = random.Random(99)
    Bootstrap(
        bench.context,
        node=NODES[0],
        cluster=ClusterState(),
        initial_cluster={"n1": "h1:1"},
        on_formed=bench._on_formed,
    ).start()
    expected = random.Random(99).getrandbits(128).to_bytes(16)
    assert [cluster_id for cluster_id, _ in bench.formed] == [expected]


def test_node_that_is_not_the_seed_asks_nobody() -> None:
    bench = FormBench({**ADDRESSES, "a0": "h0:1"})
    assert bench.asked(Probe) == {}
    assert FormBench({}).asked(Probe) == {}


def test_seed_that_has_decided_tells_the_others_again() -> None:
    bench = FormBench(cluster_id=OLD)
    assert set(bench.asked(Form)) == {"n2", "n3"}
    assert bench.asked(Probe) == {}
    assert bench.formed == []


def test_who_has_joined_or_was_removed_since_is_none_of_those_that_form_the_cluster() -> None:
    """A node that hears of it late would count them among the members of `/cluster`, or not."""
    bench = FormBench({}, cluster_id=OLD)
    bench.cluster.nodes["n4"] = NodeRecord("n4", "h4:1", b"has joined since")
    del bench.cluster.nodes["n2"]
    Bootstrap(
        bench.context,
        node=NODES[0],
        cluster=bench.cluster,
        initial_cluster=ADDRESSES,
        on_formed=bench._on_formed,
    ).start()
    told = {name: each.message for name, each in bench.asked(Form).items()}
    assert told == {"n3": Form(OLD, (NODES[0], NODES[2]))}


def test_empty_seed_that_meets_a_formed_cluster_refuses_to_run() -> None:
    """A wiped node can never vote again under its old identity without its promises."""
    bench = FormBench()
    asked = bench.asked(Probe)
    bench.reply(asked["n2"], probed("n2", OLD))
    assert f"n2 belongs to cluster {OLD.hex()} already" in (bench.fatal() or "")
    bench.reply(asked["n3"], probed("n3", NO_IDENTITY))
    assert bench.formed == []


def test_answer_of_another_kind_tells_nothing() -> None:
    bench = FormBench()
    asked = bench.asked(Probe)
    for name in ("n2", "n3"):
        bench.reply(asked[name], Failure(Code.BAD_REQUEST, "what?"))
    assert (bench.formed, bench.fatal()) == ([], None)


@pytest.mark.parametrize("cluster_id", [b"", OLD])
def test_who_asks_is_told_who_this_is(cluster_id: bytes) -> None:
    bench = FormBench(cluster_id=cluster_id)
    bench.bootstrap.probed(SESSION, 5)
    assert bench.answers() == [ProbeReply(NODES[0], cluster_id or NO_IDENTITY)]


def test_node_obeys_the_seed_once() -> None:
    bench = FormBench({**ADDRESSES, "a0": "h0:1"})
    for _ in range(2):
        bench.form(Form(OLD, NODES))
        assert bench.answers() == [FormReply(Code.OK, OLD)]
    assert bench.formed == [(OLD, NODES)]


def test_node_that_joins_forms_no_cluster() -> None:
    """It has the name of one that has formed it; what it is told is of that time."""
    bench = FormBench({})
    bench.form(Form(OLD, NODES))
    assert bench.answers() == [FormReply(Code.BUSY, NO_IDENTITY)]
    assert (bench.formed, bench.fatal()) == ([], None)


def test_node_of_another_cluster_says_so() -> None:
    bench = FormBench(cluster_id=OLD)
    bench.form(Form(b"a newer cluster ", NODES))
    assert bench.answers() == [FormReply(Code.WRONG_CLUSTER, OLD)]
    assert bench.formed == []


@pytest.mark.parametrize(
    "nodes", [NODES[1:], (NodeRecord("n1", "h1:1", b"before the wipe "), *NODES[1:])]
)
def test_node_that_the_cluster_knows_otherwise_refuses_to_run(
    nodes: tuple[NodeRecord, ...],
) -> None:
    bench = FormBench({**ADDRESSES, "a0": "h0:1"})
    bench.form(Form(OLD, nodes))
    assert "was formed with another n1" in (bench.fatal() or "")
    (answer,) = bench.answers()
    assert answer.code == Code.WRONG_CLUSTER
    assert bench.formed == []
