#!/usr/bin/env python3
"""Runs simulated clusters from many seeds, and shows what breaks.

tools/simulate.py --seconds 60               from a random seed on, on all cores
tools/simulate.py --seeds 1:10000
tools/simulate.py --seed 4711                one run; its trace, reduced, if it fails
tools/simulate.py --break ack-before-sync    with one rule of the protocol left out
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import count as count_from
from typing import TYPE_CHECKING, NamedTuple

from walle.testing import scenario
from walle.testing.broken import RULES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

FAILURES_SHOWN = 3
PROGRESS_S = 10


def main() -> int:
    """The exit status: 0 when nothing was found; with --break, when something was."""
    arguments = _parse()
    if arguments.break_rule:
        return _break(arguments.break_rule, arguments.seconds)
    if arguments.seed is not None:
        return _show(arguments.seed)
    seeds: Iterator[int] = count_from(secrets.randbelow(1 << 32))
    if arguments.seeds:
        first, _, last = arguments.seeds.partition(":")
        seeds = iter(range(int(first), int(last)))
    deadline = None if arguments.seeds else time.monotonic() + arguments.seconds
    return _hunt(seeds, deadline, arguments.jobs)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="rules for --break: " + ", ".join(RULES),
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default 60)")
    parser.add_argument("--seeds", metavar="FIRST:LAST", help="run these seeds, LAST not included")
    parser.add_argument("--seed", type=int, help="run this seed only, and show its trace")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--break", dest="break_rule", choices=list(RULES), metavar="RULE")
    return parser.parse_args()


class Run(NamedTuple):
    """What one run found, if anything, and what it covered."""

    seed: int
    found: str | None
    counts: Counter[str]
    cpu_s: float


def _run(seed: int) -> Run:
    started = time.process_time()
    found, counts = scenario.count(scenario.ordinary, seed)
    return Run(seed, found, counts, time.process_time() - started)


def _hunt(seeds: Iterator[int], deadline: float | None, jobs: int) -> int:
    counts: Counter[str] = Counter()
    failures: list[int] = []
    cpu_s, shown_s = 0.0, time.monotonic()
    with ProcessPoolExecutor(jobs) as pool:
        pending: set[Future[Run]] = set()
        is_open = True
        while pending or is_open:
            while is_open and len(pending) < 2 * jobs:
                seed = next(seeds, None)
                if seed is None or (deadline is not None and time.monotonic() > deadline):
                    is_open = False
                else:
                    pending.add(pool.submit(_run, seed))
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                run = future.result()
                cpu_s += run.cpu_s
                counts += run.counts
                counts["runs"] += 1
                if run.found is not None:
                    failures.append(run.seed)
                    print(f"seed {run.seed}: {run.found}", flush=True)
            if time.monotonic() - shown_s > PROGRESS_S:
                shown_s = time.monotonic()
                print(f"{counts['runs']} runs, {len(failures)} with a violation", flush=True)
    _report(counts, cpu_s)
    for seed in failures[:FAILURES_SHOWN]:
        _show(seed)
    return 1 if failures else 0


def _report(counts: Counter[str], cpu_s: float) -> None:
    runs = max(counts["runs"], 1)
    print(f"\n{counts['runs']} runs, {cpu_s:.0f} CPU seconds")
    for what, number in sorted(counts.items()):
        print(f"{number:>12,}  {what:<20} {number / runs:>10.1f} a run")
    print(f"{counts['messages'] / max(cpu_s, 1e-9):>12,.0f}  messages a CPU second")


def _show(seed: int) -> int:
    failure = scenario.reduce(scenario.ordinary, seed, range(scenario.STEPS))
    if failure is None:
        print(f"seed {seed}: nothing found")
        return 0
    _print_failure(failure)
    return 1


def _print_failure(failure: scenario.Failure) -> None:
    print(f"\nseed {failure.seed}: {failure.what}")
    print(f"with {len(failure.steps)} steps: {', '.join(map(str, failure.steps))}")
    print("\n".join(failure.report))


def _break(name: str, seconds: float) -> int:
    rule = RULES[name]
    print(f"{name}: {rule.says}")
    started = time.monotonic()
    for seed in count_from(1):
        with rule.broken():
            found, _ = scenario.count(rule.make, seed)
        if found is not None:
            print(f"seed {seed} finds it after {time.monotonic() - started:.1f} s: {found}")
            return 0
        if time.monotonic() - started > seconds:
            print(f"not found in {seed} seeds and {seconds:.0f} s")
            return 1
    return 1


if __name__ == "__main__":
    sys.exit(main())
