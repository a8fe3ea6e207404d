"""`walle stream`: create, list, show, set, trim, members, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from walle.cli.common import (
    confirm,
    connect_option,
    console,
    json_option,
    new_table,
    print_json,
    printable,
    run_client,
)
from walle.cli.members import members
from walle.cli.quantities import duration, entry_id, lease, size, time
from walle.cli.status import collect_status, describe_settings, print_stream
from walle.limits import MEMBERS_COUNT_MAX
from walle.messages import COMPRESSIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from walle.client.client import Client
    from walle.messages import StreamInfo


@click.group()
def stream() -> None:
    """Create, look at, change, trim, move and delete streams."""


stream.add_command(members)


SETTINGS = (
    click.option(
        "--compression",
        type=click.Choice(COMPRESSIONS),
        help="How entries are stored by writers that choose nothing else.",
    ),
    click.option(
        "--max-bytes",
        "retention_max_bytes",
        type=size,
        help="How much it keeps, such as 10GiB; 0: no bound.",
    ),
    click.option(
        "--max-age",
        "retention_max_age_ms",
        type=duration,
        help="For how long it keeps entries, such as 7d; 0: no bound.",
    ),
    click.option(
        "--replicas",
        type=click.IntRange(0, MEMBERS_COUNT_MAX),
        help="On how many nodes; 0: three, or as many as there are.",
    ),
    click.option(
        "--lease-min",
        "lease_min_ms",
        type=lease,
        help="The shortest lease that a claim may ask for, such as 500ms; 0: no bound.",
    ),
    click.option(
        "--lease-max",
        "lease_max_ms",
        type=lease,
        help="The longest lease that a claim may ask for, such as 10s; 0: no bound.",
    ),
)


def settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each of a stream's settings, by the setting's name; None: not given."""
    for option in reversed(SETTINGS):
        command = option(command)
    return command


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


@stream.command()
@click.argument("name", metavar="STREAM")
@click.option("--members", metavar="N1,N2,...", help="On which nodes.")
@settings_options
@connect_option
def create(name: str, members: str | None, connect: str, **settings: Any) -> None:
    """Create a stream. Repeating it does no harm.

    Without --max-bytes and --max-age it keeps all entries until it is trimmed. Without --members
    its nodes are chosen by their capacities and from as many zones as possible.

    \b
        walle stream create /orders
        walle stream create /orders --members n1,n2,n3
        walle stream create /logs --compression zstd
        walle stream create /logs --max-bytes 10GiB --max-age 7d
        walle stream create /locks --replicas 5 --lease-min 1s --lease-max 10s
    """
    if settings["replicas"] and members:
        raise click.UsageError("--replicas and --members exclude each other")
    named = [node.strip() for node in members.split(",")] if members else []

    async def work(client: Client) -> StreamInfo:
        return await client.create_stream(name, members=named, **_given(settings))

    info = run_client(connect, work)
    held_by = ", ".join(member.node_id for member in info.members)
    settings_shown = describe_settings(info.settings._asdict(), len(info.members))
    click.echo(f"{printable(info.name)} is on {held_by}{settings_shown}")


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
        status = await collect_status(client, (*info.members, *info.old_members), [info])
        found: dict[str, Any] = status["streams"][0]
        return found

    found = run_client(connect, work)
    if as_json:
        print_json(found)
    else:
        print_stream(console(), found)


@stream.command("set")
@click.argument("name", metavar="STREAM")
@settings_options
@connect_option
def set_command(name: str, connect: str, **settings: Any) -> None:
    """Change a stream's settings. What is not named stays as it is.

    The cluster looks every few seconds, and trims a stream that exceeds a bound by a tenth. Ages
    are by the times that the writers' clocks gave to their entries. Another number of replicas is
    what the next `walle rebalance` aims at. Bounds of leases count from the next claim on.

    \b
        walle stream set /logs --max-bytes 10GiB --max-age 7d
        walle stream set /logs --max-age 0
        walle stream set /locks --replicas 5 --lease-max 10s
    """
    given = _given(settings)
    if not given:
        raise click.UsageError(f"nothing to set: walle stream set {name} --help lists the settings")

    async def work(client: Client) -> StreamInfo:
        return await client.set_stream(name, **given)

    info = run_client(connect, work)
    shown = describe_settings(info.settings._asdict()).removeprefix(", ")
    click.echo(f"{printable(info.name)}: {shown or 'keeps everything'}")


@stream.command()
@click.argument("name", metavar="STREAM")
@click.option("--to", type=entry_id, help="The first entry that stays.")
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

    run_client(connect, lambda client: client.describe(name))
    if not yes:
        confirm(f"Delete {printable(name)} with all its entries, for good?")
    run_client(connect, lambda client: client.delete_stream(name))
    click.echo(f"{printable(name)} is deleted")
