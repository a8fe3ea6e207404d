"""Random runs of whole clusters through faults, on a virtual clock.

    tools/simulate.py

runs many more seeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from walle.testing import scenario
from walle.testing.broken import RULES
from walle.testing.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Collection

    from walle.testing.simulation import Simulation

STEPS = 40


@pytest.mark.parametrize("seed", range(1, 31))
def test_a_run_through_faults_ends_whole(seed: int) -> None:
    scenario.ordinary(seed).run()


def test_a_run_is_repeatable() -> None:
    runs = [scenario.ordinary(7), scenario.ordinary(7)]
    for run in runs:
        run.trace = Trace()
        run.run()
    lines = [run.trace.lines for run in runs if run.trace is not None]
    assert lines[0] == lines[1]
    assert lines[0]


def test_failure_is_reduced_to_the_steps_that_matter() -> None:
    rule = RULES["last-lease-only"]

    def make(seed: int, steps: Collection[int]) -> Simulation:
        simulation = rule.make(seed)
        simulation.steps = steps
        return simulation

    with rule.broken():
        failures = (scenario.reduce(make, seed, range(STEPS)) for seed in range(1, 200))
        failure = next(each for each in failures if each is not None)
        assert 0 < len(failure.steps) < STEPS // 2
        assert scenario.find(make, failure.seed, failure.steps)[0] == failure.what
    assert failure.report
    assert scenario.find(make, failure.seed, failure.steps)[0] is None
