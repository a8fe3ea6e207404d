"""Files that are damaged under running nodes, and under nodes that are down: what was acknowledged
is read, from another member if need be, and in the end every replica is whole again."""

from __future__ import annotations

import asyncio
import random
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import walle
from tests.clusters import DevNodes, wait_until
from tests.process.load import STREAM, Load, check_history, run_under_load
from walle.core.effects import ReadRecords, Send
from walle.limits import FETCH_BYTES_MAX
from walle.messages import Read, ReadReply
from walle.record import Bytes, check, decode_all
from walle.storage.notes import RECORDS_START
from walle.storage.store import Store
from walle.storage.vfs import RealFiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROUNDS = 2
NOBODY = Send(0, 0, None)

pytestmark = pytest.mark.slow


def segments(nodes: DevNodes, name: str) -> list[Path]:
    """A node's segment files, `/cluster`'s first."""
    return sorted((nodes.directory / name / "streams").glob("*/*.segment"))


def flip(path: Path, place: int) -> None:
    """One bit rots."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def shorten(path: Path, size: int) -> None:
    with path.open("r+b") as file:
        file.truncate(size)


def put_many(nodes: DevNodes, count: int) -> list[bytes]:
    """Fills segments: 64 KiB, 256 KiB, 1 MiB and so on; returns the data."""
    data = [b"entry %d " % number + random.randbytes(500) for number in range(count)]

    async def put() -> None:
        async with (
            walle.connect(nodes.addresses) as client,
            client.claim(STREAM, address="writer") as writer,
        ):
            for start in range(0, count, 100):
                for put in [writer.put(each) for each in data[start : start + 100]]:
                    await put

    asyncio.run(put())
    return data


def read_from(nodes: DevNodes, name: str, stream: str = STREAM) -> list[bytes]:
    """The data of all entries that are committed by now, as that node answers, from wherever it has
    them."""
    committed_id = stream_of(nodes, stream)["committed_id"]

    async def read() -> list[bytes]:
        found: list[bytes] = []
        async with walle.connect(nodes.addresses) as client:
            info = await client.describe(stream)
            address = nodes.addresses[nodes.names.index(name)]
            while len(found) < committed_id:  # a node that has just started may be behind
                ask = Read(info.stream_id, len(found) + 1, FETCH_BYTES_MAX, 1_000, 0, local=0)
                _, batch = await client.ask(ask, ReadReply, addresses=[address])
                if batch is not None:
                    found += [entry.data for entry in decode_all(batch)]
        return found

    return asyncio.run(read())


def stream_of(nodes: DevNodes, name: str) -> Any:
    return next(each for each in nodes.status()["streams"] if each["name"] == name)


def is_whole(nodes: DevNodes) -> bool:
    """Whether every member of every stream holds all that is committed."""
    status = nodes.status()
    return all(node["up"] for node in status["nodes"]) and all(
        member["gaps"] == [] and member["committed_id"] == stream["committed_id"]
        for stream in status["streams"]
        for member in stream["members"]
    )


def end_doubts(nodes: DevNodes) -> None:
    """Waits until every member answers for its tail: with a second one that does not, nobody could
    claim the stream. The stream of the load has a new writer by now, and that ends a doubt."""

    def doubted() -> set[str]:
        return {
            stream["name"]
            for stream in nodes.status()["streams"]
            if any(member["doubtful_id"] for member in stream["members"])
        }

    if "/cluster" in doubted():
        manager = stream_of(nodes, "/cluster")["writer"]["address"]
        nodes.kill(manager)
        nodes.start(manager)
    wait_until(lambda: not doubted(), "nobody doubts its tail")


def wait_for_a_pass(nodes: DevNodes) -> None:
    """Waits until every node has read all that it holds, from now on."""
    passes = {node["id"]: node["scrub"]["pass"] for node in nodes.status()["nodes"]}

    def has_passed() -> bool:
        found = nodes.status()["nodes"]
        return all(node["up"] and node["scrub"]["pass"] > passes[node["id"]] + 1 for node in found)

    wait_until(has_passed, "all nodes have read all that they hold", 60.0)


def records_of(directory: Path) -> dict[str, bytes]:
    """All that a stopped node holds, by stream, as it lies on its disk; nothing of it damaged."""
    store = Store(directory, RealFiles())
    assert store.findings == ()
    held = {}
    for state in store.recovered().states:
        (run,) = state.history.runs
        records = b""
        start = run.start
        while start < run.end:
            wanted = ReadRecords(state.stream_id, start, run.end, 1 << 20, None, False, NOBODY)
            page = b"".join(store.read(wanted))
            start += check(Bytes(page), where="the disk").count
            records += page
        held[state.name] = records
    while store.scrubber.passes_count == 0:
        assert store.scrubber.step() is None
    store.close()
    return held


def check_replicas(nodes: DevNodes, directory: Path) -> None:
    """Stops the cluster; the replicas are the same, byte for byte."""
    nodes.stop()
    for name in nodes.names:
        shutil.copytree(nodes.directory / name, directory / name)
    first, *others = [records_of(directory / name) for name in nodes.names]
    assert first[STREAM]
    assert all(other == first for other in others)


def test_damage_in_a_running_node_is_read_from_another_and_replaced(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        data = put_many(nodes, 4_000)
        first, second, third, *_ = segments(nodes, "n2")[1:]
        assert read_from(nodes, "n2") == data, "its files are mapped"
        flip(first, RECORDS_START + 100)
        shorten(second, 100_000)
        flip(third, 500_000)
        assert read_from(nodes, "n2") == data
        wait_until(lambda: nodes.node_status("n2")["damage_count"] >= 3, "all is found")
        wait_until(lambda: is_whole(nodes), "all gaps are closed")
        assert [nodes.node_status(name)["damage_count"] for name in ("n1", "n3")] == [0, 0]
        pids = nodes.node_status("n2")["children"]
        assert read_from(nodes, "n2") == data
        assert nodes.node_status("n2")["children"] == pids, "no process has ended"
        check_replicas(nodes, tmp_path)


def test_damage_that_nobody_reads_is_found_and_replaced(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        put_many(nodes, 4_000)
        pids = nodes.node_status("n2")["children"]
        first, second, third, *_ = segments(nodes, "n2")[1:]
        flip(first, 40)
        flip(second, 200_000)
        third.unlink()
        wait_until(lambda: nodes.node_status("n2")["damage_count"] == 3, "all is found")
        wait_until(lambda: is_whole(nodes), "all gaps are closed")
        assert nodes.node_status("n2")["children"] == pids, "no process has ended"
        assert "found 3 times" in nodes.cli("status").decode()
        assert nodes.logs().count("damage: ") == 3
        check_replicas(nodes, tmp_path)


def test_nothing_is_lost_while_one_node_at_a_time_is_damaged(tmp_path: Path) -> None:
    """Under load, bits are flipped and files shortened and removed, at nodes that run and at nodes
    that are down; each is killed and started again."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201 - to repeat a failure
    chance = random.Random(seed)

    def damage(name: str, kinds: Sequence[str] = ("flip", "flip", "shorten", "remove")) -> None:
        """One of the node's segments, whichever."""
        path = chance.choice(segments(nodes, name))
        place = chance.randrange(path.stat().st_size)
        match chance.choice(kinds):
            case "flip":
                flip(path, place)
            case "shorten":
                shorten(path, place)
            case _:
                path.unlink()

    def damage_node(name: str, _load: Load) -> None:
        end_doubts(nodes)
        damage(name)
        nodes.kill(name)
        damage(name)
        nodes.start(name)
        damage(name, ["flip"])
        for stream in ("/cluster", STREAM):
            read_from(nodes, name, stream)  # it meets whatever is damaged
        wait_until(lambda: is_whole(nodes), "all gaps are closed")

    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        put_many(nodes, 4_000)
        # Each load has a writer of its own: a member that doubts its tail gets over it by a claim.
        loads = [
            run_under_load(nodes, partial(damage_node, name), Load) for name in nodes.names * ROUNDS
        ]
        wait_for_a_pass(nodes)
        for load in loads:
            check_history(nodes, load)
        check_replicas(nodes, tmp_path)
