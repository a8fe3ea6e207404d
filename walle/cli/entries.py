"""`walle put` and `walle read`."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import sys
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, BinaryIO

import click

from walle.cli.common import (
    connect_option,
    format_time,
    json_option,
    print_json,
    printable,
    progress,
    run_client,
    to_json,
)
from walle.cli.quantities import entry_id
from walle.client.client import LEASE_MS_DEFAULT
from walle.client.session import CONNECT_S
from walle.errors import LocalProtocolError, WalleError
from walle.limits import ENTRY_DATA_BYTES_MAX, LEASE_MS_MAX, LEASE_MS_MIN
from walle.messages import COMPRESSIONS

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from walle.client.client import Client
    from walle.client.writer import Writer
    from walle.ids import Position
    from walle.messages import WriterStatusReply
    from walle.record import Entry

CHUNK_BYTES = 256 * 1024
SILENCE_S = 1.0
"""After which a command that waits says why."""
ASK_S = CONNECT_S + 1.0
"""For how long it is found out why: one of those that are asked may not be there."""


@click.command()
@click.argument("stream", metavar="STREAM")
@click.argument("file", type=click.File("rb"), default="-", metavar="[FILE|-]")
@click.option("--whole", is_flag=True, help="Put the whole input as one entry.")
@click.option("--force", is_flag=True, help="Take over from the present writer at once.")
@click.option("--address", help="What others are told of the writer. Default: walle-put@HOST:PID.")
@click.option(
    "--lease-ms",
    type=click.IntRange(LEASE_MS_MIN, LEASE_MS_MAX),
    default=LEASE_MS_DEFAULT,
    show_default=True,
    help="How long others wait for this writer when it falls silent.",
)
@click.option(
    "--compression",
    type=click.Choice(COMPRESSIONS),
    help="How the entries are stored. Default: as the stream was created.",
)
@json_option
@connect_option
def put(
    stream: str,
    file: BinaryIO,
    address: str | None,
    lease_ms: int,
    compression: str | None,
    connect: str,
    *,
    whole: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Put each line of FILE, or of the input, as an entry; claims the stream's writer.

    Waits until another writer's lease has lapsed, unless --force. With --json it prints one object
    a line as acknowledgements arrive: the last entry that is durable now, and how many are.

    \b
        echo hello | walle put /notes
        walle put /notes big.txt --json
        walle put /images photo.jpg --whole
        walle put /logs app.log --compression zstd
    """
    who = address or f"walle-put@{socket.gethostname()}:{os.getpid()}"
    entries = _whole(file) if whole else _lines(file)

    def explain(status: WriterStatusReply) -> str:
        if status.address in ("", who):  # it is this claim's by now, or nobody's
            return "too few members have answered, or the lease of the one before runs"
        if force:
            return "the lease of the one before runs out first"
        return f"{printable(status.address)} has a lease; --force takes over"

    async def work(client: Client) -> None:
        telling = _telling(client, stream, "become the writer of", explain)
        try:
            async with client.claim(
                stream, address=who, lease_ms=lease_ms, force=force, compression=compression
            ) as writer:
                telling.cancel()
                with _reported(writer, as_json=as_json, is_typed=file.isatty()):
                    await _put_all(writer, entries)
        finally:
            telling.cancel()

    run_client(connect, work)


def _telling(
    client: Client, stream: str, aim: str, explain: Callable[[WriterStatusReply], str]
) -> asyncio.Task[None]:
    """Says why nothing happens, unless it is cancelled soon.

    Args:
        aim: what the command waits for: to do this to the stream.
        explain: why, while a majority of the members answers; empty: there is nothing to tell.
    """

    async def tell() -> None:
        await asyncio.sleep(SILENCE_S)
        try:
            reason = explain(await client.writer_status(stream, timeout_s=ASK_S))
        except WalleError as error:
            reason = str(error)
        if reason:
            click.echo(f"waiting to {aim} {printable(stream)}: {reason}", err=True)

    return asyncio.create_task(tell())


async def _put_all(writer: Writer, entries: AsyncGenerator[bytes, None]) -> None:
    """Puts the entries; returns when all are durable. Those before a bad one are put all the same.

    Raises:
        LocalProtocolError: one is too long.
    """
    async with aclosing(entries):
        try:
            async for data in entries:
                await writer.drain()
                writer.put(data)
        except LocalProtocolError:
            await writer.finish()
            raise
    await writer.finish()


@contextmanager
def _reported(writer: Writer, *, as_json: bool, is_typed: bool) -> Iterator[None]:
    """Tells how many entries are durable: as they become so, and at the end, however it comes.

    is_typed: somebody types them, where a line of progress would be in the way.

    Raises:
        OSError: nobody reads it any more; the block was cancelled for that.
    """
    task = asyncio.current_task()
    first_id = writer.tail.entry_id
    failures: list[OSError] = []

    def count() -> int:
        return writer.committed.entry_id - first_id

    def print_committed(committed: Position) -> None:
        try:
            print_json({"entry_id": committed.entry_id, "count": committed.entry_id - first_id})
        except OSError as error:
            writer.on_committed = lambda _committed: None
            failures.append(error)
            if task is not None:
                task.cancel()

    try:
        with progress("durable", shown=not as_json and not is_typed) as show:

            def show_committed(_committed: Position) -> None:
                show(count(), writer.tail.entry_id - first_id)

            writer.on_committed = print_committed if as_json else show_committed
            yield
            show_committed(writer.committed)
    except asyncio.CancelledError:
        if failures:
            raise failures[0] from None
        raise
    finally:
        if not as_json:
            done = count()
            what = "1 entry is" if done == 1 else f"{done} entries are"
            click.echo(f"{what} durable", err=True)


async def _whole(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    data = b""
    async for chunk in _chunks(file):
        data = _checked(data + chunk, "the input")
    yield data


async def _lines(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    """The lines of a file or a pipe, as they come, without their ends."""
    rest = b""
    number = 1
    async for chunk in _chunks(file):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield _checked(line, f"line {number}")
            number += 1
        _checked(rest, f"line {number}")
    if rest:
        yield rest


async def _chunks(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    """What is in a file, or comes by a pipe or from a terminal, as it comes.

    No thread reads: one that waits for input could not be ended when the command is interrupted.
    """
    loop = asyncio.get_running_loop()
    descriptor = file.fileno()
    ready = asyncio.Event()
    while True:
        try:
            loop.add_reader(descriptor, ready.set)
        except PermissionError:  # a regular file: it is always ready
            await asyncio.sleep(0)
        else:
            ready.clear()
            try:
                await ready.wait()
            finally:
                loop.remove_reader(descriptor)
        try:
            chunk = os.read(descriptor, CHUNK_BYTES)
        except OSError as error:
            error.filename = file.name
            raise
        if not chunk:
            return
        yield chunk


def _checked(data: bytes, what: str) -> bytes:
    if len(data) > ENTRY_DATA_BYTES_MAX:
        raise LocalProtocolError(
            f"{what} is longer than {ENTRY_DATA_BYTES_MAX} bytes, the most that an entry may have; "
            "it was not put, nor what follows it"
        )
    return data


@click.command()
@click.argument("stream", metavar="STREAM")
@click.option("--start", type=entry_id, help="The first entry. Default: the stream's.")
@click.option("--end", type=entry_id, help="The first entry that is not wanted.")
@click.option("--follow", is_flag=True, help="Go on with new entries as they come.")
@click.option(
    "--node", metavar="NODE", help="Read this member only, and only what it holds itself."
)
@click.option("--raw", is_flag=True, help="Print each entry's data and a newline, nothing else.")
@json_option
@connect_option
def read(
    stream: str,
    start: int | None,
    end: int | None,
    node: str | None,
    connect: str,
    *,
    follow: bool,
    raw: bool,
    as_json: bool,
) -> None:
    """Read a stream's committed entries.

    Without --follow it ends behind the last entry that was acknowledged before it began, which a
    majority must tell.

    \b
        walle read /notes
        walle read /notes --raw > notes.txt
        walle read /notes --start 100 --follow --json
    """
    describe = entry_format(raw=raw, as_json=as_json)
    out = sys.stdout.buffer
    is_watched = follow or sys.stdout.isatty()

    async def work(client: Client) -> None:
        telling = _telling(client, stream, "read", lambda _status: "")
        try:
            async for entry in client.read(stream, start=start, end=end, follow=follow, node=node):
                telling.cancel()
                out.write(describe(entry) + b"\n")
                if is_watched:
                    out.flush()
        finally:
            telling.cancel()
        out.flush()

    run_client(connect, work)


def entry_format(*, raw: bool, as_json: bool) -> Callable[[Entry], bytes]:
    """What makes a line of an entry."""
    if raw and as_json:
        raise click.UsageError("--raw and --json exclude each other")
    return _as_json if as_json else _as_raw if raw else _as_text


def _as_raw(entry: Entry) -> bytes:
    return entry.data


def _as_text(entry: Entry) -> bytes:
    data = printable(entry.data.decode(errors="backslashreplace"))
    return f"{entry.entry_id}  {format_time(entry.time_us)}  {data}".encode()


def _as_json(entry: Entry) -> bytes:
    fields = {
        "entry_id": entry.entry_id,
        "writer_id": str(entry.writer),
        "time": format_time(entry.time_us),
        "chain": f"{entry.chain:016x}",
        "data": base64.b64encode(entry.data).decode(),
    }
    return to_json(fields).encode()
