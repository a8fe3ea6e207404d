"""`walle backup` and `walle restore` on a real cluster: what was put is what is restored."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import walle
from tests.cli.test_errors import fail
from tests.clusters import DevNodes, wait_until
from tests.unit.making import entries
from walle.client.backup_file import open_backup
from walle.client.reader import read_answers
from walle.record import decode_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from walle.client.backup_file import Header
    from walle.record import Batch, Entry

pytestmark = pytest.mark.slow

LINES = [b"some line of text, again and again, " * (number % 7) for number in range(300)]


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Where a backup may go."""
    return str(tmp_path / "a.backup")


def put(nodes: DevNodes, stream: str, *lines: bytes, compression: str = "none") -> None:
    data = b"".join(line + b"\n" for line in lines)
    nodes.cli("put", stream, "--compression", compression, data=data)


def run(nodes: DevNodes, work: Callable[[walle.Client], Awaitable[Any]]) -> Any:
    async def connected() -> Any:
        async with walle.connect(nodes.connect) as client:
            return await work(client)

    return asyncio.run(connected())


def stored(nodes: DevNodes, stream: str, start: int = 1) -> list[Entry]:
    """The stream's entries as they are stored."""

    async def read(client: walle.Client) -> list[Entry]:
        answers = read_answers(client, stream, start=start, end=None)
        return [entry async for answer, _, _ in answers for entry in answer.entries]

    found: list[Entry] = run(nodes, read)
    return found


def kept(found: list[Entry]) -> list[tuple[int, int, int, bytes]]:
    """What of entries a restore keeps."""
    return [(entry.entry_id, entry.time_us, entry.flags, entry.data) for entry in found]


def backed_up(file: str) -> list[Entry]:
    with open_backup(file) as opened:
        found = [e for batch in opened.batches() for e in decode_all(batch)]
        assert opened.is_complete
    return found


def craft(file: str, header: Header, batch: Batch) -> None:
    """A backup file that no backup has made."""
    Path(file).unlink(missing_ok=True)
    with open_backup(file, is_writable=True) as opened:
        opened.begin(header)
        opened.append(batch)
        opened.finish(0)


def test_backup_grows_and_is_restored_up_to_any_place(
    nodes: DevNodes, stream: str, file: str
) -> None:
    put(nodes, stream, *LINES)
    done = nodes.cli("backup", stream, file)
    assert done == f"300 entries are new; {file} holds entries 1 to 300 of {stream}\n".encode()
    put(nodes, stream, *LINES, compression="zstd")
    put(nodes, stream, b"last")
    done = nodes.cli("backup", stream, file)
    assert done == f"301 entries are new; {file} holds entries 1 to 601 of {stream}\n".encode()
    done = nodes.cli("backup", stream, file)
    assert done == f"0 entries are new; {file} holds entries 1 to 601 of {stream}\n".encode()
    source = stored(nodes, stream)
    assert {entry.flags for entry in source} == {0, 1}
    assert backed_up(file) == source, "records are as they are in the stream"
    checked = f"{file} holds entries 1 to 601 of {stream}; every record is good\n"
    assert nodes.cli("restore", file).decode() == checked

    whole, to, until = f"{stream}-whole", f"{stream}-to", f"{stream}-until"
    nodes.cli("restore", file, whole)
    nodes.cli("restore", file, to, "--to", "350")
    time = json.loads(nodes.cli("read", stream, "--json", "--start", "400", "--end", "401"))["time"]
    nodes.cli("restore", file, until, "--until", time)
    restored = stored(nodes, whole)
    assert kept(restored) == kept(source)
    assert {entry.writer for entry in restored}.isdisjoint(entry.writer for entry in source)
    assert kept(stored(nodes, to)) == kept(source[:350])
    later = next(entry.entry_id for entry in source if entry.time_us > source[399].time_us)
    assert kept(stored(nodes, until)) == kept(source[: later - 1])
    lines = [*LINES, *LINES, b"last", b""]
    assert nodes.cli("read", whole, "--raw") == b"\n".join(lines), "readers see the data"


def test_restore_goes_on_with_what_the_stream_has(nodes: DevNodes, stream: str, file: str) -> None:
    """After an interrupted one, and when the file has grown."""
    restored = f"{stream}-restored"
    put(nodes, stream, *LINES)
    nodes.cli("backup", stream, file)
    nodes.cli("restore", file, restored, "--to", "100")
    nodes.cli("restore", file, restored)
    put(nodes, stream, *LINES)
    nodes.cli("backup", stream, file)
    done = nodes.cli("restore", file, restored)
    assert done.decode().startswith(f"{restored} holds entries 1 to 600 of {stream}, as they were")
    assert kept(stored(nodes, restored)) == kept(stored(nodes, stream))
    status, text = fail(nodes, "restore", file, restored, "--to", "599")
    assert status == 1
    assert f"{restored} holds entries 1 to 600, more than the entries 1 to 599" in text


def test_all_that_was_acknowledged_is_in_a_backup_made_under_load(
    nodes: DevNodes, stream: str, file: str
) -> None:
    putting = nodes.popen("put", stream, "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert putting.stdin is not None
    assert putting.stdout is not None
    count = 0
    for _ in range(5):
        for line in LINES:
            putting.stdin.write(line + b"\n")
        putting.stdin.flush()
        while json.loads(putting.stdout.readline())["entry_id"] < count + 100:
            pass
        count += 100
        nodes.cli("backup", stream, file)
        assert len(backed_up(file)) >= count
        count = len(backed_up(file)) // 100 * 100
    putting.stdin.close()
    putting.stdout.read()
    assert putting.wait(30) == 0
    nodes.cli("backup", stream, file)
    assert backed_up(file) == stored(nodes, stream)


def kill_midway(nodes: DevNodes, stream: str, file: str) -> bool:
    """Begins a backup and kills it; returns whether that was in time."""
    Path(file).unlink(missing_ok=True)
    running = nodes.popen("backup", stream, file)
    wait_until(lambda: Path(file).exists() and Path(file).stat().st_size > 1_000_000, "it copies")
    running.send_signal(signal.SIGKILL)
    running.wait(10)
    with open_backup(file) as opened:
        for _ in opened.batches():
            pass
        return not opened.is_complete


def test_killed_backup_and_killed_restore_are_gone_on_with(
    nodes: DevNodes, stream: str, file: str
) -> None:
    put(nodes, stream, *(b"%d " % number * 20 for number in range(100_000)))
    for _ in range(20):
        if kill_midway(nodes, stream, file):
            break
    else:
        pytest.fail("each backup was done before it was killed")
    status, text = fail(nodes, "restore", file, f"{stream}-incomplete")
    assert status == 1
    assert "is incomplete" in text
    assert nodes.run("read", f"{stream}-incomplete").returncode == 1, "nothing was made"
    first = int(text.rpartition("--to ")[2])
    assert first < 100_000
    done = nodes.cli("backup", stream, file)
    assert done.startswith(f"{100_000 - first} entries are new; ".encode())
    source = stored(nodes, stream)
    assert backed_up(file) == source

    restored = f"{stream}-restored"
    running = nodes.popen("restore", file, restored)
    wait_until(lambda: not nodes.run("stream", "show", restored).returncode, "it has begun")
    running.send_signal(signal.SIGKILL)
    running.wait(10)
    nodes.cli("restore", file, restored)
    assert kept(stored(nodes, restored)) == kept(source)


def test_stream_that_begins_later_is_restored_with_its_ids(tmp_path: Path) -> None:
    """It is like any other: its nodes may die, restart, and catch up."""
    with DevNodes(tmp_path) as nodes:
        file, origin = str(tmp_path / "late.backup"), walle.Position(100, 0xFEED_FEED_FEED_FEED)
        run(nodes, lambda client: client.create_stream("/late", origin=origin))
        assert nodes.cli("backup", "/late", file).endswith(b"holds no entries of /late\n")
        nodes.cli("restore", file, "/none")
        put(nodes, "/late", *LINES)
        assert nodes.cli("backup", "/late", file).endswith(b"entries 101 to 400 of /late\n")
        nodes.kill("n3")
        nodes.cli("restore", file, "/again")
        source = stored(nodes, "/late", 101)
        assert backed_up(file) == source
        assert source[0].prev_chain == origin.chain
        assert kept(stored(nodes, "/again", 101)) == kept(source)
        assert stored(nodes, "/again", 101)[0].prev_chain == origin.chain
        assert "entries 101 to 400" in nodes.cli("stream", "show", "/again").decode()
        assert nodes.cli("read", "/again", "--raw") == b"\n".join([*LINES, b""])
        nodes.kill("n1", "n2")
        nodes.start("n1", "n2", "n3")
        for name in ("/late", "/again", "/none"):
            put(nodes, name, b"more")
        assert kept(stored(nodes, "/again", 101))[:-1] == kept(source)
        assert [entry.entry_id for entry in stored(nodes, "/none", 101)] == [101]

        def held(name: str) -> bool:
            return nodes.run("read", name, "--raw", "--start", "101", "--node", "n3").stdout == (
                b"\n".join([*LINES, b"more", b""])
            )

        wait_until(lambda: held("/again"), "the member that was away holds everything by itself")
        status, text = fail(nodes, "restore", file, "/late", "--to", "150")
        assert (status, "holds entries 101 to 401" in text) == (1, True)
        nodes.cli("stream", "create", "/first")
        status, text = fail(nodes, "restore", file, "/first")
        assert (status, "/first exists already" in text) == (1, True)


# --- refused --------------------------------------------------------------------------------------


def test_file_of_another_stream_is_refused(
    nodes: DevNodes, stream: str, file: str, tmp_path: Path
) -> None:
    put(nodes, stream, b"one")
    nodes.cli("backup", stream, file)
    before = Path(file).read_bytes()
    nodes.cli("stream", "create", f"{stream}-other")
    status, text = fail(nodes, "backup", f"{stream}-other", file)
    assert status == 1
    assert f"{file} is a backup of {stream}, stream" in text
    assert f"not of {stream}-other, stream" in text
    with DevNodes(tmp_path, count=1) as others:
        others.cli("stream", "create", stream)
        status, text = fail(others, "backup", stream, file)
        assert (status, "of cluster" in text) == (1, True)
    assert Path(file).read_bytes() == before


def test_file_of_another_history_is_refused(nodes: DevNodes, stream: str, file: str) -> None:
    put(nodes, stream, b"one", b"two")
    nodes.cli("backup", stream, file)
    with open_backup(file) as opened:
        header = opened.header
    for count in (1, 2, 3):
        craft(file, header, entries(count))
        status, text = fail(nodes, "backup", stream, file)
        assert status == 1
        assert f"{file} holds another history than {stream} up to entry {count}" in text
        assert "begin another file" in text
    late = f"{stream}-late"
    info = run(nodes, lambda client: client.create_stream(late, origin=walle.Position(9, 9)))
    craft(file, header._replace(stream_id=info.stream_id), entries(8))
    status, text = fail(nodes, "backup", late, file)
    assert status == 1
    assert f"{file} ends at entry 8, and {late} begins at entry 10 by now" in text
    craft(file, header._replace(stream_id=info.stream_id), entries(9))
    status, text = fail(nodes, "backup", late, file)
    assert "another history" in text


def test_stream_with_other_entries_is_refused(nodes: DevNodes, stream: str, file: str) -> None:
    put(nodes, stream, b"one", b"two", b"three")
    nodes.cli("backup", stream, file)
    other = f"{stream}-other"
    nodes.cli("stream", "create", other)
    nodes.cli("restore", file, other, "--to", "1")
    put(nodes, other, b"not two")
    status, text = fail(nodes, "restore", file, other)
    assert status == 1
    assert f"entry 2 of {other} is another one than that of {file}; name a new stream" in text
    assert nodes.cli("read", other, "--raw") == b"one\nnot two\n"


def test_damaged_file_is_refused_before_anything_is_done(
    nodes: DevNodes, stream: str, file: str
) -> None:
    put(nodes, stream, *LINES)
    nodes.cli("backup", stream, file)
    whole = bytearray(Path(file).read_bytes())
    whole[len(whole) // 2] ^= 1
    Path(file).write_bytes(whole)
    for arguments in ([file], [file, f"{stream}-restored"]):
        status, text = fail(nodes, "restore", *arguments)
        assert status == 65
        assert f"{file} at byte" in text
        assert "found BAD_CRC; use another copy of the file" in text
    good = int(text.rpartition("--to ")[2])
    assert 100 < good < 200
    assert nodes.run("read", f"{stream}-restored").returncode == 1, "nothing was made"
    nodes.cli("restore", file, f"{stream}-restored", "--to", str(good))
    assert kept(stored(nodes, f"{stream}-restored")) == kept(stored(nodes, stream)[:good])


def test_stream_that_somebody_writes_is_not_taken(nodes: DevNodes, stream: str, file: str) -> None:
    put(nodes, stream, b"one")
    nodes.cli("backup", stream, file)
    other = f"{stream}-other"
    nodes.cli("stream", "create", other)
    holding = nodes.popen("put", other, "--json", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holding.stdin is not None
    assert holding.stdout is not None
    holding.stdin.write(b"one\n")
    holding.stdin.flush()
    assert holding.stdout.readline()
    status, text = fail(nodes, "restore", file, other)
    assert status == 3
    assert "holds the lease" in text


def test_other_errors(nodes: DevNodes, stream: str, file: str, tmp_path: Path) -> None:
    put(nodes, stream, b"one")
    nodes.cli("backup", stream, file)
    text = tmp_path / "notes.txt"
    text.write_text("no backup\n")
    for arguments, status, words in (
        (["backup", "/nope", f"{file}-2"], 1, "no stream /nope"),
        (["backup", stream, str(tmp_path)], 2, "is a directory"),
        (["backup", stream, "/no/such/directory/file"], 74, "/no/such/directory/file"),
        (["backup", stream, str(text)], 65, f"{text} at byte 0: expected the header"),
        (["restore", str(text)], 65, f"{text} at byte 0: expected the header"),
        (["restore", f"{file}-2"], 2, "does not exist"),
        (["restore", file, "no-slash"], 1, "begins with '/'"),
        (["restore", file, "/cluster"], 1, "they alone write /cluster"),
        (["restore", file, "/x", "--to", "2"], 1, "holds entries 1 to 1 of"),
        (["restore", file, "/x", "--to", "0"], 2, "--to"),
        (["restore", file, "/x", "--until", "noon"], 2, "'noon' is no time, such as"),
        (["restore", file, "/x", "--until", "2000-01-01"], 1, "is of a later time"),
        (["restore", file, "/x", "--to", "1", "--until", "2000-01-01"], 2, "exclude each other"),
    ):
        found, said = fail(nodes, *arguments)
        assert (found, words in said) == (status, True), said
    assert not os.path.lexists(f"{file}-2"), "no file is made for a stream that is not there"
    assert text.read_text() == "no backup\n"
