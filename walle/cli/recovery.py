"""`walle stream recover-unsafe`: a stream goes on without the majority that it has lost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from walle.cli.common import confirm, connect_option, printable, run_client
from walle.client.recovery import look, recover
from walle.ids import CLUSTER_STREAM_NAME
from walle.segments import cluster
from walle.segments.replica import locked
from walle.storage.vfs import RealFiles

if TYPE_CHECKING:
    from walle.client.recovery import Recovery

SHOWN_MAX = 20


@click.command("recover-unsafe")
@click.argument("name", metavar="STREAM")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="For /cluster: the data directory of the stopped node that is to go on alone.",
)
@click.option("--yes", is_flag=True, help="Do it, without a question.")
@connect_option
def recover_unsafe(name: str, data: Path | None, connect: str, *, yes: bool) -> None:
    """Let a stream go on that has lost a majority of its members for good.

    It says first, in numbers, what is lost, and asks. What the lost members acknowledged and nobody
    else holds is gone; if they are not dead, but only out of reach, two writers may go on at once.
    Be sure that they never come back: wipe them, or switch them off.

    For /cluster itself, stop the node that has most of it, and name its data directory.

    \b
        walle stream recover-unsafe /orders
        walle stream recover-unsafe /cluster --data walle-data/n1
    """
    if (data is not None) != (name == CLUSTER_STREAM_NAME):
        text = (
            f"--data goes with {CLUSTER_STREAM_NAME}: other streams are recovered while nodes run"
        )
        raise click.UsageError(text)
    if data is not None:
        _recover_cluster(data, is_sure=yes)
        return

    found = run_client(connect, lambda client: look(client, name))
    for line in _describe(found):
        click.echo(line)
    if not yes:
        confirm("Go on, and lose that?")
    info = run_client(connect, lambda client: recover(client, found))
    left = ", ".join(member.node_id for member in info.members)
    click.echo(f"{printable(name)} is on {left}; add others by `walle stream members {name} --set`")


def _describe(found: Recovery) -> list[str]:
    """What is left and what is lost, in lines."""
    info = found.info
    everyone = [member.node_id for member in (*info.old_members, *info.members)]
    lines = [f"{printable(info.name)}: of {', '.join(dict.fromkeys(everyone))}, these answer:"]
    for each in found.survivors:
        doubt = f", doubts up to {each.doubtful_id}" if each.doubtful_id else ""
        lines.append(
            f"  {each.node_id}: committed {each.committed_id}, tail {each.tail_id}, "
            f"lacks {_ranges(each.missing)}{doubt}"
        )
    unsure = found.tail_id - found.committed_id
    lines += [
        f"  goes on with {', '.join(found.members)}, from entry {found.tail_id} on",
        f"  lost: {_ranges(found.lost)}",
        f"  lost: what was acknowledged behind entry {found.tail_id}; how much, nobody can tell",
    ]
    if unsure:
        lines.append(f"  kept, though perhaps never acknowledged: the last {unsure} entries")
    return lines


def _ranges(ranges: tuple[tuple[int, int], ...]) -> str:
    if not ranges:
        return "no entry"
    count = sum(end - start for start, end in ranges)
    shown = ", ".join(f"[{start}, {end})" for start, end in ranges[:SHOWN_MAX])
    more = f" and {len(ranges) - SHOWN_MAX} more ranges" if len(ranges) > SHOWN_MAX else ""
    return f"{count} entries, {shown}{more}"


def _recover_cluster(data: Path, *, is_sure: bool) -> None:
    files = RealFiles()
    with locked(data, is_alone=True):
        node, state = cluster.look(data, files)
        history, everyone = state.history, ", ".join(state.topology.everyone)
        click.echo(f"{CLUSTER_STREAM_NAME} of {everyone}, as {node} has it:")
        click.echo(f"  committed {history.committed.entry_id}, tail {history.tail.entry_id}")
        click.echo(f"  accepted under {state.accepted}")
        click.echo(
            f"  lost: nodes, streams and changes of members behind entry {history.tail.entry_id}; "
            "how many, nobody here can tell"
        )
        if not is_sure:
            click.echo("  (of several survivors, take the one with the greatest writer and tail)")
            confirm(f"Let {node} go on alone, and lose that?")
        cluster.recover(data, files, node, state)
    click.echo(
        f"{node} is the only member of {CLUSTER_STREAM_NAME} now. Start it; docs/operations.md"
    )
    click.echo("says what to do with the other nodes, and with streams that have no majority left.")
