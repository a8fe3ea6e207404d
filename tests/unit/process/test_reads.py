"""The reads that wait for storage: each session's in order, the sessions in turn, all bounded."""

from __future__ import annotations

from unittest.mock import patch

from walle.core.effects import ReadRecords, Send
from walle.messages import FetchReply
from walle.process import mail, reads
from walle.process.mail import Destination
from walle.process.reads import Reads

A = Destination(mail.SESSION, 1)
B = Destination(mail.SESSION, 2)


def read(start: int) -> ReadRecords:
    send = Send("n1", 1, FetchReply(2, start))
    return ReadRecords(2, start, start + 1, 1, after=None, aside=False, send=send)


def starts(waiting: Reads) -> list[int]:
    taken = [waiting.take() for _ in range(len(waiting))]
    return [each.start for each in taken if isinstance(each, ReadRecords)]


def test_sessions_are_served_in_turn_and_each_in_its_order() -> None:
    waiting = Reads()
    for whose, start in ((A, 1), (A, 2), (A, 3), (B, 10), (B, 11)):
        assert waiting.add(whose, read(start))
    assert starts(waiting) == [1, 10, 2, 11, 3]
    assert len(waiting) == 0


def test_a_session_has_a_bounded_number_that_is_its_own() -> None:
    waiting = Reads()
    with patch.object(reads, "READS_QUEUED_SESSION_MAX", 2):
        assert [waiting.add(A, read(start)) for start in (1, 2, 3)] == [True, True, False]
        assert waiting.add(B, read(10))
        waiting.take()
        assert waiting.add(A, read(4))
    assert starts(waiting) == [10, 2, 4]


def test_all_sessions_together_have_a_bounded_number() -> None:
    waiting = Reads()
    with patch.object(reads, "READS_QUEUED_MAX", 2):
        assert [waiting.add(whose, read(1)) for whose in (A, B, A, B)] == [True, True, False, False]
        waiting.take()
        assert waiting.add(B, read(2))


def test_the_reads_of_a_session_that_has_ended_are_dropped() -> None:
    waiting = Reads()
    for whose, start in ((A, 1), (A, 2), (B, 10)):
        waiting.add(whose, read(start))
    waiting.drop(A)
    waiting.drop(A)
    assert len(waiting) == 1
    assert starts(waiting) == [10]
