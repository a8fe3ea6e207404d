"""Which entries too few members hold. Pure functions. docs/protocol.md, "Membership"."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from walle.core.quorum import majority_size
from walle.ids import IdRange

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def uncovered(
    wanted: IdRange, missing: Mapping[str, Sequence[IdRange]], members: Sequence[str]
) -> list[IdRange]:
    """The ranges of `wanted` that no majority of `members` holds, lowest first.

    missing: what each member lacks of `wanted`, by node id; a member that is not in it lacks all.
    """
    steps: Counter[int] = Counter()  # how many members more, or fewer, lack what begins there
    for member in members:
        counted = wanted.start
        for each in sorted(missing.get(member, [wanted])):
            start, end = max(each.start, counted), min(each.end, wanted.end)
            if start < end:
                steps[start] += 1
                steps[end] -= 1
                counted = end
    found: list[IdRange] = []
    holders, begin = len(members), 0
    for edge in sorted(steps):
        holders -= steps[edge]
        if holders < majority_size(len(members)):
            begin = begin or edge
        elif begin:
            found.append(IdRange(begin, edge))
            begin = 0
    return found
