"""Bad input: a line or two that name the thing and the remedy, a status, never a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.clusters import DevNodes, free_ports, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow


def fail(nodes: DevNodes, *arguments: str, data: bytes = b"") -> tuple[int, str]:
    """Runs what must fail; returns the status and the error, which must be short."""
    done = nodes.run(*arguments, data=data)
    text = done.stderr.decode()
    assert done.returncode != 0
    assert done.stdout == b""
    assert "Traceback" not in text
    said = [line for line in text.splitlines() if not line.startswith(("Usage:", "Try "))]
    assert 1 <= len([line for line in said if line]) <= 2, text
    return done.returncode, text


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["nonsense"], 2, "No such command"),
        (["read"], 2, "STREAM"),
        (["read", "/nope"], 1, "walle stream create /nope"),
        (["put", "/nope"], 1, "walle stream create /nope"),
        (["stream", "show", "/nope"], 1, "/nope"),
        (["read", "/cluster", "--start", "0"], 2, "'--start': '0' is no entry id"),
        (["read", "/cluster", "--end", str(1 << 64)], 2, "'--end': '18446744073709551616' is no"),
        (["read", "/cluster", "--raw", "--json"], 2, "exclude each other"),
        (["read", "/cluster", "--node", "n9"], 1, "its members are n1, n2, n3"),
        (["read", "/" + "x" * 300], 1, "255 bytes"),
        (["stream", "members", "/nope"], 1, "walle stream create /nope"),
        (["stream", "members", "/cluster", "--set", "n1", "--replace", "n1=n2"], 2, "exclude"),
        (["stream", "members", "/cluster", "--replace", "n1"], 2, "such as n3=n4"),
        (["stream", "members", "/cluster", "--replace", "n8=n9"], 1, "n8 is not a member"),
        (["stream", "members", "/cluster", "--set", "n1,n9"], 1, "the nodes are n1, n2, n3"),
        (["stream", "members", "/cluster", "--set", "n1,n1"], 1, "named twice"),
        (["stream", "members", "/cluster", "--force"], 2, "--set or --replace"),
        (["stream", "delete", "/nope", "--yes"], 1, "walle stream create /nope"),
        (["stream", "delete", "/cluster", "--yes"], 1, "/cluster cannot be changed"),
        (["node", "replace", "n1", "--with", "n1"], 2, "its own place"),
        (["node", "drain", "n1", "--config", "x"], 2, "--config"),
        (["node", "drain", "n9"], 1, "no node n9; the nodes are n1, n2, n3"),
        (["node", "replace", "n9", "--with", "n1"], 1, "no node n9; the nodes are n1, n2, n3"),
        (["node", "replace", "n1", "--with", "n9"], 1, "no node n9; the nodes are n1, n2, n3"),
        (["read", "/\udcff"], 1, "'/\\udcff' is no text"),
        (["put", "/cluster", "/no/such/file"], 2, "/no/such/file"),
        (["put", "/cluster", "/"], 2, "directory"),
        (["put", "/cluster", "--lease-ms", "1"], 2, "--lease-ms"),
        (["put", "/cluster"], 1, "they alone write /cluster"),
        (["stream", "create", "no-slash"], 1, "begins with '/'"),
        (
            ["stream", "create", "/x", "--replicas", "5"],
            1,
            "5 replicas cannot be on 3 nodes: n1, n2, n3",
        ),
        (["stream", "create", "/x", "--members", "n1,n9"], 1, "the nodes are n1, n2, n3"),
        (["stream", "create", "/x", "--members", "n1", "--replicas", "1"], 2, "exclude"),
        (["stream", "create", "/x", "--compression", "lz4"], 2, "'none', 'zstd'"),
        (["put", "/cluster", "--compression", "lz4"], 2, "'none', 'zstd'"),
        (["status", "--connect", "nonsense"], 78, "walle: --connect: must be host:port, such as"),
        (["status", "--connect", ","], 78, "walle: --connect: must name a node"),
        (["status", "--connect", "no.such.host.invalid:7411"], 3, "no.such.host.invalid:7411"),
        (["dev", "--nodes", "9"], 2, "--nodes"),
        (["dev", "--only", "4"], 2, "nodes 1 to 3"),
        (["dev", "--data", "/proc/nowhere"], 74, "/proc/nowhere"),
        (["node"], 2, "--config"),
        (["bench", "--size", "2MiB"], 2, "an entry has at most 1048576 bytes"),
        (["bench", "--size", "many"], 2, "--size"),
        (["bench", "--size", "1MiB", "--batch", "9"], 2, "at most 8388608 bytes are put at once"),
        (["bench", "--rate", "9", "--in-flight", "9"], 2, "exclude each other"),
        (["bench", "--members", "n1", "--replicas", "1"], 2, "exclude each other"),
        (["bench", "--report", "/no/such/directory/r.html"], 2, "/no/such/directory/r.html"),
        (["bench", "--prefix", "no-slash"], 1, "begins with '/'"),
        (["bench", "--connect", "no.such.host.invalid:7411"], 3, "start nodes with `walle dev`"),
        (["node", "--config", "/no/such/file"], 78, "/no/such/file"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_wrong_arguments(nodes: DevNodes, arguments: list[str], status: int, words: str) -> None:
    found, text = fail(nodes, *arguments)
    assert words in text
    assert found == status


def test_a_stream_that_exists_otherwise(nodes: DevNodes, stream: str) -> None:
    status, text = fail(nodes, "stream", "create", stream, "--members", "n1")
    assert status == 1
    assert f"{stream} exists already, on n1, n2, n3" in text


def test_a_stream_that_exists_with_other_settings(nodes: DevNodes, stream: str) -> None:
    status, text = fail(nodes, "stream", "create", stream, "--compression", "zstd")
    assert status == 1
    assert f"{stream} exists already, on n1, n2, n3, compression none" in text
    assert "`walle stream set`" in text


def test_an_address_that_is_too_long(nodes: DevNodes, stream: str) -> None:
    status, text = fail(nodes, "put", stream, "--address", "x" * 300)
    assert status == 1
    assert "a writer's address has at most 255 bytes" in text


def test_no_cluster_there(nodes: DevNodes) -> None:
    port = free_ports(1)
    status, text = fail(nodes, "status", "--connect", f"127.0.0.1:{port}")
    assert status == 3
    assert f"nobody answers at 127.0.0.1:{port}: Connection refused" in text
    assert "walle dev" in text


def test_no_cluster_at_several_addresses(nodes: DevNodes, stranger: str) -> None:
    """All are named; why, once for all of which it is the same."""
    port = free_ports(2)
    both = f"127.0.0.1:{port}, 127.0.0.1:{port + 1}"
    named = f"127.0.0.1:{port},{stranger},127.0.0.1:{port + 1}"
    status, text = fail(nodes, "status", "--connect", named)
    assert status == 3
    assert f"walle: nobody answers at {both}: Connection refused; {stranger} is no" in text


def test_an_environment_that_names_no_addresses(
    nodes: DevNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DevNodes, "connect", "nonsense")
    status, text = fail(nodes, "status")
    assert status == 78
    assert text.startswith("walle: WALLE_CONNECT: must be host:port, such as 127.0.0.1:7411")


@pytest.fixture
def stranger() -> Iterator[str]:
    """The address of a server that is no WALLE node."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_something_else_listens_there(nodes: DevNodes, stranger: str) -> None:
    status, text = fail(nodes, "status", "--connect", stranger)
    assert status == 1
    assert f"{stranger} is no WALLE node" in text


def test_others_are_asked_when_one_is_no_node(nodes: DevNodes, stranger: str) -> None:
    nodes.cli("status", "--connect", f"{stranger},127.0.0.1:{free_ports(1)},{nodes.connect}")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("node: [", "is no YAML"),
        ("\xff\x00", "is no YAML"),
        ("- a list", "mapping"),
        ("node: n1", "data: is missing"),
        ("nodes: 3", "nodes: is no setting"),
        ("{node: n1, listen: here, data: d, initial_cluster: {n1: '127.0.0.1:1'}}", "listen"),
    ],
)
def test_bad_settings(nodes: DevNodes, tmp_path: Path, settings: str, words: str) -> None:
    file = tmp_path / "node.yaml"
    file.write_bytes(settings.encode("latin-1"))
    status, text = fail(nodes, "node", "--config", str(file))
    assert status == 78
    assert str(file) in text
    assert words in text


def test_a_port_in_use(nodes: DevNodes, tmp_path: Path) -> None:
    status, text = fail(nodes, "dev", "--port", str(nodes.port), "--data", str(tmp_path))
    assert status == 78
    assert f"cannot listen on {nodes.addresses[0]}" in text
    assert "choose another --port" in text
    assert not list(tmp_path.iterdir()), "another --port must not find settings with this one"


def test_the_data_of_another_cluster(nodes: DevNodes) -> None:
    port = str(free_ports(3))
    status, text = fail(nodes, "dev", "--port", port, "--data", str(nodes.directory))
    assert status == 78
    assert "another --data" in text


@pytest.mark.parametrize("command", [["status"], ["read", "/cluster"], ["stream", "list"]])
def test_a_full_disk_and_closed_outputs(nodes: DevNodes, command: list[str]) -> None:
    environment = {**os.environ, "WALLE_CONNECT": nodes.connect}
    for redirection, status, words in (
        (">/dev/full", 74, "walle: standard output: No space left"),
        (">&-", 1, "/dev/null will do"),
        ("<&-", 1, "/dev/null will do"),
    ):
        line = f'"$0" -m walle {" ".join(command)} {redirection}'
        done = subprocess.run(
            ["sh", "-c", line, sys.executable], env=environment, capture_output=True, check=False
        )
        text = done.stderr.decode()
        assert done.returncode == status, text
        assert words in text
        assert text.count("\n") == 1


def test_a_full_disk_that_takes_no_long_entry(nodes: DevNodes, stream: str) -> None:
    """It is not kept for later, as short ones are."""
    nodes.cli("put", stream, data=b"x" * 100_000)
    with Path("/dev/full").open("wb") as full:
        status, text = nodes.end_of(nodes.popen("read", stream, "--raw", stdout=full.fileno()))
    assert (status, text) == (74, "walle: standard output: No space left on device\n")


def test_an_input_that_cannot_be_read(nodes: DevNodes, stream: str) -> None:
    unreadable = "/proc/self/mem"  # it can be opened
    for options in ([], ["--whole"]):
        done = nodes.run("put", stream, unreadable, *options)
        assert done.returncode == 74
        assert f"walle: {unreadable}: Input/output error\n" in done.stderr.decode()


def test_settings_that_cannot_be_written(nodes: DevNodes, tmp_path: Path) -> None:
    """As on a full disk: the file can be made, but takes no byte."""
    line = 'ulimit -f 0; exec "$0" -m walle dev --data "$1" --port "$2"'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable, str(tmp_path), str(free_ports(3))],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 74
    assert done.stderr.decode() == f"walle: {tmp_path / 'n1.yaml'}: File too large\n"


def test_a_question_that_is_not_answered_by_yes(nodes: DevNodes, stream: str) -> None:
    """It says that nothing was done, and an interrupt ends it."""
    for data, words in ((b"n\n", ": nothing was done\n"), (b"", "--yes does\n")):
        done = nodes.run("stream", "delete", stream, data=data)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.decode().endswith(words)
    asked = nodes.popen("stream", "delete", stream, stdin=subprocess.PIPE)
    assert asked.stderr is not None
    assert asked.stderr.read(len("Delete")) == b"Delete"
    # A signal that comes right before it waits for the answer is heard after that only.
    process = psutil.Process(asked.pid)
    wait_until(lambda: process.status() == psutil.STATUS_SLEEPING, "it waits for the answer")
    asked.send_signal(signal.SIGINT)
    status, text = nodes.end_of(asked)
    assert status == 130
    assert text.endswith("walle: interrupted\n")
    nodes.cli("stream", "show", stream)
