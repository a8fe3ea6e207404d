"""What the client commands share: where to connect, and how to run and print."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, TypeVar

import click

import walle
from walle.config import PORT_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from walle.client.client import Client

CONNECT_DEFAULT = ",".join(f"127.0.0.1:{PORT_DEFAULT + index}" for index in range(3))

R = TypeVar("R")

connect_option = click.option(
    "--connect",
    envvar="WALLE_CONNECT",
    default=CONNECT_DEFAULT,
    metavar="HOST:PORT[,...]",
    help="Where nodes listen; some of them suffice. Default: the nodes of `walle dev`.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def run_client(connect: str, work: Callable[[Client], Awaitable[R]]) -> R:
    """Connects, does the work, and ends the connections."""

    async def run() -> R:
        async with walle.connect(connect) as client:
            return await work(client)

    return asyncio.run(run())


def print_json(value: Any) -> None:
    """One value on one line, at once."""
    click.echo(json.dumps(value, separators=(",", ":")))
