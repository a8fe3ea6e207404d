"""The simulator finds every rule that is left out: `tools/simulate.py --break RULE`.

Each rule's seed is one that finds it. Where a change of the simulator or of the core makes it find
nothing, any other seed that does is as good: the tool names one.
"""

from __future__ import annotations

import re

import pytest

from walle.testing import scenario
from walle.testing.broken import RULES

SEEDS = 30


@pytest.mark.parametrize("name", RULES)
def test_rule_that_is_left_out_is_missed(name: str) -> None:
    rule = RULES[name]
    found: list[str | None] = []
    for seed in range(rule.seed, rule.seed + SEEDS):
        with rule.broken():
            found.append(scenario.count(rule.make, seed)[0])
        if found[-1] is not None:
            break
    assert found[-1] is not None, f"{rule.says}, and nobody notices"
    assert re.search(rule.finds, found[-1]), found[-1]


@pytest.mark.parametrize("name", RULES)
def test_same_run_with_the_rule_finds_nothing(name: str) -> None:
    rule = RULES[name]
    assert scenario.count(rule.make, rule.seed)[0] is None
