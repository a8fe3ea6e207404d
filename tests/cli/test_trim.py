"""`walle stream trim` and `walle stream set`, and reading what is left."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.clusters import wait_until

if TYPE_CHECKING:
    from tests.clusters import DevNodes

pytestmark = pytest.mark.slow


def put(nodes: DevNodes, stream: str, count: int, size: int = 10) -> None:
    nodes.cli("put", stream, data=b"".join(b"x" * size + b"\n" for _ in range(count)))


def ids(text: bytes) -> list[int]:
    return [int(line.split()[0]) for line in text.decode().splitlines()]


def shown(nodes: DevNodes, stream: str) -> Any:
    return json.loads(nodes.cli("stream", "show", stream, "--json"))


def wait_shown(nodes: DevNodes, stream: str, first_id: int) -> None:
    """Waits until the node that the commands ask knows of a trim: it is answered before that."""
    wait_until(
        lambda: shown(nodes, stream)["first_entry_id"] == first_id,
        f"{stream} is told to begin at entry {first_id}",
    )


def test_trim_to_an_entry_and_what_is_left(nodes: DevNodes, stream: str) -> None:
    nothing = f"nothing to trim: {stream} begins at entry 1\n".encode()
    assert nodes.cli("stream", "trim", stream, "--to", "5") == nothing
    put(nodes, stream, 9)
    done = nodes.cli("stream", "trim", stream, "--to", "5").decode()
    assert done == f"4 entries are gone: {stream} begins at entry 5 now\n"
    wait_shown(nodes, stream, 5)
    done = nodes.cli("stream", "trim", stream, "--to", "5").decode()
    assert done == f"nothing to trim: {stream} begins at entry 5\n"
    assert ids(nodes.cli("read", stream)) == [5, 6, 7, 8, 9]
    for name in nodes.names:
        wait_until(
            lambda name=name: ids(nodes.cli("read", stream, "--node", name)) == [5, 6, 7, 8, 9],
            f"{name} has trimmed",
        )
    assert ids(nodes.cli("read", stream, "--start", "8")) == [8, 9]
    assert nodes.cli("read", stream, "--end", "3") == b""
    refused = nodes.run("read", stream, "--start", "2")
    assert (refused.returncode, refused.stdout) == (1, b"")
    text = f"walle: stream {stream}: entry 2 was trimmed; read from 5 on\n"
    assert refused.stderr.decode() == text
    assert f"{stream}  version 1, entries 5 to 9" in nodes.cli("stream", "show", stream).decode()


def test_last_entry_stays_and_puts_go_on(nodes: DevNodes, stream: str) -> None:
    put(nodes, stream, 2)
    done = nodes.cli("stream", "trim", stream, "--to", "1000").decode()
    assert done == f"1 entry is gone: {stream} begins at entry 2 now, its last one\n"
    put(nodes, stream, 2)
    wait_shown(nodes, stream, 2)
    assert ids(nodes.cli("read", stream)) == [2, 3, 4]


def test_trim_before_a_time(nodes: DevNodes, stream: str) -> None:
    put(nodes, stream, 4)
    wait_until(lambda: datetime.now(UTC).microsecond < 500_000, "a second begins")
    between = datetime.now(UTC)
    put(nodes, stream, 3)
    assert nodes.cli("stream", "trim", stream, "--before", "1h").startswith(b"nothing to trim")
    assert nodes.cli("stream", "trim", stream, "--before", "2020-01-01").startswith(b"nothing")
    done = json.loads(
        nodes.cli("stream", "trim", stream, "--before", between.isoformat(), "--json")
    )
    assert (done["name"], done["first_entry_id"], done["trimmed"]) == (stream, 5, 4)
    wait_shown(nodes, stream, 5)
    naive = between.replace(tzinfo=None).isoformat()
    assert nodes.cli("stream", "trim", stream, "--before", naive).startswith(b"nothing"), "UTC"
    done = json.loads(nodes.cli("stream", "trim", stream, "--before", "0s", "--json"))
    assert done["first_entry_id"] == 7


def test_what_a_stream_keeps_is_set_and_shown(nodes: DevNodes) -> None:
    created = nodes.cli("stream", "create", "/kept", "--max-bytes", "10GiB", "--max-age", "7d")
    words = "keeps the newest 10GiB of the last 7d"
    assert created.decode() == f"/kept is on n1, n2, n3, {words}\n"
    assert nodes.cli("stream", "create", "/kept") == created
    settings = {"compression": "none", "retention_max_bytes": 10 << 30}
    settings["retention_max_age_ms"] = 7 * 86_400_000
    settings |= {"replicas": 0, "lease_min_ms": 0, "lease_max_ms": 0}
    assert shown(nodes, "/kept")["settings"] == settings
    text = nodes.cli("stream", "show", "/kept").decode()
    assert f"/kept  version 1, no entries, {words}\n" in text
    for options, words in (
        (["--max-age", "36h"], "keeps the newest 10GiB of the last 36h"),
        (["--max-bytes", "0"], "keeps the last 36h"),
        (["--max-age", "0", "--max-bytes", "1.5MB"], "keeps the newest 1500kB"),
        (["--compression", "zstd"], "compression zstd, keeps the newest 1500kB"),
        (["--compression", "none", "--max-bytes", "0"], "keeps everything"),
        (["--replicas", "1", "--lease-min", "500ms"], "replicas 1, leases from 500ms"),
        (["--lease-max", "2s"], "replicas 1, leases from 500ms up to 2s"),
        (["--replicas", "0", "--lease-min", "0"], "leases up to 2s"),
        (["--lease-max", "0"], "keeps everything"),
    ):
        assert nodes.cli("stream", "set", "/kept", *options).decode() == f"/kept: {words}\n"
    wait_until(
        lambda: b"keeps" not in nodes.cli("stream", "show", "/kept"), "the node that is asked knows"
    )
    listed = json.loads(nodes.cli("stream", "list", "--json"))
    (found,) = [each for each in listed if each["name"] == "/kept"]
    assert found["settings"] == dict.fromkeys(settings, 0) | {"compression": "none"}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["trim", "/cluster", "--to", "2"], 1, "/cluster cannot be changed"),
        (["trim", "/nope", "--to", "2"], 1, "walle stream create /nope"),
        (["trim", "/cluster"], 2, "either --to or --before"),
        (["trim", "/cluster", "--to", "2", "--before", "1d"], 2, "either --to or --before"),
        (["trim", "/cluster", "--to", "0"], 2, "--to"),
        (["trim", "/cluster", "--before", "yesterday"], 2, "such as 7d"),
        (["trim", "/cluster", "--before", "9999999d"], 2, "'--before'"),
        (["set", "/cluster", "--max-age", "1d"], 1, "/cluster cannot be changed"),
        (["set", "/nope", "--max-age", "1d"], 1, "walle stream create /nope"),
        (["set", "/cluster"], 2, "walle stream set /cluster --help"),
        (["set", "/cluster", "--lease-min", "50ms"], 2, "leases lie between 100ms and 1m"),
        (["set", "/cluster", "--lease-max", "61s"], 2, "leases lie between 100ms and 1m"),
        (["set", "/cluster", "--lease-max", "soon"], 2, "such as 7d"),
        (["set", "/cluster", "--replicas", "8"], 2, "--replicas"),
        (["set", "/cluster", "--compression", "lz4"], 2, "--compression"),
        (["set", "/cluster", "--max-bytes", "10 Gb of"], 2, "such as 10GiB"),
        (["set", "/cluster", "--max-age", "7"], 2, "such as 7d"),
        (["set", "/cluster", "--max-bytes", "-1"], 2, "--max-bytes"),
        (["set", "/cluster", "--max-bytes", "99999999TiB"], 2, "--max-bytes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments(nodes: DevNodes, arguments: list[str], status: int, words: str) -> None:
    done = nodes.run("stream", *arguments)
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (status, b""), text
    assert words in text
    assert "Traceback" not in text


def test_other_settings_are_not_created_over(nodes: DevNodes, stream: str) -> None:
    done = nodes.run("stream", "create", stream, "--max-age", "1d")
    assert done.returncode == 1
    assert "exists already" in done.stderr.decode()


@pytest.mark.parametrize("command", ["create", "set", "trim"])
def test_help_has_an_example(nodes: DevNodes, command: str) -> None:
    assert f"    walle stream {command} /" in nodes.cli("stream", command, "--help").decode()
