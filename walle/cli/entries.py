"""`walle put` and `walle read`."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import sys
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from walle.cli.common import connect_option, json_option, print_json, run_client
from walle.client.client import LEASE_MS_DEFAULT
from walle.limits import ENTRY_DATA_BYTES_MAX, LEASE_MS_MAX, LEASE_MS_MIN

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from walle.client.client import Client
    from walle.ids import Position
    from walle.record import Entry

CHUNK_BYTES = 256 * 1024


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
@json_option
@connect_option
def put(
    stream: str,
    file: BinaryIO,
    address: str | None,
    lease_ms: int,
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
    """
    who = address or f"walle-put@{socket.gethostname()}:{os.getpid()}"
    entries = _whole(file) if whole else _lines(file)

    async def work(client: Client) -> int:
        async with client.claim(stream, address=who, lease_ms=lease_ms, force=force) as writer:
            first_id = writer.tail.entry_id
            with _progress(shown=not as_json) as show:

                def on_committed(committed: Position) -> None:
                    count = committed.entry_id - first_id
                    if as_json:
                        print_json({"entry_id": committed.entry_id, "count": count})
                    show(count, writer.tail.entry_id - first_id)

                writer.on_committed = on_committed
                async with aclosing(entries):
                    async for data in entries:
                        await writer.drain()
                        last = writer.put(data)
                        last.add_done_callback(_retrieve)
                while writer.committed != writer.tail:
                    await last
            return writer.tail.entry_id - first_id

    count = run_client(connect, work)
    if not as_json:
        click.echo(f"{count} entries are durable", err=True)


def _retrieve(put: asyncio.Future[Position]) -> None:
    """Takes note of a put's error: the last put's is the one that is reported."""
    if not put.cancelled():
        put.exception()


async def _whole(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    data = await asyncio.to_thread(file.read, ENTRY_DATA_BYTES_MAX + 1)
    yield _checked(data)


async def _lines(file: BinaryIO) -> AsyncGenerator[bytes, None]:
    """The lines of a file or a pipe, as they come, without their ends."""
    rest = b""
    read: Callable[[int], bytes] = getattr(file, "read1", file.read)
    while chunk := await asyncio.to_thread(read, CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield _checked(line)
        _checked(rest)
    if rest:
        yield rest


def _checked(data: bytes) -> bytes:
    if len(data) > ENTRY_DATA_BYTES_MAX:
        raise click.UsageError(
            f"an entry has at most {ENTRY_DATA_BYTES_MAX} bytes; the input has a longer one"
        )
    return data


@contextmanager
def _progress(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress line on a terminal, nothing elsewhere; yields what sets how many are durable, of
    how many."""
    progress = Progress(
        TextColumn("durable"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not shown or not sys.stderr.isatty(),
    )
    with progress:
        task = progress.add_task("put", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@click.command()
@click.argument("stream", metavar="STREAM")
@click.option("--start", type=click.IntRange(1), default=1, help="The first entry. Default: 1.")
@click.option("--end", type=click.IntRange(1), help="The first entry that is not wanted.")
@click.option("--follow", is_flag=True, help="Go on with new entries as they come.")
@click.option("--node", help="Read this member only, and only what it holds itself.")
@click.option("--raw", is_flag=True, help="Print each entry's data and a newline, nothing else.")
@json_option
@connect_option
def read(
    stream: str,
    start: int,
    end: int | None,
    node: str | None,
    connect: str,
    *,
    follow: bool,
    raw: bool,
    as_json: bool,
) -> None:
    """Read a stream's committed entries.

    Without --follow it ends behind the last entry that was acknowledged before it began.

    \b
        walle read /notes
        walle read /notes --raw > notes.txt
        walle read /notes --start 100 --follow --json
    """
    if raw and as_json:
        raise click.UsageError("--raw and --json exclude each other")
    out = sys.stdout.buffer

    async def work(client: Client) -> None:
        entries = client.read(stream, start=start, end=end, follow=follow, node=node)
        async for entry in entries:
            if as_json:
                print_json(_as_json(entry))
            elif raw:
                out.write(entry.data + b"\n")
            else:
                text = entry.data.decode(errors="replace")
                click.echo(f"{entry.entry_id}  {_time(entry)}  {text}")
            if follow:
                out.flush()
        out.flush()

    run_client(connect, work)


def _time(entry: Entry) -> str:
    return datetime.fromtimestamp(entry.time_us / 1e6, UTC).isoformat(timespec="milliseconds")


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "entry_id": entry.entry_id,
        "writer_id": str(entry.writer),
        "time": _time(entry),
        "chain": f"{entry.chain:016x}",
        "data": base64.b64encode(entry.data).decode(),
    }
