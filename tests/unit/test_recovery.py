"""What a stream that has lost its majority can go on with, and what is lost."""

from __future__ import annotations

import pytest

from walle.client.recovery import Survivor, plan
from walle.errors import Refused
from walle.ids import IdRange, WriterId
from walle.messages import NodeAddress, StreamInfo

OLD, NEW = WriterId(1, 1), WriterId(2, 1)


def info(members: str, old: str = "", first_entry_id: int = 1) -> StreamInfo:
    now, before = (
        tuple(NodeAddress(f"n{each}", f"n{each}:1") for each in part) for part in (members, old)
    )
    return StreamInfo(7, "/s", 3, now, before, first_entry_id)


def left(
    node: int,
    tail_id: int,
    *missing: tuple[int, int],
    accepted: WriterId = NEW,
    doubtful_id: int = 0,
) -> Survivor:
    gaps = tuple(IdRange(*each) for each in missing)
    return Survivor(f"n{node}", accepted, min(tail_id, 10), tail_id, doubtful_id, gaps)


def test_what_the_last_member_lacks_is_lost() -> None:
    found = plan(info("123", first_entry_id=3), [left(1, 12, (5, 7))])
    assert found.members == ("n1",)
    assert (found.committed_id, found.tail_id) == (10, 12)
    assert found.lost == (IdRange(5, 7),)


def test_two_help_each_other() -> None:
    found = plan(info("12345"), [left(1, 12, (3, 8)), left(2, 6, (1, 4))])
    assert found.members == ("n1", "n2")
    assert found.tail_id == 12
    assert found.lost == (IdRange(3, 4), IdRange(7, 8)), "n2 has nothing above 6"


def test_newer_writer_counts_more_than_a_longer_tail() -> None:
    found = plan(info("12345"), [left(1, 20, accepted=OLD), left(2, 11)])
    assert found.tail_id == 11
    assert found.members == ("n1", "n2")


def test_of_three_the_two_that_hold_most_are_chosen() -> None:
    survivors = [left(1, 12, (1, 9)), left(2, 11, (1, 5)), left(3, 6)]
    found = plan(info("1234567"), survivors)
    assert found.members == ("n1", "n3")
    assert found.lost == (IdRange(7, 9),)
    assert found.survivors == tuple(survivors)


def test_both_of_a_change_are_asked() -> None:
    found = plan(info("145", old="123"), [left(1, 9), left(4, 9, (1, 9))])
    assert found.members == ("n1", "n4")
    with pytest.raises(Refused, match="a majority of the members of /s answers"):
        plan(info("145", old="123"), [left(1, 9), left(4, 9), left(2, 9)])


def test_doubtful_member_cannot_go_on() -> None:
    found = plan(info("12345"), [left(1, 12, doubtful_id=14), left(2, 6)])
    assert (found.members, found.tail_id) == (("n2",), 6)
    with pytest.raises(Refused, match="n1 may have lost entries to damage; restore"):
        plan(info("123"), [left(1, 12, doubtful_id=14)])


def test_majority_of_which_too_few_can_tell_how_far_they_went_is_lost() -> None:
    """A claim needs tails of a majority: it waits for one that will never come."""
    survivors = [left(1, 12), left(2, 12, doubtful_id=14)]
    assert plan(info("123"), survivors).members == ("n1",)
    with pytest.raises(Refused, match="nothing needs to be lost"):
        plan(info("123"), [*survivors, left(3, 12)])


def test_nothing_left() -> None:
    with pytest.raises(Refused, match="no member of /s is left"):
        plan(info("123"), [])


def test_majority_is_not_lost() -> None:
    with pytest.raises(Refused, match="use `walle stream members`"):
        plan(info("123"), [left(1, 9), left(2, 9)])
