"""The command line. It parses and prints; what is done is done elsewhere.

`walle --help` lists the exit statuses.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import click

from walle.cli.backup import backup, restore
from walle.cli.bench import bench
from walle.cli.entries import put, read
from walle.cli.nodes import dev, node
from walle.cli.rebalance import rebalance
from walle.cli.recovery import recover_unsafe
from walle.cli.segments import segments
from walle.cli.status import status
from walle.cli.streams import stream
from walle.errors import (
    ConfigError,
    CorruptionError,
    Unavailable,
    UnreadableEntry,
    WalleError,
    WriterLost,
)
from walle.process.child import EX_CONFIG, EX_DATAERR, EX_IOERR

EX_UNAVAILABLE = 3
EX_WRITER_LOST = 4
EX_INTERRUPTED = 130

_STATUSES: tuple[tuple[type[WalleError], int], ...] = (
    (ConfigError, EX_CONFIG),
    (CorruptionError, EX_DATAERR),
    (UnreadableEntry, EX_DATAERR),
    (Unavailable, EX_UNAVAILABLE),
    (WriterLost, EX_WRITER_LOST),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="walle")
def walle() -> None:
    """WALLE: replicated, durable, ordered logs with one exclusive writer each.

    Try it on this machine:

    \b
        walle dev                            # three nodes, in this terminal
        walle stream create /notes           # in another one
        echo "first note" | walle put /notes
        walle read /notes

    Every client command takes --connect, or WALLE_CONNECT; without them it finds `walle dev`.

    Exit status: 0 done; 1 refused, failed, or not all of it; 2 wrong usage; 3 no majority, or
    nobody answers; 4 the writer was lost; 65 damaged data; 74 a file, or the output, cannot be read
    or written; 78 a wrong setting: repeating it does not help; 130 interrupted.
    """


stream.add_command(recover_unsafe)
for command in (
    *(dev, node, stream, put, read, backup, restore),
    *(status, rebalance, bench, segments),
):
    walle.add_command(command)


def main() -> None:
    """Runs the command line and ends the process."""
    if sys.stdout is not None:
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Output(sys.stdout.fileno(), "w", closefd=False)),
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            line_buffering=sys.stdout.isatty(),
        )
    sys.exit(run(sys.argv[1:]))


class _Output(io.FileIO):
    """Standard output, which its errors name: a full disk might be taken for a node's."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


def run(arguments: list[str]) -> int:
    """Runs one command; returns the exit status. What it prints of an error names the remedy."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        text = "standard input, output and error must be open; /dev/null will do"
        click.echo(f"walle: {text}", err=True)
        return 1
    try:
        result = walle.main(args=arguments, prog_name="walle", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("walle: interrupted", err=True)
        return EX_INTERRUPTED
    except WalleError as error:
        click.echo(f"walle: {error}", err=True)
        return next((status for cls, status in _STATUSES if isinstance(error, cls)), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"walle: {where}{error.strerror or error}", err=True)
        _forget_output()
        return EX_IOERR
    return result if isinstance(result, int) else 0


def _forget_output() -> None:
    """What is still buffered cannot be written: a further error at exit would say so again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
