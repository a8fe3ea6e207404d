"""When what is due, and how large it is."""

from __future__ import annotations

import pytest

from walle.bench.workload import DATA_BYTES_MAX, DISTRIBUTIONS, Workload
from walle.limits import ENTRY_DATA_BYTES_MAX, NS_PER_S


@pytest.mark.parametrize(("rate", "batch"), [(1, 1), (3, 1), (7_000, 1), (10_000, 64), (3, 7)])
def test_as_many_entries_are_due_each_second_as_the_rate_says(rate: int, batch: int) -> None:
    workload = Workload(rate=rate, batch=batch)
    start_ns = 12_345
    due = [workload.due_ns(index, start_ns) for index in range(2 * rate // batch + 2)]
    assert due[0] == start_ns
    assert due == sorted(due)
    for second in (1, 2):
        end_ns = start_ns + second * NS_PER_S
        batches = sum(each < end_ns for each in due)
        assert (batches - 1) * batch < second * rate <= batches * batch


def test_distances_do_not_drift() -> None:
    """However long it goes on: each time is computed from the start."""
    workload = Workload(rate=3)
    assert workload.due_ns(3 * 86_400, 0) == 86_400 * NS_PER_S


@pytest.mark.parametrize("clients", [1, 2, 3, 10])
def test_clients_share_the_streams(clients: int) -> None:
    workload = Workload(streams=10, clients=clients)
    shares = [workload.share(workload.streams, client) for client in range(clients)]
    assert sorted(number for share in shares for number in share) == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("seconds", [0.05, 0.1, 0.25, 2, 6, 10, 61.7, 3_600])
def test_intervals_end_with_the_measurement(seconds: float) -> None:
    workload = Workload(seconds=seconds)
    ends = [workload.interval_end_ns(index, 5) for index in range(workload.intervals_count)]
    assert 1 <= len(ends) <= 60
    assert ends == sorted(set(ends))
    assert ends[-1] == 5 + int(seconds * NS_PER_S)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("size_bytes", [0, 1, 100, 1_024])
def test_sizes_have_the_wanted_mean(distribution: str, size_bytes: int) -> None:
    data = Workload(size_bytes=size_bytes, distribution=distribution).data(seed=1)
    sizes = [len(each) for each in data]
    assert sum(sizes) / len(sizes) == pytest.approx(size_bytes, rel=0.15)
    assert (len(set(sizes)) == 1) == (distribution == "fixed" or not size_bytes)


def test_data_are_the_same_again_from_a_seed_only() -> None:
    workload = Workload()
    assert workload.data(seed=1) == workload.data(seed=1)
    assert workload.data(seed=1) != workload.data(seed=2)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_no_entry_is_too_large(distribution: str) -> None:
    data = Workload(size_bytes=ENTRY_DATA_BYTES_MAX, distribution=distribution).data(seed=1)
    assert max(map(len, data)) <= ENTRY_DATA_BYTES_MAX
    assert sum(map(len, data)) <= 2 * DATA_BYTES_MAX
