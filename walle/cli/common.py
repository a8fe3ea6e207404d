"""What the client commands share: where to connect, and how to run and print."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import yaml
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import walle
from walle.config import PORT_DEFAULT, parse_tls
from walle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from walle.client.client import Client

CONNECT_DEFAULT = ",".join(f"127.0.0.1:{PORT_DEFAULT + index}" for index in range(3))
CONNECT_S = 1.0
WIDE = 10_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

C = TypeVar("C", bound="Callable[..., Any]")
R = TypeVar("R")

TLS = "walle.tls"


def connect_option(command: C) -> C:
    """Adds --connect, and --tls, which `run_client` finds by itself."""
    command = click.option(
        "--tls",
        envvar="WALLE_TLS",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        expose_value=False,
        callback=_on_tls,
        help="YAML: this client's `certificate` and `key`, and the `authority` it trusts.",
    )(command)
    return click.option(
        "--connect",
        envvar="WALLE_CONNECT",
        default=CONNECT_DEFAULT,
        metavar="HOST:PORT[,...]",
        help="Where nodes listen; some of them suffice. Default: the nodes of `walle dev`.",
    )(command)


def _on_tls(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    if path is not None:
        context.meta[TLS] = parse_tls(str(path), read_yaml(path), directory=path.parent)


def read_yaml(path: Path) -> object:
    """What a file of settings holds, parsed.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        what = " ".join(str(error).split())
        raise ConfigError(str(path), f"is no YAML; see configs/node.yaml: {what}") from error


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def run_client(connect: str, work: Callable[[Client], Awaitable[R]]) -> R:
    """Connects, does the work, and ends the connections.

    Nobody there is told soon: whoever types a command does not want to wait for a cluster.
    """

    async def run() -> R:
        is_connected = False
        try:
            tls = click.get_current_context().meta.get(TLS)
            async with walle.connect(connect, tls=tls, timeout_s=CONNECT_S) as client:
                is_connected = True
                return await work(client)
        except walle.Unavailable as error:
            if is_connected:
                raise
            remedy = "start nodes with `walle dev`, or name others by --connect or WALLE_CONNECT"
            raise walle.Unavailable(f"{error}; {remedy}") from error
        except ConfigError as error:
            if is_connected or error.key != "connect":
                raise
            source = click.get_current_context().get_parameter_source("connect")
            typed = "WALLE_CONNECT" if source is ParameterSource.ENVIRONMENT else "--connect"
            raise ConfigError(typed, error.rule) from error

    return asyncio.run(run())


def to_json(value: Any) -> str:
    """The value on one line."""
    return json.dumps(value, separators=(",", ":"))


def print_json(value: Any) -> None:
    """Prints the value on one line, at once."""
    click.echo(to_json(value))


def console() -> Console:
    """Prints for people. What is not a terminal gets lines of any length, for grep and awk."""
    return Console(
        width=None if sys.stdout.isatty() else WIDE, highlight=False, markup=False, emoji=False
    )


@contextmanager
def progress(what: str, *, shown: bool = True) -> Iterator[Callable[[int, int | None], None]]:
    """A progress line on a terminal, nothing elsewhere; yields what sets how many are done, of how
    many."""
    line = Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not shown or not sys.stderr.isatty(),
    )
    with line:
        task = line.add_task(what, total=None)
        yield lambda done, total: line.update(task, completed=done, total=total)


def confirm(question: str, otherwise: str = "nothing was done") -> None:
    """Asks whether to go on; ends the command, with status 1, where the answer is not yes.

    To be called outside of `run_client`: an event loop would keep an interrupt from the question.

    otherwise: what is so then.
    """
    remedy = ""
    try:
        if click.confirm(question, err=True):
            return
    except click.Abort as error:
        if not isinstance(error.__context__, EOFError):  # an interrupt
            raise
        click.echo(err=True)
        remedy = "; nobody answers here: --yes does"
    click.echo(f"walle: {otherwise}{remedy}", err=True)
    raise click.exceptions.Exit(1)


def format_time(time_us: int, timespec: str = "microseconds") -> str:
    """In UTC, by ISO 8601; the number, where a writer's clock was beyond all calendars."""
    try:
        return (EPOCH + timedelta(microseconds=time_us)).isoformat(timespec=timespec)
    except OverflowError:
        return f"{time_us} us"


def new_table(*columns: str) -> Table:
    """A table without lines."""
    return Table(*columns, box=None, pad_edge=False, header_style="dim")


def printable(text: str) -> str:
    """The text on one line, with nothing in it that would move a terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\t" else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
