"""`walle backup` and `walle restore`."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from walle.cli.common import EPOCH, connect_option, printable, progress, run_client
from walle.cli.quantities import entry_id, time
from walle.client.backup import back_up, describe, make_stream, put_backup, survey
from walle.client.backup_file import open_backup
from walle.client.client import LEASE_MS_DEFAULT

if TYPE_CHECKING:
    from datetime import datetime

    from walle.client.client import Client
    from walle.ids import IdRange

CLAIM_S = 1.6 * LEASE_MS_DEFAULT / 1000
"""How long a restore waits for the lease of whoever writes the stream: long enough for that of one
that was interrupted."""


@click.command()
@click.argument("stream", metavar="STREAM")
@click.argument("file", type=click.Path(dir_okay=False), metavar="FILE")
@connect_option
def backup(stream: str, file: str, connect: str) -> None:
    """Copy a stream's entries to FILE, or bring FILE up to date.

    What FILE holds is not read from the cluster again: it goes on behind its last entry. When the
    command has ended, all that was acknowledged before it began is in FILE, on stable storage.

    \b
        walle backup /orders orders.backup
    """

    async def work(client: Client) -> tuple[IdRange, int]:
        with progress("copied") as show:
            return await back_up(client, stream, file, show)

    held, count = run_client(connect, work)
    new = "1 entry is" if count == 1 else f"{count} entries are"
    click.echo(f"{new} new; {printable(file)} holds {describe(held)} of {printable(stream)}")


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, exists=True), metavar="FILE")
@click.argument("stream", required=False, metavar="[STREAM]")
@click.option("--to", type=entry_id, help="The last entry to be restored.")
@click.option(
    "--until",
    type=time,
    help="Restore nothing from the first entry on that is of a later time.",
)
@connect_option
def restore(
    file: str, stream: str | None, to: int | None, until: datetime | None, connect: str
) -> None:
    """Put the entries of a backup to a new STREAM, or check FILE if none is named.

    They keep their ids, data and times. All of FILE that is wanted is checked first. A restore that
    was interrupted is gone on with by repeating it, and so is one of an older state of FILE.

    TIME is as `walle read` prints it, such as 2026-02-28T12:00:00+00:00; without an offset it is
    in UTC. Or it is how long ago that was: 7d, 12h, 30m, 10s.

    \b
        walle restore orders.backup                        # what is in it, and is all well?
        walle restore orders.backup /restored
        walle restore orders.backup /restored --to 41000
        walle restore orders.backup /restored --until 2026-02-28T12:00
    """
    if to is not None and until is not None:
        raise click.UsageError("--to and --until exclude each other")
    until_us = None if until is None else (until - EPOCH) // timedelta(microseconds=1)
    who = f"walle-restore@{socket.gethostname()}:{os.getpid()}"
    with open_backup(file) as opened:
        with progress("checked") as show:
            wanted = survey(opened, to, until_us, lambda count: show(count, None))
        source = f"{describe(wanted)} of {printable(opened.header.name)}"
        if stream is None:
            click.echo(f"{printable(file)} holds {source}; every record is good")
            return
        name = stream

        async def work(client: Client) -> None:
            await make_stream(client, name, opened)
            async with client.claim(name, address=who, timeout_s=CLAIM_S) as writer:
                with progress("restored") as show:
                    count = wanted.end - wanted.start
                    writer.on_committed = lambda committed: show(
                        committed.entry_id + 1 - wanted.start, count
                    )
                    await put_backup(client, writer, opened, wanted)
                    await writer.finish()

        run_client(connect, work)
        click.echo(f"{printable(name)} holds {source}, as they were in {printable(file)}")
