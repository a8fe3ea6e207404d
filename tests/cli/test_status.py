"""`walle status` and `walle stream`: the keys of their JSON, and what people read."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

import walle
from tests.clusters import ROLES, DevNodes, wait_until
from walle.cli.status import STREAMS_IN_FULL
from walle.limits import DISK_RESERVE_BYTES_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow


def stream_of(status: Any, name: str) -> Any:
    return next(each for each in status["streams"] if each["name"] == name)


def put(nodes: DevNodes, stream: str, *options: str, data: bytes) -> None:
    """Puts, and waits until all members know the last entry and the end of the writer's lease: the
    command waits for a majority only."""
    nodes.cli("put", stream, *options, data=data)

    def is_settled() -> bool:
        found = json.loads(nodes.cli("stream", "show", stream, "--json"))
        ends = {member["committed_id"] for member in found["members"]}
        return ends == {data.count(b"\n")} and not found["writer"]["remaining_lease_ms"]

    wait_until(is_settled, "all members know that the writer has ended")


def test_status_as_json(nodes: DevNodes, stream: str) -> None:
    put(nodes, stream, "--address", "me:1", "--lease-ms", "7000", data=b"one\ntwo\n")
    status = nodes.status()
    assert set(status) == {"cluster", "nodes", "streams"}
    assert len(bytes.fromhex(status["cluster"])) == 16
    assert [node["id"] for node in status["nodes"]] == nodes.names
    for node, address in zip(status["nodes"], nodes.addresses, strict=True):
        assert set(node) == {
            *("id", "address", "up", "pid", "children", "streams", "has_space", "free_bytes"),
            *("damage_count", "scrub"),
        }
        assert node["damage_count"] == 0
        assert set(node["scrub"]) == {"pass", "done_bytes", "total_bytes", "ended_us"}
        assert node["address"] == address
        assert node["up"] is True
        assert node["pid"] == nodes.supervisor(node["id"])
        assert node["children"] == {role: nodes.child(node["id"], role) for role in ROLES}
        assert node["has_space"] is True
        assert node["free_bytes"] > DISK_RESERVE_BYTES_DEFAULT
        assert {"/cluster", stream} <= set(node["streams"])
    found = stream_of(status, stream)
    assert set(found) == {
        *("name", "id", "version", "members", "writer", "first_entry_id", "committed_id"),
        *("has_majority", "settings"),
    }
    assert found["has_majority"] is True
    assert (found["version"], found["first_entry_id"], found["committed_id"]) == (1, 1, 2)
    assert found["writer"] == {"address": "me:1", "lease_ms": 7000, "remaining_lease_ms": 0}
    assert [member["id"] for member in found["members"]] == nodes.names
    for member in found["members"]:
        assert set(member) == {
            *("id", "up", "committed_id", "tail_id", "doubtful_id", "gaps", "backfill")
        }
        assert member["up"] is True
        assert (member["tail_id"], member["doubtful_id"]) == (2, 0)
        assert (member["gaps"], member["backfill"]) == ([], None)
    assert json.loads(nodes.cli("stream", "show", stream, "--json")) == found


def test_status_for_people(nodes: DevNodes, stream: str) -> None:
    text = nodes.cli("status").decode()
    for name, address in zip(nodes.names, nodes.addresses, strict=True):
        row = next(line for line in text.splitlines() if line.startswith(name))
        assert row.split()[:4] == [name, address, "up", str(nodes.supervisor(name))]
        assert re.search(r"  pass \d+, \d+ %  +none$", row.rstrip())
    assert f"{stream}  version 1, no entries\n  never claimed\n" in text
    assert "\x1b" not in text
    put(nodes, stream, "--address", "me[red]", data=b"one\n")
    text = nodes.cli("stream", "show", stream).decode()
    assert f"{stream}  version 1, entries 1 to 1\n  writer me[red], no lease runs\n" in text
    assert [line.split() for line in text.splitlines()[2:]] == [
        ["MEMBER", "STATE", "COMMITTED", "TAIL", "GAPS", "BACKFILL"],
        *([name, "up", "1", "1", "none"] for name in nodes.names),
    ]


def test_a_running_lease_is_told(nodes: DevNodes, stream: str) -> None:
    writer = stream_of(nodes.status(), "/cluster")["writer"]
    assert writer["address"] in nodes.names, "the manager claims under its node's id"
    assert 0 < writer["remaining_lease_ms"] <= writer["lease_ms"]
    assert "ms left" in nodes.cli("stream", "show", "/cluster").decode()


def test_create_and_list(nodes: DevNodes) -> None:
    assert nodes.cli("stream", "create", "/all") == b"/all is on n1, n2, n3\n"
    assert nodes.cli("stream", "create", "/all") == b"/all is on n1, n2, n3\n"
    assert nodes.cli("stream", "create", "/two", "--members", "n1,n3") == b"/two is on n1, n3\n"
    assert len(nodes.cli("stream", "create", "/one", "--replicas", "1").split()) == 4
    wait_until(lambda: b"/one" in nodes.cli("stream", "list"), "the node that is asked knows")
    streams = json.loads(nodes.cli("stream", "list", "--json"))
    keys = {"name", "id", "version", "members", "first_entry_id", "settings"}
    assert all(set(each) == keys for each in streams)
    members = {each["name"]: each["members"] for each in streams}
    assert members["/all"] == nodes.names
    assert members["/two"] == ["n1", "n3"]
    assert len(members["/one"]) == 1
    rows = [line.split() for line in nodes.cli("stream", "list").decode().splitlines()]
    assert rows[0] == ["STREAM", "VERSION", "MEMBERS"]
    assert ["/two", "1", "n1", "n3"] in rows


def test_settings_are_told(nodes: DevNodes) -> None:
    created = nodes.cli("stream", "create", "/packed", "--compression", "zstd")
    assert created == b"/packed is on n1, n2, n3, compression zstd\n"
    assert nodes.cli("stream", "create", "/packed") == created, "repeated without settings"
    found = json.loads(nodes.cli("stream", "show", "/packed", "--json"))
    settings = found["settings"]
    assert settings.pop("compression") == "zstd"
    assert set(settings.values()) == {0}
    text = nodes.cli("stream", "show", "/packed").decode()
    assert text.startswith("/packed  version 1, no entries, compression zstd\n")


def test_a_stream_of_which_no_member_answers(nodes: DevNodes) -> None:
    """Nobody knows who has claimed it."""
    nodes.cli("stream", "create", "/away", "--members", "n3")
    nodes.cli("put", "/away", "--address", "me:1", data=b"one\n")
    nodes.kill("n3")
    text = nodes.cli("stream", "show", "/away").decode()
    assert text.startswith("/away  version 1, no member answers, no majority\n  MEMBER ")
    nodes.start("n3")
    assert "writer me:1" in nodes.cli("stream", "show", "/away").decode()


def test_a_dead_node_is_told_and_what_it_lacks_after(nodes: DevNodes, stream: str) -> None:
    nodes.cli("put", stream, data=b"before\n")
    nodes.kill("n3")
    status = nodes.status()
    assert [node["up"] for node in status["nodes"]] == [True, True, False]
    dead = status["nodes"][2]
    assert (dead["pid"], dead["children"], dead["streams"]) == (None, {}, [])
    assert (dead["has_space"], dead["free_bytes"]) == (None, None)
    member = stream_of(status, stream)["members"][2]
    assert (member["up"], member["committed_id"], member["gaps"]) == (False, None, None)
    assert "down" in nodes.cli("status").decode()
    assert "n3      down" in nodes.cli("stream", "show", stream).decode()
    nodes.cli("put", stream, data=b"x" * 1000 + b"\n" + b"some line of text\n" * 100_000)
    nodes.start("n3")
    seen: list[Any] = []
    wait_until(collecting(nodes, stream, seen), "n3 is whole")
    for member in seen:
        for start, end in member["gaps"]:
            # The first entry, too: n3 held it, and had not yet written down that it is committed.
            assert 1 <= start < end <= 100_002
        if member["backfill"]:
            assert set(member["backfill"]) == {"gap", "filled_id", "bytes_per_second"}
            assert member["backfill"]["gap"] in member["gaps"]


def collecting(nodes: DevNodes, stream: str, seen: list[Any]) -> Callable[[], bool]:
    """Looks at n3's part of the stream; whether it holds everything."""

    def look() -> bool:
        member = stream_of(nodes.status(), stream)["members"][2]
        if member["up"]:
            seen.append(member)
        return bool(member["up"] and member["committed_id"] == 100_002 and not member["gaps"])

    return look


def test_streams_without_a_majority_are_marked(tmp_path: Path) -> None:
    with DevNodes(tmp_path, 5, apart=True) as nodes:
        nodes.cli("stream", "create", "/three", "--members", "n1,n2,n3")
        nodes.cli("stream", "create", "/two", "--members", "n1,n4")
        put(nodes, "/three", data=b"one\n")
        nodes.kill("n2", "n3")
        found = {each["name"]: each["has_majority"] for each in nodes.status()["streams"]}
        assert found == {"/cluster": True, "/three": False, "/two": True}
        assert json.loads(nodes.cli("stream", "show", "/three", "--json"))["has_majority"] is False
        lines = nodes.cli("status").decode().splitlines()
        assert "/three  version 1, entries 1 to 1, no majority" in lines
        assert "/two  version 1, no entries" in lines
        with walle.sync.connect(nodes.addresses) as client:
            for number in range(STREAMS_IN_FULL):
                client.create_stream(f"/many/{number}", members=["n1"])
            rows = [line.split(None, 1) for line in nodes.cli("status").decode().splitlines()]
            shown = {row[0]: row[1].rstrip() for row in rows if len(row) > 1}
            assert shown["/three"].endswith("  n1, n2 down, n3 down, no majority")
            assert shown["/two"].endswith("  n1, n4")
            client.set_members("/three", ["n1", "n4", "n5"])  # the former ones are needed for it
        assert " no majority\n" in nodes.cli("stream", "show", "/three").decode()


def test_status_of_many_streams_takes_a_line_each(tmp_path: Path) -> None:
    count = STREAMS_IN_FULL + 1
    with DevNodes(tmp_path, apart=True) as nodes:
        with walle.sync.connect(nodes.addresses) as client:
            for number in range(count):
                client.create_stream(f"/many/{number}")
        put(nodes, "/many/7", "--address", "me:1", data=b"one\n")
        nodes.kill("n2")
        lines = nodes.cli("status").decode().splitlines()
    rows = [re.split(r"  +", line.rstrip()) for line in lines]
    first = rows.index(["STREAM", "ENTRIES", "WRITER", "MEMBERS"]) + 1
    told = {name: rest for name, *rest in rows[first : first + count + 1]}
    assert told["/many/7"] == ["entries 1 to 1", "me:1", "n1, n2 down, n3"]
    assert told["/many/8"] == ["no entries", "never claimed", "n1, n2 down, n3"]
    assert set(told) == {"/cluster", *(f"/many/{number}" for number in range(count))}
    assert lines[-1] == "`walle stream show NAME` tells more of one."
