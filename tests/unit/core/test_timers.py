"""Alarms: one a key, in order of time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from walle.core.timers import NEVER, REPLACED_MAX, Timers

KEYS = st.sampled_from("abc")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), KEYS, st.integers(0, 20)),
        st.tuples(st.just("cancel"), KEYS, st.just(0)),
        st.tuples(st.just("run"), st.just(""), st.integers(0, 20)),
    ),
    max_size=30,
)


class Bench:
    """Timers whose actions note their own names."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.rung: list[str] = []

    def set(self, key: str, at_ns: int, name: str | None = None) -> None:
        self.timers.set(key, at_ns, lambda: self.rung.append(name or key))

    def run(self, now_ns: int) -> list[str]:
        """What rings up to then."""
        self.rung.clear()
        self.timers.run_due(now_ns)
        return list(self.rung)


@given(STEPS)
def test_alarms_ring_as_in_a_plain_table(steps: list[tuple[str, str, int]]) -> None:
    bench = Bench()
    table: dict[str, tuple[int, int]] = {}
    for number, (step, key, ns) in enumerate(steps):
        name = f"{key}{number}"
        if step == "set":
            bench.set(key, ns, name)
            table[key] = (ns, number)
        elif step == "cancel":
            bench.timers.cancel(key)
            table.pop(key, None)
        else:
            due = sorted((at, count, each) for each, (at, count) in table.items() if at <= ns)
            assert bench.run(ns) == [f"{each}{count}" for _, count, each in due]
            table = {each: value for each, value in table.items() if value[0] > ns}
        assert bench.timers.next_ns() == min((at for at, _ in table.values()), default=NEVER)
        assert [bench.timers.is_set(each) for each in "abc"] == [each in table for each in "abc"]


def test_alarm_rings_once() -> None:
    bench = Bench()
    bench.set("a", 5)
    assert bench.run(4) == []
    assert bench.run(5) == ["a"]
    assert bench.run(6) == []


def test_alarm_that_an_alarm_sets_for_now_rings_in_the_next_run() -> None:
    """Otherwise two that set each other would never let go."""
    bench = Bench()
    bench.timers.set("a", 1, lambda: bench.set("b", 1))
    assert bench.run(1) == []
    assert bench.timers.next_ns() == 1
    assert bench.run(1) == ["b"]


def test_alarm_that_is_cancelled_by_another_of_the_same_run_does_not_ring() -> None:
    bench = Bench()
    bench.timers.set("a", 1, lambda: bench.timers.cancel("b"))
    bench.set("b", 2)
    assert bench.run(2) == []


def test_alarm_that_is_replaced_by_another_of_the_same_run_rings_at_its_new_time() -> None:
    bench = Bench()
    bench.timers.set("a", 1, lambda: bench.set("b", 5))
    bench.set("b", 2, "old")
    assert bench.run(2) == []
    assert bench.run(5) == ["b"]


@settings(max_examples=20)
@given(st.integers(1, 3))
def test_replaced_alarms_do_not_pile_up(keys: int) -> None:
    """A heartbeat sets its alarm anew with every put, far in the future."""
    bench = Bench()
    for number in range(5 * REPLACED_MAX):
        bench.set(str(number % keys), NEVER - number)
    assert len(bench.timers._heap) <= 2 * keys + REPLACED_MAX
    assert bench.timers.next_ns() == NEVER - (5 * REPLACED_MAX - 1)
