"""What was acknowledged, seen from outside, and whether the members keep it.

The truth is collected from the answers that members send: an entry is committed once a majority has
acknowledged it under one writer, whether or not that writer ever hears of it. The checks are those
of docs/protocol.md, "Invariants", that apply while a stream's members do not change.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import TYPE_CHECKING

from walle.core.quorum import majority_size
from walle.errors import Code
from walle.ids import ORIGIN, Position, WriterId
from walle.messages import Put, PutReply, Stamp, StampReply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.core.disk import Stream
    from walle.messages import Message
    from walle.record import Batch


class Truth:
    """The committed history of one stream.

    tip: its last entry.
    """

    def __init__(self, stream_id: int, members: Sequence[str]) -> None:
        self.tip = ORIGIN
        self.chains = {0: 0}
        self._stream_id = stream_id
        self._members = members
        self._majority = majority_size(len(members))
        self._parents: dict[Position, Position] = {}
        self._stamps: dict[WriterId, Position] = {}
        self._acknowledged: dict[WriterId, dict[str, Position]] = {}

    # --- watching ---------------------------------------------------------------------------------

    def saw(self, source: str, message: Message, batch: Batch | None) -> None:
        """A message was sent."""
        if getattr(message, "stream_id", None) != self._stream_id:
            return
        if isinstance(message, Put) and batch is not None:
            self.learn(batch)
        elif isinstance(message, Stamp):
            known = self._stamps.setdefault(message.writer, message.tail)
            assert known == message.tail, "a claim stamps one history"
        elif isinstance(message, StampReply) and message.code == Code.OK:
            self._acknowledge(message.promised, source, self._stamps[message.promised])
        elif isinstance(message, PutReply) and message.code == Code.OK:
            self._acknowledge(message.promised, source, message.held)

    def learn(self, batch: Batch) -> None:
        """These entries exist somewhere."""
        before = batch.before
        for entry_id in range(batch.first_id, batch.last_id + 1):
            position = batch.position_at(entry_id)
            self._parents[position] = before
            before = position

    def _acknowledge(self, writer: WriterId, node: str, held: Position) -> None:
        if not held.entry_id:
            return
        acknowledged = self._acknowledged.setdefault(writer, {})
        if held.entry_id > acknowledged.get(node, ORIGIN).entry_id:
            acknowledged[node] = held
            if len(acknowledged) >= self._majority:
                self._commit(sorted(acknowledged.values(), reverse=True)[self._majority - 1])

    def _commit(self, position: Position) -> None:
        """A majority has acknowledged it under one writer."""
        news = []
        walk = position
        while walk.entry_id > self.tip.entry_id:
            news.append(walk)
            walk = self._parents[walk]
        assert self.chains[walk.entry_id] == walk.chain, (
            f"{position} was committed beside {self.tip}: two histories"
        )
        for each in news:
            self.chains[each.entry_id] = each.chain
        self.tip = max(self.tip, position)

    # --- checking ---------------------------------------------------------------------------------

    def at(self, tail: Position, entry_id: int) -> Position:
        """The entry with that id in the history that ends at `tail`."""
        while tail.entry_id > entry_id:
            tail = self._parents[tail]
        return tail

    def check(self, streams: Mapping[str, Stream]) -> None:
        """Durability, agreement, foresight."""
        for name, stream in streams.items():
            committed = stream.history.committed
            assert self.chains.get(committed.entry_id) == committed.chain, (
                f"{name} takes {committed} for committed, which is not"
            )
            assert stream.accepted <= stream.promise.writer, f"{name}: accepted above promised"
        for majority in combinations(self._members, self._majority):
            source = max(
                majority, key=lambda n: (streams[n].accepted, streams[n].history.tail.entry_id, n)
            )
            tail = streams[source].history.tail
            assert self.at(tail, self.tip.entry_id) == self.tip, (
                f"a claim by {majority} would choose {source}'s history up to {tail}, "
                f"which lacks {self.tip}"
            )

    def check_coverage(self, streams: Mapping[str, Stream]) -> None:
        """A majority holds every committed entry, proved or aside."""
        holders: Counter[Position] = Counter()
        for stream in streams.values():
            for entry_id, chains in stream.held().items():
                holders.update(Position(entry_id, chain) for chain in chains)
        for entry_id, chain in self.chains.items():
            assert not entry_id or holders[Position(entry_id, chain)] >= self._majority, (
                f"entry {entry_id} is held by {holders[Position(entry_id, chain)]} members only"
            )
