"""Streams that move to other nodes, and streams that are deleted, on real nodes under load."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any

import pytest

import walle
from tests.clusters import DevNodes, wait_until
from tests.process.load import PAUSE_S_MAX, STREAM, Load, loaded, run_under_load
from tests.process.test_damage import put_many
from walle.storage.segment import directory_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLD = ("n1", "n2", "n3")

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[DevNodes]:
    with DevNodes(tmp_path, 4) as started:
        started.cli("stream", "create", STREAM, "--members", ",".join(OLD))
        yield started


def members(nodes: DevNodes, stream: str = STREAM, *options: str) -> Any:
    return json.loads(nodes.cli("stream", "members", stream, *options, "--json"))


def files_of(nodes: DevNodes, name: str, stream_id: int) -> list[Path]:
    """The segments that the node holds of that stream."""
    return list(directory_of(nodes.directory / name / "streams", stream_id).iterdir())


def put_some(nodes: DevNodes, count: int, stream: str = STREAM) -> None:
    nodes.cli("put", stream, data=b"".join(b"line %d\n" % number for number in range(count)))


async def read(nodes: DevNodes, node: str | None = None) -> dict[int, bytes]:
    """The data of all entries, by id."""
    async with walle.connect(nodes.addresses) as client:
        return {entry.entry_id: entry.data async for entry in client.read(STREAM, node=node)}


def check_replicas(nodes: DevNodes, names: tuple[str, ...], load: Load) -> None:
    """These are the members, they hold the same, without gaps, and nothing acknowledged is lost."""

    def whole() -> bool:
        status = next(each for each in nodes.status()["streams"] if each["name"] == STREAM)
        by_id = {each["id"]: each for each in status["members"]}
        return all(
            by_id[name]["gaps"] == [] and by_id[name]["committed_id"] == status["committed_id"]
            for name in names
        )

    wait_until(whole, "all members are whole")
    histories = [asyncio.run(read(nodes, name)) for name in names]
    assert all(history == histories[0] for history in histories), "the members differ"
    for entry_id, data in load.acknowledged.items():
        assert histories[0].get(entry_id) == data, f"entry {entry_id} was acknowledged and is lost"


def test_dead_node_is_replaced_and_another_one_dies(nodes: DevNodes) -> None:
    """n3 dies for good, n4 takes its place with a gap, then n2 dies: no put fails."""
    put_some(nodes, 20_000)

    def disturb(load: Load) -> None:
        nodes.kill("n3")
        load.wait_for_more()
        told = members(nodes, STREAM, "--replace", "n3=n4")
        assert (told["version"], told["members"], told["old_members"]) == (
            3,
            ["n1", "n2", "n4"],
            [],
        )
        # Repeated, while there is sure to be a manager: that may be n2.
        assert members(nodes, STREAM, "--replace", "n3=n4")["version"] == 3
        load.wait_for_more()
        nodes.kill("n2")
        load.wait_for_more()

    load = run_under_load(nodes, disturb, Load)
    assert load.pause_s < PAUSE_S_MAX
    check_replicas(nodes, ("n1", "n4"), load)


def test_member_that_was_left_out_lets_go_of_its_files(nodes: DevNodes) -> None:
    """Also when it is killed meanwhile; and it may come back later, with what it has promised."""
    put_some(nodes, 1_000)
    stream_id = members(nodes)["id"]
    assert files_of(nodes, "n3", stream_id)

    def disturb(load: Load) -> None:
        members(nodes, STREAM, "--set", "n1,n2,n4")
        nodes.kill("n3")
        nodes.start("n3")
        wait_until(lambda: not files_of(nodes, "n3", stream_id), "n3's files are gone")
        assert STREAM not in nodes.node_status("n3")["streams"]
        load.wait_for_more()
        members(nodes, STREAM, "--set", "n1,n3,n4")
        load.wait_for_more()

    load = run_under_load(nodes, disturb, Load)
    check_replicas(nodes, ("n1", "n3", "n4"), load)
    wait_until(lambda: not files_of(nodes, "n2", stream_id), "n2's files are gone")


def test_followers_and_watchers_move_on(nodes: DevNodes) -> None:
    """All members are replaced, under a follower that has been reading from one of them."""

    async def run() -> None:
        async with walle.connect(nodes.addresses) as client, loaded(nodes, Load) as load:
            reading = client.read(STREAM, start=1, follow=True)
            assert (await anext(reading)).entry_id == 1
            await asyncio.to_thread(members, nodes, STREAM, "--set", "n4")
            await asyncio.to_thread(load.wait_for_more)
            last_id = max(load.acknowledged)
            async for entry in reading:
                assert load.acknowledged.get(entry.entry_id, entry.data) == entry.data
                if entry.entry_id >= last_id:
                    break
            assert (await client.writer_status(STREAM)).address == "load"

    asyncio.run(run())


def lose_first_segments(nodes: DevNodes, stream_id: int) -> None:
    """Of the members only n1, which is down then, still has the first entries."""
    put_some(nodes, 1)  # a claim: with its promise the journal notes what is committed
    nodes.kill("n2", "n3")
    for name in ("n2", "n3"):
        min(files_of(nodes, name, stream_id)).unlink()
    nodes.kill("n1")
    nodes.start("n2", "n3")


def test_change_waits_for_what_too_few_hold_and_goes_on_by_itself(tmp_path: Path) -> None:
    """It names the entries that no new member holds; they are there once n1 is."""
    with DevNodes(tmp_path, 5) as nodes:
        nodes.cli("stream", "create", STREAM, "--members", ",".join(OLD))
        data = put_many(nodes, 300)
        lose_first_segments(nodes, members(nodes)["id"])
        waiting = nodes.popen("stream", "members", STREAM, "--set", "n2,n3,n4")
        assert waiting.stderr is not None
        assert any(b"the new members to hold [1, " in line for line in waiting.stderr)
        told = members(nodes)
        assert told["old_members"] == list(OLD)
        assert [start for start, _ in told["ranges"]] == [1]
        waiting.send_signal(signal.SIGINT)
        status, text = nodes.end_of(waiting)
        assert status == 130
        assert "goes on by itself" in text
        nodes.start("n1")
        wait_until(lambda: not members(nodes)["old_members"], "the change has ended")
        assert [*asyncio.run(read(nodes)).values()] == [*data, b"line 0"]


def test_change_is_forced_where_entries_are_lost(tmp_path: Path) -> None:
    """n1 never comes back: what nobody else holds is given up, once somebody has said so."""
    with DevNodes(tmp_path, 5) as nodes:
        nodes.cli("stream", "create", STREAM, "--members", ",".join(OLD))
        put_many(nodes, 300)
        lose_first_segments(nodes, members(nodes)["id"])
        change = ("stream", "members", STREAM, "--set", "n2,n3,n4", "--force")
        asked = nodes.run(*change, data=b"n\n")
        assert asked.returncode == 1
        assert asked.stderr.endswith(b"walle: the change goes on to wait\n")
        assert b"entries of /loaded may be held by fewer than 2 of n2, n3, n4: [1, " in asked.stderr
        assert members(nodes)["old_members"] == list(OLD)
        assert b"is on n2, n3, n4" in nodes.cli(*change, "--yes")
        assert members(nodes)["version"] == 3
        put_some(nodes, 10)


def test_drain_moves_all_streams(nodes: DevNodes) -> None:
    names = [f"/s{number}" for number in range(6)]
    for name in names:
        nodes.cli("stream", "create", name)
        put_some(nodes, 3, name)
    assert b"n3 is a member of no stream" in nodes.cli("node", "drain", "n3")
    assert members(nodes, "/cluster")["members"] == ["n1", "n2", "n4"]
    for name in (*names, STREAM):
        assert members(nodes, name)["members"] == ["n1", "n2", "n4"]
    assert nodes.cli("node", "drain", "n3") == b"n3 is a member of no stream\n"  # repeated


def test_drain_leaves_the_cluster_alone_where_others_cannot_do_without_the_node(
    tmp_path: Path,
) -> None:
    with DevNodes(tmp_path, 3) as nodes:
        nodes.cli("stream", "create", STREAM)
        drained = nodes.run("node", "drain", "n3")
        assert drained.returncode == 1
        assert b"/loaded was not moved: no other node can take the place of n3" in drained.stderr
        assert b"/cluster was not moved: it keeps n3 as long as other streams do" in drained.stderr
        assert members(nodes, "/cluster")["members"] == ["n1", "n2", "n3"]
        nodes.cli("stream", "delete", STREAM, "--yes")
        nodes.cli("node", "drain", "n3")
        assert members(nodes, "/cluster")["members"] == ["n1", "n2"]


def test_dead_node_is_replaced_in_all_streams(tmp_path: Path) -> None:
    with DevNodes(tmp_path, 5) as nodes:
        names = [f"/s{number}" for number in range(6)]
        for name in names:
            nodes.cli("stream", "create", name, "--members", "n1,n2,n3")
            put_some(nodes, 3, name)
        nodes.cli("stream", "members", "/cluster", "--set", "n1,n2,n3")
        nodes.kill("n3")
        nodes.cli("node", "replace", "n3", "--with", "n5")
        for name in (*names, "/cluster"):
            assert members(nodes, name)["members"] == ["n1", "n2", "n5"]
            assert members(nodes, name)["old_members"] == []


async def wait_deleted(client: walle.Client) -> None:
    """Until the node that is asked knows: a majority of `/cluster` does."""
    async with asyncio.timeout(30):
        while True:
            try:
                await client.describe(STREAM, refresh=True)
            except walle.UnknownStream:
                return
            await asyncio.sleep(0.02)


def test_deleted_stream_is_gone_and_its_name_is_free(nodes: DevNodes) -> None:
    put_some(nodes, 10)
    stream_id = members(nodes)["id"]

    async def write_while_it_is_deleted(client: walle.Client) -> None:
        async with client.claim(STREAM, address="writer") as writer:
            await asyncio.to_thread(nodes.cli, "stream", "delete", STREAM, "--yes")
            while True:
                await writer.put(b"x")

    async def run() -> None:
        async with walle.connect(nodes.addresses) as client:
            following = client.read(STREAM, start=11, follow=True)
            waiting = asyncio.ensure_future(anext(following))
            with pytest.raises(walle.UnknownStream, match="was deleted"):
                await write_while_it_is_deleted(client)
            with pytest.raises(walle.UnknownStream, match="was deleted"):
                await waiting
            await wait_deleted(client)
            again = await client.create_stream(STREAM, members=["n2", "n3", "n4"])
            assert again.stream_id > stream_id
            assert [entry async for entry in client.read(STREAM)] == []

    asyncio.run(run())
    for name in OLD:
        wait_until(
            lambda name=name: not files_of(nodes, name, stream_id), f"{name}'s files are gone"
        )
    put_some(nodes, 2)
    assert nodes.cli("read", STREAM, "--raw") == b"line 0\nline 1\n"
