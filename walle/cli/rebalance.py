"""`walle rebalance`: where the streams are to be, on the nodes that there are now."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from walle.cli.common import (
    connect_option,
    console,
    json_option,
    new_table,
    print_json,
    printable,
    progress,
    run_client,
)
from walle.cli.status import ask_nodes, describe_up
from walle.client.rebalance import carry_out, plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from walle.client.client import Client
    from walle.client.rebalance import Move
    from walle.messages import NodeRecord, StreamInfo


@click.command()
@click.option("--yes", is_flag=True, help="Carry it out without asking.")
@json_option
@connect_option
def rebalance(connect: str, *, yes: bool, as_json: bool) -> int:
    """Move the streams to where they are to be, on the nodes that there are now.

    Each stream goes to as many nodes as its setting `replicas` says, by the nodes' capacities, and
    of as many zones as possible. What is so already stays, and so does /cluster. ENTRIES is how
    many have to be copied.

    The plan is shown first. On a terminal it is asked whether to carry it out; elsewhere --yes does
    that. Reading and writing go on meanwhile. It may be interrupted: repeating it goes on with what
    is left.

    \b
        walle rebalance
        walle rebalance --json
        walle rebalance --yes
    """

    async def look(client: Client) -> tuple[Sequence[Move], dict[str, Any]]:
        nodes = await client.nodes()
        streams = await client.list_streams()
        moves = plan(nodes, streams)
        told = await ask_nodes(client, {node.node_id: node.address for node in nodes})
        counts = _count_entries(told)
        found: dict[str, Any] = {
            "nodes": _describe_nodes(nodes, streams, moves, told),
            "moves": [_describe_move(move, counts.get(move.stream.stream_id)) for move in moves],
            "failures": None,
        }
        return moves, found

    moves, found = run_client(connect, look)
    if not as_json:
        _print_plan(found)
    if moves and (yes or (not as_json and _is_wanted())):
        found["failures"] = run_client(
            connect, lambda client: _carry_out(client, moves, shown=not as_json)
        )
    if as_json:
        print_json(found)
    for name, why in (found["failures"] or {}).items():
        click.echo(f"{printable(name)} was not moved: {why}", err=True)
    return 1 if found["failures"] else 0


def _is_wanted() -> bool:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        click.echo("nothing is moved yet: --yes does that", err=True)
        return False
    return click.confirm("Move them?", err=True)


async def _carry_out(client: Client, moves: Sequence[Move], *, shown: bool) -> dict[str, str]:
    with progress("moving streams", shown=shown) as show:

        def on_moved(info: StreamInfo, done: int, total: int) -> None:
            show(done, total)
            if shown:
                members = ", ".join(member.node_id for member in info.members)
                click.echo(f"{printable(info.name)} is on {members}")

        return await carry_out(client, moves, on_moved)


# --- the plan -------------------------------------------------------------------------------------


def _describe_nodes(
    nodes: Sequence[NodeRecord],
    streams: Sequence[StreamInfo],
    moves: Sequence[Move],
    told: Mapping[str, dict[str, Any]],
) -> list[dict[str, Any]]:
    """told: what the nodes tell that answer, by their ids."""
    now = {info.name: {member.node_id for member in info.members} for info in streams}
    after = now | {move.stream.name: set(move.members) for move in moves}
    return [
        {
            "id": node.node_id,
            "zone": node.zone,
            "capacity": node.capacity,
            "up": node.node_id in told,
            "streams": sum(node.node_id in members for members in now.values()),
            "streams_after": sum(node.node_id in members for members in after.values()),
        }
        for node in nodes
    ]


def _describe_move(move: Move, count: int | None) -> dict[str, Any]:
    """count: of the stream's entries; None: no member tells."""
    info = move.stream
    return {
        "name": info.name,
        "id": info.stream_id,
        "from": [member.node_id for member in info.members],
        "to": list(move.members),
        "replicas": info.settings.replicas,
        "entries": None if count is None else count * len(move.added),
    }


def _count_entries(told: Mapping[str, dict[str, Any]]) -> dict[int, int]:
    """How many entries each stream has, by its id, as its most advanced member tells."""
    counts: dict[int, int] = {}
    for answer in told.values():
        for each in answer["streams"]:
            count = each["committed_id"] + 1 - each["first_entry_id"]
            counts[each["id"]] = max(count, counts.get(each["id"], 0))
    return counts


def _print_plan(found: dict[str, Any]) -> None:
    out = console()
    table = new_table("NODE", "STATE", "ZONE", "CAPACITY", "STREAMS", "AFTER")
    for node in found["nodes"]:
        table.add_row(
            *(node["id"], describe_up(node), printable(node["zone"]), str(node["capacity"])),
            *(str(node["streams"]), str(node["streams_after"])),
        )
    out.print(table)
    if not found["moves"]:
        click.echo("\nevery stream is where it is to be")
        return
    table = new_table("STREAM", "FROM", "TO", "ENTRIES")
    for move in found["moves"]:
        entries = move["entries"]
        table.add_row(
            *(printable(move["name"]), " ".join(move["from"]), " ".join(move["to"])),
            "not known" if entries is None else str(entries),
        )
    out.print()
    out.print(table)
    for text in _remarks(found):
        click.echo(text, err=True)


def _remarks(found: dict[str, Any]) -> list[str]:
    """What the plan cannot do."""
    texts = [
        f"{node['id']} does not answer: what is to move there may wait for it"
        for node in found["nodes"]
        if not node["up"] and node["streams_after"] > node["streams"]
    ]
    lacking = [move for move in found["moves"] if len(move["to"]) < move["replicas"]]
    if lacking:
        texts.append(
            f"{len(lacking)} streams get fewer replicas than they are to have: there are only "
            f"{len(found['nodes'])} nodes"
        )
    return texts
