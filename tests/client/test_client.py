"""The asyncio client on a real cluster."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import walle
from tests.clusters import DevNodes, free_ports, wait_released, wait_trimmed
from walle.client.reader import read_answers
from walle.compression import FLAG_ZSTD
from walle.limits import BATCH_BYTES_MAX, ENTRY_DATA_BYTES_MAX, UNCOMMITTED_ENTRIES_MAX
from walle.messages import StreamSettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

pytestmark = pytest.mark.slow

README = Path(__file__).parents[2] / "README.md"


def run(nodes: DevNodes, work: Callable[[walle.Client], Awaitable[None]]) -> None:
    """Does the work with a client of the cluster; no task may be left when it has ended."""

    async def connected() -> None:
        async with asyncio.timeout(60):
            async with walle.connect(nodes.connect) as client:
                await work(client)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks were left behind"

    asyncio.run(connected(), debug=False)


def is_exclusive(writer: walle.Writer) -> bool:
    """As the writer says at this moment."""
    return writer.is_exclusive


def has_room(writer: walle.Writer) -> bool:
    """As the writer says at this moment."""
    return writer.has_room


async def history(client: walle.Client, stream: str) -> list[bytes]:
    return [entry.data async for entry in client.read(stream)]


def test_the_example_of_the_readme_runs(nodes: DevNodes) -> None:
    match = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert match is not None
    code = match[1]
    for index, address in enumerate(nodes.addresses):
        assert f"127.0.0.1:{7411 + index}" in code
        code = code.replace(f"127.0.0.1:{7411 + index}", address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == [
        *("entry 1", "entry 2", "entry 3", "nobody else has written since: 3"),
        *("1 order 1", "2 order 2", "3 order 3"),
    ]


def test_claim_put_release(nodes: DevNodes, stream: str) -> None:
    async def work(client: walle.Client) -> None:
        async with client.claim(stream, address="me", lease_ms=60_000) as writer:
            assert is_exclusive(writer)
            position = await writer.put(b"one")
            assert position.entry_id == 1
            assert position == writer.committed == writer.tail
            status = await client.writer_status(stream)
            assert (status.address, status.writer) == ("me", writer.writer_id)
            assert status.remaining_lease_ms > 0
        assert not is_exclusive(writer)
        with pytest.raises(walle.LocalProtocolError, match="closed"):
            writer.put(b"after")
        with pytest.raises(walle.LeaseExpired), writer.exclusive():
            pass
        await wait_released(client, stream)
        async with client.claim(stream, address="next", timeout_s=10) as other:
            assert other.writer_id > writer.writer_id
            assert other.tail == position
        assert await client.committed(stream) == position

    run(nodes, work)


def test_puts_are_pipelined_in_order_and_told(nodes: DevNodes, stream: str) -> None:
    async def work(client: walle.Client) -> None:
        async with client.claim(stream, address="me") as writer:
            told: list[walle.Position] = []
            writer.on_committed = told.append
            first = [writer.put(b"%d" % number) for number in range(500)]
            assert not any(put.done() for put in first)
            assert await first[-1] == writer.tail
            assert [put.result().entry_id for put in first] == list(range(1, 501))
            # Several tasks, each of which waits for its own puts.
            async with asyncio.TaskGroup() as group:
                for name in (b"a", b"b", b"c"):
                    group.create_task(put_one_by_one(writer, name))
            last = [writer.put(b"end") for _ in range(100)]  # the block's end waits for them
        assert all(put.done() for put in last)
        assert told[-1].entry_id == 660
        assert told == sorted(set(told))
        data = await history(client, stream)
        assert data[:500] == [b"%d" % number for number in range(500)]
        for name in (b"a", b"b", b"c"):
            ours = [each for each in data if each.startswith(name)]
            assert ours == [name + b"%d" % number for number in range(20)]

    run(nodes, work)


async def put_one_by_one(writer: walle.Writer, name: bytes) -> None:
    for number in range(20):
        await writer.put(name + b"%d" % number)


def test_back_pressure(nodes: DevNodes, stream: str) -> None:
    async def work(client: walle.Client) -> None:
        async with client.claim(stream, address="me") as writer:
            puts = [writer.put(b"x") for _ in range(UNCOMMITTED_ENTRIES_MAX)]
            assert not has_room(writer)
            with pytest.raises(walle.Busy, match="drain"):
                writer.put(b"one more")
            await writer.drain()
            assert has_room(writer)
            writer.put(b"one more")
            await puts[-1]
            large: list[asyncio.Future[walle.Position]] = []
            data = bytes(ENTRY_DATA_BYTES_MAX)
            with pytest.raises(walle.Busy, match="drain"):
                large.extend(writer.put(data) for _ in range(200))
            assert 32 <= len(large) < 100, "what waits is bounded"
            await large[-1]
            assert writer.tail.entry_id == len(puts) + 1 + len(large)

    run(nodes, work)


def test_bounds_of_arguments(nodes: DevNodes, stream: str) -> None:
    async def work(client: walle.Client) -> None:
        async with client.claim(stream, address="me") as writer:
            with pytest.raises(walle.LocalProtocolError, match=str(ENTRY_DATA_BYTES_MAX)):
                writer.put(bytes(ENTRY_DATA_BYTES_MAX + 1))
            sizes = [0, 1, BATCH_BYTES_MAX, ENTRY_DATA_BYTES_MAX]
            for size in sizes:
                await writer.put(bytes(size))
        assert [len(data) for data in await history(client, stream)] == sizes
        for lease_ms in (0, 10**9):
            with pytest.raises(walle.ConfigError, match="lease_ms"):
                async with client.claim(stream, address="me", lease_ms=lease_ms):
                    pass
        with pytest.raises(walle.UnknownStream, match="/nope"):
            await client.describe("/nope")
        with pytest.raises(walle.StreamExists):
            await client.create_stream(stream, members=["n1"])
        with pytest.raises(walle.Refused, match="not a member"):
            [entry async for entry in client.read(stream, node="n9")]

    run(nodes, work)


async def stored(client: walle.Client, stream: str) -> list[tuple[int, int]]:
    """The flags of each entry, and how many bytes of it are stored."""
    answers = read_answers(client, stream, start=1, end=None)
    found = [entry async for answer, _, _ in answers for entry in answer.entries]
    return [(entry.flags, len(entry.data)) for entry in found]


def test_compression_is_the_streams_or_the_writers_choice(nodes: DevNodes, stream: str) -> None:
    async def work(client: walle.Client) -> None:
        await client.create_stream("/packed", compression="zstd")
        data, random = b"some text " * 1_000, os.urandom(1_000)
        for name, choice in ((stream, "zstd"), ("/packed", None), ("/packed", "none")):
            async with client.claim(name, address="me", compression=choice) as writer:
                for each in (data, b"short", random):
                    writer.put(each)
        as_they_are = [(0, len(data)), (0, 5), (0, 1_000)]
        (flags, size), *others = await stored(client, stream)
        assert (flags, size < 100, others) == (FLAG_ZSTD, True, as_they_are[1:])
        assert await stored(client, "/packed") == [(flags, size), *others, *as_they_are]
        assert await history(client, stream) == [data, b"short", random]
        assert await history(client, "/packed") == 2 * [data, b"short", random]
        with pytest.raises(walle.ConfigError, match="compression: must be none or zstd, not 'lz4'"):
            async with client.claim(stream, address="me", compression="lz4"):
                pass
        with pytest.raises(walle.Refused, match="'lz4'; it is one of none, zstd"):
            await client.create_stream("/lz4", compression="lz4")
        async with client.claim(stream, address="me", compression="zstd") as writer:
            with pytest.raises(walle.LocalProtocolError, match=str(ENTRY_DATA_BYTES_MAX)):
                writer.put(bytes(ENTRY_DATA_BYTES_MAX + 1))

    run(nodes, work)


def test_what_cannot_be_decoded_is_told_and_can_be_passed_over(
    nodes: DevNodes, stream: str
) -> None:
    async def work(client: walle.Client) -> None:
        async with client.claim(stream, address="me") as writer:
            writer.put(b"before")
            writer.put_stored(b"not known", 0x40, 1)
            writer.put_stored(b"no frame", FLAG_ZSTD, 2)
            writer.put(b"after")
        entries = client.read(stream)
        assert (await anext(entries)).data == b"before"
        with pytest.raises(walle.UnreadableEntry, match=r"entry 2 of .* unknown flag 0x40"):
            await anext(entries)
        with pytest.raises(walle.UnreadableEntry, match=r"entry 3 of .* read on from entry 4"):
            await anext(client.read(stream, start=3))
        assert [entry.data async for entry in client.read(stream, start=4)] == [b"after"]

    run(nodes, work)
    with walle.sync.connect(nodes.connect) as client, pytest.raises(walle.UnreadableEntry):
        list(client.read(stream))
    done = nodes.run("read", stream, "--raw")
    assert (done.returncode, done.stdout) == (65, b"before\n")
    assert done.stderr.startswith(f"walle: entry 2 of {stream} has the unknown flag".encode())


def test_a_claim_waits_no_longer_than_it_may(nodes: DevNodes, stream: str) -> None:
    async def work(client: walle.Client) -> None:
        loop = asyncio.get_running_loop()
        async with client.claim(stream, address="holder", lease_ms=60_000) as writer:
            began_s = loop.time()
            with pytest.raises(walle.Unavailable, match="holder holds the lease"):
                async with client.claim(stream, address="other", timeout_s=0.5):
                    pass
            assert 0.5 <= loop.time() - began_s < 30, "half of the lease"
            assert writer.is_exclusive, "who waits takes nothing away"
            await writer.put(b"one")

    run(nodes, work)


def test_wait_and_claim(nodes: DevNodes, stream: str) -> None:
    """Whoever waits is the writer once the other has released, without a lease's delay."""

    async def work(client: walle.Client) -> None:
        claimed = asyncio.Event()

        async def wait_for_turn() -> None:
            async with client.claim(stream, address="second") as writer:
                claimed.set()
                await writer.put(b"second")

        async with client.claim(stream, address="first", lease_ms=60_000) as writer:
            waiting = asyncio.create_task(wait_for_turn())
            await writer.put(b"first")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await claimed.wait()
        await waiting
        assert await history(client, stream) == [b"first", b"second"]

    run(nodes, work)


def test_a_claim_that_is_cancelled_leaves_nothing(nodes: DevNodes, stream: str) -> None:
    async def work(client: walle.Client) -> None:
        async with client.claim(stream, address="first", lease_ms=60_000):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3), client.claim(stream, address="second"):
                    pass
        async with client.claim(stream, address="third", timeout_s=10):
            pass

    run(nodes, work)


def test_an_error_in_the_block_releases_and_ends_the_puts(nodes: DevNodes, stream: str) -> None:
    async def work(client: walle.Client) -> None:
        puts: list[asyncio.Future[walle.Position]] = []

        async def fail() -> None:
            async with client.claim(stream, address="first", lease_ms=60_000) as writer:
                await writer.put(b"durable")
                puts.append(writer.put(b"nobody knows"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        with pytest.raises(walle.Unavailable, match="unknown"):
            await puts[0]
        async with client.claim(stream, address="second", timeout_s=10):
            pass

    run(nodes, work)


def test_a_forced_claim_ends_the_writer_before(nodes: DevNodes, stream: str) -> None:
    async def work(client: walle.Client) -> None:
        async with client.claim(stream, address="old", lease_ms=3_000) as old:
            await old.put(b"old")
            async with client.claim(stream, address="new", force=True) as new:
                with pytest.raises(walle.WriterLost, match="is now new") as lost:
                    await old.put(b"too late")
                assert lost.value.outcome is walle.Outcome.NOT_WRITTEN
                assert lost.value.writer == new.writer_id
                assert not old.is_exclusive
                with pytest.raises(walle.WriterLost, match="not written"):
                    old.put(b"later still")
                with pytest.raises(walle.LeaseExpired), old.exclusive():
                    pass
                await new.put(b"new")
        assert await history(client, stream) == [b"old", b"new"]

    run(nodes, work)


def test_an_error_of_the_application_is_not_the_clients(nodes: DevNodes, stream: str) -> None:
    """A callback that raises harms neither the writer nor its connections."""
    errors: list[object] = []

    async def work(client: walle.Client) -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _loop, context: errors.append(context["exception"])
        )

        def fail(_position: walle.Position) -> None:
            raise ZeroDivisionError

        async with client.claim(stream, address="me") as writer:
            writer.on_committed = fail
            for _ in range(3):
                await writer.put(b"x")

    run(nodes, work)
    assert [type(error) for error in errors] == [ZeroDivisionError] * 3


def test_nobody_there() -> None:
    async def work() -> None:
        nothing: list[str] = []
        for addresses in ("", ",", nothing):
            with pytest.raises(walle.ConfigError, match="must name a node"):
                async with walle.connect(addresses):
                    pass
        with pytest.raises(walle.Unavailable, match="nobody answers at"):
            async with walle.connect(f"127.0.0.1:{free_ports(1)}", timeout_s=0.2):
                pass

    asyncio.run(work())


@pytest.mark.parametrize("answer", [b"220 mail.example ESMTP ready\r\n", b"", None])
def test_no_walle_node(answer: bytes | None) -> None:
    """What answers with other bytes, closes at once, or stays silent."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            while await reader.read(1024):
                pass
        else:
            writer.write(answer)
        writer.close()

    async def work() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises((walle.RemoteProtocolError, walle.Unavailable)) as error:
            async with walle.connect(address, timeout_s=0.2):
                pass
        assert address in str(error.value)
        if answer:
            assert "no WALLE node" in str(error.value)
        server.close()

    asyncio.run(work())


def test_another_cluster_is_told_from_this_one(nodes: DevNodes, tmp_path: Path) -> None:
    """A client that knows its cluster does not mix it with another at the same addresses."""
    with DevNodes(tmp_path, count=1) as others:

        async def work(client: walle.Client) -> None:
            with pytest.raises(walle.WrongCluster):
                await client.node_status(others.addresses[0])

        run(nodes, work)


def test_the_client_learns_the_other_nodes(tmp_path: Path) -> None:
    """The one node that was named dies; client, writer and reader go on, and it comes back."""
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", "/death")

        async def work() -> None:
            async with (
                walle.connect(nodes.addresses[0]) as client,
                client.claim("/death", address="me") as writer,
            ):
                entries = client.read("/death", follow=True)
                for number in range(1, 4):
                    data = b"%d" % number
                    put = writer.put(data)
                    assert (await anext(entries)).data == data
                    await put
                    if number == 1:
                        await asyncio.to_thread(nodes.kill, "n1")
                        await client.describe("/cluster", refresh=True)
                        await client.create_stream("/later")
                    if number == 2:
                        await asyncio.to_thread(nodes.start, "n1")
                # Its session, and the writer's, are opened anew.
                status = await client.node_status(nodes.addresses[0])
                assert status["id"] == "n1"
                await entries.aclose()

        asyncio.run(work())


def test_a_put_without_a_majority_and_what_becomes_of_it(tmp_path: Path) -> None:
    """While two of three nodes stand still nothing is known of a put; later it is."""
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", "/still")
        still = [pid for name in ("n2", "n3") for pid in nodes.tree(name)]

        async def work(client: walle.Client) -> None:
            puts: list[asyncio.Future[walle.Position]] = []
            with suppress(walle.WriterLost):
                await lose(client, puts)
            put = puts[0]
            error = put.exception()
            data = await history(client, "/still")
            if error is None:
                assert put.result().entry_id == 2
                assert data == [b"before", b"meanwhile", b"new"]
            else:
                assert isinstance(error, walle.WriterLost)
                assert error.outcome is walle.Outcome.NOT_WRITTEN, "by now all is known"
                assert data == [b"before", b"new"]

        async def lose(client: walle.Client, puts: list[asyncio.Future[walle.Position]]) -> None:
            async with client.claim("/still", address="old", lease_ms=500) as old:
                await old.put(b"before")
                nodes.signal(still, signal.SIGSTOP)
                put = old.put(b"meanwhile")
                puts.append(put)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1):
                        await asyncio.shield(put)
                with pytest.raises(walle.LeaseExpired), old.exclusive():
                    pass
                with pytest.raises(walle.Unavailable):
                    async with client.claim("/still", address="new", force=True, timeout_s=0.5):
                        pass
                taking_over = asyncio.create_task(take_over(client))
                nodes.signal(still, signal.SIGCONT)
                await taking_over
                await asyncio.wait([put])

        async def take_over(client: walle.Client) -> None:
            async with client.claim("/still", address="new", force=True) as new:
                await new.put(b"new")

        try:
            run(nodes, work)
        finally:
            nodes.signal(still, signal.SIGCONT)


def test_trim_and_readers_that_are_behind(nodes: DevNodes, stream: str) -> None:
    async def work(client: walle.Client) -> None:
        async with client.claim(stream, address="me") as writer:
            puts = [writer.put(b"%d" % number) for number in range(1, 11)]
            await asyncio.gather(*puts)
            follower = client.read(stream, follow=True)
            assert (await anext(follower)).entry_id == 1
            await follower.aclose()
            assert (await client.trim_stream(stream, to=6)).first_entry_id == 6
            assert (await client.trim_stream(stream, to=3)).first_entry_id == 6
            await wait_trimmed(client, stream, 6)
            assert is_exclusive(writer), "it does not notice"
            await writer.put(b"11")
        assert [entry.entry_id async for entry in client.read(stream)] == list(range(6, 12))
        assert [entry.entry_id async for entry in client.read(stream, end=8)] == [6, 7]
        assert [entry async for entry in client.read(stream, end=4)] == []
        for options in ({}, {"follow": True}, {"node": "n1"}):
            with pytest.raises(walle.Trimmed, match="entry 2 was trimmed; read from 6 on") as error:
                await anext(client.read(stream, start=2, **options))
            assert error.value.first_entry_id == 6
            assert (error.value.stream, error.value.entry_id) == (stream, 2)
        assert (await client.committed(stream)).entry_id == 11
        with pytest.raises(walle.UnknownStream):
            await client.trim_stream("/nope", to=2)

    run(nodes, work)


def test_follower_that_is_overtaken_by_a_trim_is_told(nodes: DevNodes, stream: str) -> None:
    async def see_all(entries: AsyncGenerator[walle.Entry, None], seen: list[int]) -> None:
        while True:
            seen.append((await anext(entries)).entry_id)

    async def work(client: walle.Client) -> None:
        async with client.claim(stream, address="me") as writer:
            await asyncio.gather(*(writer.put(bytes(100_000)) for _ in range(30)))
            follower = client.read(stream, follow=True)
            seen = [(await anext(follower)).entry_id]
            assert (await client.trim_stream(stream, to=30)).first_entry_id == 30
            await wait_trimmed(client, stream, 30)
            with pytest.raises(walle.Trimmed) as error:
                await see_all(follower, seen)
            assert seen == list(range(1, len(seen) + 1))
            assert error.value.entry_id == seen[-1] + 1
            assert error.value.first_entry_id == 30
            follower = client.read(stream, start=error.value.first_entry_id, follow=True)
            assert (await anext(follower)).entry_id == 30
            await follower.aclose()

    run(nodes, work)


def test_trim_by_time(nodes: DevNodes, stream: str) -> None:
    async def work(client: walle.Client) -> None:
        async with client.claim(stream, address="me") as writer:
            await asyncio.gather(*(writer.put(b"old") for _ in range(5)))
            await asyncio.sleep(0.01)
            between = datetime.now(UTC)
            await asyncio.sleep(0.01)
            await asyncio.gather(*(writer.put(b"new") for _ in range(5)))
        info = await client.trim_stream(stream, before=between - timedelta(hours=1))
        assert info.first_entry_id == 1
        assert (await client.trim_stream(stream, before=between)).first_entry_id == 6
        assert (await client.trim_stream(stream, before=datetime.now(UTC))).first_entry_id == 10

    run(nodes, work)


def test_trims_that_make_no_sense(nodes: DevNodes, stream: str) -> None:
    async def work(client: walle.Client) -> None:
        before = datetime.now(UTC)
        for options in (
            {},
            {"to": 1, "before": before},
            {"to": 0},
            {"to": -1},
            {"before": datetime(1960, 1, 1, tzinfo=UTC)},
            {"to": 1 << 64},
        ):
            with pytest.raises(walle.LocalProtocolError):
                await client.trim_stream(stream, **options)

    run(nodes, work)


def test_settings_change_one_by_one(nodes: DevNodes) -> None:
    async def work(client: walle.Client) -> None:
        info = await client.create_stream("/settings", retention_max_bytes=1 << 40)
        assert info.settings == StreamSettings("none", 1 << 40)
        assert (await client.set_stream("/settings")).settings == info.settings
        info = await client.set_stream("/settings", retention_max_age_ms=10**10)
        assert info.settings == StreamSettings("none", 1 << 40, 10**10)
        info = await client.set_stream("/settings", retention_max_bytes=0)
        assert info.settings == (await client.describe("/settings")).settings
        assert info.settings == StreamSettings("none", 0, 10**10)
        info = await client.set_stream("/settings", compression="zstd")
        assert info.settings == StreamSettings("zstd", 0, 10**10)
        with pytest.raises(walle.Refused, match="one of none, zstd"):
            await client.set_stream("/settings", compression="lz4")
        with pytest.raises(walle.StreamExists, match="exists already"):
            await client.create_stream("/settings", retention_max_age_ms=1)
        info = await client.set_stream("/settings", replicas=2, lease_min_ms=500)
        assert info.settings == StreamSettings("zstd", 0, 10**10, 2, 500)
        with pytest.raises(walle.Refused, match="8 replicas; 7 are possible"):
            await client.set_stream("/settings", replicas=8)
        with pytest.raises(walle.Refused, match="leases from 500 to 400 ms"):
            await client.set_stream("/settings", lease_max_ms=400)

    run(nodes, work)


def test_claims_keep_to_the_bounds_of_the_streams_leases(nodes: DevNodes) -> None:
    async def work(client: walle.Client) -> None:
        await client.create_stream("/leases", lease_min_ms=500, lease_max_ms=2_000)
        for lease_ms in (499, 2_001):
            with pytest.raises(walle.Refused, match=f"{lease_ms} ms; /leases allows 500 to 2000"):
                async with client.claim("/leases", address="app:1", lease_ms=lease_ms):
                    pass
        async with client.claim("/leases", address="app:1", lease_ms=2_000) as writer:
            await client.set_stream("/leases", lease_max_ms=1_000)
            await writer.put(b"it counts from the next claim on")

    run(nodes, work)
