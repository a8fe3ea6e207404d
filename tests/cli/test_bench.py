"""`walle bench`: real processes put a load on real nodes; the counts add up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import walle
from tests.clusters import DevNodes, wait_until
from walle.bench.trace import LAST, STEPS, check_perf
from walle.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SHORT = ("bench", "--seconds", "1", "--warm-up-seconds", "0.2", "--json")


def measured(nodes: DevNodes, *options: str) -> Any:
    return json.loads(nodes.cli(*SHORT, *options))


def check_sums(found: Any) -> None:
    puts = found["puts"]
    assert puts["due"] == puts["durable"] > 0
    assert (puts["failed"], puts["unanswered"], found["errors"]) == ({}, 0, [])
    counted = sum(
        each["entries_per_s"] * (each["end_s"] - before["end_s"])
        for before, each in zip(
            [{"end_s": 0}, *found["intervals"]], found["intervals"], strict=False
        )
    )
    seconds = found["workload"]["seconds"]
    assert counted == pytest.approx(found["entries_per_s"] * seconds, rel=0.05, abs=50)
    latency_ms = list(found["latency_ms"].values())
    assert latency_ms == sorted(latency_ms)


def test_dev_measures_nodes_of_its_own_and_removes_them(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "walle", "bench", "--dev", "--seconds", "2", "--json"),
            *("--directory", str(tmp_path), "--report", str(report)),
        ],
        stdout=subprocess.PIPE,
        timeout=120,
        check=True,
    )
    found = json.loads(done.stdout)
    check_sums(found)
    assert {each["process"] for each in found["cpu"]} == {
        "client 1",
        *(
            f"n{number} {role}"
            for number in (1, 2, 3)
            for role in ("supervisor", "network", "consensus", "storage")
        ),
    }
    assert set(found["disk"]) == {"before", "after"}
    assert "<svg" in report.read_text()
    assert list(tmp_path.iterdir()) == [report]


def test_a_running_cluster_is_measured_and_tidied_up(nodes: DevNodes) -> None:
    found = measured(nodes, "--streams", "3", "--clients", "2", "--readers", "4", "--rate", "300")
    check_sums(found)
    assert found["puts"]["due"] == 300
    assert found["delivered_per_s"] > 0
    assert found["delivery_ms"]["max"] > 0
    assert found["disk"] is None
    processes = {each["process"] for each in found["cpu"]}
    assert {"client 1", "client 2", "reader 1", "reader 2", "n3 storage"} <= processes
    for number in (1, 2, 3):
        left = nodes.cli("read", f"/bench/{number}", "--json").splitlines()
        assert len(left) == 1
    again = measured(nodes, "--in-flight", "1", "--size", "10", "--distribution", "uniform")
    check_sums(again)


def test_all_that_is_told_as_durable_is_in_the_stream(nodes: DevNodes) -> None:
    found = measured(nodes, "--prefix", "/whole", "--batch", "10", "--warm-up-seconds", "0")
    check_sums(found)
    (last,) = nodes.cli("read", "/whole/1", "--json").splitlines()
    assert json.loads(last)["entry_id"] == found["puts"]["durable"]


def test_tables_for_people(nodes: DevNodes) -> None:
    text = nodes.cli(*SHORT[:-1], "--in-flight", "4").decode()
    for words in ("ENTRIES/S", "P99.9", "n2 consensus", "limited by", "4 in flight", "█"):
        assert words in text


def are_any(client: walle.sync.Client, stream: str) -> bool:
    """Whether there are entries. Asked by a command, the load might be over before the answer."""
    try:
        return client.committed(stream).entry_id > 0
    except walle.UnknownStream:
        return False


def test_what_has_no_answer_is_told(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        arguments = ("bench", "--rate", "100", "--seconds", "8", "--warm-up-seconds", "0")
        measuring = nodes.popen(*arguments, "--json", stdout=subprocess.PIPE)

        with walle.sync.connect(nodes.connect) as client:
            wait_until(lambda: are_any(client, "/bench/1"), "the load runs")
        nodes.kill("n2", "n3")
        assert measuring.stdout is not None
        found = json.loads(measuring.stdout.read())
        status, errors = nodes.end_of(measuring)
    assert (status, errors) == (1, "")
    puts = found["puts"]
    assert puts["due"] == 800
    assert 0 < puts["unanswered"] == puts["due"] - puts["durable"]
    assert "the streams were not trimmed" in found["errors"][0]


def test_members_that_differ_are_refused(nodes: DevNodes) -> None:
    measured(nodes, "--prefix", "/two", "--members", "n1,n2")
    done = nodes.run(*SHORT, "--prefix", "/two", "--members", "n2,n3")
    assert done.returncode == 1
    assert "/two/1" in done.stderr.decode()


def test_a_terminated_measurement_leaves_nothing(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "walle", "bench", "--dev", "--seconds", "60")
    with subprocess.Popen(
        [*command, "--directory", str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        wait_until(
            lambda: any(
                "walle.bench.load" in each.cmdline()
                for each in psutil.Process(process.pid).children()
            ),
            "the load runs",
        )
        started = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert process.stderr.read().strip() == b"walle: interrupted"
    wait_until(lambda: not any(each.is_running() for each in started), "all have ended")
    assert list(tmp_path.iterdir()) == []


def traced(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "walle", "bench", "--trace", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_put_is_traced_through_all_processes(tmp_path: Path) -> None:
    try:
        check_perf()
    except ConfigError as error:
        pytest.skip(str(error))
    own = ("--seconds", "1", "--warm-up-seconds", "0.2", "--directory", str(tmp_path))
    found = json.loads(traced("--json", *own).stdout)
    assert 0 < found["followed"] <= found["puts"]
    stages = {each["stage"]: each["median_us"] for each in found["stages"]}
    assert list(stages) == [*(step.name for step in STEPS), LAST]
    assert all(0 < median_us < found["total_us"] for median_us in stages.values())
    text = traced(*own).stdout
    assert all(words in text for words in (*stages, "puts were followed", "in all"))
    assert list(tmp_path.iterdir()) == []


def test_a_trace_without_perf_says_what_to_install(tmp_path: Path) -> None:
    done = traced(PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.strip().endswith("apt-get install linux-perf")


def test_a_trace_that_perf_refuses_says_why(tmp_path: Path) -> None:
    perf = tmp_path / "perf"
    perf.write_text(
        "#!/bin/sh\necho event syntax error >&2\necho Error: No permissions >&2\nexit 9"
    )
    perf.chmod(0o755)
    done = traced(PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (78, "")
    assert "as root" in done.stderr
    assert "(Error: No permissions)" in done.stderr


@pytest.mark.parametrize("option", ["--connect", "--streams", "--rate", "--report"])
def test_a_trace_refuses_what_it_has_no_use_for(tmp_path: Path, option: str) -> None:
    done = traced(option, str(tmp_path / "report") if option == "--report" else "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{option} does not go with --trace" in done.stderr
