"""Measures what a node takes and how it bears trouble: docs/performance.md, "Measuring a node".

    .venv/bin/python -m tools.measure_node                      all of it
    .venv/bin/python -m tools.measure_node memory idle          some of it
    .venv/bin/python -m tools.measure_node restart --entries 300000 --directory /data

Each starts three fresh nodes on this machine. The table compares each figure with an aim, or with
another figure; ratios hold better than figures do where the machine has other work.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tools.node.backfill import measure_backfill
from tools.node.idle import measure_idle
from tools.node.memory import measure_memory
from tools.node.restart import measure_restart
from tools.node.slow import measure_frozen, measure_slow_disk
from tools.node.streams import measure_streams
from walle.bench.measure import describe_machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.node.stage import Figure

MEASUREMENTS: dict[str, Callable[[argparse.Namespace], list[Figure]]] = {
    "memory": measure_memory,
    "frozen": measure_frozen,
    "slow-disk": measure_slow_disk,
    "restart": measure_restart,
    "backfill": measure_backfill,
    "idle": measure_idle,
    "streams": measure_streams,
}


def table_of(name: str, figures: list[Figure]) -> Table:
    """The figures, and how many times as much as something else each is."""
    table = Table("", "FIGURE", "", "TIMES", "OF", title=name, box=None, header_style="dim")
    for column in (table.columns[1], table.columns[3]):
        column.justify = "right"
    for each in figures:
        ratio = "" if each.ratio is None else f"{each.ratio:.2f}"
        table.add_row(each.what, f"{each.value:,.2f}", each.unit, ratio, each.base_name)
    return table


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(MEASUREMENTS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load, or state")
    parser.add_argument("--entries", type=int, default=10_000_000, help="restart: the history")
    parser.add_argument("--directory", type=Path, help="on which disk the nodes' data are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all figures go")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(MEASUREMENTS))
    if unknown:
        parser.error(f"nothing measures {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}")
    found = {}
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for name in arguments.names or MEASUREMENTS:
        with tempfile.TemporaryDirectory(prefix="walle-node-", dir=arguments.directory) as made:
            options = argparse.Namespace(**{**vars(arguments), "directory": Path(made)})
            found[name] = MEASUREMENTS[name](options)
        out.print(table_of(name, found[name]), "")
    if arguments.json is not None:
        figures = {
            name: [each._asdict() for each in each_found] for name, each_found in found.items()
        }
        told = {"machine": describe_machine(), "figures": figures}
        arguments.json.write_text(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
