"""Coverage against sets of entry ids."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from walle.core.coverage import uncovered
from walle.core.quorum import majority_size
from walle.ids import IdRange

ENDS = st.integers(1, 30)
RANGES = st.tuples(ENDS, ENDS).map(lambda ends: IdRange(min(ends), max(ends)))
MEMBERS = ("n1", "n2", "n3", "n4", "n5")


def ids(ranges: list[IdRange]) -> set[int]:
    return {entry_id for each in ranges for entry_id in range(*each)}


@given(
    RANGES,
    st.dictionaries(st.sampled_from(MEMBERS), st.lists(RANGES, max_size=4)),
    st.integers(1, len(MEMBERS)),
)
def test_uncovered_is_what_no_majority_holds(
    wanted: IdRange, missing: dict[str, list[IdRange]], count: int
) -> None:
    members = MEMBERS[:count]
    held = {member: ids([wanted]) - ids(missing.get(member, [wanted])) for member in members}
    expected = {
        entry_id
        for entry_id in ids([wanted])
        if sum(entry_id in each for each in held.values()) < majority_size(count)
    }
    found = uncovered(wanted, missing, members)
    assert ids(found) == expected
    assert sum(each.end - each.start for each in found) == len(expected)
    assert found == sorted(found)
    assert all(before.end < after.start for before, after in pairwise(found))


def test_nothing_is_lacking_of_nothing() -> None:
    assert uncovered(IdRange(1, 1), {}, ("n1", "n2", "n3")) == []


def test_one_range_is_told_though_members_lack_different_parts() -> None:
    missing = {"n1": [IdRange(1, 5)], "n2": [IdRange(3, 9)], "n3": []}
    assert uncovered(IdRange(1, 10), missing, ("n1", "n2", "n3")) == [IdRange(3, 5)]
