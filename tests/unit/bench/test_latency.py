"""Percentiles, and what becomes of what was due."""

from __future__ import annotations

import random
from collections import Counter
from unittest.mock import patch

import pytest
from hdrh.histogram import HdrHistogram

from walle.bench.latency import DELIVERY_STEP_US, LATENCY_US_MAX, Latencies, Puts, Tally, merged
from walle.errors import DiskFull

MS = 1_000_000


def latencies_of(*values_us: int) -> Latencies:
    made = Latencies()
    made.add(Counter(values_us))
    return made


def test_percentiles_are_those_of_the_sorted_values() -> None:
    chance = random.Random(3)
    values = sorted(round(chance.lognormvariate(7, 2)) + 1 for _ in range(20_000))
    found = latencies_of(*values)
    for percent in (1, 50, 90, 99, 99.9):
        exact_ms = values[round(percent / 100 * len(values)) - 1] / 1_000
        assert found.percentile_ms(percent) == pytest.approx(exact_ms, rel=0.002)
    assert found.percentile_ms(100) == pytest.approx(values[-1] / 1_000, rel=0.002)
    assert found.count == len(values)


def test_nothing_has_no_percentiles_but_zeros() -> None:
    assert set(Latencies().summary().values()) == {0.0}


def test_what_is_beyond_the_bounds_counts_at_them() -> None:
    found = latencies_of(-5, 10 * LATENCY_US_MAX)
    assert found.count == 2
    assert found.percentile_ms(50) == 0
    assert found.percentile_ms(100) == pytest.approx(LATENCY_US_MAX / 1_000, rel=0.002)


def test_histograms_add_up_across_processes() -> None:
    """As if all values had been counted in one place."""
    parts = [latencies_of(*range(start, 5_000, 3)) for start in (1, 2, 3)]
    whole = latencies_of(*range(1, 5_000))
    told = merged(Latencies.decode(part.encode()) for part in parts)
    assert told.curve() == whole.curve()
    assert told.count == whole.count == 4_999


def test_an_empty_histogram_can_be_told() -> None:
    assert Latencies.decode(Latencies().encode()).count == 0


def test_latency_counts_from_when_it_was_due() -> None:
    tally = Tally(begin_ns=0, end_ns=100 * MS)
    tally.due(10 * MS, 5)
    tally.done(10 * MS, 30 * MS, count=5, size_bytes=500)
    taken = tally.take()
    assert Latencies.decode(taken["latencies"]).summary()["p50"] == pytest.approx(20, rel=0.002)
    assert (taken["count"], taken["bytes"]) == (5, 500)


def test_warm_up_is_left_out() -> None:
    tally = Tally(begin_ns=10 * MS, end_ns=20 * MS)
    for due_ns in (9 * MS, 20 * MS):
        tally.due(due_ns, 1)
        tally.failed(due_ns, 1, DiskFull("full"))
    tally.due(9 * MS, 1)
    tally.done(9 * MS, 9 * MS, count=1, size_bytes=1)
    assert tally.totals() == {"due": 0, "done": 0, "failed": {}, "unanswered": 0}
    assert tally.take()["count"] == 0


def test_what_was_due_in_time_counts_whenever_it_ends() -> None:
    """Or the slowest would be left out of the latencies. Of throughput it is no part any more."""
    tally = Tally(begin_ns=0, end_ns=10 * MS)
    tally.due(9 * MS, 1)
    tally.done(9 * MS, 50 * MS, count=1, size_bytes=1)
    taken = tally.take()
    assert taken["count"] == 0
    assert Latencies.decode(taken["latencies"]).count == 1


def test_what_was_late_already_counts_as_throughput_only() -> None:
    tally = Tally(begin_ns=10 * MS, end_ns=20 * MS)
    tally.done(9 * MS, 15 * MS, count=1, size_bytes=1)
    taken = tally.take()
    assert taken["count"] == 1
    assert Latencies.decode(taken["latencies"]).count == 0


def test_counts_add_up() -> None:
    tally = Tally(begin_ns=0, end_ns=10 * MS)
    for due_ns in range(10):
        tally.due(due_ns, 10)
    tally.done(0, 1, count=30, size_bytes=0)
    tally.failed(1, 20, DiskFull("full"))
    tally.failed(2, 5, ValueError())
    expected = {"due": 100, "done": 30, "failed": {"DiskFull": 20, "ValueError": 5}}
    assert tally.totals() == {**expected, "unanswered": 45}


def test_a_taking_begins_anew() -> None:
    tally = Tally(begin_ns=0, end_ns=10 * MS)
    tally.done(0, MS, count=1, size_bytes=1)
    tally.take()
    assert Latencies.decode(tally.take()["latencies"]).count == 0


def test_deliveries_count_from_the_put_by_the_entries_own_clock() -> None:
    epoch_us = -5_000_000
    tally = Tally(begin_ns=10 * MS, end_ns=20 * MS)
    puts = Puts.of([5_009_990, 5_010_000, 5_019_994, 5_020_000], size_bytes=40)
    tally.delivered(puts, epoch_us, 19 * MS)
    tally.delivered(puts, epoch_us, 30 * MS)  # what is put in time counts whenever it comes
    taken = tally.take()
    assert (taken["count"], taken["bytes"]) == (4, 40)
    latencies = Latencies.decode(taken["latencies"])
    assert latencies.count == 4
    assert latencies.percentile_ms(100) == pytest.approx(20, rel=0.002)


def test_many_deliveries_take_the_histogram_few_steps() -> None:
    """It is Python. While it counts, the process that follows delivers nothing."""
    chance = random.Random(4)
    tally = Tally(begin_ns=0, end_ns=1_000 * MS)
    puts = Puts.of(sorted(chance.randrange(100_000) for _ in range(500)), size_bytes=0)
    for _ in range(100):
        tally.delivered(puts, 0, chance.randrange(100 * MS, 110 * MS))
    with patch.object(HdrHistogram, "record_value") as record:
        tally.take()
    assert record.call_count <= 110_000 // DELIVERY_STEP_US
