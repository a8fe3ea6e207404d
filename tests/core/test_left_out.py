"""Each schedule's test fails when its rule is left out: it tests what it says.

The wrong variants are the simulator's, for the rules that have one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core import test_jumps as jumps
from tests.core import test_lease_schedules as leases
from tests.core import test_membership_schedules as membership
from tests.core import test_schedules as schedules
from walle.errors import InvariantError
from walle.testing.broken import RULES

if TYPE_CHECKING:
    from collections.abc import Callable


def restamp() -> None:
    with pytest.MonkeyPatch.context() as patch:
        schedules.test_restamp(patch)


TESTS: list[tuple[str, Callable[[], None]]] = [
    ("restamp-while-copying", restamp),
    ("accept-older-version", membership.test_verbelow),
    ("accept-older-version", membership.test_queue_of_the_version_below),
    ("discard-on-jump", schedules.test_discard),
    ("discard-on-jump", schedules.test_discard_under_a_newer_writer),
    ("drop-without-coverage", membership.test_coverb),
    ("drop-without-coverage", membership.test_coverb_by_none),
    ("any-commit-point-ends-joint", membership.test_ptails_psent),
    ("any-commit-point-ends-joint", membership.test_ptails),
    (
        "mix-version-acks",
        membership.test_acknowledgements_of_two_versions_never_make_one_majority,
    ),
    ("sync-after-stamp", schedules.test_syncacc),
    ("sync-after-stamp", schedules.test_sync_after_its_claim_returned),
    ("stamp-without-promise", schedules.test_stampchk),
    ("release-without-promise", leases.test_relcmp),
    ("last-lease-only", leases.test_maxold),
    ("exclusive-from-ack", leases.test_sendtime),
    ("lease-not-renewed-at-boot", leases.test_bootlease),
    ("lease-not-renewed-at-boot", leases.test_bootold),
    ("tail-of-damaged-member", schedules.test_doubt),
    (
        "commit-without-chain-check",
        jumps.test_conflicting_suffix_is_dropped_where_no_gap_is_left,
    ),
]


@pytest.mark.parametrize(("rule", "test"), TESTS)
def test_schedule_fails_without_its_rule(rule: str, test: Callable[[], None]) -> None:
    with RULES[rule].broken(), pytest.raises((AssertionError, InvariantError)):
        test()
