"""`walle bench`."""

from __future__ import annotations

import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource
from rich.console import Console

from walle.bench.measure import measure
from walle.bench.plot import format_ms, plot_latency
from walle.bench.report import (
    describe_disk,
    describe_problems,
    describe_workload,
    render,
)
from walle.bench.trace import check_perf, trace
from walle.bench.workload import DISTRIBUTIONS, Workload
from walle.cli.common import (
    TLS,
    connect_option,
    console,
    json_option,
    new_table,
    print_json,
    run_client,
)
from walle.cli.quantities import size as parse_size
from walle.dev import dev_cluster
from walle.limits import ENTRY_DATA_BYTES_MAX, PIPELINE_ENTRIES_MAX, PUT_MANY_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table

    from walle.client.client import Client

STREAMS_MAX = 1_000
IN_FLIGHT_DEFAULT = 256
DEV_NODES = 3
TRACE_OPTIONS = frozenset(
    {"is_traced", "dev", "size", "seconds", "warm_up_seconds", "directory", "as_json"}
)
"""What goes with --trace."""


@click.command()
@click.option(
    "--streams",
    type=click.IntRange(1, STREAMS_MAX),
    default=1,
    show_default=True,
    help="Into how many streams, each with a writer of its own.",
)
@click.option(
    "--size", default="1KiB", metavar="SIZE", show_default=True, help="The mean size of an entry."
)
@click.option(
    "--distribution",
    type=click.Choice(DISTRIBUTIONS),
    default="fixed",
    show_default=True,
    help="How sizes lie around that.",
)
@click.option(
    "--rate",
    type=click.IntRange(0),
    default=0,
    help="Open loop: so many entries a second, all streams together. Without it, or with 0: closed "
    "loop, as many as the cluster takes.",
)
@click.option(
    "--in-flight",
    type=click.IntRange(1, PIPELINE_ENTRIES_MAX),
    help=f"Closed loop: entries in flight in each stream. Default: {IN_FLIGHT_DEFAULT}.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, PIPELINE_ENTRIES_MAX),
    default=1,
    show_default=True,
    help="Entries put by one call, `put_many`.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="For how long it is measured.",
)
@click.option(
    "--warm-up-seconds",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="For how long the load runs before that.",
)
@click.option(
    "--readers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="How many follow the streams, spread evenly over them.",
)
@click.option(
    "--clients",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Processes that put, and as many that read.",
)
@click.option("--replicas", type=click.IntRange(1, 7), help="On how many nodes. Default: three.")
@click.option("--members", metavar="N1,N2,...", help="On which nodes.")
@click.option(
    "--prefix", default="/bench", show_default=True, help="What the streams' names begin with."
)
@click.option(
    "--dev", is_flag=True, help="Measure three fresh nodes on this machine, removed afterwards."
)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True, writable=True),
    help="A directory on the nodes' disk: it is looked at before and after. With --dev: where the "
    "nodes' data are. Default: with --dev the system's for temporary files, else none.",
)
@click.option(
    "--report",
    type=click.File("w", encoding="utf-8", lazy=False),
    metavar="FILE.html",
    help="Write a report with charts, as one file.",
)
@click.option(
    "--trace",
    "is_traced",
    is_flag=True,
    help="Show instead where each microsecond of a put goes: puts one entry at a time on three "
    "fresh nodes, and follows each through all processes. As root, with Linux's perf.",
)
@json_option
@connect_option
def bench(
    streams: int,
    size: str,
    distribution: str,
    rate: int,
    in_flight: int | None,
    batch: int,
    seconds: float,
    warm_up_seconds: float,
    readers: int,
    clients: int,
    replicas: int | None,
    members: str | None,
    prefix: str,
    directory: Path | None,
    report: TextIO | None,
    connect: str,
    *,
    dev: bool,
    is_traced: bool,
    as_json: bool,
) -> int:
    """Measure a cluster: throughput, latency and cost under a load.

    The load goes to streams /bench/1, /bench/2, ..., which it claims, and trims afterwards. Latency
    counts from when an entry was due. Ends with status 1 if entries failed or went unanswered.

    \b
        walle bench --dev
        walle bench --dev --rate 5000 --streams 10 --readers 10 --report bench.html
        walle bench --connect 10.0.0.1:7411 --in-flight 1 --seconds 30 --json
        walle bench --trace
    """
    # Whoever is asked to end removes what was made, as when interrupted.
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal.raise_signal(signal.SIGINT))
    if is_traced:
        return _trace(_entry_size(size), seconds, warm_up_seconds, directory, as_json=as_json)
    if replicas and members:
        raise click.UsageError("--replicas and --members exclude each other")
    if rate and in_flight:
        raise click.UsageError("--rate and --in-flight exclude each other: what is due is put")
    size_bytes = _entry_size(size)
    if batch * size_bytes > PUT_MANY_BYTES_MAX:
        text = f"--batch: at most {PUT_MANY_BYTES_MAX} bytes are put at once, not {batch} of {size}"
        raise click.UsageError(text)
    workload = Workload(
        streams=streams,
        size_bytes=size_bytes,
        distribution=distribution,
        rate=rate,
        in_flight=max(in_flight or IN_FLIGHT_DEFAULT, batch),
        batch=batch,
        seconds=seconds,
        warm_up_s=warm_up_seconds,
        readers=readers,
        clients=min(clients, streams),
        prefix=prefix,
    )
    result = _measure(
        workload, connect, directory, replicas=replicas or 0, members=members or "", is_dev=dev
    )
    if report is not None:
        report.write(render(result))
    if as_json:
        print_json(result)
    else:
        _print(console(), result)
    puts = result["puts"]
    return int(bool(puts["failed"] or puts["unanswered"] or result["errors"]))


def _entry_size(text: str) -> int:
    try:
        size = parse_size(text)
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint="--size") from None
    if size > ENTRY_DATA_BYTES_MAX:
        raise click.BadParameter(
            f"an entry has at most {ENTRY_DATA_BYTES_MAX} bytes", param_hint="--size"
        )
    return size


def _measure(
    workload: Workload,
    connect: str,
    directory: Path | None,
    *,
    replicas: int,
    members: str,
    is_dev: bool,
) -> dict[str, Any]:
    with _cluster(connect, directory, is_dev=is_dev) as (addresses, probed), _live() as show:

        async def work(client: Client) -> dict[str, Any]:
            return await measure(
                client,
                workload,
                addresses,
                tls=click.get_current_context().meta.get(TLS),
                replicas=replicas,
                members=[node.strip() for node in members.split(",")] if members else [],
                directory=probed,
                on_interval=show,
            )

        return run_client(addresses, work)


@contextmanager
def _cluster(
    connect: str, directory: Path | None, *, is_dev: bool
) -> Iterator[tuple[str, Path | None]]:
    """Where to connect, and where to look at the disk."""
    if is_dev:
        with _fresh_nodes(directory) as (addresses, data):
            yield addresses, data
    else:
        yield connect, directory


@contextmanager
def _fresh_nodes(directory: Path | None) -> Iterator[tuple[str, Path]]:
    """Nodes of the measurement's own: where to connect, and where their data are."""
    click.get_current_context().meta.pop(TLS, None)  # they are reached without
    with tempfile.TemporaryDirectory(prefix="walle-bench-", dir=directory) as made:
        data = Path(made)
        with dev_cluster(data, DEV_NODES) as addresses:
            yield ",".join(addresses), data


def _trace(
    size_bytes: int,
    seconds: float,
    warm_up_s: float,
    directory: Path | None,
    *,
    as_json: bool,
) -> int:
    context = click.get_current_context()
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is ParameterSource.COMMANDLINE and option.name not in TRACE_OPTIONS:
            text = f"{option.opts[0]} does not go with --trace: one entry at a time is put, on "
            raise click.UsageError(f"{text}{DEV_NODES} fresh nodes of this machine")
    check_perf()
    with _fresh_nodes(directory) as (addresses, data):

        async def work(client: Client) -> dict[str, Any]:
            return await trace(
                client,
                size_bytes=size_bytes,
                seconds=seconds,
                warm_up_s=warm_up_s,
                directory=data,
            )

        result = run_client(addresses, work)
    if as_json:
        print_json(result)
    else:
        _print_trace(console(), result)
    return int(not result["followed"])


def _print_trace(out: Console, result: dict[str, Any]) -> None:
    out.print(f"{result['followed']} of {result['puts']} puts were followed; medians of them\n")
    if not result["followed"]:
        return
    table = new_table("STAGE", "US")
    table.columns[1].justify = "right"
    for each in result["stages"]:
        table.add_row(each["stage"], f"{each['median_us']:,.1f}")
    table.add_row("in all", f"{result['total_us']:,.1f}")
    out.print(table)


@contextmanager
def _live() -> Iterator[Callable[[dict[str, float]], None]]:
    """A line on a terminal that tells of the last interval; yields what is told of each."""
    with Console(stderr=True, quiet=not sys.stderr.isatty()).status("warming up") as line:

        def show(interval: dict[str, float]) -> None:
            line.update(
                f"{interval['end_s']:.1f} s: {interval['entries_per_s']:,.0f} entries/s, "
                f"p50 {format_ms(interval['p50_ms'])}, p99 {format_ms(interval['p99_ms'])}"
            )

        yield show


def _print(out: Console, result: dict[str, Any]) -> None:
    out.print(describe_workload(result["workload"]) + "\n")
    out.print(_rates(result))
    for line in describe_problems(result):
        out.print(line, style="red")
    out.print()
    out.print(_costs(result))
    out.print(f"\nlimited by {result['bottleneck']}")
    for when, found in (result["disk"] or {}).items():
        out.print(f"the disk {when}: {describe_disk(found)}")
    out.print("\nlatency over time: from p50 to p99, and up to the slowest\n")
    for line in plot_latency(result["intervals"]):
        out.print(line)


def _rates(result: dict[str, Any]) -> Table:
    percentiles = list(result["latency_ms"])
    table = new_table("", "ENTRIES/S", "MB/S", *(name.upper() for name in percentiles))
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [("put", result["entries_per_s"], result["bytes_per_s"], result["latency_ms"])]
    if result["delivery_ms"] is not None:
        delivered = (result["delivered_per_s"], result["delivered_bytes_per_s"])
        rows.append(("delivered", *delivered, result["delivery_ms"]))
    for name, entries_per_s, bytes_per_s, latency_ms in rows:
        shown = [format_ms(latency_ms[each]) for each in percentiles]
        table.add_row(name, f"{entries_per_s:,.0f}", f"{bytes_per_s / 1e6:,.1f}", *shown)
    return table


def _costs(result: dict[str, Any]) -> Table:
    table = new_table("CPU OF", "CORES", "S/1,000 ENTRIES")
    for column in table.columns[1:]:
        column.justify = "right"
    for each in result["cpu"]:
        table.add_row(each["process"], f"{each['cores']:.2f}", f"{each['cpu_s_per_1000']:.4f}")
    cores = sum(each["cores"] for each in result["cpu"])
    table.add_row("all", f"{cores:.2f}", f"{result['cpu_s_per_1000']:.4f}")
    return table
