"""`walle segments`, on directories of real stores, and of a real cluster that was stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.clusters import DevNodes, wait_until
from tests.process.test_damage import is_whole
from tests.segments.replicas import STREAM, all_kinds
from tests.storage.model import CLUSTER_ID, Driver
from walle.cli import run
from walle.compression import Compressor
from walle.config import NodeConfig
from walle.core import effects
from walle.data_directory import DataDirectory
from walle.ids import ORIGIN, WriterId
from walle.limits import COMMITTED_LAG_ENTRIES_MAX
from walle.record import Encoder
from walle.storage.notes import RECORDS_START
from walle.storage.store import Store
from walle.storage.vfs import RealFiles

INSPECTED = """\
node n1, cluster 636c75737465722d6964656e74697479

/stream/5  id 5, version 1, on n1 n2 n3
  promised to app:1004, 1004.0000000000007994
  accepted under 1008.0000000000007a10
  committed up to entry 7 at least
  3 files, 237568 bytes
  ##??..#====
  PART   ENTRIES  BYTES  FIRST WRITTEN (UTC)  LAST WRITTEN (UTC)   WRITERS
  run    [1, 3)   600    1970-01-01T00:00:00  1970-01-01T00:00:00  2
  gap    [3, 7)
  run    [7, 12)  664    1970-01-01T00:00:00  1970-01-01T00:00:00  2
  aside  [3, 4)   152    1970-01-01T00:00:00  1970-01-01T00:00:00  1
  fill   [3, 5)   224    1970-01-01T00:00:00  1970-01-01T00:00:00  1

# held  + in part  = held, perhaps not committed  ? aside or fill  . gap
"""


class Tool:
    """Runs commands in this process; keeps what they print."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd
        self.errors = ""

    def __call__(self, *arguments: str | Path, status: int = 0) -> str:
        """What a command that must end with that status prints."""
        found = run(["segments", *map(str, arguments)])
        text, self.errors = self._capfd.readouterr()
        assert found == status, text + self.errors
        return text

    def json_lines(self, *arguments: str | Path, status: int = 0) -> list[Any]:
        text = self(*arguments, "--json", status=status)
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def tool(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tool:
    monkeypatch.setenv("COLUMNS", "80")
    return Tool(capfd)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The directory of a node that has stopped: runs, an aside run, a gap with a fill, a suffix."""
    path = tmp_path / "n1"
    DataDirectory(NodeConfig("n1", "127.0.0.1:1", path, {"n1": "127.0.0.1:1"})).close()
    driver = Driver(Store(path, RealFiles()))
    driver.do(effects.SetCluster(CLUSTER_ID, ()))
    driver.create(STREAM)
    all_kinds(driver)
    driver.store.sync()
    driver.store.finish()
    return path


def contents(path: Path) -> dict[str, str]:
    """A digest of each file."""
    return {
        str(each.relative_to(path)): hashlib.sha256(each.read_bytes()).hexdigest()
        for each in path.rglob("*")
        if each.is_file()
    }


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def segments_of(path: Path, stream_id: int = STREAM) -> list[Path]:
    return sorted((path / "streams" / f"{stream_id:016x}").glob("*.segment"))


# --- what is printed ------------------------------------------------------------------------------


def test_inspect(tool: Tool, data: Path) -> None:
    lines = [line.rstrip() for line in tool("inspect", data).splitlines()]
    assert lines == INSPECTED.splitlines()
    assert tool("inspect", data, "--stream", "/stream/5")
    ((found,),) = (each["streams"] for each in tool.json_lines("inspect", data))
    assert found["gaps"] == [[3, 7]]


def test_inspect_where_nobody_has_written_and_where_nobody_can_tell(
    tool: Tool, tmp_path: Path
) -> None:
    path = tmp_path / "data"
    driver = Driver(Store(path, RealFiles()))
    driver.create(STREAM)
    driver.store.sync()
    assert "\n  promised to nobody\n  accepted under nobody\n" in tool("inspect", path)
    count = 0
    while count < 3 * COMMITTED_LAG_ENTRIES_MAX:  # more than is read when a node starts
        driver.append(STREAM, [10] * 512)
        count += 512
        driver.commit(STREAM, count)
        driver.store.sync()
    driver.store.finish()
    flip(segments_of(path)[0], RECORDS_START + 60)
    row = next(line for line in tool("inspect", path).splitlines() if line.startswith("  run "))
    assert row.split()[-3:] == ["unreadable"] * 3, "neither times nor writers"


def test_verify(tool: Tool, data: Path) -> None:
    assert tool("verify", data) == "5 files, 4436031 bytes, 10 entries: all is well\n"
    assert tool.json_lines("verify", data) == [
        {"files": 5, "bytes": 4_436_031, "entries": 10, "damaged": 0}
    ]
    path = segments_of(data)[0]
    flip(path, RECORDS_START + 60)
    text = tool("verify", data, status=1)
    assert text.startswith(f"{path} at byte {RECORDS_START}: expected CRC32C ")
    assert "; entries [1, 2) of /stream/5 are lost\n" in text
    assert text.endswith("9 entries: damaged places: 1\n")
    damage, summary = tool.json_lines("verify", data, status=1)
    assert damage["path"] == str(path)
    assert (damage["offset"], damage["entries"], damage["stream"]) == (
        RECORDS_START,
        [1, 2],
        "/stream/5",
    )
    assert summary["damaged"] == 1


def test_verify_tells_of_a_damaged_journal(tool: Tool, data: Path) -> None:
    (path,) = (data / "journal").glob("*.journal")
    flip(path, 3)
    assert tool("verify", data, status=1).startswith(f"{path} at byte 0: expected the header of")
    ((damage),) = tool.json_lines("verify", data, status=1)
    assert damage["path"] == str(path)


def test_verify_tells_of_a_damaged_owner(tool: Tool, data: Path) -> None:
    path = data / "node.json"
    path.write_text(path.read_text()[:-20])
    text = tool("verify", data, status=1)
    assert text.startswith(f"{path} at byte 0: expected a node's name and identity, found ")
    tool("inspect", data, status=78)
    assert f"{path} is no node's identity file" in tool.errors


def test_dump(tool: Tool, data: Path) -> None:
    lines = tool("dump", data, "/stream/5", status=1).splitlines()
    assert [int(line.split()[0]) for line in lines] == [1, 2, 7, 8, 9, 10, 11]
    assert tool.errors == f"entries [3, 7) of /stream/5 are not in {data}\n"
    found = tool.json_lines("dump", data, "/stream/5", "--start", "8", "--end", "10")
    assert [each["entry_id"] for each in found] == [8, 9]
    assert {"writer_id", "time", "chain", "data"} < found[0].keys()
    assert tool("dump", data, "/stream/5", "--start", "7", "--end", "8", "--raw") == (
        bytes((7 * 7 + place) % 251 + 1 for place in range(40)).decode("latin-1") + "\n"
    )


def test_dump_gives_data_as_they_were_put(tool: Tool, tmp_path: Path) -> None:
    path, data = tmp_path / "n1", b"again and " * 1_000
    driver = Driver(Store(path, RealFiles()))
    driver.create(STREAM)
    writer = WriterId(1_000, 7)
    encoder = Encoder(writer, ORIGIN)
    stored, flags = Compressor().pack(data)
    assert flags
    encoder.add(stored, 0, flags)
    driver.do(effects.Append(STREAM, encoder.take(), 0, writer))
    driver.store.sync()
    driver.store.finish()
    assert tool("dump", path, "/stream/5", "--raw").encode() == data + b"\n"


def test_dump_to_a_directory(tool: Tool, data: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    assert tool("dump", data, "/stream/5", "--to", target, status=1) == ""
    assert tool("diff", data, target) == "they agree\n"
    assert "all is well" in tool("verify", target)
    tool("dump", data, "/stream/5", "--to", target, status=78)
    assert tool.errors == (f"walle: {target}: is there already; name a directory that is not\n")


def test_repair_from_a_copy(tool: Tool, data: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    shutil.copytree(data, good)
    flip(segments_of(data)[0], RECORDS_START + 60)
    before = contents(data)
    text = tool("repair", data, "--from", good, status=1)
    assert "stream /stream/5: the gap [1, 2) is filled\n" in text
    assert text.endswith(
        "for the node to mend: stream /stream/5: entries [3, 7) are missing\n"
        "nothing was changed; --write does it\n"
    )
    assert contents(data) == before
    assert "nothing was changed" not in tool("repair", data, "--from", good, "--write", status=1)
    assert "all is well" in tool("verify", data)
    assert tool("diff", data, good) == "they agree\n"


def test_nothing_needs_repair(tool: Tool, data: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    driver = Driver(Store(whole, RealFiles()))
    driver.create(STREAM)
    driver.append(STREAM, [10])
    driver.store.sync()
    driver.store.finish()
    assert tool("repair", whole) == "nothing needs repair\n"
    assert tool("repair", whole, "--write") == "nothing needs repair\n"


def test_diff(tool: Tool, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(data, other)
    assert tool("diff", data, other) == "they agree\n"
    assert tool.json_lines("diff", data, other) == []
    segments_of(other)[0].unlink()
    text = tool("diff", data, other, status=1)
    assert f"/stream/5: entries [1, 3): held in {data}, missing in {other}\n" in text
    (found,) = tool.json_lines("diff", data, other, status=1)
    assert found == {
        "stream": "/stream/5",
        "what": "entries [1, 3)",
        "first": "held",
        "second": "missing",
        "is_alarm": False,
    }


def test_nothing_is_changed_by_looking(tool: Tool, data: Path) -> None:
    before = contents(data)
    tool("inspect", data)
    tool("verify", data)
    tool("dump", data, "/stream/5", status=1)
    tool("repair", data, status=1)
    assert contents(data) == before


# --- what is refused ------------------------------------------------------------------------------


def test_directory_in_use_is_refused(tool: Tool, data: Path) -> None:
    node = DataDirectory(NodeConfig("n1", "127.0.0.1:1", data, {"n1": "127.0.0.1:1"}))
    for command in ("inspect", "verify", "repair"):
        tool(command, data, status=78)
        assert tool.errors.startswith(f"walle: {data}: is in use by another process; stop that")
    node.close()
    tool("inspect", data)


def test_what_is_no_data_directory_is_refused(tool: Tool, data: Path) -> None:
    parent = data.parent
    tool("inspect", parent, status=78)
    assert f"it has no journal/; perhaps {data} is meant" in tool.errors
    tool("inspect", parent / "absent", status=2)


def test_damaged_journal_is_not_repaired(tool: Tool, data: Path) -> None:
    (path,) = (data / "journal").glob("*.journal")
    flip(path, 3)
    before = contents(data)
    for command, *rest in (("repair", "--write"), ("inspect",), ("diff", str(data))):
        tool(command, data, *rest, status=65)
        assert "put a new node with an empty data directory" in tool.errors
    assert contents(data) == before


def test_missing_journal_is_told(tool: Tool, data: Path) -> None:
    shutil.rmtree(data / "journal")
    tool("inspect", data, status=65)
    assert "expected a journal, found none" in tool.errors


def test_unknown_stream_is_told(tool: Tool, data: Path) -> None:
    tool("dump", data, "/orders", status=78)
    assert tool.errors == f"walle: /orders: is no stream in {data}; there are: /stream/5\n"


@pytest.mark.parametrize("options", [["--raw", "--json"], ["--to", "x", "--raw"]])
def test_options_that_exclude_each_other(tool: Tool, data: Path, options: list[str]) -> None:
    tool("dump", data, "/stream/5", *options, status=2)


def test_replica_is_not_repaired_from_itself(tool: Tool, data: Path) -> None:
    tool("repair", data, "--from", data, status=2)


def test_thin_script(data: Path) -> None:
    script = Path(__file__).parents[2] / "tools" / "segments.py"
    done = subprocess.run(
        [sys.executable, script, "verify", data],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
    )
    assert b"all is well" in done.stdout


# --- a real cluster -------------------------------------------------------------------------------


@pytest.mark.slow
def test_replica_of_a_stopped_cluster_is_damaged_and_mended(tool: Tool, tmp_path: Path) -> None:
    """Its node starts from it, and everything is there."""
    lines = b"".join(b"line %d %s\n" % (number, b"x" * 900) for number in range(3_000))
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", "/big")
        nodes.cli("put", "/big", data=lines)
        running = nodes.directory / "n1"
        tool("verify", running, status=78)
        assert "stop that node first" in tool.errors
        wait_until(lambda: is_whole(nodes), "all members are whole")
        nodes.stop()
        paths = [nodes.directory / name for name in nodes.names]
        for path in paths:
            assert "all is well" in tool("verify", path)
            assert tool("dump", path, "/big", "--raw").encode() == lines
        for path in paths[1:]:
            assert tool("diff", paths[0], path) == "they agree\n"
        (found,) = tool.json_lines("inspect", paths[1], "--stream", "/big")
        (stream,) = found["streams"]
        assert (found["node"], len(stream["runs"])) == ("n2", 1)
        files = segments_of(paths[1], stream["id"])
        flip(files[0], RECORDS_START + 5_000)
        files[1].unlink()
        tool("verify", paths[1], status=1)
        tool("repair", paths[1], "--from", paths[0], "--from", paths[2], "--write")
        assert "all is well" in tool("verify", paths[1])
        for path in (paths[0], paths[2]):
            assert tool("diff", path, paths[1]) == "they agree\n"
        assert tool("dump", paths[1], "/big", "--raw").encode() == lines
        nodes.start(*nodes.names)
        assert nodes.cli("read", "/big", "--raw", "--node", "n2") == lines
