"""Processor time: what is compared, and what is said of it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from walle.bench import usage
from walle.bench.usage import Usage


def test_usage_is_the_difference_of_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    before = Usage(10.0, {"a": 1.0, "gone": 1.0}, busy_s=10, idle_s=20, waiting_s=0, stolen_s=0)
    after = Usage(12.0, {"a": 2.0, "new": 5.0}, busy_s=14, idle_s=23, waiting_s=1, stolen_s=0)
    found = usage.compare(before, after, entries_count=500)
    assert found["cpu"] == [{"process": "a", "cores": 0.5, "cpu_s_per_1000": 2.0}]
    assert found["cpu_s_per_1000"] == 2.0
    assert found["machine_share"] == {
        "busy": 0.5,
        "others": 0.375,
        "waiting_for_disks": 0.125,
        "stolen": 0.0,
    }


def test_this_process_is_seen() -> None:
    before = usage.look({"me": os.getpid()})
    while usage.look({"me": os.getpid()}).used_s["me"] < before.used_s["me"] + 0.05:
        sum(range(100_000))
    after = usage.look({"me": os.getpid()})
    assert usage.compare(before, after, 1)["cpu"][0]["cores"] > 0


def test_a_process_that_has_gone_is_left_out() -> None:
    assert usage.look({"gone": 2**22 + 1}).used_s == {}


def cost_of(cores: float, busy: float, others: float) -> dict[str, Any]:
    return {
        "cpu": [{"process": "n1 network", "cores": cores}, {"process": "x", "cores": 0.1}],
        "machine_share": {"busy": busy, "others": others},
    }


@pytest.mark.parametrize(
    ("cost", "words"),
    [
        (cost_of(0.97, 0.99, 0.0), "n1 network, which keeps 97% of a core busy"),
        (cost_of(0.5, 0.99, 0.0), "this machine's processors, which are busy for 99%"),
        (cost_of(0.5, 0.99, 0.4), "busy for 99%, 40% by others"),
        (cost_of(0.5, 0.5, 0.0), "waiting"),
    ],
)
def test_what_limits_is_told(cost: dict[str, Any], words: str) -> None:
    assert words in usage.bottleneck(cost)
