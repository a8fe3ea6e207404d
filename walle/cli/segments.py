"""`walle segments`: the offline tools."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from walle.cli.common import (
    console,
    format_time,
    json_option,
    new_table,
    print_json,
    printable,
    progress,
)
from walle.cli.entries import entry_format
from walle.cli.quantities import entry_id
from walle.compression import Decompressor
from walle.errors import CorruptionError
from walle.ids import NO_WRITER, IdRange
from walle.limits import ENTRY_ID_MAX
from walle.record import decode_all
from walle.segments.describe import describe_replica
from walle.segments.diff import find_differences
from walle.segments.dump import Dump, copy_entries
from walle.segments.picture import LEGEND, draw
from walle.segments.repair import Repair
from walle.segments.replica import Replica, locked
from walle.segments.verify import Damage, files_of, size_of, verify_replica
from walle.storage.segment import SUFFIX
from walle.storage.vfs import RealFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

DIRECTORY = click.Path(path_type=Path, exists=True, file_okay=False)
UNREADABLE = "unreadable"


@click.group()
def segments() -> None:
    """Look at, check, copy and mend the files of a node that does not run.

    DIR is a node's data directory, or a copy of one. Nothing in it is changed, but by `repair
    --write`. Each command's exit statuses are told by its --help; besides, 65 means that the
    journal is damaged, and 78 that DIR is no data directory, or in use by a node.

    \b
        walle segments inspect walle-data/n1
        walle segments verify walle-data/n1
        walle segments diff walle-data/n1 walle-data/n2
    """


# --- inspect --------------------------------------------------------------------------------------


@segments.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option("--stream", metavar="STREAM", help="Only this one.")
@json_option
def inspect(directory: Path, stream: str | None, *, as_json: bool) -> None:
    """Show what DIR holds: streams, promises, runs and gaps, writers, times, sizes.

    A line of marks shows the entries from the first to the last, each mark as many of them. Those
    above the commit point may be committed all the same: a journal's is behind the stream's.

    \b
        walle segments inspect walle-data/n1
        walle segments inspect walle-data/n1 --stream /orders --json
    """
    with locked(directory):
        replica = Replica(directory, RealFiles())
        wanted = list(replica.streams) if stream is None else [replica.find(stream)]
        found = describe_replica(replica, wanted)
    if as_json:
        print_json(found)
        return
    out = console()
    out.print(f"node {found['node'] or 'unknown'}, cluster {found['cluster'] or 'unknown'}")
    for each in found["streams"]:
        out.print()
        _print_stream(out, each)
    if found["streams"]:
        out.print(f"\n{LEGEND}")
    for finding in found["findings"]:
        out.print(f"a node that starts will find: {printable(finding)}")


def _print_stream(out: Console, stream: dict[str, Any]) -> None:
    members = " ".join(stream["members"])
    if stream["old_members"]:
        members = f"{' '.join(stream['old_members'])}, changing to {members}"
    about = f"  id {stream['id']}, version {stream['version']}, on {members}"
    out.print(Text.assemble((printable(stream["name"]), "bold"), about))
    promised, files = stream["promised"], stream["files"]
    writer = printable(promised["address"]), _describe_writer(promised["writer_id"])
    out.print(f"  promised to {', '.join(filter(None, writer))}")
    out.print(f"  accepted under {_describe_writer(stream['accepted'])}")
    out.print(f"  committed up to entry {stream['committed']['entry_id']} at least")
    out.print(f"  {len(files)} files, {sum(each['bytes'] for each in files)} bytes")
    if stream["doubtful_id"]:
        out.print(f"  up to entry {stream['doubtful_id']} may have been acknowledged, and lost")
    parts = _parts_of(stream)
    if parts:
        out.print(f"  {_draw(stream)}")
        times = "FIRST WRITTEN (UTC)", "LAST WRITTEN (UTC)"
        table = new_table("  PART", "ENTRIES", "BYTES", *times, "WRITERS")
        for part in parts:
            table.add_row(*part)
        out.print(table)


def _describe_writer(writer_id: str) -> str:
    return "nobody" if writer_id == str(NO_WRITER) else writer_id


def _parts_of(stream: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows that tell of a stream's runs and gaps, in order, and of what is unproved."""
    proved = [(run["start"], ("run", run)) for run in stream["runs"]]
    proved += [(start, ("gap", {"start": start, "end": end})) for start, end in stream["gaps"]]
    parts = [part for _, part in sorted(proved, key=lambda each: each[0])]
    parts += [("aside", run) for run in stream["aside"]]
    parts += [("fill", run) for run in stream["fill"]]
    return [_row(kind, run) for kind, run in parts]


def _row(kind: str, run: dict[str, Any]) -> tuple[str, ...]:
    entries = str(IdRange(run["start"], run["end"]))
    if kind == "gap":
        return f"  {kind}", entries
    times = [_describe_time(run[key]) for key in ("first_time_us", "last_time_us")]
    writers = str(len(run["writers"]) or UNREADABLE)
    return f"  {kind}", entries, str(run["bytes"]), *times, writers


def _describe_time(time_us: int | None) -> str:
    return UNREADABLE if time_us is None else format_time(time_us, "seconds").partition("+")[0]


def _draw(stream: dict[str, Any]) -> str:
    def ranges(*parts: str) -> list[IdRange]:
        return [IdRange(run["start"], run["end"]) for part in parts for run in stream[part]]

    unproved = ranges("aside", "fill")
    end = max([stream["tail"]["entry_id"] + 1, *(each.end for each in unproved)])
    return draw(
        IdRange(stream["first_entry_id"], end),
        ranges("runs"),
        unproved,
        committed_id=stream["committed"]["entry_id"],
        width=shutil.get_terminal_size().columns - 2,
    )


# --- verify ---------------------------------------------------------------------------------------


@segments.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@json_option
def verify(directory: Path, *, as_json: bool) -> int:
    """Check every byte of DIR: the journal, headers, notes, each record's CRC, id and chain.

    Each damaged place is told on a line: file, offset, what was expected and found, and which
    entries cannot be read for it. An append that a crash has torn is told, and is no damage: nobody
    was told that it is durable.

    Exit status: 0 nothing is damaged, 1 something is.

    \b
        walle segments verify walle-data/n1
        walle segments verify /backups/n1 --json
    """
    damaged = files_count = size = entries_count = 0
    with locked(directory):
        try:
            replica = Replica(directory, RealFiles())
        except CorruptionError as error:
            damage = Damage(Path(error.path), error.offset, error.expected, error.found)
            _print_damage(damage, as_json=as_json)
            return 1
        total = size_of(replica)
        with progress("bytes", shown=not as_json) as show:
            for checked in verify_replica(replica):
                for damage in checked.damage:
                    _print_damage(damage, as_json=as_json)
                for remark in checked.remarks:
                    if as_json:
                        print_json({"remark": remark})
                    else:
                        click.echo(f"no damage: {printable(remark)}")
                damaged += len(checked.damage)
                files_count += 1
                size += checked.size
                entries_count += checked.entries_count
                show(size, total)
    if as_json:
        summary = {"files": files_count, "bytes": size, "entries": entries_count}
        print_json({**summary, "damaged": damaged})
    else:
        verdict = f"damaged places: {damaged}" if damaged else "all is well"
        click.echo(f"{files_count} files, {size} bytes, {entries_count} entries: {verdict}")
    return 1 if damaged else 0


def _print_damage(damage: Damage, *, as_json: bool) -> None:
    if as_json:
        print_json({**damage._asdict(), "path": str(damage.path)})
        return
    lost = f"; entries {damage.entries} of {damage.stream} are lost" if damage.entries else ""
    click.echo(
        printable(
            f"{damage.path} at byte {damage.offset}: expected {damage.expected}, "
            f"found {damage.found}{lost}"
        )
    )


# --- dump -----------------------------------------------------------------------------------------


@segments.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.argument("stream", metavar="STREAM")
@click.option("--start", type=entry_id, help="The first entry. Default: the stream's.")
@click.option("--end", type=entry_id, help="The first entry that is not wanted.")
@click.option("--raw", is_flag=True, help="Print each entry's data and a newline, nothing else.")
@json_option
@click.option(
    "--to",
    "target",
    metavar="DIR2",
    type=click.Path(path_type=Path),
    help="Write them to a new data directory instead.",
)
def dump(
    directory: Path,
    stream: str,
    start: int | None,
    end: int | None,
    target: Path | None,
    *,
    raw: bool,
    as_json: bool,
) -> int:
    """Print the entries of STREAM that DIR holds, as `walle read` does.

    Those above the commit point come, too: they may be committed, or not. --to makes a data
    directory with nothing but that part of the stream, for these tools; no node can run with it.

    Exit status: 0 all entries are there, 1 some are missing; which, is said at the end.

    \b
        walle segments dump walle-data/n1 /orders
        walle segments dump walle-data/n1 /orders --raw --start 100 --end 200 > orders.txt
        walle segments dump walle-data/n1 /orders --to /tmp/orders
    """
    describe = entry_format(raw=raw, as_json=as_json)
    if target is not None and (raw or as_json):
        raise click.UsageError("--to prints nothing; it excludes --raw and --json")
    with locked(directory):
        replica = Replica(directory, RealFiles())
        entries = IdRange(start or 1, end or ENTRY_ID_MAX + 1)
        dumped = Dump(replica, replica.find(stream), entries)
        total = dumped.wanted.end - dumped.wanted.start
        with progress("entries", shown=not sys.stdout.isatty()) as show:
            if target is not None:
                for count in copy_entries(dumped, target, RealFiles()):
                    show(count, total)
            else:
                _print_entries(dumped, describe, lambda count: show(count, total))
    for missing in dumped.missing:
        click.echo(printable(f"entries {missing} of {stream} are not in {directory}"), err=True)
    return 1 if dumped.missing else 0


def _print_entries(
    dumped: Dump, describe: Callable[[Any], bytes], show: Callable[[int], None]
) -> None:
    decompressor = Decompressor(dumped.state.name)
    out, count = sys.stdout.buffer, 0
    for batch in dumped.batches():
        for entry in decode_all(batch):
            out.write(describe(decompressor.unpack(entry)) + b"\n")
        count += batch.count
        show(count)
    out.flush()


# --- repair and diff ------------------------------------------------------------------------------


@segments.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.option(
    "--from",
    "sources",
    metavar="DIR2",
    type=DIRECTORY,
    multiple=True,
    help="Another replica, to fill gaps from. May be given several times.",
)
@click.option("--write", "is_writing", is_flag=True, help="Do it.")
def repair(directory: Path, sources: tuple[Path, ...], *, is_writing: bool) -> int:
    """Say how DIR would be repaired; with --write, do it.

    Damaged entries become gaps, which a node fills from the other members once it runs. With
    --from they are filled here and now, as far as DIR2 has the entries: they must follow what is
    below the gap, and meet what is above it. Promises stay as they are. A damaged journal cannot be
    repaired: a promise may be lost with it, and a node that votes without it could help to elect
    two writers. Such a node must be replaced by a new one.

    Exit status: 0 nothing is missing or in doubt then, 1 something is.

    \b
        walle segments repair walle-data/n1
        walle segments repair walle-data/n1 --from walle-data/n2 --write
    """
    if directory.resolve() in [source.resolve() for source in sources]:
        raise click.UsageError("--from: name another replica")
    with ExitStack() as stack:
        stack.enter_context(locked(directory, is_alone=is_writing))
        for source in sources:
            stack.enter_context(locked(source))
        replicas = [Replica(each, RealFiles()) for each in (directory, *sources)]
        with progress("files") as show:
            watched = _WatchedFiles(show, len(files_of(replicas[0])))
            repairing = Repair(directory, watched, replicas[1:], is_writing=is_writing)
        is_sound = True
        for text in chain(repairing.findings, repairing.fill()):
            is_sound = False
            click.echo(printable(text))
        repairing.finish()
        left = repairing.left()
    for text in left:
        click.echo(f"for the node to mend: {printable(text)}")
    if is_sound and not left:
        click.echo("nothing needs repair")
    elif not is_writing:
        click.echo("nothing was changed; --write does it")
    return 1 if left else 0


class _WatchedFiles(RealFiles):
    """Tells how many segments were looked at, of how many."""

    def __init__(self, show: Callable[[int, int | None], None], count: int) -> None:
        self._show = show
        self._count = count
        self._seen: set[Path] = set()

    def read(self, path: Path, start: int, end: int) -> memoryview:
        if path.suffix == SUFFIX:
            self._seen.add(path)
            self._show(len(self._seen), self._count)
        return super().read(path, start, end)


@segments.command()
@click.argument("directory", metavar="DIR", type=DIRECTORY)
@click.argument("other", metavar="DIR2", type=DIRECTORY)
@json_option
def diff(directory: Path, other: Path, *, as_json: bool) -> int:
    """Say in what two replicas differ: what each holds, promises, topology, and whose history.

    Chains are compared, not bytes: verify both directories first. Commit points are not compared:
    a journal's is behind the stream's. A difference in committed entries must never be, and is
    marked as an alarm.

    Exit status: 0 they agree, 1 they differ.

    \b
        walle segments diff walle-data/n1 walle-data/n2
        walle segments diff walle-data/n1 walle-data/n2 --json
    """
    count = 0
    with locked(directory), locked(other):
        files = RealFiles()
        for each in find_differences(Replica(directory, files), Replica(other, files)):
            count += 1
            if as_json:
                print_json(each._asdict())
            else:
                where = f"{each.stream}: " if each.stream else ""
                alarm = "ALARM: " if each.is_alarm else ""
                click.echo(
                    printable(
                        f"{alarm}{where}{each.what}: {each.first} in {directory}, "
                        f"{each.second} in {other}"
                    )
                )
    if not count and not as_json:
        click.echo("they agree")
    return 1 if count else 0
