"""One stream of a simulation: its clients, the truth about it, and what must hold at any moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from walle.core import quorum
from walle.core.topology import DELETED, StreamTopology
from walle.ids import STREAM_CLUSTER
from walle.testing.clients import Client, ThinClient
from walle.testing.disk import shape
from walle.testing.operations import Operations
from walle.testing.truth import Truth
from walle.testing.violation import require

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from walle.testing.cluster import Clock, Cluster, Mail
    from walle.testing.disk import Stream

FORESIGHT_EVERY = 2
RECORDS_EVERY = 8
"""So many events that changed anything lie between two checks of that kind."""
CLIENTS_COUNT = 4


class SimulatedStream:
    """A stream and its clients, the last of which is thin.

    has_damage: whether records of it may have been lost to damage, or members for good.
    lost: the nodes that will never come back.
    """

    def __init__(self, cluster: Cluster, rng: random.Random, stream_id: int, name: str) -> None:
        self.cluster = cluster
        self.rng = rng
        self.stream_id = stream_id
        self.stream_name = name
        self.truth = Truth(stream_id, self.topology_of)
        self.operations = Operations()
        self.clients: list[Client] = []
        self.has_damage = False
        self.lost: set[str] = set()
        self._topologies: dict[int, StreamTopology] = {}
        self._events = 0
        self._has_changed = False
        self._is_suspect = False

    def connect(self, first_session: int, draw_clock: Callable[[], Clock]) -> None:
        """Makes its clients, with sessions of their own."""
        kinds = [Client] * (CLIENTS_COUNT - 1) + [ThinClient]
        for session, kind in enumerate(kinds, start=first_session):
            self.clients.append(kind(self, session, draw_clock(), self.newest()))

    def newest(self) -> StreamTopology:
        """The stream's newest committed topology."""
        for node in self.cluster.nodes.values():
            record = node.cluster.streams.get(self.stream_id)
            if record is not None:
                self._learn(record.topology)
            elif node.cluster.is_deleted(self.stream_id):
                self._learn(DELETED)
        for stream in self.streams().values():
            self._learn(stream.topology)
        return self._topologies[max(self._topologies)]

    def _learn(self, topology: StreamTopology) -> None:
        known = self._topologies.get(topology.version, topology)
        self._topologies[topology.version] = known.merged(topology)

    def topology_of(self, version: int) -> StreamTopology:
        """The committed topology with that version; without members, if it was over before any node
        went by it."""
        if version not in self._topologies:
            self.newest()
        return self._topologies.get(version, StreamTopology(version, ()))

    @property
    def is_deleted(self) -> bool:
        """Whether it is no more: it has no members then."""
        return not self.newest().everyone

    @property
    def changes_count(self) -> int:
        """How many changes of members have ended."""
        return (self._last_version - 1) // 2

    @property
    def _last_version(self) -> int:
        """The newest one that named anybody."""
        return max(self._topologies.keys() - {DELETED.version})

    def streams(self) -> dict[str, Stream]:
        """What each node has stored of it."""
        return {
            name: disk.streams[self.stream_id]
            for name, disk in self.cluster.disks.items()
            if self.stream_id in disk.streams and name not in self.lost
        }

    def _durable_streams(self) -> dict[str, Stream]:
        found = {
            name: disk.durable(self.stream_id)
            for name, disk in self.cluster.disks.items()
            if name not in self.lost
        }
        return {name: stream for name, stream in found.items() if stream is not None}

    def describe(self) -> list[str]:
        """The stream's state, a line a member, for people."""
        newest = self.newest() if self.streams() else None
        lines = [f"{self.stream_name}: committed {self.truth.tip}, topology {newest}"]
        for name, stream in sorted(self.streams().items()):
            history = stream.history
            runs = " ".join(f"[{run.start}, {run.end})" for run in history.runs)
            aside = " ".join(f"[{run.start}, {run.end})" for run in history.aside)
            lines.append(
                f"  {name}: v{stream.topology.version} promised {stream.promise.writer} "
                f"accepted {stream.accepted} committed {history.committed} tail {history.tail}, "
                f"runs {runs or 'none'}, aside {aside or 'none'}"
                + (f", doubts up to {stream.doubtful_id}" if stream.is_doubtful else "")
                + ("" if name in self.cluster.nodes else ", down")
            )
        return lines

    # --- watching ---------------------------------------------------------------------------------

    def saw(self, mail: Mail) -> None:
        """A message of this stream was sent. What a relay tells its thin client is not a member's
        answer."""
        if mail.target != "client" or not self._is_thin(mail):
            self.truth.saw(mail.source, mail.message, mail.batch)

    def _is_thin(self, mail: Mail) -> bool:
        return any(client.session == mail.sender and client.is_thin for client in self.clients)

    def changed(self, *, is_suspect: bool = False) -> None:
        """Storage was told to change something of it, or has lost something, or `/cluster` tells
        something new: that is checked with the next event.

        is_suspect: something may be missing now: what is mostly sampled is checked as well.
        """
        self._has_changed = True
        self._is_suspect = self._is_suspect or is_suspect

    # --- checking ---------------------------------------------------------------------------------

    def check(self, *, are_clocks_as_assumed: bool) -> None:
        """What must hold after every event.

        Raises:
            Violation: it does not.
        """
        if are_clocks_as_assumed:
            exclusive = [client.session for client in self.clients if client.is_exclusive]
            require(len(exclusive) <= 1, f"lease: clients {exclusive} are exclusive at once")
        if self._has_changed:
            self._has_changed = False
            self._check_members(self.streams())

    def _check_members(self, streams: dict[str, Stream]) -> None:
        self._events += 1
        newest = self.newest()
        self.truth.check_members(streams)
        for name, node in self.cluster.nodes.items():
            member = node.members.get(self.stream_id)
            require(
                member is None or shape(member.history) == shape(streams[name].history),
                f"{name}'s storage holds another history than its core believes",
            )
        if self._is_suspect or self._events % FORESIGHT_EVERY == 0:
            for each in (streams, self._durable_streams()):
                self.truth.check_foresight(each, newest, self._last_version, self.lost)
        if self._is_suspect or self._events % RECORDS_EVERY == 0:
            self._check_holdings(streams, newest)
        self._is_suspect = False

    def _check_holdings(self, streams: dict[str, Stream], newest: StreamTopology) -> None:
        self.truth.check_records(streams)
        if not newest.everyone:
            return
        named = {name: each for name, each in streams.items() if name in newest.everyone}
        is_plain = newest.version == 1 and not self.has_damage
        majority = quorum.majority_size(len(newest.members))
        self.truth.check_coverage(named, majority if is_plain else 1, newest.first_entry_id)

    # --- the quiet end ----------------------------------------------------------------------------

    def present(self) -> list[str]:
        """The members that are not lost for good."""
        return [name for name in self.newest().members if name not in self.lost]

    def is_whole(self) -> bool:
        """Whether all replicas are identical, complete and committed. Where something was damaged,
        an aside run that recovery has found above the commit point stays until that passes it."""
        streams, names = self.streams(), self.present()
        members = [streams[name] for name in names if name in streams]
        return len(members) == len(names) and all(
            stream.history.committed == stream.history.tail == self.truth.tip
            and not stream.history.gaps()
            and (self.has_damage or not stream.aside)
            and all(run.last.entry_id > self.truth.tip.entry_id for run in stream.history.aside)
            and stream.runs == members[0].runs
            for stream in members
        )

    def is_gone(self) -> bool:
        """Whether all members of a deleted stream have left it."""
        return self.is_deleted and all(each.has_left for each in self.streams().values())

    def judge(self) -> None:
        """The end: all of it is everywhere, and what the clients were told fits together."""
        streams = self.streams()
        self.truth.check_records(streams)
        named = {name: streams[name] for name in self.present()}
        if not self.is_deleted:
            self.truth.check_coverage(named, len(named), self.newest().first_entry_id)
        if self.stream_id != STREAM_CLUSTER:
            self.operations.judge(self.truth.chains)
        for name, node in self.cluster.nodes.items():
            member = node.members.get(self.stream_id)
            if member is not None:
                require(not member.reading._waiting, f"progress: reads still wait at {name}")
                require(not member.watching._watches, f"progress: watches still wait at {name}")
