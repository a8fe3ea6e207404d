"""`walle status`: nodes, streams, writers, leases, gaps and their backfill."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from walle.cli.common import connect_option, json_option, print_json, run_client
from walle.errors import WalleError

if TYPE_CHECKING:
    from walle.client.client import Client
    from walle.messages import StreamInfo


@click.command()
@json_option
@connect_option
def status(connect: str, *, as_json: bool) -> None:
    """Show the nodes and the streams: writers, leases, gaps and their backfill.

    \b
        walle status
        walle status --json
    """
    found = run_client(connect, collect_status)
    if as_json:
        print_json(found)
        return
    console = Console()
    console.print(f"cluster {found['cluster']}")
    table = Table("NODE", "ADDRESS", "UP", "PID", "STREAMS", box=None, pad_edge=False)
    for node in found["nodes"]:
        table.add_row(
            node["id"],
            node["address"],
            "up" if node["up"] else "[red]down[/red]",
            str(node["pid"] or ""),
            str(len(node["streams"])) if node["up"] else "",
        )
    console.print(table)
    for stream in found["streams"]:
        console.print()
        print_stream(console, stream)


def print_stream(console: Console, stream: dict[str, Any]) -> None:
    """One stream as people read it."""
    writer = stream["writer"]
    who = f"writer {writer['address']}" if writer["address"] else "never claimed"
    lease = f"lease {writer['remaining_lease_ms']} of {writer['lease_ms']} ms left"
    console.print(
        f"[bold]{stream['name']}[/bold]  version {stream['version']}  entries "
        f"{stream['first_entry_id']} to {stream['committed_id']}  {who}  {lease}",
        highlight=False,
    )
    table = Table("  MEMBER", "COMMITTED", "TAIL", "GAPS", "BACKFILL", box=None, pad_edge=False)
    for member in stream["members"]:
        if not member["up"]:
            table.add_row(f"  {member['id']}", "[red]down[/red]")
            continue
        gaps = " ".join(f"\\[{start}, {end})" for start, end in member["gaps"]) or "none"
        table.add_row(
            f"  {member['id']}",
            str(member["committed_id"]),
            str(member["tail_id"]),
            gaps,
            _describe_backfill(member["backfill"]),
        )
    console.print(table)


def _describe_backfill(backfill: dict[str, Any] | None) -> str:
    if backfill is None:
        return ""
    start, end = backfill["gap"]
    done = backfill["filled_id"] + 1 - start
    return f"{done} of {end - start} entries ({100 * done // (end - start)} %)"


async def collect_status(client: Client) -> dict[str, Any]:
    """What all nodes tell, put together; docs/wire.md describes what one node tells."""
    streams = await client.list_streams()
    addresses = {member.node_id: member.address for info in streams for member in info.members}
    answers = await asyncio.gather(
        *(_ask(client, node_id, address) for node_id, address in sorted(addresses.items()))
    )
    told = {node_id: answer for node_id, answer in answers if answer is not None}
    return {
        "cluster": client.cluster_id.hex(),
        "nodes": [
            _describe_node(node_id, address, told.get(node_id))
            for node_id, address in sorted(addresses.items())
        ],
        "streams": [_describe_stream(info, told) for info in streams],
    }


async def _ask(client: Client, node_id: str, address: str) -> tuple[str, dict[str, Any] | None]:
    try:
        return node_id, await client.node_status(address)
    except WalleError:
        return node_id, None


def _describe_node(node_id: str, address: str, told: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": node_id,
        "address": address,
        "up": told is not None,
        "pid": told["pid"] if told else None,
        "children": told["children"] if told else {},
        "streams": [each["name"] for each in told["streams"]] if told else [],
    }


def _describe_stream(info: StreamInfo, told: dict[str, dict[str, Any]]) -> dict[str, Any]:
    views = {
        node_id: each
        for node_id, answer in told.items()
        for each in answer["streams"]
        if each["id"] == info.stream_id
    }
    newest = max(
        (view["writer"] for view in views.values()),
        key=lambda writer: (writer["ts"], writer["nonce"]),
        default={"address": "", "lease_ms": 0, "ts": 0, "nonce": 0},
    )
    remaining = [view["writer"]["remaining_lease_ms"] for view in views.values()]
    return {
        "name": info.name,
        "id": info.stream_id,
        "version": info.version,
        "writer": {
            "address": newest["address"],
            "lease_ms": newest["lease_ms"],
            "remaining_lease_ms": max(remaining, default=0),
        },
        "first_entry_id": info.first_entry_id,
        "committed_id": max((view["committed_id"] for view in views.values()), default=None),
        "members": [
            _describe_member(member.node_id, views.get(member.node_id)) for member in info.members
        ],
    }


def _describe_member(node_id: str, view: dict[str, Any] | None) -> dict[str, Any]:
    known = ("committed_id", "tail_id", "gaps", "backfill")
    return {
        "id": node_id,
        "up": view is not None,
        **{key: view[key] if view else None for key in known},
    }
