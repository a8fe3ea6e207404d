"""Which entries too few members hold. Pure functions. docs/protocol.md, "Membership"."""

from __future__ import annotations

from itertools import pairwise
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
    lacking = {member: missing.get(member, [wanted]) for member in members}
    edges = {wanted.start, wanted.end}
    for ranges in lacking.values():
        for each in ranges:
            edges |= {edge for edge in each if wanted.start < edge < wanted.end}
    found: list[IdRange] = []
    for start, end in pairwise(sorted(edges)):
        holders = sum(
            not any(each.start <= start and end <= each.end for each in ranges)
            for ranges in lacking.values()
        )
        if holders >= majority_size(len(members)):
            continue
        if found and found[-1].end == start:
            found[-1] = IdRange(found[-1].start, end)
        else:
            found.append(IdRange(start, end))
    return found
