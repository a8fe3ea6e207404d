"""Judging what clients were told, from outside."""

from __future__ import annotations

import pytest

from walle.errors import Outcome
from walle.ids import Position
from walle.testing.operations import Operations
from walle.testing.violation import Violation

CHAINS = {0: 0, 1: 11, 2: 22, 3: 33}
FIRST, SECOND, THIRD = (Position(number, number * 11) for number in (1, 2, 3))
OTHER = Position(2, 99)


def put(operations: Operations, position: Position, outcome: Outcome, *, at: int) -> None:
    """A put that began at `at` and ended one later."""
    operation = operations.begin_put("a put", position, at)
    operations.end(operation, outcome, at + 1)


def test_history_that_explains_everything_is_accepted() -> None:
    operations = Operations()
    put(operations, FIRST, Outcome.DURABLE, at=1)
    operations.saw("a read", FIRST, 3, 4)
    put(operations, OTHER, Outcome.NOT_WRITTEN, at=5)
    put(operations, SECOND, Outcome.DURABLE, at=7)
    put(operations, THIRD, Outcome.UNKNOWN, at=9)
    operations.begin_put("a put without an end", Position(4, 1), 11)
    operations.saw("a section", SECOND, 12, 13)
    operations.judge(CHAINS)
    assert operations.count(Outcome.DURABLE) == 4
    assert operations.count(Outcome.UNKNOWN) == 2


@pytest.mark.parametrize("position", [OTHER, Position(4, 44)])
def test_durable_put_must_be_there(position: Position) -> None:
    operations = Operations()
    put(operations, position, Outcome.DURABLE, at=1)
    with pytest.raises(Violation, match="called durable, and is not there"):
        operations.judge(CHAINS)


def test_put_that_was_certainly_not_written_must_not_be_there() -> None:
    operations = Operations()
    put(operations, SECOND, Outcome.NOT_WRITTEN, at=1)
    with pytest.raises(Violation, match="called not written, and is there"):
        operations.judge(CHAINS)


def test_what_was_seen_must_be_there() -> None:
    operations = Operations()
    operations.saw("a read", OTHER, 1, 2)
    with pytest.raises(Violation, match="a read of 2:"):
        operations.judge(CHAINS)


def test_read_must_see_what_was_known_before_it_began() -> None:
    operations = Operations()
    put(operations, SECOND, Outcome.DURABLE, at=1)
    operations.saw("a read", FIRST, 2, 9)  # began when the put ended: either order will do
    operations.judge(CHAINS)
    operations.saw("a late read", FIRST, 3, 9)
    with pytest.raises(Violation, match=r"a late read of 1:.* began when entry 2 was known"):
        operations.judge(CHAINS)


def test_read_must_see_what_another_read_has_seen() -> None:
    operations = Operations()
    operations.saw("a read", THIRD, 1, 2)
    operations.saw("a later one", SECOND, 3, 4)
    with pytest.raises(Violation, match="a later one"):
        operations.judge(CHAINS)


def test_no_operation_ends_twice() -> None:
    operations = Operations()
    operation = operations.begin_put("a put", FIRST, 1)
    operations.end(operation, Outcome.DURABLE, 2)
    with pytest.raises(Violation, match="ended twice"):
        operations.end(operation, Outcome.DURABLE, 3)
