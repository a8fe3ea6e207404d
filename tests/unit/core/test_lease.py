"""Owed leases against a model that forgets nothing: every renewal of every writer."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.making import MS
from walle.core.lease import OwedLeases, exclusive_until_ns

LEASES_MS = st.integers(1, 10)


class OwedLeasesMachine(RuleBasedStateMachine):
    """The object, restarted now and then from what it said is to be durable."""

    @initialize(lease_ms=LEASES_MS)
    def promise_first(self, lease_ms: int) -> None:
        self.now_ns = 0
        self.lease_ms, self.durable_older_ms = lease_ms, 0
        self.owed = OwedLeases(now_ns=0, lease_ms=lease_ms, older_lease_ms=0)
        self.promised_ns = lease_ms * MS
        self.older_ns: list[int] = []
        self.is_released = False

    @rule(ns=st.integers(0, 5 * MS))
    def wait(self, ns: int) -> None:
        self.now_ns += ns

    @rule()
    def renew(self) -> None:
        self.owed.renew(self.now_ns)
        if not self.is_released:
            self.promised_ns = self.now_ns + self.lease_ms * MS

    @rule()
    def release(self) -> None:
        self.owed.release()
        self.promised_ns = 0
        self.is_released = True

    @rule(lease_ms=LEASES_MS)
    def supersede(self, lease_ms: int) -> None:
        self.durable_older_ms = self.owed.supersede(self.now_ns, lease_ms)
        self.older_ns.append(self.promised_ns)
        self.promised_ns, self.lease_ms = 0, lease_ms
        self.is_released = False

    @rule()
    def restart(self) -> None:
        """Only lease lengths are durable: whatever may run is owed in full from the start on."""
        older_left_ns = max([each - self.now_ns for each in self.older_ns], default=0)
        self.owed = OwedLeases(
            now_ns=self.now_ns, lease_ms=self.lease_ms, older_lease_ms=self.durable_older_ms
        )
        assert self.owed.older_until_ns - self.now_ns >= older_left_ns
        self.older_ns = [self.now_ns + self.durable_older_ms * MS]
        self.promised_ns = self.now_ns + self.lease_ms * MS
        self.is_released = False

    @invariant()
    def all_that_may_run_is_owed_and_nothing_more(self) -> None:
        older_ns = max(self.older_ns, default=0)
        assert self.owed.promised_until_ns == self.promised_ns
        assert self.owed.older_until_ns == older_ns
        assert self.owed.until_ns == max(self.promised_ns, older_ns)
        left = Fraction(max(self.promised_ns, older_ns) - self.now_ns, MS)
        assert self.owed.remaining_ms(self.now_ns) == max(0, -(-left.numerator // left.denominator))

    @invariant()
    def what_is_durable_covers_what_runs(self) -> None:
        """Otherwise a restart would forget a lease."""
        if any(each > self.now_ns for each in self.older_ns):
            left_ns = max(self.older_ns) - self.now_ns
            assert self.durable_older_ms * MS >= left_ns


TestOwedLeases = OwedLeasesMachine.TestCase
TestOwedLeases.settings = settings(max_examples=60, stateful_step_count=25)


def test_lease_that_has_run_out_is_not_carried_on() -> None:
    owed = OwedLeases(now_ns=0, lease_ms=100, older_lease_ms=50)
    assert owed.supersede(40 * MS, 10) == 100
    assert owed.supersede(99 * MS, 10) == 100
    assert owed.supersede(200 * MS, 10) == 0


@given(st.integers(0, 2**62), st.integers(1, 60_000), st.fractions(Fraction(3, 4), Fraction(4, 3)))
def test_writer_stops_before_the_member_does_if_clocks_differ_by_a_third_at_most(
    sent_ns: int, lease_ms: int, rate: Fraction
) -> None:
    """The put was received no earlier than it was sent; the member's clock runs `rate` times as
    fast as the writer's."""
    writer_ns = exclusive_until_ns(sent_ns, lease_ms) - sent_ns
    assert writer_ns * rate <= lease_ms * MS


@pytest.mark.parametrize(("lease_ms", "exclusive_ms"), [(100, 75), (2_000, 1_500), (4, 3)])
def test_writer_counts_three_quarters_of_the_lease(lease_ms: int, exclusive_ms: int) -> None:
    assert exclusive_until_ns(7, lease_ms) == 7 + exclusive_ms * MS
