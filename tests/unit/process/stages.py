"""What the tests of the processes put around the one that they look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from walle import frame
from walle.core.node import Recovered
from walle.limits import MIB
from walle.process import mail
from walle.process.mail import Destination

if TYPE_CHECKING:
    from collections.abc import Callable

    from walle.core.effects import Action, ReadRecords
    from walle.process.mail import Mail
    from walle.ring.bell import Bell
    from walle.ring.spsc import Ring


class Writing:
    """In place of a process's loop: there must be room, so nobody waits."""

    def write(self, ring: Ring, _bell: Bell, parts: list[Any]) -> None:
        assert ring.try_write(*parts)


class Disk:
    """In place of the store.

    done: what happened, in order.
    answer: what a read gives.
    """

    findings = ()
    has_trimmed_files = False

    def __init__(self, answer: Callable[[ReadRecords], list[memoryview]]) -> None:
        self.done: list[str] = []
        self.is_dirty = False
        self.has_unconfirmed = False
        self.read = answer

    def recovered(self) -> Recovered:
        return Recovered()

    def execute(self, action: Action) -> None:
        self.done.append(type(action).__name__)
        self.is_dirty = True

    def sync(self) -> None:
        self.done.append("sync")
        self.is_dirty = False

    def confirm(self) -> None:
        self.done.append("confirm")
        self.is_dirty = True
        self.has_unconfirmed = False

    def drop_spare(self) -> None:
        self.done.append("drop spare")

    def finish(self) -> None:
        self.done.append("finish")

    def remove_some(self) -> int:
        return 0


class Room:
    """In place of the reserve: a disk that has as much space as a test says."""

    reserve_bytes, resume_bytes = 256 * MIB, 320 * MIB

    def __init__(self) -> None:
        self.looks = 0
        self.left_bytes = 1_000 * MIB
        self.has_space = self.has_reserve = True

    def look(self) -> None:
        self.looks += 1


def mails(ring: Ring) -> list[tuple[Destination, bytes, int]]:
    """All mail in the ring: whom it is for, its head, and bytes of records."""
    found: list[tuple[Destination, bytes, int]] = []
    while views := ring.consume():
        for view in views:
            if view[0] == mail.MAIL:
                each: Mail = mail.unpack_mail(view)
                found.append((each.to, bytes(each.head), len(each.records)))
            elif view[0] == mail.MAIL_TO_MANY:
                many = mail.unpack_mail_to_many(view)
                for session, request_id in many.recipients:
                    head = frame.with_request_id(many.head, request_id)
                    found.append((Destination(mail.SESSION, session), head, len(many.records)))
        ring.release()
    return found
