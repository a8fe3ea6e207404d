"""Processes that die or freeze: the cluster goes on, the node comes back right, nothing is left."""

from __future__ import annotations

import fcntl
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.clusters import ROLES, DevNodes, is_alive, wait_until
from tests.process.load import LEASE_MS, PAUSE_S_MAX, STREAM, Load, check_history, run_under_load
from walle.client.session import UNSENT_BYTES_MAX
from walle.limits import BATCH_BYTES_MAX, MEMBER_BACKLOG_BYTES_MAX

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("role", ROLES)
def test_a_killed_child_takes_its_node_down_and_the_node_comes_back(
    tmp_path: Path, role: str
) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        before = nodes.tree("n2")

        def kill(_load: Load) -> None:
            nodes.signal([nodes.child("n2", role)], signal.SIGKILL)
            wait_until(
                lambda: len(nodes.tree("n2")) == 4 and not set(nodes.tree("n2")[1:]) & set(before),
                "the supervisor has forked three new processes",
            )
            wait_until(lambda: nodes.node_status("n2")["up"], "n2 answers")

        load = run_under_load(nodes, kill, Load)
        assert load.pause_s < PAUSE_S_MAX
        assert nodes.tree("n2")[0] == before[0], "the supervisor itself went on"
        assert not [pid for pid in before[1:] if is_alive(pid)]
        check_history(nodes, load)


def test_when_a_supervisor_is_killed_its_children_end_and_the_lock_is_free(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        pids = nodes.tree("n2")

        def kill(_load: Load) -> None:
            nodes.signal(pids[:1], signal.SIGKILL)
            wait_until(lambda: not any(map(is_alive, pids[1:])), "its children are gone")
            with (nodes.directory / "n2" / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = nodes.status()
            assert [node["up"] for node in status["nodes"]] == [True, False, True]
            nodes.start("n2")

        load = run_under_load(nodes, kill, Load)
        assert load.pause_s < PAUSE_S_MAX
        check_history(nodes, load)


def test_a_node_that_is_frozen_for_two_leases_does_not_stop_the_writer(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        pids = nodes.tree("n2")

        def freeze(_load: Load) -> None:
            nodes.signal(pids, signal.SIGSTOP)
            time.sleep(2 * LEASE_MS / 1000)
            nodes.signal(pids, signal.SIGCONT)

        load = run_under_load(nodes, freeze, Load)
        assert load.pause_s < PAUSE_S_MAX
        assert nodes.tree("n2") == pids, "it went on as it was"
        check_history(nodes, load)


class HeavyLoad(Load):
    """Puts a megabyte at once, again and again.

    kept_bytes: the most that the writer kept for the members, in its window and for one socket.
    """

    size = 0
    kept_bytes = 0

    async def run(self) -> None:
        last_s = time.monotonic()
        while True:
            datas = [b"%d " % (len(self.acknowledged) + index) * 8_000 for index in range(16)]
            last = await self.writer.put_many(datas)
            now_s = time.monotonic()
            self.longest_pause_s = max(self.longest_pause_s, now_s - last_s)
            last_s = now_s
            first_id = last.entry_id + 1 - len(datas)
            self.acknowledged.update(enumerate(datas, first_id))
            self.size += sum(map(len, datas))
            self._look()

    def _look(self) -> None:
        sessions = [link.session for link in self.writer._links.values()]
        transports = [each._transport for each in sessions if each is not None]
        unsent = max(each.get_write_buffer_size() for each in transports if each is not None)
        self.kept_bytes = max(self.kept_bytes, self.writer._pipeline._window_bytes + unsent)


def test_a_frozen_node_costs_a_busy_writer_no_time_and_little_memory(tmp_path: Path) -> None:
    """It is sent no more than its backlog; then it is left to jump, and to fill its gap."""
    much = 4 * MEMBER_BACKLOG_BYTES_MAX
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        pids = nodes.tree("n2")

        def freeze(load: HeavyLoad) -> None:
            nodes.signal(pids, signal.SIGSTOP)
            size = load.size
            wait_until(lambda: load.size > size + much, "puts go on", 60.0)
            nodes.signal(pids, signal.SIGCONT)

        load = run_under_load(nodes, freeze, HeavyLoad)
        assert load.pause_s < PAUSE_S_MAX
        assert load.kept_bytes < MEMBER_BACKLOG_BYTES_MAX + UNSENT_BYTES_MAX + 4 * BATCH_BYTES_MAX
        check_history(nodes, load)


def test_each_node_killed_in_turn_comes_back_whole(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)

        def kill_each(_load: Load) -> None:
            for name in nodes.names:
                nodes.kill(name)
                time.sleep(0.3)
                nodes.start(name)

        load = run_under_load(nodes, kill_each, Load)
        assert load.pause_s < PAUSE_S_MAX
        check_history(nodes, load)


def test_a_cluster_stopped_in_good_order_leaves_nothing_and_starts_again(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", STREAM)
        nodes.cli("put", STREAM, data=b"one\ntwo\n")
        pids = [pid for name in nodes.names for pid in nodes.tree(name)]
        nodes.stop()
        assert not [pid for pid in pids if is_alive(pid)]
        assert "CRITICAL" not in nodes.logs()
        with nodes:
            assert nodes.cli("read", STREAM, "--raw") == b"one\ntwo\n"


def test_a_second_node_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with DevNodes(tmp_path, count=1) as nodes:
        done = nodes.run("node", "--config", str(nodes.directory / "n1.yaml"))
        assert done.returncode == 78
        assert "in use by another process" in done.stderr.decode()
        assert nodes.node_status("n1")["up"]


def test_a_directory_of_another_node_is_refused(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.stop()
        (nodes.directory / "n1").rename(nodes.directory / "kept")
        (nodes.directory / "n2").rename(nodes.directory / "n1")
        done = nodes.run("node", "--config", str(nodes.directory / "n1.yaml"))
        assert done.returncode == 78
        assert "belongs to node n2, not to n1" in done.stderr.decode()


def test_a_wiped_node_is_refused_under_its_old_name(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.kill("n2")
        (nodes.directory / "n2").rename(nodes.directory / "kept")
        done = nodes.run("node", "--config", str(nodes.directory / "n2.yaml"))
        assert done.returncode == 78
        assert "another identity" in done.stderr.decode()
        assert list((nodes.directory / "n2").iterdir())
