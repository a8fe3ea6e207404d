"""Measures WALLE beside other systems that keep three replicas, in turns, on the same disk.

    .venv/bin/python -m tools.bench_peers
    .venv/bin/python -m tools.bench_peers --peers etcd,postgres --seconds 10 --directory /data

Each round starts every system afresh, one after the other, puts the same loads on it, and ends it.
The table gives medians over the rounds, and how many times WALLE is as good. What is missing is
installed: Debian packages (as root), PySyncObj from PyPI. docs/performance.md tells more.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

import walle
from tools.peers.driver import Driver
from tools.peers.etcd import Etcd
from tools.peers.nats import Nats
from tools.peers.postgres import Postgres
from tools.peers.pysyncobj import PySyncObj
from tools.peers.zookeeper import ZooKeeper
from walle.bench.disk import probe
from walle.bench.measure import describe_machine, measure
from walle.bench.plot import format_ms
from walle.bench.report import describe_disk
from walle.bench.workload import Workload
from walle.dev import dev_cluster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tools.peers.servers import Servers

WALLE = "WALLE"
PEERS: dict[str, type[Servers]] = {
    "etcd": Etcd,
    "postgres": Postgres,
    "zookeeper": ZooKeeper,
    "nats": Nats,
    "pysyncobj": PySyncObj,
}
BULK = "by put_many"
BULK_ENTRIES = 1_024
BULK_IN_FLIGHT = 4_096
"""In entries, too. With more, a member on the same two cores is easily left behind, to be
backfilled later: that would show the speed of two."""
Round = dict[str, dict[str, Any]]
"""What one round has shown of one system, by the load's name."""


def make_loads(arguments: argparse.Namespace) -> dict[str, Workload]:
    """The loads, by name."""
    base = Workload(
        size_bytes=arguments.size, seconds=arguments.seconds, warm_up_s=arguments.warm_up_seconds
    )
    return {
        f"{arguments.in_flight} in flight": base._replace(in_flight=arguments.in_flight),
        BULK: base._replace(batch=BULK_ENTRIES, in_flight=BULK_IN_FLIGHT),
        "one at a time": base._replace(in_flight=1),
        f"{arguments.rate:,}/s due": base._replace(rate=arguments.rate),
    }


def measure_peer(kind: type[Servers], loads: Mapping[str, Workload], directory: Path) -> Round:
    """One round of a peer. It has no `put_many`: what it does with many in flight stands there."""
    servers = kind(directory)
    try:
        servers.start()
        found = {
            name: _drive(servers, workload) for name, workload in loads.items() if name != BULK
        }
    finally:
        servers.stop()
    return {BULK: max(found.values(), key=lambda each: each["entries_per_s"]), **found}


def _drive(servers: Servers, workload: Workload) -> dict[str, Any]:
    count = min(servers.connections_max, workload.in_flight)
    connections = [servers.connect() for _ in range(count)]
    try:
        return Driver(connections, workload).run(servers.pids)
    finally:
        for connection in connections:
            connection.close()


def measure_walle(loads: Mapping[str, Workload], directory: Path) -> Round:
    """One round of WALLE, on nodes of its own."""

    async def put(addresses: list[str]) -> Round:
        async with walle.connect(addresses) as client:
            return {
                name: _shorten(await measure(client, workload, ",".join(addresses)))
                for name, workload in loads.items()
            }

    with dev_cluster(directory) as addresses:
        return asyncio.run(put(addresses))


def _shorten(result: dict[str, Any]) -> dict[str, Any]:
    """What a `Driver` tells, of what `walle bench` does."""
    client = sum(
        each["cpu_s_per_1000"] for each in result["cpu"] if each["process"].startswith("client")
    )
    puts = result["puts"]
    return {
        **{key: result[key] for key in ("entries_per_s", "latency_ms", "cpu_s_per_1000")},
        "client_cpu_s_per_1000": client,
        "machine_share": result["machine_share"],
        "bad_count": sum(puts["failed"].values()) + puts["unanswered"],
    }


def run_rounds(arguments: argparse.Namespace, console: Console) -> dict[str, list[Round]]:
    """All rounds, by system. A system that cannot run is told of, and left out."""
    loads = make_loads(arguments)
    found: dict[str, list[Round]] = {WALLE: [], **{name: [] for name in arguments.peers}}
    for number in range(1, arguments.rounds + 1):
        for name, rounds in found.items():
            console.print(f"round {number} of {arguments.rounds}: {name}")
            with tempfile.TemporaryDirectory(
                prefix="walle-peers-", dir=arguments.directory
            ) as made:
                try:
                    if name == WALLE:
                        rounds.append(measure_walle(loads, Path(made)))
                    else:
                        rounds.append(measure_peer(PEERS[name], loads, Path(made)))
                except (OSError, RuntimeError) as error:
                    console.print(f"{name}: {error}", style="red")
    return {name: rounds for name, rounds in found.items() if rounds}


def median(rounds: list[Round], load: str, *keys: str) -> float:
    """The median over rounds of a figure."""
    values: list[float] = []
    for each in rounds:
        value: Any = each[load]
        for key in keys:
            value = value[key]
        values.append(value)
    return statistics.median(values)


def table_of(found: Mapping[str, list[Round]], load: str) -> Table:
    """Medians, and in brackets how many times WALLE is as good."""
    columns = ("", "ENTRIES/S", "P50", "P99", "P99.9", "CPU S/1,000", "OF THAT CLIENT", "BAD")
    table = Table(*columns, box=None, pad_edge=False, header_style="dim", title=load)
    for column in table.columns[1:]:
        column.justify = "right"

    def cell(name: str, text: str, *keys: str, is_more_better: bool = False) -> str:
        own, other = median(found[WALLE], load, *keys), median(found[name], load, *keys)
        better, worse = (own, other) if is_more_better else (other, own)
        if name == WALLE or not better or not worse:
            return text
        times = better / worse
        return f"{text} ({times:,.0f}x)" if times >= 10 else f"{text} ({times:.2g}x)"

    for name, rounds in found.items():
        rate = median(rounds, load, "entries_per_s")
        cells = [cell(name, f"{rate:,.0f}", "entries_per_s", is_more_better=True)]
        for key in ("p50", "p99", "p99.9"):
            latency_ms = median(rounds, load, "latency_ms", key)
            text = format_ms(latency_ms) if latency_ms else "no answer"
            cells.append(cell(name, text, "latency_ms", key))
        cells.append(cell(name, f"{median(rounds, load, 'cpu_s_per_1000'):.3f}", "cpu_s_per_1000"))
        client = median(rounds, load, "client_cpu_s_per_1000")
        bad = sum(each[load]["bad_count"] for each in rounds)
        table.add_row(name, *cells, f"{client:.3f}", f"{bad:,}")
    return table


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=_peers, default=list(PEERS), help=",".join(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--warm-up-seconds", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=1_024, help="bytes of an entry")
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--rate", type=int, default=5_000, help="of the open loop, a second")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all figures go")
    arguments = parser.parse_args()
    console = Console(stderr=True, highlight=False)
    before = probe(arguments.directory)
    found = run_rounds(arguments, console)
    after = probe(arguments.directory)
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    out.print("times in brackets: how many times WALLE is as good\n")
    for load in make_loads(arguments):
        out.print(table_of(found, load), "")
    for name in found:
        if name != WALLE:
            out.print(f"{name}: {PEERS[name].durability}")
    out.print(f"the disk before: {describe_disk(before)}")
    out.print(f"the disk after: {describe_disk(after)}")
    if arguments.json is not None:
        disk = {"before": before, "after": after}
        arguments.json.write_text(
            json.dumps({"machine": describe_machine(), "disk": disk, "rounds": found}, indent=1)
        )
    return 0 if len(found) == 1 + len(arguments.peers) else 1


def _peers(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = sorted(set(names) - set(PEERS))
    if unknown:
        raise argparse.ArgumentTypeError(f"no such peers: {unknown}; there are {', '.join(PEERS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
