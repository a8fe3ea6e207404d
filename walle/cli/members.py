"""`walle stream members`, `walle node drain` and `walle node replace`: who holds which streams."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from walle.cli.common import (
    confirm,
    connect_option,
    json_option,
    print_json,
    printable,
    progress,
    run_client,
)
from walle.cli.status import collect_status, describe_backfill
from walle.client.moving import move_off, replaced
from walle.core.quorum import majority_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from walle.client.client import Client
    from walle.messages import ChangeInfo, NodeAddress, StreamInfo

LOOK_S = 0.5
RANGES_SHOWN = 10


@click.command()
@click.argument("name", metavar="STREAM")
@click.option("--set", "to_be", metavar="N1,N2,...", help="The nodes that are to hold it.")
@click.option(
    "--replace", "places", multiple=True, metavar="OLD=NEW", help="Put NEW in the place of OLD."
)
@click.option("--no-wait", is_flag=True, help="Return once the change has begun.")
@click.option(
    "--force",
    is_flag=True,
    help="For disasters: give up the entries that too few of the new members hold.",
)
@click.option("--yes", is_flag=True, help="Do not ask before entries are given up.")
@json_option
@connect_option
def members(
    name: str,
    to_be: str | None,
    places: tuple[str, ...],
    connect: str,
    *,
    no_wait: bool,
    force: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Show on which nodes a stream is, or change that.

    Reading and writing go on meanwhile. The change waits until enough of the new members hold every
    entry, and says which are lacking; it goes on by itself, whether or not this command waits.
    Repeating the command does no harm.

    \b
        walle stream members /orders
        walle stream members /orders --replace n3=n4
        walle stream members /orders --set n1,n2,n4
        walle stream members /cluster --set n1,n2,n3,n4,n5
    """
    if to_be and places:
        raise click.UsageError("--set and --replace exclude each other")
    if (force or no_wait or yes) and not (to_be or places):
        raise click.UsageError("nothing to change: name --set or --replace")
    if force and no_wait:
        raise click.UsageError("--force and --no-wait exclude each other")
    wanted = _parse_places(places)

    async def work(client: Client) -> ChangeInfo:
        if to_be or wanted:
            named = [node.strip() for node in (to_be or "").split(",")]
            chosen = named if to_be else replaced(await client.describe(name, refresh=True), wanted)
            await client.set_members(name, chosen)
            if not no_wait:
                return await _wait(client, name, until_some_lack=force)
        return await client.describe_change(name)

    async def give_up(client: Client) -> ChangeInfo:
        await client.set_members(name, _ids(change.stream.members), force=True)
        return await _wait(client, name)

    try:
        change = run_client(connect, work)
        if force and change.ranges:
            if not yes:
                confirm(_given_up(change), "the change goes on to wait")
            change = run_client(connect, give_up)
    except (KeyboardInterrupt, click.Abort):
        if to_be or wanted:
            text = f"if the change has begun, it goes on by itself: `walle stream members {name}`"
            click.echo(f"{text} shows how far it is", err=True)
        raise
    if as_json:
        print_json(_describe(change))
    else:
        click.echo(_shown(change))


def _parse_places(places: Iterable[str]) -> dict[str, str]:
    pairs = [place.partition("=") for place in places]
    for old, equals, new in pairs:
        if not (old and equals and new):
            raise click.UsageError(
                f"--replace takes OLD=NEW, such as n3=n4, not {old}{equals}{new}"
            )
    return {old.strip(): new.strip() for old, _, new in pairs}


def _describe(change: ChangeInfo) -> dict[str, Any]:
    info = change.stream
    return {
        "name": info.name,
        "id": info.stream_id,
        "version": info.version,
        "members": _ids(info.members),
        "old_members": _ids(info.old_members),
        "waits_for": change.waits_for,
        "ranges": [list(each) for each in change.ranges],
    }


def _ids(nodes: Iterable[NodeAddress]) -> list[str]:
    return [node.node_id for node in nodes]


def _shown(change: ChangeInfo) -> str:
    info = change.stream
    name, held_by = printable(info.name), ", ".join(_ids(info.members))
    if not info.old_members:
        return f"{name} is on {held_by}"
    former = ", ".join(_ids(info.old_members))
    return f"{name} is being moved from {former} to {held_by}; it waits for {change.waits_for}"


async def _wait(client: Client, name: str, *, until_some_lack: bool = False) -> ChangeInfo:
    """Waits until the change has ended, tells what it waits for, and returns how far it is then.

    until_some_lack: or until it waits for entries that too few hold.
    """
    with Console(stderr=True).status("") as line:
        shown = ""
        async for change in client.follow_change(name, pause_s=LOOK_S):
            if not change.stream.old_members:
                break
            text = f"waits for {change.waits_for}{await _behind(client, change.stream)}"
            if text != shown and not line.console.is_terminal:
                click.echo(text, err=True)
            shown = text
            line.update(text)
            if until_some_lack and change.ranges:
                break
    return change


async def _behind(client: Client, info: StreamInfo) -> str:
    """How far the backfill of the new members is."""
    added = set(_ids(info.members)) - set(_ids(info.old_members))
    status = await collect_status(client, info.members, [info])
    parts = [
        f"{member['id']} has filled {describe_backfill(member['backfill'])} of its gap"
        for member in status["streams"][0]["members"]
        if member["id"] in added and member["backfill"]
    ]
    return "".join(f"; {part}" for part in parts)


def _given_up(change: ChangeInfo) -> str:
    info, ranges = change.stream, change.ranges
    count = sum(each.end - each.start for each in ranges)
    named = ", ".join(f"[{each.start}, {each.end})" for each in ranges[:RANGES_SHOWN])
    more = f" and {len(ranges) - RANGES_SHOWN} more ranges" if len(ranges) > RANGES_SHOWN else ""
    return (
        f"{count} entries of {printable(info.name)} may be held by fewer than "
        f"{majority_size(len(info.members))} of {', '.join(_ids(info.members))}: {named}{more}. "
        "What none of these holds is lost for good. Go on without them?"
    )


# --- whole nodes ----------------------------------------------------------------------------------


@click.command()
@click.argument("name", metavar="NODE")
@connect_option
def drain(name: str, connect: str) -> int:
    """Move all streams off a node, to others that the cluster chooses.

    A few streams at a time. It may be interrupted: repeating it goes on with what is left.

    \b
        walle node drain n3
    """
    return _move_off(name, None, connect)


@click.command()
@click.argument("dead", metavar="NODE")
@click.option("--with", "by", required=True, metavar="NEW", help="The node that takes its place.")
@connect_option
def replace(dead: str, by: str, connect: str) -> int:
    """Put another node in the place of one, in all its streams; that one may be dead.

    A few streams at a time. It may be interrupted: repeating it goes on with what is left. Where
    NEW is a member already, the cluster chooses somebody else.

    \b
        walle node replace n3 --with n4
    """
    if dead == by:
        raise click.UsageError("a node cannot take its own place")
    return _move_off(dead, by, connect)


def _move_off(node: str, by: str | None, connect: str) -> int:
    """Moves all streams; the exit status is 1 if some could not be."""
    with progress(f"moving streams off {node}") as show:

        def on_moved(info: StreamInfo, done: int, total: int) -> None:
            show(done, total)
            click.echo(f"{printable(info.name)} is on {', '.join(_ids(info.members))}")

        failures = run_client(connect, lambda client: move_off(client, node, by, on_moved))
    for name, why in failures.items():
        click.echo(f"{printable(name)} was not moved: {why}", err=True)
    if not failures:
        click.echo(f"{node} is a member of no stream")
    return 1 if failures else 0
