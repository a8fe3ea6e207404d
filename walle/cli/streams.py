"""`walle stream`: create, list, show."""

from __future__ import annotations

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
from walle.cli.status import collect_status, describe_settings, print_stream
from walle.messages import COMPRESSIONS

if TYPE_CHECKING:
    from walle.client.client import Client
    from walle.messages import StreamInfo


@click.group()
def stream() -> None:
    """Create and look at streams."""


@stream.command()
@click.argument("name", metavar="STREAM")
@click.option("--replicas", type=click.IntRange(1, 7), help="On how many nodes. Default: three.")
@click.option("--members", metavar="N1,N2,...", help="On which nodes.")
@click.option(
    "--compression",
    type=click.Choice(COMPRESSIONS),
    default="none",
    help="How entries are stored by writers that choose nothing else. Default: none.",
)
@connect_option
def create(
    name: str, replicas: int | None, members: str | None, compression: str, connect: str
) -> None:
    """Create a stream. Repeating it does no harm.

    \b
        walle stream create /orders
        walle stream create /orders --members n1,n2,n3
        walle stream create /logs --compression zstd
    """
    if replicas and members:
        raise click.UsageError("--replicas and --members exclude each other")
    named = [node.strip() for node in members.split(",")] if members else []

    async def work(client: Client) -> StreamInfo:
        return await client.create_stream(
            name, replicas=replicas or 0, members=named, compression=compression
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
        status = await collect_status(client, [await client.describe(name)])
        found: dict[str, Any] = status["streams"][0]
        return found

    found = run_client(connect, work)
    if as_json:
        print_json(found)
    else:
        print_stream(console(), found)
