"""One member on its own: a test is the other members, storage and the clock."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tests.unit.making import THREE, W1, entries
from walle.core.context import Context
from walle.core.effects import Forward, Promise
from walle.core.history import History
from walle.core.member import Member, State
from walle.core.timers import NEVER
from walle.ids import ORIGIN, Position, WriterId
from walle.limits import LEASE_MS_MIN

if TYPE_CHECKING:
    from walle.core.effects import Action, Send
    from walle.core.topology import StreamTopology
    from walle.messages import Message
    from walle.record import Batch

STREAM = 7
SESSION = 1


class NodeBench:
    """What the core of node n1 asks for, and how it is answered. Storage syncs at once."""

    def __init__(self) -> None:
        self.context = Context("n1", random.Random(1))
        self.context.wall_us = 1_000_000
        self.context.sessions.open(SESSION)
        self._sends: list[Send] = []
        self._actions: list[Action] = []

    def _collect(self) -> None:
        outbox = self.context.outbox
        outbox.synced = outbox.sequence
        sends, actions = outbox.take()
        self._sends += sends
        self._sends += [each.send for each in actions if isinstance(each, Forward)]
        self._actions += [each for each in actions if not isinstance(each, Forward)]

    def asked(self, kind: type[Any]) -> dict[str, Send]:
        """The newest question of that kind to each node, since the last call."""
        self._collect()
        found = [s for s in self._sends if isinstance(s.to, str) and isinstance(s.message, kind)]
        self._sends = [each for each in self._sends if each not in found]
        return {str(each.to): each for each in found}

    def answers(self) -> list[Any]:
        """What was answered to sessions, since the last call."""
        self._collect()
        found = [each for each in self._sends if isinstance(each.to, int)]
        self._sends = [each for each in self._sends if not isinstance(each.to, int)]
        return [each.message for each in found]

    def actions(self, kind: type[Any]) -> list[Any]:
        """The actions of that kind that storage was given, since the last call."""
        self._collect()
        found = [each for each in self._actions if isinstance(each, kind)]
        self._actions = [each for each in self._actions if not isinstance(each, kind)]
        return found

    def reply(self, asked: Send, message: Message, batch: Batch | None = None) -> None:
        """The node that was asked answers."""
        self.context.calls.receive(str(asked.to), asked.request_id, message, batch)

    def pass_ms(self, ms: float) -> None:
        """Time passes; alarms ring when they are due."""
        end_ns = self.context.after_ms(ms)
        self.context.outbox.end_step()
        while (due_ns := self.context.timers.next_ns()) <= end_ns:
            self.context.now_ns = max(due_ns, self.context.now_ns)
            self.context.timers.run_due(due_ns)
            self.context.outbox.end_step()
        self.context.now_ns = end_ns

    @property
    def is_idle(self) -> bool:
        """Whether no alarm is set."""
        return self.context.timers.next_ns() == NEVER


class MemberBench(NodeBench):
    """A member of three, who has promised w1 and accepted it."""

    def __init__(
        self,
        history: History | None = None,
        *,
        topology: StreamTopology = THREE,
        accepted: WriterId = W1,
        is_started: bool = True,
    ) -> None:
        super().__init__()
        self.changes = 0
        self.stale = 0
        self.member = Member(
            self.context,
            State(
                STREAM,
                "/s",
                topology,
                history or History(),
                Promise(W1, "app:1", LEASE_MS_MIN, 0),
                accepted,
            ),
            on_change=self._on_change,
            on_stale=self._on_stale,
        )
        if is_started:
            self.member.start()

    def _on_change(self, _member: Member) -> None:
        self.changes += 1

    def _on_stale(self) -> None:
        self.stale += 1


class Truth:
    """The whole history of a stream, entry by entry; batches of any part of it."""

    def __init__(self, count: int, writer: WriterId = W1, after: Position = ORIGIN) -> None:
        self._writer = writer
        self._positions = {after.entry_id: after}
        for _ in range(count):
            last = self._positions[max(self._positions)]
            self._positions[last.entry_id + 1] = entries(1, last, writer).last

    def at(self, entry_id: int) -> Position:
        return self._positions[entry_id]

    def batch(self, first_id: int, last_id: int) -> Batch:
        return entries(last_id - first_id + 1, self.at(first_id - 1), self._writer)

    def held(self, committed_id: int, tail_id: int | None = None) -> History:
        """Entries up to `tail_id`, of which those up to `committed_id` are committed."""
        history = History()
        if tail_id or committed_id:
            history.append(self.batch(1, tail_id or committed_id), 0)
        history.commit(self.at(committed_id))
        return history

    def with_gap(self, below_id: int, start: int, last_id: int) -> History:
        """Entries up to `below_id`, and those from `start` on: all committed."""
        history = self.held(below_id)
        history.jump(self.batch(start, last_id), 0, self.at(last_id))
        return history
