"""The blocking client on a real cluster."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import walle
from tests.clusters import free_ports, wait_until
from walle.sync import HANDED_OVER_MAX

if TYPE_CHECKING:
    from tests.clusters import DevNodes

pytestmark = pytest.mark.slow


def test_all_of_it(nodes: DevNodes) -> None:
    with walle.sync.connect(nodes.connect) as client:
        client.create_stream("/sync", compression="zstd")
        wait_until(
            lambda: "/sync" in [info.name for info in client.list_streams()],
            "the node that is asked knows",
        )
        with client.claim("/sync", address="me") as writer:
            assert writer.is_exclusive
            assert writer.put(b"one").result().entry_id == 1
            puts = [writer.put(b"%d" % number) for number in range(2, 1001)]
            with writer.exclusive():
                assert client.writer_status("/sync").address == "me"
            assert [put.result().entry_id for put in puts] == list(range(2, 1001))
            assert writer.committed == writer.tail == client.committed("/sync")
            assert writer.put_many([b"1001", memoryview(b"1002")]).result().entry_id == 1002
            with pytest.raises(walle.LocalProtocolError, match="no entries"):
                writer.put_many([]).result()
        with pytest.raises(walle.LocalProtocolError, match="closed"):
            writer.put(b"after").result()
        entries = list(client.read("/sync", start=2, end=5))
        assert [entry.data for entry in entries] == [b"2", b"3", b"4"]
        assert client.trim_stream("/sync", to=999).first_entry_id == 999
        assert client.describe("/sync").settings.compression == "zstd"
        info = client.set_stream("/sync", retention_max_bytes=1 << 40)
        assert info.settings.retention_max_bytes == 1 << 40
        wait_until(
            lambda: [entry.entry_id for entry in client.read("/sync")] == list(range(999, 1003)),
            "the member that is read has trimmed",
        )
        with pytest.raises(walle.Trimmed, match="read from 999 on"):
            next(iter(client.read("/sync", start=1)))
    assert "walle" not in [thread.name for thread in threading.enumerate()]


def test_compression(nodes: DevNodes, stream: str) -> None:
    with walle.sync.connect(nodes.connect) as client:
        with client.claim(stream, address="me", compression="zstd") as writer:
            writer.put(b"text " * 1_000)
        assert [entry.data for entry in client.read(stream)] == [b"text " * 1_000]


def test_threads_share_a_writer(nodes: DevNodes, stream: str) -> None:
    def put_all(writer: walle.sync.Writer, name: bytes) -> list[int]:
        puts = [writer.put(name + b"%d" % number) for number in range(2000)]
        return [put.result().entry_id for put in puts]

    with walle.sync.connect(nodes.connect) as client:
        with client.claim(stream, address="me") as writer, ThreadPoolExecutor() as pool:
            tasks = [pool.submit(put_all, writer, name) for name in (b"a", b"b", b"c")]
            ids = [task.result() for task in tasks]
        data = {entry.entry_id: entry.data for entry in client.read(stream)}
    for name, ours in zip((b"a", b"b", b"c"), ids, strict=True):
        assert ours == sorted(ours)
        assert [data[entry_id] for entry_id in ours] == [name + b"%d" % n for n in range(2000)]


def test_a_put_waits_while_too_much_is_in_flight(nodes: DevNodes, stream: str) -> None:
    with (
        walle.sync.connect(nodes.connect) as client,
        client.claim(stream, address="me") as writer,
    ):
        puts = [writer.put(bytes(1 << 20)) for _ in range(80)]
        assert puts[-1].result().entry_id == 80


def test_follow_and_leave(nodes: DevNodes, stream: str) -> None:
    with walle.sync.connect(nodes.connect) as client:
        entries = client.read(stream, follow=True)
        with client.claim(stream, address="me") as writer:
            for data in (b"one", b"two"):
                writer.put(data)
                assert next(entries).data == data


def test_errors(nodes: DevNodes, stream: str) -> None:
    with (
        pytest.raises(walle.Unavailable),
        walle.sync.connect(f"127.0.0.1:{free_ports(1)}", timeout_s=0.1),
    ):
        pass
    with walle.sync.connect(nodes.connect) as client:
        with pytest.raises(walle.UnknownStream):
            list(client.read("/nope"))
        with (
            client.claim(stream, address="old", lease_ms=3_000) as old,
            client.claim(stream, address="new", force=True) as new,
        ):
            new.put(b"new").result()
            with pytest.raises(walle.WriterLost, match="is now new"):
                old.put(b"old").result()
        claim = client.claim(stream, address="me", lease_ms=60_000, timeout_s=10)
        with pytest.raises(ZeroDivisionError), claim:
            raise ZeroDivisionError
        wait_until(
            lambda: not client.writer_status(stream).remaining_lease_ms, "all know of the release"
        )


def test_a_client_that_is_closed_keeps_no_thread_waiting(nodes: DevNodes, stream: str) -> None:
    with walle.sync.connect(nodes.connect) as client:
        claim = client.claim(stream, address="me")
        writer = claim.__enter__()
        last = [writer.put(b"%d" % number) for number in range(100)][-1]
    with suppress(walle.Unavailable):  # it has ended, one way or the other
        last.result(0)
    for _ in range(HANDED_OVER_MAX + 1):
        with pytest.raises(walle.LocalProtocolError, match="closed"):
            writer.put(b"later")
    with pytest.raises(walle.LocalProtocolError, match="closed"):
        writer.put_many([b"later"])
    with pytest.raises(walle.LocalProtocolError, match="closed"):
        client.committed(stream)
    with pytest.raises(walle.LocalProtocolError, match="closed"):
        claim.__exit__(None, None, None)


def exists(client: walle.sync.Client, stream: str) -> bool:
    try:
        client.committed(stream)
    except walle.UnknownStream:
        return False
    return True


def test_members_change_and_a_stream_is_deleted(nodes: DevNodes, stream: str) -> None:
    with walle.sync.connect(nodes.connect) as client:
        begun = client.set_members(stream, ["n1", "n2"])
        assert {each.node_id for each in begun.members} == {"n1", "n2"}
        *_, last = client.follow_change(stream)
        assert last.stream.old_members == ()
        assert last == client.describe_change(stream)
        placed = client.replace_member(stream, "n1")
        assert {each.node_id for each in placed.members} == {"n2", "n3"}
        for _ in client.follow_change(stream):
            pass
        client.delete_stream(stream)
        wait_until(lambda: not exists(client, stream), "the node that is asked knows")
        assert client.create_stream(stream).stream_id > begun.stream_id
