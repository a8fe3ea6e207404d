"""`walle stream`: create, list, show, set, trim, members, delete."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from walle.cli.common import (
    connect_option,
    console,
    json_option,
    new_table,
    print_json,
    printable,
    run_client,
)
from walle.cli.members import members
from walle.cli.quantities import duration, size, time
from walle.cli.status import collect_status, describe_settings, print_stream
from walle.messages import COMPRESSIONS

if TYPE_CHECKING:
    from datetime import datetime

    from walle.client.client import Client
    from walle.messages import StreamInfo


@click.group()
def stream() -> None:
    """Create, look at, change, trim, move and delete streams."""


stream.add_command(members)


compression_option = click.option(
    "--compression",
    type=click.Choice(COMPRESSIONS),
    help="How entries are stored by writers that choose nothing else.",
)
max_bytes_option = click.option(
    "--max-bytes", type=size, help="How much it keeps, such as 10GiB; 0: no bound."
)
max_age_option = click.option(
    "--max-age", type=duration, help="For how long it keeps entries, such as 7d; 0: no bound."
)


@stream.command()
@click.argument("name", metavar="STREAM")
@click.option("--replicas", type=click.IntRange(1, 7), help="On how many nodes. Default: three.")
@click.option("--members", metavar="N1,N2,...", help="On which nodes.")
@compression_option
@max_bytes_option
@max_age_option
@connect_option
def create(
    name: str,
    replicas: int | None,
    members: str | None,
    compression: str | None,
    max_bytes: int | None,
    max_age: int | None,
    connect: str,
) -> None:
    """Create a stream. Repeating it does no harm.

    Without --max-bytes and --max-age it keeps all entries until it is trimmed.

    \b
        walle stream create /orders
        walle stream create /orders --members n1,n2,n3
        walle stream create /logs --compression zstd
        walle stream create /logs --max-bytes 10GiB --max-age 7d
    """
    if replicas and members:
        raise click.UsageError("--replicas and --members exclude each other")
    named = [node.strip() for node in members.split(",")] if members else []

    async def work(client: Client) -> StreamInfo:
        return await client.create_stream(
            name,
            replicas=replicas or 0,
            members=named,
            compression=compression or "none",
            retention_max_bytes=max_bytes or 0,
            retention_max_age_ms=max_age or 0,
        )

    info = run_client(connect, work)
    held_by = ", ".join(member.node_id for member in info.members)
    click.echo(
        f"{printable(info.name)} is on {held_by}{describe_settings(info.settings._asdict())}"
    )


@stream.command("list")
@json_option
@connect_option
def list_command(connect: str, *, as_json: bool) -> None:
    """List the streams.

    \b
        walle stream list
        walle stream list --json
    """

    async def work(client: Client) -> tuple[StreamInfo, ...]:
        return await client.list_streams()

    streams = run_client(connect, work)
    if as_json:
        print_json([_describe(info) for info in streams])
        return
    table = new_table("STREAM", "VERSION", "MEMBERS")
    for info in streams:
        members = " ".join(member.node_id for member in info.members)
        table.add_row(printable(info.name), str(info.version), members)
    console().print(table)


def _describe(info: StreamInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "id": info.stream_id,
        "version": info.version,
        "members": [member.node_id for member in info.members],
        "first_entry_id": info.first_entry_id,
        "settings": info.settings._asdict(),
    }


@stream.command()
@click.argument("name", metavar="STREAM")
@json_option
@connect_option
def show(name: str, connect: str, *, as_json: bool) -> None:
    """Show one stream: its writer, its members, what each of them holds.

    \b
        walle stream show /orders
        walle stream show /orders --json
    """

    async def work(client: Client) -> dict[str, Any]:
        info = await client.describe(name)
        status = await collect_status(client, info.members, [info])
        found: dict[str, Any] = status["streams"][0]
        return found

    found = run_client(connect, work)
    if as_json:
        print_json(found)
    else:
        print_stream(console(), found)


@stream.command("set")
@click.argument("name", metavar="STREAM")
@compression_option
@max_bytes_option
@max_age_option
@connect_option
def set_command(
    name: str,
    compression: str | None,
    max_bytes: int | None,
    max_age: int | None,
    connect: str,
) -> None:
    """Change a stream's settings. What is not named stays as it is.

    The cluster looks every few seconds, and trims a stream that exceeds a bound by a tenth. Ages
    are by the times that the writers' clocks gave to their entries.

    \b
        walle stream set /logs --max-bytes 10GiB --max-age 7d
        walle stream set /logs --max-age 0
    """
    if compression is None and max_bytes is None and max_age is None:
        raise click.UsageError("nothing to set: name --compression, --max-bytes or --max-age")

    async def work(client: Client) -> StreamInfo:
        return await client.set_stream(
            name,
            compression=compression,
            retention_max_bytes=max_bytes,
            retention_max_age_ms=max_age,
        )

    info = run_client(connect, work)
    settings = describe_settings(info.settings._asdict()).removeprefix(", ")
    click.echo(f"{printable(info.name)}: {settings or 'keeps everything'}")


@stream.command()
@click.argument("name", metavar="STREAM")
@click.option("--to", type=click.IntRange(1), metavar="ID", help="The first entry that stays.")
@click.option("--before", type=time, help="Entries go that were written before this.")
@json_option
@connect_option
def trim(
    name: str, to: int | None, before: datetime | None, connect: str, *, as_json: bool
) -> None:
    """Remove a stream's oldest entries, for good. The last one that is durable always stays.

    TIME is a date or a time in UTC, or how long ago it is: 7d, 12h, 30m, 10s. Entries go up to the
    first that was not written before it, by the times that the writers' clocks gave to them.

    \b
        walle stream trim /orders --to 1000
        walle stream trim /orders --before 7d
        walle stream trim /orders --before 2026-01-31T12:00
    """
    if (to is None) == (before is None):
        raise click.UsageError("name either --to or --before")

    async def work(client: Client) -> tuple[StreamInfo, StreamInfo]:
        former = await client.describe(name, refresh=True)
        return former, await client.trim_stream(name, to=to, before=before)

    former, info = run_client(connect, work)
    count = info.first_entry_id - former.first_entry_id
    if as_json:
        print_json({**_describe(info), "trimmed": count})
        return
    shown = printable(info.name)
    if not count:
        click.echo(f"nothing to trim: {shown} begins at entry {info.first_entry_id}")
        return
    gone = "1 entry is" if count == 1 else f"{count} entries are"
    is_last = to is not None and info.first_entry_id < to
    why = ", its last one" if is_last else ""
    click.echo(f"{gone} gone: {shown} begins at entry {info.first_entry_id} now{why}")


@stream.command()
@click.argument("name", metavar="STREAM")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connect_option
def delete(name: str, connect: str, *, yes: bool) -> None:
    """Delete a stream with all its entries, for good. Its name is free then.

    \b
        walle stream delete /orders
        walle stream delete /orders --yes
    """

    async def work(client: Client) -> None:
        await client.describe(name)
        text = f"Delete {printable(name)} with all its entries, for good?"
        if not yes and not await asyncio.to_thread(click.confirm, text, err=True):
            raise click.Abort
        await client.delete_stream(name)

    run_client(connect, work)
    click.echo(f"{printable(name)} is deleted")
