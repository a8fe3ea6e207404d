"""`walle status`: nodes, streams, writers, leases, gaps and their backfill."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from walle.cli import quantities
from walle.cli.common import (
    connect_option,
    console,
    json_option,
    new_table,
    print_json,
    printable,
    run_client,
)
from walle.core.quorum import majority_size
from walle.errors import WalleError
from walle.limits import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from walle.client.client import Client
    from walle.messages import NodeAddress, NodeRecord, StreamInfo


STREAMS_IN_FULL = 10
"""With more of them, each takes one line."""


@click.command()
@json_option
@connect_option
def status(connect: str, *, as_json: bool) -> None:
    """Show the nodes and the streams: writers, leases, gaps and their backfill.

    Of more than ten streams, each is one line.

    \b
        walle status
        walle status --json
    """

    async def work(client: Client) -> dict[str, Any]:
        return await collect_status(client, await client.nodes(), await client.list_streams())

    found = run_client(connect, work)
    if as_json:
        print_json(found)
        return
    out = console()
    out.print(f"cluster {found['cluster']}\n")
    table = new_table("NODE", "ADDRESS", "STATE", "PID", "STREAMS", "SCRUB", "DAMAGE")
    for node in found["nodes"]:
        about = (
            (
                str(node["pid"]),
                str(len(node["streams"])),
                _describe_scrub(node["scrub"]),
                _describe_damage(node["damage_count"]),
            )
            if node["up"]
            else ()
        )
        table.add_row(node["id"], node["address"], _describe_node_state(node), *about)
    out.print(table)
    if len(found["streams"]) > STREAMS_IN_FULL:
        out.print()
        _print_streams(out, found["streams"])
        return
    for stream in found["streams"]:
        out.print()
        print_stream(out, stream)


def _print_streams(out: Console, streams: Sequence[dict[str, Any]]) -> None:
    """Many streams, a line each."""
    table = new_table("STREAM", "ENTRIES", "WRITER", "MEMBERS")
    for stream in streams:
        members = Text(", ").join(_describe_member(member) for member in stream["members"])
        members.append(_describe_majority(stream))
        never = "never claimed" if stream["committed_id"] is not None else "not known"
        writer = printable(stream["writer"]["address"]) or never
        table.add_row(printable(stream["name"]), _describe_entries(stream), writer, members)
    out.print(table)
    out.print("\n`walle stream show NAME` tells more of one.")


def print_stream(out: Console, stream: dict[str, Any]) -> None:
    """One stream as people read it."""
    out.print(
        Text.assemble(
            (printable(stream["name"]), "bold"),
            f"  version {stream['version']}, {_describe_entries(stream)}",
            describe_settings(stream["settings"], len(stream["members"])),
            _describe_majority(stream),
        )
    )
    if stream["committed_id"] is not None:
        out.print(f"  {_describe_writer(stream['writer'])}")
    table = new_table("  MEMBER", "STATE", "COMMITTED", "TAIL", "GAPS", "BACKFILL")
    for member in stream["members"]:
        about = (
            (
                str(member["committed_id"]),
                str(member["tail_id"]),
                _describe_gaps(member["gaps"]),
                describe_backfill(member["backfill"]),
            )
            if member["up"]
            else ()
        )
        table.add_row(f"  {member['id']}", _describe_member_state(member), *about)
    out.print(table)


def describe_settings(settings: Mapping[str, Any], members_count: int = 0) -> str:
    """What of a stream's settings is not as usual, to be put behind what is said of it, and of that
    many members."""
    compression, kept = settings["compression"], _describe_retention(settings)
    leases = _describe_leases(settings)
    parts = [f"compression {printable(compression)}"] if compression != "none" else []
    parts += [f"keeps {kept}"] if kept else []
    replicas = settings["replicas"]
    parts += [f"replicas {replicas}"] if replicas not in (0, members_count) else []
    parts += [f"leases {leases}"] if leases else []
    return "".join(f", {part}" for part in parts)


def _describe_retention(settings: Mapping[str, Any]) -> str:
    """What the stream keeps; empty: everything."""
    max_bytes, max_age_ms = settings["retention_max_bytes"], settings["retention_max_age_ms"]
    newest = f"the newest {quantities.show(max_bytes, quantities.BYTES)}" if max_bytes else ""
    last = f"the last {quantities.show(max_age_ms, quantities.MS)}" if max_age_ms else ""
    return " of ".join(part for part in (newest, last) if part)


def _describe_leases(settings: Mapping[str, Any]) -> str:
    """Which leases the stream allows; empty: all that are possible."""
    shortest, longest = settings["lease_min_ms"], settings["lease_max_ms"]
    start = f"from {quantities.show(shortest, quantities.MS)}" if shortest else ""
    end = f"up to {quantities.show(longest, quantities.MS)}" if longest else ""
    return " ".join(part for part in (start, end) if part)


def describe_up(what: dict[str, Any]) -> Text:
    """Whether the node, or the member, answers."""
    return Text("up", "green") if what["up"] else Text("down", "red")


def _describe_node_state(node: dict[str, Any]) -> Text:
    if not node["up"] or node["has_space"]:
        return describe_up(node)
    return Text(f"disk full: {node['free_bytes'] // MIB} MiB free", "red")


def _describe_scrub(scrub: dict[str, Any] | None) -> str:
    if scrub is None:
        return "off"
    done = 100 * scrub["done_bytes"] // max(1, scrub["total_bytes"])
    return f"pass {scrub['pass']}, {done} %"


def _describe_damage(count: int) -> Text:
    return Text(f"found {count} times", "red") if count else Text("none")


def _describe_member(member: dict[str, Any]) -> Text:
    """The member's name, and what is not as it should be."""
    text = Text(member["id"])
    if not member["up"] or member["doubtful_id"]:
        text.append(" ").append(_describe_member_state(member))
    elif member["gaps"]:
        text.append(" has a gap", "yellow")
    return text


def _describe_member_state(member: dict[str, Any]) -> Text:
    if not member["doubtful_id"]:
        return describe_up(member)
    return Text("doubts its tail", "yellow")


def _describe_majority(stream: dict[str, Any]) -> Text:
    """What is to be put behind what is said of the stream; nothing, if a majority answers."""
    return Text("") if stream["has_majority"] else Text(", no majority", "red")


def _describe_entries(stream: dict[str, Any]) -> str:
    first_id, committed_id = stream["first_entry_id"], stream["committed_id"]
    if committed_id is None:
        return "no member answers"
    return f"entries {first_id} to {committed_id}" if first_id <= committed_id else "no entries"


def _describe_writer(writer: dict[str, Any]) -> str:
    if not writer["address"]:
        return "never claimed"
    left_ms = writer["remaining_lease_ms"]
    lease = f"lease {left_ms} of {writer['lease_ms']} ms left" if left_ms else "no lease runs"
    return f"writer {printable(writer['address'])}, {lease}"


def _describe_gaps(gaps: list[list[int]]) -> str:
    if not gaps:
        return "none"
    start, end = gaps[0]
    more = f" and {len(gaps) - 1} more" if len(gaps) > 1 else ""
    return f"[{start}, {end}){more}"


def describe_backfill(backfill: dict[str, Any] | None) -> str:
    """How much of a gap is filled; nothing without one."""
    if backfill is None:
        return ""
    start, end = backfill["gap"]
    done = backfill["filled_id"] + 1 - start
    rate = f"{backfill['bytes_per_second'] / MIB:.1f} MiB/s"
    return f"{100 * done // (end - start)} % ({done}), {rate}"


async def ask_nodes(
    client: Client, addresses: Mapping[str, str], *, only: int | None = None
) -> dict[str, dict[str, Any]]:
    """What the nodes at these addresses tell, by their ids; without those that do not answer.
    docs/wire.md describes what one node tells.

    only: of their streams, the one with that id; None: all.
    """

    async def ask(node_id: str, address: str) -> dict[str, Any] | None:
        try:
            told = await client.node_status(address, only=only)
        except WalleError:
            return None
        return told if told["id"] == node_id else None  # another one may have its address now

    answers = await asyncio.gather(*(ask(*each) for each in addresses.items()))
    return {answer["id"]: answer for answer in answers if answer is not None}


async def collect_status(
    client: Client, nodes: Sequence[NodeAddress | NodeRecord], streams: Sequence[StreamInfo]
) -> dict[str, Any]:
    """What these nodes tell of these streams, put together."""
    addresses = {node.node_id: node.address for node in nodes}
    only = streams[0].stream_id if len(streams) == 1 else None
    told = await ask_nodes(client, addresses, only=only)
    views: dict[int, dict[str, dict[str, Any]]] = {}
    for node_id, answer in told.items():
        for each in answer["streams"]:
            views.setdefault(each["id"], {})[node_id] = each
    return {
        "cluster": client.cluster_id.hex(),
        "nodes": [
            _describe_node(node_id, address, told.get(node_id))
            for node_id, address in sorted(addresses.items())
        ],
        "streams": [_describe_stream(info, views.get(info.stream_id, {})) for info in streams],
    }


def _describe_node(node_id: str, address: str, told: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "id": node_id,
        "address": address,
        "up": told is not None,
        "pid": told["pid"] if told else None,
        "children": told["children"] if told else {},
        "has_space": told["has_space"] if told else None,
        "free_bytes": told["free_bytes"] if told else None,
        "damage_count": told["damage_count"] if told else None,
        "scrub": told["scrub"] if told else None,
        "streams": [each["name"] for each in told["streams"]] if told else [],
    }


def _describe_stream(info: StreamInfo, views: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """views: what each node tells of it, by node id."""
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
        "settings": info.settings._asdict(),
        "committed_id": max((view["committed_id"] for view in views.values()), default=None),
        "has_majority": all(
            sum(member.node_id in views for member in members) >= majority_size(len(members))
            for members in (info.members, info.old_members)
            if members
        ),
        "members": [
            _view_of_member(member.node_id, views.get(member.node_id)) for member in info.members
        ],
    }


def _view_of_member(node_id: str, view: dict[str, Any] | None) -> dict[str, Any]:
    known = ("committed_id", "tail_id", "doubtful_id", "gaps", "backfill")
    return {
        "id": node_id,
        "up": view is not None,
        **{key: view[key] if view else None for key in known},
    }
