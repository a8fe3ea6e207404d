"""What a batch costs in each process of a node: processor time, by step and by batch size.

The node's parts run in one process, one after the other (tests/performance/one_node.py), so this
is what they do themselves, with the disk's writes, and without waking and the kernel's network.

    .venv/bin/python -m tools.measure_batch [--size 1024] [--rounds 300] [--directory DIR]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.performance.one_node import one_node
from walle.limits import BATCH_BYTES_MAX
from walle.record import size_of


def measure(directory: Path, count: int, size: int, rounds: int) -> dict[str, float]:
    """Microseconds of each step for a batch of `count` entries: the first quintile, since what else
    the machine does only ever adds to it."""
    taken: dict[str, list[int]] = {}
    with one_node(directory) as node:
        for _ in range(rounds):
            node.put(count, size)
            for name, step in node.steps.items():
                begun_ns = time.process_time_ns()
                step()
                taken.setdefault(name, []).append(time.process_time_ns() - begun_ns)
    return {name: sorted(each)[rounds // 5] / 1000 for name, each in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=1024, help="bytes of data of an entry")
    parser.add_argument("--rounds", type=int, default=300, help="batches of each size")
    parser.add_argument("--directory", type=Path, help="where to write; default: a temporary one")
    options = parser.parse_args()
    largest = BATCH_BYTES_MAX // size_of(options.size)
    table = Table(
        "entries", title=f"microseconds of CPU of one node, entries of {options.size} bytes"
    )
    for count in sorted({1, 8, 64, largest}):
        with tempfile.TemporaryDirectory(dir=options.directory) as directory:
            costs = measure(Path(directory), count, options.size, options.rounds)
        if not table.row_count:
            for name in (*costs, "in all", "an entry"):
                table.add_column(name, justify="right")
        in_all = sum(costs.values())
        cells = [f"{each:.0f}" for each in (*costs.values(), in_all)]
        table.add_row(str(count), *cells, f"{in_all / count:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
