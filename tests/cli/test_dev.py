"""`walle dev`: its one line, what it says of dead nodes, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest
import yaml

from tests.clusters import DevNodes, free_ports, is_alive, release_ports, wait_until
from walle.cli.common import CONNECT_DEFAULT
from walle.dev import dev_cluster

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_a_dead_node_is_reported_and_started_by_only(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    with DevNodes(tmp_path, errors=errors) as nodes:
        nodes.cli("stream", "create", "/dev")
        assert all(len(nodes.tree(name)) == 4 for name in nodes.names)
        nodes.kill("n2")
        again = f"walle dev --only 2 --nodes 3 --data {nodes.directory} --port {nodes.port}"
        wait_until(lambda: f"to start it again: {again}\n" in errors.read_text(), "it is reported")
        report = errors.read_text()
        assert "node n2 was killed by SIGKILL" in report
        assert str(nodes.directory / "n2.log") in report
        nodes.cli("put", "/dev", data=b"one\n")
        assert not nodes.node_status("n2")["up"]
        nodes.start("n2")
        assert nodes.node_status("n2")["up"]
    assert errors.read_text() == report, "a stop in good order is silent"


def test_one_node_that_stops_in_good_order(tmp_path: Path) -> None:
    with DevNodes(tmp_path, errors=tmp_path / "errors") as nodes:
        pids = nodes.tree("n3")
        os.kill(pids[0], signal.SIGTERM)
        wait_until(
            lambda: "node n3 ended with status 0\n" in (tmp_path / "errors").read_text(),
            "it is reported",
        )
        assert not [pid for pid in pids if is_alive(pid)]


def test_a_node_that_cannot_run_says_why(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.kill("n3")
        (nodes.directory / "n3" / "node.json").write_text("nonsense")
        done = nodes.run(
            *("dev", "--only", "3", "--port", str(nodes.port), "--data", str(nodes.directory))
        )
        assert done.returncode == 1
        text = done.stderr.decode()
        assert "node n3 ended with status 78 (data: " in text
        assert "node.json" in text
        assert "no node is left" in text


def test_it_ends_with_its_last_node_though_nobody_can_be_told(tmp_path: Path) -> None:
    """Neither the log of that node is left, nor who reads the errors."""
    port = free_ports(1)
    command = [sys.executable, "-m", "walle", "dev", "--nodes", "1", "--port", str(port)]
    with subprocess.Popen(
        [*command, "--data", str(tmp_path / "nodes")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as dev:
        assert dev.stdout is not None
        assert dev.stderr is not None
        assert b"ready at" in dev.stdout.readline()
        dev.stderr.close()
        (supervisor,) = psutil.Process(dev.pid).children()
        (tmp_path / "nodes" / "n1.log").unlink()
        (journal,) = (tmp_path / "nodes" / "n1" / "journal").iterdir()
        journal.write_bytes(b"nonsense" * 1_024)
        for child in supervisor.children():
            child.kill()
        try:
            assert dev.wait(30) == 1
        finally:
            dev.kill()
    release_ports(port)


def test_any_number_of_nodes(tmp_path: Path) -> None:
    with DevNodes(tmp_path, count=1) as nodes:
        nodes.cli("stream", "create", "/one")
        nodes.cli("put", "/one", data=b"one\n")
        assert nodes.cli("read", "/one", "--raw") == b"one\n"


def test_walle_node_runs_with_the_settings_of_dev(tmp_path: Path) -> None:
    with DevNodes(tmp_path, count=1) as nodes:
        nodes.cli("stream", "create", "/one")
        nodes.stop()
        config = nodes.directory / "n1.yaml"
        assert yaml.safe_load(config.read_text())["listen"] == nodes.addresses[0]
        with nodes.popen("node", "--config", str(config)) as node:
            wait_until(lambda: not nodes.run("status").returncode, "it answers")
            children = nodes.node_status("n1")["children"].values()
            assert nodes.node_status("n1")["pid"] == node.pid
            node.terminate()
            assert node.wait(15) == 0
            assert not [pid for pid in children if is_alive(pid)]


def test_dev_dies_and_its_nodes_stop_in_good_order(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        pids = [pid for name in nodes.names for pid in nodes.tree(name)]
        nodes.kill_dev()
        wait_until(lambda: not any(map(is_alive, pids)), "the nodes have stopped")
        assert "CRITICAL" not in nodes.logs()


def test_the_default_finds_dev() -> None:
    """Not by a real cluster: its ports may be in use on this machine."""
    done = subprocess.run(
        [sys.executable, "-m", "walle", "dev", "--help"], capture_output=True, check=True
    )
    assert b"7411" in done.stdout
    assert CONNECT_DEFAULT == "127.0.0.1:7411,127.0.0.1:7412,127.0.0.1:7413"


def test_connect_overrules_the_environment(tmp_path: Path) -> None:
    with DevNodes(tmp_path, count=1) as nodes:
        wrong = f"127.0.0.1:{free_ports(1)}"
        for where, connect in ((nodes.connect, wrong), (wrong, nodes.connect)):
            done = subprocess.run(
                [sys.executable, "-m", "walle", "status", "--connect", connect],
                env={**os.environ, "WALLE_CONNECT": where},
                capture_output=True,
                check=False,
            )
            assert done.returncode == (0 if connect == nodes.connect else 3)


def test_clusters_that_start_at_the_same_moment_find_ports_of_their_own(tmp_path: Path) -> None:
    def ports_of(directory: Path) -> list[str]:
        with dev_cluster(directory, nodes=1) as addresses:
            return addresses

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ports_of, [tmp_path / str(number) for number in range(4)]))
    assert len(found) == 4
