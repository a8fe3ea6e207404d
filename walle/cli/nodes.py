"""`walle node` and `walle dev`."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from walle.cli.common import (
    connect_option,
    console,
    json_option,
    new_table,
    print_json,
    printable,
    read_yaml,
    run_client,
)
from walle.cli.members import drain, replace
from walle.cli.status import ask_nodes, describe_up
from walle.config import PORT_DEFAULT, parse_node_config
from walle.dev import DevCluster
from walle.errors import ConfigError
from walle.ids import STREAM_CLUSTER
from walle.limits import MEMBERS_COUNT_MAX
from walle.native import set_parent_death_signal
from walle.supervisor import configure_logging, run_node

if TYPE_CHECKING:
    from walle.client.client import Client


@click.group(invoke_without_command=True)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Run a node with these settings; configs/node.yaml explains each.",
)
@click.option(
    "--parent", type=int, metavar="PID", help="Stop when this process, which started it, ends."
)
@click.option("--verbose", is_flag=True, help="Log more.")
@click.pass_context
def node(context: click.Context, config: Path | None, parent: int | None, *, verbose: bool) -> int:
    """Run one node, in the foreground, until SIGTERM; or look after the nodes of a cluster.

    \b
        walle node --config n1.yaml
        walle node list
        walle node drain n3
    """
    if context.invoked_subcommand is not None:
        if config is not None or parent is not None or verbose:
            raise click.UsageError("--config, --parent and --verbose are for running a node")
        return 0
    if config is None:
        raise click.UsageError("name the node's settings by --config, or one of the commands")
    return _run_node(config, parent, is_verbose=verbose)


node.add_command(drain)
node.add_command(replace)


def _run_node(config: Path, parent: int | None, *, is_verbose: bool) -> int:
    settings = read_yaml(config)
    try:
        parsed = parse_node_config(settings, directory=config.parent)
    except ConfigError as error:
        raise ConfigError(f"{config}: {error.key}", error.rule) from error
    if parent is not None:
        set_parent_death_signal(signal.SIGTERM)
        if os.getppid() != parent:
            raise click.UsageError(f"--parent: {parent} is not the process that started this one")
    configure_logging(parsed.node, is_verbose=is_verbose)
    return run_node(parsed)


@node.command("list")
@json_option
@connect_option
def list_nodes(connect: str, *, as_json: bool) -> None:
    """List the cluster's nodes. STREAMS is of how many streams each is a member.

    \b
        walle node list
        walle node list --json
    """
    found = run_client(connect, _collect_nodes)
    if as_json:
        print_json(found)
        return
    table = new_table("NODE", "ADDRESS", "STATE", "ZONE", "CAPACITY", "STREAMS", "IDENTITY")
    for each in found:
        table.add_row(
            *(each["id"], each["address"], describe_up(each), printable(each["zone"])),
            *(str(each["capacity"]), str(each["streams"]), each["identity"]),
        )
    console().print(table)


async def _collect_nodes(client: Client) -> list[dict[str, Any]]:
    nodes = await client.nodes()
    addresses = {each.node_id: each.address for each in nodes}
    told = await ask_nodes(client, addresses, only=STREAM_CLUSTER)  # whether they answer
    topologies = [
        {member.node_id for member in (*info.members, *info.old_members)}
        for info in await client.list_streams()
    ]
    return [
        {
            "id": each.node_id,
            "address": each.address,
            "zone": each.zone,
            "capacity": each.capacity,
            "identity": each.identity.hex(),
            "streams": sum(each.node_id in members for members in topologies),
            "up": each.node_id in told,
        }
        for each in nodes
    ]


@node.command()
@click.argument("name", metavar="NODE")
@connect_option
def remove(name: str, connect: str) -> None:
    """Remove a node from the cluster, for good. Repeating it does no harm.

    It is refused while the node is a member of a stream. A removed node that still runs stops, and
    its data directory is of no further use; with an empty one it can join again, as a new node.

    \b
        walle node remove n3
    """

    async def work(client: Client) -> None:
        await client.remove_node(name)

    run_client(connect, work)
    click.echo(f"{name} is removed")


@click.command()
@click.option(
    "--nodes",
    type=click.IntRange(1, MEMBERS_COUNT_MAX),
    default=3,
    show_default=True,
    help="How many nodes.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("walle-data"),
    show_default=True,
    help="Where they keep their data.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65_535 - MEMBERS_COUNT_MAX),
    default=PORT_DEFAULT,
    show_default=True,
    help="The first node's port; the others follow.",
)
@click.option(
    "--only", type=int, metavar="N", help="Start only node N of the cluster, after it has died."
)
def dev(nodes: int, data: Path, port: int, only: int | None) -> int:
    """Run a whole cluster on this machine, for trying and developing.

    Prints a line that begins with `ready` when writes are accepted. A node that dies is reported
    and not started again; --only does that. The nodes' logs are in the data directory.

    \b
        walle dev
        walle dev --nodes 5 --data /tmp/five --port 8000
        walle dev --only 2            # in another terminal, after node 2 has died
    """
    if only is not None and not 1 <= only <= nodes:
        raise click.UsageError(f"--only: there are nodes 1 to {nodes}")
    return DevCluster(nodes=nodes, data=data, port=port).run(only)
