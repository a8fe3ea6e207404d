"""Rebalancing real nodes: the plan, and streams that move under load."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

import walle
from tests.clusters import DevNodes, wait_until
from tests.process.load import STREAM, Load, run_under_load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STREAMS_COUNT = 16
ENTRIES = [b"one", b"two", b"three"]

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[DevNodes]:
    with DevNodes(tmp_path) as started:
        asyncio.run(fill(started))
        yield started


async def fill(nodes: DevNodes) -> None:
    """Some streams with a few entries each, and the one of the load."""
    async with walle.connect(nodes.addresses) as client:
        await client.create_stream(STREAM)

        async def make(name: str) -> None:
            await client.create_stream(name)
            async with client.claim(name, address="test") as writer:
                await asyncio.gather(*(writer.put(data) for data in ENTRIES))

        await asyncio.gather(*map(make, names()))


def names() -> list[str]:
    return [f"/s{index}" for index in range(STREAMS_COUNT)]


def join(nodes: DevNodes, name: str, **settings: Any) -> None:
    """A fourth node, which answers."""
    nodes.run_node(name, join=nodes.addresses, **settings)

    def is_up() -> bool:
        found = json.loads(nodes.cli("node", "list", "--json"))
        return any(each["id"] == name and each["up"] for each in found)

    wait_until(is_up, f"{name} is up")


def planned(nodes: DevNodes, *options: str) -> Any:
    return json.loads(nodes.cli("rebalance", "--json", *options))


def members_of(nodes: DevNodes) -> dict[str, list[str]]:
    found = json.loads(nodes.cli("stream", "list", "--json"))
    return {each["name"]: each["members"] for each in found}


def check_entries(nodes: DevNodes) -> None:
    async def read(client: walle.Client, name: str) -> list[bytes]:
        return [entry.data async for entry in client.read(name)]

    async def work() -> None:
        async with walle.connect(nodes.addresses) as client:
            for name in names():
                assert await read(client, name) == ENTRIES, name

    asyncio.run(work())


def test_new_node_gets_its_share_while_writers_go_on(nodes: DevNodes) -> None:
    join(nodes, "n4", capacity=4)
    former = members_of(nodes)

    def disturb(load: Load) -> None:
        first = planned(nodes)
        moved = {move["name"]: move["to"] for move in first["moves"]}
        assert STREAMS_COUNT // 2 < len(moved) <= STREAMS_COUNT + 1, "n4 is as large as the others"
        assert first["failures"] is None
        by_id = {each["id"]: each for each in first["nodes"]}
        assert (by_id["n4"]["streams"], by_id["n4"]["streams_after"]) == (0, len(moved))
        assert (by_id["n4"]["capacity"], by_id["n4"]["up"]) == (4, True)
        assert members_of(nodes) == former, "a plan moves nothing"
        command = nodes.popen("rebalance", "--yes")
        wait_until(lambda: members_of(nodes) != former, "the first stream is moved")
        command.kill()
        nodes.end_of(command)
        assert planned(nodes, "--yes")["failures"] == {}, "goes on with what is left"
        wait_until(lambda: members_of(nodes) == former | moved, "the node that is asked knows")
        wait_until(lambda: not planned(nodes)["moves"], "nothing is left to plan")
        load.wait_for_more()

    run_under_load(nodes, disturb, Load)
    check_entries(nodes)


def test_plan_is_shown_and_not_carried_out_where_nobody_can_be_asked(nodes: DevNodes) -> None:
    assert b"every stream is where it is to be" in nodes.cli("rebalance", "--yes")
    nodes.cli("stream", "set", "/s1", "--replicas", "1")
    wait_until(lambda: planned(nodes)["moves"], "the node that is asked knows")
    done = nodes.run("rebalance")
    assert done.returncode == 0
    assert b"--yes" in done.stderr
    rows = [line.split() for line in done.stdout.decode().splitlines()]
    assert rows[0] == ["NODE", "STATE", "ZONE", "CAPACITY", "STREAMS", "AFTER"]
    (moved,) = [row for row in rows if row[:1] == ["/s1"]]
    (move,) = planned(nodes)["moves"]
    assert moved == ["/s1", "n1", "n2", "n3", *move["to"], "0"], "nothing is to be copied"
    assert members_of(nodes)["/s1"] == ["n1", "n2", "n3"]
    told = nodes.cli("rebalance", "--yes").decode()
    assert f"/s1 is on {move['to'][0]}\n" in told
    wait_until(lambda: members_of(nodes)["/s1"] == move["to"], "the node that is asked knows")
    check_entries(nodes)


def test_what_waits_for_a_dead_node_is_told(nodes: DevNodes) -> None:
    nodes.cli("stream", "set", "/s1", "--replicas", "7")
    nodes.cli("stream", "members", "/s1", "--set", "n1,n2")
    wait_until(lambda: planned(nodes)["moves"], "the node that is asked knows")
    nodes.kill("n3")
    (move,) = planned(nodes)["moves"]
    assert (move["to"], move["entries"]) == (["n1", "n2", "n3"], len(ENTRIES))
    text = nodes.run("rebalance").stderr.decode()
    assert "n3 does not answer" in text
    assert "1 streams get fewer replicas than they are to have: there are only 3 nodes" in text
