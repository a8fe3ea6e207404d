"""`walle put` and `walle read`: what goes in comes out, in every form."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.clusters import DevNodes, wait_until
from walle.limits import ENTRY_DATA_BYTES_MAX

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def json_lines(output: bytes) -> list[Any]:
    return [json.loads(line) for line in output.splitlines()]


def test_lines_go_in_and_come_out(nodes: DevNodes, stream: str) -> None:
    done = nodes.run("put", stream, data=b"one\n\n\xff\x00\x1b[2J two\nno newline")
    assert done.returncode == 0
    assert done.stdout == b""
    assert done.stderr == b"4 entries are durable\n"
    assert nodes.cli("read", stream, "--raw") == b"one\n\n\xff\x00\x1b[2J two\nno newline\n"


def test_text_keeps_an_entry_on_a_line_and_the_terminal_as_it_is(
    nodes: DevNodes, stream: str
) -> None:
    nodes.cli("put", stream, "--whole", data=b"a\nb\x1b\xffc\xc3\xa9")
    entry_id, time, text = nodes.cli("read", stream).decode().rstrip("\n").split("  ")
    assert entry_id == "1"
    assert time.endswith("+00:00")
    assert text == "a\\nb\\x1b\\xffcé"


def test_put_tells_of_acknowledgements_as_json(nodes: DevNodes, stream: str) -> None:
    nodes.cli("put", stream, data=b"before\n")
    lines = json_lines(nodes.cli("put", stream, "--json", data=b"x\n" * 1000))
    assert all(set(line) == {"entry_id", "count"} for line in lines)
    assert lines[-1] == {"entry_id": 1001, "count": 1000}
    counts = [line["count"] for line in lines]
    assert counts == sorted(set(counts))
    assert all(line["entry_id"] == line["count"] + 1 for line in lines)


def test_read_prints_json(nodes: DevNodes, stream: str) -> None:
    nodes.cli("put", stream, data=b"one\n\xff\n")
    first, second = json_lines(nodes.cli("read", stream, "--json"))
    assert set(first) == {"entry_id", "writer_id", "time", "chain", "data"}
    assert (first["entry_id"], second["entry_id"]) == (1, 2)
    assert first["writer_id"] == second["writer_id"]
    assert len(first["chain"]) == 16
    assert first["chain"] != second["chain"]
    assert first["time"] <= second["time"]
    assert base64.b64decode(second["data"]) == b"\xff"


def test_put_reads_a_file_and_whole_files(nodes: DevNodes, stream: str, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"one\ntwo\n")
    nodes.cli("put", stream, str(file))
    nodes.cli("put", stream, str(file), "--whole")
    data = [
        base64.b64decode(line["data"]) for line in json_lines(nodes.cli("read", stream, "--json"))
    ]
    assert data == [b"one", b"two", b"one\ntwo\n"]


def test_put_of_nothing_puts_nothing(nodes: DevNodes, stream: str) -> None:
    assert nodes.run("put", stream, data=b"").stderr == b"0 entries are durable\n"
    assert nodes.cli("put", stream, "--json", data=b"") == b""
    assert nodes.cli("read", stream) == b""


def test_the_longest_line_fits_and_a_longer_one_is_refused(nodes: DevNodes, stream: str) -> None:
    longest = b"x" * ENTRY_DATA_BYTES_MAX
    done = nodes.run("put", stream, data=longest + b"\nsecond\n" + longest + b"x\nfourth\n")
    assert done.returncode == 1
    text = done.stderr.decode()
    assert "2 entries are durable" in text
    assert f"line 3 is longer than {ENTRY_DATA_BYTES_MAX} bytes" in text
    assert nodes.cli("read", stream, "--raw") == longest + b"\nsecond\n"
    done = nodes.run("put", stream, "--whole", data=longest + b"x")
    assert done.returncode == 1
    assert "the input is longer" in done.stderr.decode()


def test_compressed_lines_go_in_and_come_out_in_every_form(nodes: DevNodes) -> None:
    """By the stream's own setting, by the writer's choice, and beside what is not compressed."""
    nodes.cli("stream", "create", "/zstd", "--compression", "zstd")
    long, short = b"some line of text, " * 500, b"short"
    nodes.cli("put", "/zstd", data=long + b"\n" + short + b"\n")
    nodes.cli("put", "/zstd", "--compression", "none", data=long + b"\n")
    nodes.cli("put", "/zstd", "--compression", "zstd", data=long + b"\n")
    lines = [long, short, long, long]
    assert nodes.cli("read", "/zstd", "--raw") == b"\n".join(lines) + b"\n"
    found = json_lines(nodes.cli("read", "/zstd", "--json"))
    assert [base64.b64decode(each["data"]) for each in found] == lines
    texts = nodes.cli("read", "/zstd").splitlines()
    assert [text.split(b"  ", 2)[2] for text in texts] == lines
    assert nodes.cli("read", "/zstd", "--raw", "--node", "n2", "--start", "4") == long + b"\n"
    following = nodes.popen("read", "/zstd", "--raw", "--follow", stdout=subprocess.PIPE)
    assert following.stdout is not None
    assert [following.stdout.readline() for _ in lines] == [line + b"\n" for line in lines]


def test_ranges(nodes: DevNodes, stream: str) -> None:
    nodes.cli("put", stream, data=b"".join(b"%d\n" % number for number in range(1, 11)))

    def read(*options: str) -> list[int]:
        return [int(line) for line in nodes.cli("read", stream, "--raw", *options).split()]

    assert read("--start", "8") == [8, 9, 10]
    assert read("--end", "3") == [1, 2]
    assert read("--start", "4", "--end", "6") == [4, 5]
    assert read("--start", "6", "--end", "6") == []
    assert read("--start", "100") == []
    assert read("--end", "100") == list(range(1, 11))


def test_read_into_head_ends_without_a_word(nodes: DevNodes, stream: str) -> None:
    nodes.cli("put", stream, data=b"some line of text\n" * 50_000)
    reading = nodes.popen("read", stream, "--raw", stdout=subprocess.PIPE)
    assert reading.stdout is not None
    assert reading.stdout.readline() == b"some line of text\n"
    reading.stdout.close()
    assert nodes.end_of(reading) == (1, "")


def test_put_whose_output_is_closed_ends(nodes: DevNodes, stream: str) -> None:
    putting = nodes.popen("put", stream, "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert putting.stdin is not None
    assert putting.stdout is not None
    putting.stdin.write(b"one\n")
    putting.stdin.flush()
    assert json.loads(putting.stdout.readline()) == {"entry_id": 1, "count": 1}
    putting.stdout.close()
    putting.stdin.write(b"two\n")
    putting.stdin.flush()
    assert nodes.end_of(putting) == (1, "")
    assert nodes.cli("read", stream, "--raw") == b"one\ntwo\n"


def test_interrupts(nodes: DevNodes, stream: str) -> None:
    following = nodes.popen("read", stream, "--raw", "--follow", stdout=subprocess.PIPE)
    putting = nodes.popen("put", stream, stdin=subprocess.PIPE)
    assert following.stdout is not None
    assert putting.stdin is not None
    for line in (b"one\n", b"two\n"):
        putting.stdin.write(line)
        putting.stdin.flush()
        assert following.stdout.readline() == line, "follow shows an entry as it comes"
    for process in (following, putting):
        process.send_signal(signal.SIGINT)
    assert nodes.end_of(putting) == (130, "2 entries are durable\n\nwalle: interrupted\n")
    assert nodes.end_of(following) == (130, "\nwalle: interrupted\n")
    done = nodes.run("put", stream, data=b"three\n")
    assert done.returncode == 0, "the interrupted writer has released the stream"


def test_put_waits_for_its_turn_or_takes_over(nodes: DevNodes, stream: str) -> None:
    holding = nodes.popen(
        *("put", stream, "--address", "holder", "--lease-ms", "4000"), stdin=subprocess.PIPE
    )
    assert holding.stdin is not None
    wait_until(
        lambda: (
            json.loads(nodes.cli("stream", "show", stream, "--json"))["writer"]["address"]
            == "holder"
        ),
        "the stream is claimed",
    )
    waiting = nodes.popen("put", stream, stdin=subprocess.DEVNULL)
    assert waiting.stderr is not None
    line = waiting.stderr.readline().decode()
    assert line == (
        f"waiting to become the writer of {stream}: holder has a lease; --force takes over\n"
    )
    taking = nodes.run("put", stream, "--force", data=b"taken\n")
    assert taking.returncode == 0
    assert b"--force" not in taking.stderr, "it says that another lease is waited for, if anything"
    holding.stdin.write(b"too late\n")
    holding.stdin.close()
    status, text = nodes.end_of(holding)
    assert status == 4
    assert "the writer is now walle-put@" in text
    assert "not written" in text
    assert nodes.end_of(waiting)[0] == 0
    assert nodes.cli("read", stream, "--raw") == b"taken\n"


def test_who_waits_for_a_majority_says_so(tmp_path: Path) -> None:
    with DevNodes(tmp_path, apart=True) as nodes:
        nodes.cli("stream", "create", "/waiting")
        nodes.cli("put", "/waiting", data=b"one\n")
        nodes.kill("n1", "n3")
        commands = (["read", "/waiting", "--raw"], ["put", "/waiting"])
        waiting = [nodes.popen(*each, stdin=subprocess.DEVNULL) for each in commands]
        told = [each.stderr.readline().decode() for each in waiting if each.stderr is not None]
        nodes.start("n3")
        assert nodes.end_of(waiting[1]) == (0, "0 entries are durable\n"), "it is said once"
    why = "/waiting: no majority of /waiting's members answered\n"
    assert told == [f"waiting to read {why}", f"waiting to become the writer of {why}"]


def test_one_members_gap(nodes: DevNodes, stream: str) -> None:
    """A member that was away serves what it holds, and names what it does not."""
    nodes.cli("put", stream, data=b"before\n")
    nodes.kill("n2")
    text = b"some line of text\n" * 20_000
    nodes.cli("put", stream, data=text)
    nodes.start("n2")

    def read() -> subprocess.CompletedProcess[bytes]:
        done = nodes.run("read", stream, "--raw", "--node", "n2")
        if done.returncode:
            assert done.returncode == 1
            assert "n2 does not hold entries [" in done.stderr.decode()
        return done

    wait_until(lambda: read().stdout == b"before\n" + text, "n2 holds everything by itself")
