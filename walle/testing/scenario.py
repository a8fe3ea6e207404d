"""What kind of run a seed stands for, and what is done when one fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from walle.testing.disk import Disk
from walle.testing.simulation import Simulation
from walle.testing.stored import StoredDisk
from walle.testing.trace import Trace

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Collection

STEPS = 400
SHAPES = ((3, 3, 1), (5, 3, 1), (4, 3, 2), (5, 5, 1), (7, 5, 1), (3, 3, 3), (5, 3, 8))
"""Nodes, replicas of a stream, and streams, by the seed's remainder."""
STORED_EVERY = 2
"""Every so many seeds the nodes keep what they hold in the real store."""


class Failure(NamedTuple):
    """A run that found something: what, the shortest list of steps that still finds it, and what
    happened in that run, in lines."""

    seed: int
    what: str
    steps: tuple[int, ...]
    report: list[str]


def ordinary(seed: int, steps: Collection[int] = range(STEPS)) -> Simulation:
    """Everything is drawn from the seed."""
    size, replicas, streams = SHAPES[seed % len(SHAPES)]
    is_stored = seed % STORED_EVERY == 0
    return Simulation(
        seed,
        size=size,
        replicas=replicas,
        streams=streams,
        make_disk=StoredDisk if is_stored else Disk,
        steps=steps,
    )


def run(simulation: Simulation) -> str | None:
    """Runs it; what it found, if anything."""
    try:
        simulation.run()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
        return f"{type(error).__name__}: {error}"
    return None


def count(make: Callable[[int], Simulation], seed: int) -> tuple[str | None, Counter[str]]:
    """Runs without a trace; what it found, if anything, and what it covered."""
    simulation = make(seed)
    return run(simulation), simulation.counts


def find(
    make: Callable[[int, Collection[int]], Simulation], seed: int, steps: Collection[int]
) -> tuple[str | None, list[str]]:
    """Runs some of the steps; what that found, if anything, and the report."""
    simulation = make(seed, steps)
    simulation.trace = Trace()
    found = run(simulation)
    return found, simulation.report()


def reduce(
    make: Callable[[int, Collection[int]], Simulation], seed: int, steps: Collection[int]
) -> Failure | None:
    """The shortest failing list of steps that leaving out parts of it finds; None if the run does
    not fail.

    What happens in a step, and what the network does, follows from the seed and the step's number,
    not from the steps before it.
    """
    what, report = find(make, seed, steps)
    if what is None:
        return None
    kept = list(steps)
    size = len(kept) // 2
    while size:
        start = 0
        while start < len(kept):
            shorter = kept[:start] + kept[start + size :]
            found, found_report = find(make, seed, shorter)
            if found is not None:
                kept, what, report = shorter, found, found_report
            else:
                start += size
        size //= 2
    return Failure(seed, what, tuple(kept), report)
