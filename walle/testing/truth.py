"""What was acknowledged, seen from outside, and whether the members keep it.

The truth is collected from the answers that members send: an entry is committed once a majority has
acknowledged it under one writer and one version, whether or not that writer ever hears of it. The
checks are those of docs/protocol.md, "Invariants".
"""

from __future__ import annotations

from collections import deque
from itertools import combinations, product
from typing import TYPE_CHECKING

from walle.core import quorum
from walle.core.quorum import majority_size
from walle.errors import Code
from walle.ids import NO_WRITER, ORIGIN, Position, WriterId
from walle.messages import Put, PutReply, Stamp, StampReply
from walle.testing.violation import Violation, require

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from walle.core.topology import StreamTopology
    from walle.messages import Message
    from walle.record import Batch
    from walle.testing.disk import Stream


class Truth:
    """The committed history of one stream.

    topology_of: the stream's committed topology with that version.
    tip: its last entry. chains: of all its entries, by id.
    """

    def __init__(self, stream_id: int, topology_of: Callable[[int], StreamTopology]) -> None:
        self.tip = ORIGIN
        self.chains = {0: 0}
        self._stream_id = stream_id
        self.topology_of = topology_of
        self._parents: dict[Position, Position] = {}
        self._writers: dict[Position, WriterId] = {}
        self._stamps: dict[WriterId, Position] = {}
        self._stamped: dict[tuple[WriterId, int], set[str]] = {}
        self._newest_claim = NO_WRITER
        self._foreseen: deque[object] = deque(maxlen=2)
        self._acknowledged: dict[tuple[WriterId, int], dict[str, Position]] = {}

    # --- watching ---------------------------------------------------------------------------------

    def saw(self, source: str, message: Message, batch: Batch | None) -> None:
        """A message was sent."""
        if getattr(message, "stream_id", None) != self._stream_id:
            return
        if isinstance(message, Put) and batch is not None:
            self.learn(batch)
            for entry_id in range(batch.first_id, batch.last_id + 1):
                self._writers.setdefault(batch.position_at(entry_id), message.writer)
        elif isinstance(message, Stamp):
            known = self._stamps.setdefault(message.writer, message.tail)
            require(known == message.tail, "a claim stamps one history")
        elif isinstance(message, StampReply) and message.code == Code.OK:
            tail = self._stamps[message.promised]
            self._acknowledge(message.promised, message.version, source, tail)
            self._stamp(message.promised, message.version, source)
        elif isinstance(message, PutReply) and message.code == Code.OK:
            self._acknowledge(message.promised, message.version, source, message.held)

    def learn(self, batch: Batch) -> None:
        """These entries exist somewhere."""
        before = batch.before
        for entry_id in range(batch.first_id, batch.last_id + 1):
            position = batch.position_at(entry_id)
            self._parents[position] = before
            before = position

    def _acknowledge(self, writer: WriterId, version: int, node: str, held: Position) -> None:
        if not held.entry_id:
            return
        acknowledged = self._acknowledged.setdefault((writer, version), {})
        if held.entry_id <= acknowledged.get(node, ORIGIN).entry_id:
            return
        acknowledged[node] = held
        ids = {each: position.entry_id for each, position in acknowledged.items()}
        committed_id = quorum.majority_value(self.topology_of(version), ids)
        if committed_id:
            highest = max(acknowledged.values())
            self._commit(self.at(highest, committed_id))

    def _stamp(self, writer: WriterId, version: int, node: str) -> None:
        """With a majority of stamps a claim may return: what it has not found is not written."""
        stamped = self._stamped.setdefault((writer, version), set())
        stamped.add(node)
        if quorum.is_majority(self.topology_of(version), stamped):
            self._newest_claim = max(self._newest_claim, writer)

    def _commit(self, position: Position) -> None:
        """A majority has acknowledged it under one writer."""
        news = []
        walk = position
        while walk.entry_id > self.tip.entry_id:
            news.append(walk)
            walk = self._parents[walk]
        require(
            self.chains[walk.entry_id] == walk.chain,
            f"agreement: {position} was committed beside {self.tip}: two histories",
        )
        for each in news:
            require(
                self._writers.get(each, self._newest_claim) >= self._newest_claim,
                f"exclusivity: {each} was committed after a claim had returned without it",
            )
            self.chains[each.entry_id] = each.chain
        self.tip = max(self.tip, position)

    # --- checking ---------------------------------------------------------------------------------

    def at(self, tail: Position, entry_id: int) -> Position:
        """The entry with that id in the history that ends at `tail`."""
        while tail.entry_id > entry_id:
            tail = self._parents[tail]
        return tail

    def check_members(self, streams: Mapping[str, Stream]) -> None:
        """What each member takes for committed is."""
        for name, stream in streams.items():
            committed = stream.history.committed
            if self.chains.get(committed.entry_id) != committed.chain:
                raise Violation(f"agreement: {name} takes {committed} for committed, which is not")
            if stream.accepted > stream.promise.writer:
                raise Violation(f"{name}: accepted is above promised")

    def check_foresight(
        self,
        streams: Mapping[str, Stream],
        newest: StreamTopology,
        last_version: int,
        lost: Collection[str] = (),
    ) -> None:
        """A claim by every possible majority would keep every acknowledged entry.

        streams: of the nodes that have one; a node without has promised and accepted nothing.
        newest: the newest committed topology. Majorities of an older one count, too, as long as
            enough of its members have not left it.
        last_version: the newest one that names anybody.
        lost: the nodes that will never come back.
        """
        seen = self._foresight_of(streams), self.tip, newest.version
        if seen in self._foreseen:
            return
        self._foreseen.append(seen)
        for version in range(last_version, 0, -1):
            topology = self.topology_of(version)
            present = {
                node: streams.get(node)
                for node in topology.everyone
                if version == newest.version
                or node not in streams
                or streams[node].topology.version <= version
            }
            able = [
                node
                for node, each in present.items()
                if (each is None or not each.is_doubtful) and node not in lost
            ]
            if not quorum.is_majority(topology, able):
                continue
            for majority in majorities(topology):
                if majority <= set(able):
                    self._check_choice(majority, streams)

    def _foresight_of(self, streams: Mapping[str, Stream]) -> object:
        """All that the check depends on."""
        return [
            (name, each.accepted, each.history.tail, each.is_doubtful, each.topology.version)
            for name, each in streams.items()
        ]

    def _check_choice(self, majority: frozenset[str], streams: Mapping[str, Stream]) -> None:
        def rank(node: str) -> tuple[WriterId, int, str]:
            stream = streams.get(node)
            if stream is None:
                return NO_WRITER, 0, node
            return stream.accepted, stream.history.tail.entry_id, node

        source = max(majority, key=rank)
        tail = streams[source].history.tail if source in streams else ORIGIN
        if self.at(tail, self.tip.entry_id) != self.tip:
            raise Violation(
                f"foresight: a claim by {sorted(majority)} would choose {source}'s history up to "
                f"{tail}, which lacks {self.tip}"
            )

    def check_coverage(
        self, streams: Mapping[str, Stream], holders_min: int, first_entry_id: int = 1
    ) -> None:
        """So many members hold every committed entry that is not trimmed, proved or aside."""
        held = [stream.held() for stream in streams.values()]
        for entry_id, chain in self.chains.items():
            count = sum(chain in each.get(entry_id, ()) for each in held)
            if entry_id >= first_entry_id and count < holders_min:
                raise Violation(f"coverage: entry {entry_id} is held by {count} members only")

    def check_records(self, streams: Mapping[str, Stream]) -> None:
        """No member holds, as proved, anything else below its commit point."""
        for name, stream in streams.items():
            for entry_id, chain in stream.proved():
                if self.chains.get(entry_id) != chain:
                    raise Violation(
                        f"agreement: {name} holds another entry {entry_id} than was committed"
                    )


def majorities(topology: StreamTopology) -> Iterator[frozenset[str]]:
    """The smallest sets that are a majority of the members, and of the old ones while joint."""
    sets = [topology.members, topology.old_members or topology.members]
    choices = [list(combinations(each, majority_size(len(each)))) for each in sets]
    if not topology.old_members:
        choices = choices[:1]
    seen: set[frozenset[str]] = set()
    for parts in product(*choices):
        majority = frozenset(node for part in parts for node in part)
        if majority not in seen:
            seen.add(majority)
            yield majority
