"""Disks that are full, that fail and that are slow, below real nodes with a load running."""

from __future__ import annotations

import asyncio
import errno
import signal
import time
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest

import walle
from tests.clusters import DevNodes, wait_until
from tests.mounts import mounted_memory, resize_memory
from tests.process.disks import Faults
from tests.process.load import LEASE_MS, STREAM, Load, Machine, check_history, run_under_load
from tests.storage.checks import needs_direct_writes
from walle.cli import EX_UNAVAILABLE
from walle.limits import MIB
from walle.storage.vfs import DIRECT_BYTES_MIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SLOW_SYNC_MS = 5_000

pytestmark = pytest.mark.slow


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(tmp_path, monkeypatch)


class Stage:
    """A cluster, and what is done to its nodes' disks.

    fill: with a node's name and bytes: that is all that is free on its disk.
    empty: with a node's name: there is space again.
    """

    def __init__(
        self, nodes: DevNodes, fill: Callable[[str, int], None], empty: Callable[[str], None]
    ) -> None:
        self.nodes = nodes
        self.fill = fill
        self.empty = empty

    def member(self, name: str) -> Any:
        """What the status says of the stream's member."""
        stream = next(each for each in self.nodes.status()["streams"] if each["name"] == STREAM)
        return next(each for each in stream["members"] if each["id"] == name)

    def wait_until_full(self, name: str) -> None:
        wait_until(lambda: self.nodes.node_status(name)["has_space"] is False, f"{name} is full")

    def log(self, name: str) -> str:
        return (self.nodes.directory / f"{name}.log").read_text()


def said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> Stage:
    """Disks of which the system says that they are full."""
    faults = Faults(tmp_path, monkeypatch)
    nodes = stack.enter_context(DevNodes(tmp_path))

    def fill(name: str, free_bytes: int) -> None:
        faults.set("free_bytes", nodes.directory / name, free_bytes)

    return Stage(nodes, fill, lambda name: faults.clear("free_bytes", nodes.directory / name))


def really_full(tmp_path: Path, _monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> Stage:
    """Disks that are full. What others would use up of them is taken away from them."""
    size = 1_024 * MIB
    nodes = DevNodes(tmp_path)
    for name in nodes.names:
        stack.enter_context(mounted_memory(nodes.directory / name, size))
    stack.enter_context(nodes)

    def fill(name: str, free_bytes: int) -> None:
        place = nodes.directory / name
        used = sum(path.stat().st_blocks * 512 for path in place.rglob("*"))
        resize_memory(place, used + free_bytes)

    return Stage(nodes, fill, lambda name: resize_memory(nodes.directory / name, size))


@pytest.fixture
def stage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield request.param(tmp_path, monkeypatch, stack)


class PatientLoad(Load):
    """Does not wait for one put before the next, and tries again when the disks are full.

    in_flight: entries that are not acknowledged.
    refusals: how many puts were refused since the last one that was not.
    size: how often an entry repeats its number.
    """

    size = 1

    def __init__(self, writer: walle.Writer, machine: Machine) -> None:
        super().__init__(writer, machine)
        self.in_flight = 0
        self.refusals = 0

    async def run(self) -> None:
        count = 0
        while True:
            data = b"entry %d" % count * self.size
            try:
                put = self.writer.put(data)
                self.refusals = 0
            except walle.DiskFull:
                self.refusals += 1
            else:
                self.in_flight += 1
                put.add_done_callback(lambda put, data=data: self._on_done(put, data))  # type: ignore[misc]
                count += 1
            await asyncio.sleep(0.002)

    def _on_done(self, put: asyncio.Future[walle.Position], data: bytes) -> None:
        self.in_flight -= 1
        self.acknowledged[put.result().entry_id] = data


# --- full -----------------------------------------------------------------------------------------


async def read_own(nodes: DevNodes, name: str, end: int) -> list[bytes]:
    """The entries before `end`, from that member alone."""
    async with walle.connect(nodes.addresses) as client:
        entries = client.read(STREAM, end=end, follow=True, node=name)
        return [entry.data async for entry in entries]


@pytest.mark.parametrize("stage", [said_to_be_full, really_full], indirect=True)
def test_full_nodes_refuse_entries_and_go_on_with_all_else(stage: Stage) -> None:
    nodes = stage.nodes
    nodes.cli("stream", "create", STREAM)

    def disturb(load: PatientLoad) -> None:
        stage.fill("n1", 100 * MIB)
        stage.wait_until_full("n1")
        held = stage.member("n1")
        load.wait_for_more()
        assert stage.member("n1")["tail_id"] == held["tail_id"], "it takes no more"
        own = asyncio.run(read_own(nodes, "n1", held["committed_id"] + 1))
        assert own == [load.acknowledged[entry_id + 1] for entry_id in range(len(own))]
        assert load.refusals == 0, "the two others are a majority"

        stage.fill("n2", 100 * MIB)
        wait_until(lambda: load.refusals > 0, "puts raise DiskFull")
        time.sleep(2 * LEASE_MS / 1000)
        wait_until(lambda: load.writer.is_exclusive, "the lease goes on")
        assert load.refusals > 0
        assert load.in_flight > 0
        acknowledged = dict(load.acknowledged)
        lines = nodes.cli("read", STREAM, "--raw").splitlines()
        assert lines == [acknowledged[entry_id + 1] for entry_id in range(len(lines))]
        assert len(lines) == len(acknowledged)
        assert nodes.cli("status").count(b"disk full: ") == 2

        nodes.cli("stream", "create", "/other")
        nodes.cli("put", "/other")  # claims and releases
        done = nodes.run("put", "/other", data=b"no room for this\n")
        assert done.returncode == EX_UNAVAILABLE
        assert b"the disks of n1, n2 are full; free space there" in done.stderr
        assert b"outcome of what is in flight: unknown" in done.stderr

        stage.empty("n2")
        load.wait_for_more()
        assert load.refusals == 0
        stage.empty("n1")

    load = run_under_load(nodes, disturb, PatientLoad)
    check_history(nodes, load)
    for name in ("n1", "n2"):
        texts = ("WARNING the disk is full", "INFO the disk has space again", "CRITICAL")
        assert [stage.log(name).count(text) for text in texts] == [1, 1, 0]


@pytest.mark.parametrize("stage", [really_full], indirect=True)
def test_node_without_any_space_uses_its_reserve_and_then_stops(stage: Stage) -> None:
    nodes = stage.nodes
    nodes.cli("stream", "create", STREAM)
    nodes.cli("put", STREAM, data=b"one\ntwo\n")
    reserve = nodes.directory / "n1" / "reserve"

    def restart() -> None:
        nodes.kill("n1")
        stage.fill("n1", 0)
        nodes.start("n1")  # which takes a fresh journal

    restart()
    assert not reserve.exists()
    assert "the reserve was given up" in stage.log("n1")
    nodes.kill("n2")
    nodes.cli("stream", "create", "/other")
    nodes.cli("put", "/other")  # n1 is needed for a majority
    assert nodes.cli("read", STREAM, "--raw") == b"one\ntwo\n"

    stage.fill("n1", 0)
    nodes.signal([nodes.child("n1", "storage")], signal.SIGKILL)
    wait_until(lambda: stage.log("n1").count("not even in reserve") > 1, "it stops each time")
    stage.empty("n1")
    wait_until(reserve.exists, "there is a reserve again")
    nodes.cli("put", STREAM, data=b"three\n")
    assert nodes.cli("read", STREAM, "--raw") == b"one\ntwo\nthree\n"


class GrowingLoad(PatientLoad):
    """Puts so much that ever larger files are needed."""

    size = 1_000


def test_nodes_whose_quotas_are_used_up_are_full(tmp_path: Path, faults: Faults) -> None:
    """Two of three, as nothing tells in advance; the system may be asked for small files only."""
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        before = [nodes.tree(name) for name in nodes.names]

        def exceed(load: GrowingLoad) -> None:
            for name in ("n1", "n2"):
                faults.set("quota_bytes", nodes.directory / name, 4 * MIB)
            wait_until(lambda: load.refusals > 0, "puts raise DiskFull", 60.0)
            assert nodes.cli("status").count(b"disk full: ") == 2
            for name in ("n1", "n2"):
                faults.clear("quota_bytes", nodes.directory / name)
            load.wait_for_more()

        check_history(nodes, run_under_load(nodes, exceed, GrowingLoad))
        assert [nodes.tree(name) for name in nodes.names] == before, "none has ended"


# --- failing --------------------------------------------------------------------------------------


def test_node_whose_syncs_fail_stops_and_comes_back_with_all_it_acknowledged(
    tmp_path: Path, faults: Faults
) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        data = nodes.directory / "n2"

        def fail(load: Load) -> None:
            supervisor = nodes.supervisor("n2")
            faults.set("sync_errno", data, errno.EIO)
            log = data.with_suffix(".log")
            wait_until(lambda: log.read_text().count("sync failed") > 1, "it stops each time")
            assert nodes.node_status("n2")["up"] is False
            load.wait_for_more()
            faults.clear("sync_errno", data)
            wait_until(lambda: nodes.node_status("n2")["up"], "n2 is back")
            assert nodes.supervisor("n2") == supervisor

        check_history(nodes, run_under_load(nodes, fail, Load))


class LargeLoad(Load):
    """Puts entries so large that each goes past the page cache."""

    async def run(self) -> None:
        count = 0
        while True:
            data = b"entry %d" % count * (DIRECT_BYTES_MIN // 4)
            position = await self.writer.put(data)
            self.acknowledged[position.entry_id] = data
            count += 1
            await asyncio.sleep(0.01)


def test_node_whose_writes_fail_midway_stops_and_comes_back_with_all_it_acknowledged(
    tmp_path: Path, faults: Faults
) -> None:
    needs_direct_writes(tmp_path)
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        data = nodes.directory / "n2"

        def fail(load: LargeLoad) -> None:
            faults.set("pwrite_errno", data, errno.EIO)
            log, text = data.with_suffix(".log"), f"Input/output error: '{data}"
            wait_until(lambda: log.read_text().count(text) > 1, "it stops each time")
            load.wait_for_more()
            faults.clear("pwrite_errno", data)
            wait_until(lambda: nodes.node_status("n2")["up"], "n2 is back")

        check_history(nodes, run_under_load(nodes, fail, LargeLoad))


# --- slow -----------------------------------------------------------------------------------------


def test_slow_disk_of_one_member_does_not_slow_the_writer(tmp_path: Path, faults: Faults) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        data = nodes.directory / "n3"
        latencies: dict[str, list[float]] = {}

        def measure(load: Load, when: str) -> None:
            count = len(load.latencies_s)
            load.wait_for_more(500)
            latencies[when] = load.latencies_s[count:]

        def lag(load: Load) -> int:
            """How many entries n3 has not acknowledged."""
            held_id = load.writer._pipeline._links["n3"].held_id
            return load.writer.committed.entry_id - held_id

        def slow_down(load: Load) -> None:
            measure(load, "before")
            faults.set("sync_ms", data, SLOW_SYNC_MS)
            wait_until(lambda: lag(load) > 100, "n3 is slow")
            measure(load, "meanwhile")
            assert lag(load) > 100, "n3 was slow all the while"
            faults.clear("sync_ms", data)
            wait_until(lambda: lag(load) < 100, "n3 has caught up", 60.0)
            measure(load, "after")

        check_history(nodes, run_under_load(nodes, slow_down, Load))
        # Whatever else the machine does may begin at any time: it slows down all that comes then.
        well_s = max(median(latencies[when]) for when in ("before", "after"))
        assert median(latencies["meanwhile"]) < 5 * well_s
        assert max(latencies["meanwhile"]) < SLOW_SYNC_MS / 1000, "no put waited for a slow sync"
