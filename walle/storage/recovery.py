"""What becomes of one stream when the store is opened: two decision tables, and what follows.

The segments of a stream are read where the journal does not tell how they end, and where the
chains around the commit point are needed. What is found there are *pieces*: good records in a row
(walle/storage/examine.py). FATES says what becomes of a piece, TAILS what of the stream's tail.
docs/storage.md has both tables with their reasons.
"""

from __future__ import annotations

from array import array
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from walle.core.effects import Promise
from walle.core.history import History, Run
from walle.core.member import State
from walle.core.topology import StreamTopology
from walle.ids import IdRange, Position
from walle.limits import COMMITTED_LAG_ENTRIES_MAX, MIB
from walle.record import HEADER_BYTES as RECORD_HEADER_BYTES
from walle.storage.log import StreamLog
from walle.storage.manifest import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from walle.storage.examine import Examined, Piece
    from walle.storage.extent import Extent
    from walle.storage.manifest import ExtentRecord, StreamRecord


CHAINS_READ_BYTES = 64 * MIB
"""How much of sealed segments is read for chains that are merely useful."""


class Found(Enum):
    """Where a piece was found."""

    LINKED = "where the journal says, and it builds on the piece below"
    NAMED = "where the journal says; what it builds on is missing"
    LOOSE = "behind a break in an extent: by a search"


class Side(Enum):
    """Where a piece lies beside the durable commit point."""

    BELOW = "ends below it"
    HOLDS = "holds that entry, with that chain"
    DENIES = "holds an entry of that id, with another chain"
    ABOVE = "begins above it"


class Fate(Enum):
    """What becomes of a piece."""

    RUN = "a part of a run"
    ASIDE = "an aside run: it may be what is missing, and is not proved"
    LOST = "nothing: it counts as missing"


FATES: dict[tuple[Found, Side], Fate] = {
    (Found.LINKED, Side.BELOW): Fate.RUN,
    (Found.LINKED, Side.HOLDS): Fate.RUN,
    (Found.LINKED, Side.DENIES): Fate.ASIDE,
    (Found.LINKED, Side.ABOVE): Fate.RUN,  # the uncommitted suffix
    (Found.NAMED, Side.BELOW): Fate.RUN,  # a gap lies below: of a jump, or where a file is missing
    (Found.NAMED, Side.HOLDS): Fate.RUN,
    (Found.NAMED, Side.DENIES): Fate.ASIDE,
    (Found.NAMED, Side.ABOVE): Fate.ASIDE,
    (Found.LOOSE, Side.BELOW): Fate.ASIDE,  # it lies in the gap that the damage left
    (Found.LOOSE, Side.HOLDS): Fate.RUN,  # the commit point's chain proves it
    (Found.LOOSE, Side.DENIES): Fate.LOST,
    (Found.LOOSE, Side.ABOVE): Fate.LOST,
}


class Tail(Enum):
    """How the live run ends."""

    CLEAN = "where the newest note says: it goes on there"
    TORN = "before an append that was never completed, and so never acknowledged: it is cut"
    DAMAGED = "before entries that were here: they may have been acknowledged"


TAILS: dict[tuple[bool, bool], Tail] = {
    # (an entry above the tail was here for certain, the last append of its file is not whole)
    (False, False): Tail.CLEAN,
    (False, True): Tail.TORN,
    (True, False): Tail.DAMAGED,
    (True, True): Tail.DAMAGED,
}


def side_of(piece: Piece, committed: Position) -> Side:
    """Where the piece lies beside the commit point."""
    extent = piece.extent
    if extent.last.entry_id < committed.entry_id:
        return Side.BELOW
    if extent.first_id > committed.entry_id:
        return Side.ABOVE
    chains = piece.chains
    if chains is not None and chains[committed.entry_id - extent.first_id] == committed.chain:
        return Side.HOLDS
    return Side.DENIES


class RecoveredStream(NamedTuple):
    """findings: what was cut, lost or doubted, in sentences."""

    log: StreamLog
    state: State
    findings: list[str]


class StreamRecovery:
    """Recovers one stream.

    Args:
        record: its small state.
        extents: its extents.
        look: what an extent holds; with `is_read`, its records are looked at.
        reads_all: whether all records are, or those that must be.
    """

    def __init__(
        self,
        record: StreamRecord,
        extents: Iterable[ExtentRecord],
        look: Callable[[ExtentRecord, bool], Examined],
        *,
        reads_all: bool = False,
    ) -> None:
        self._extents = sorted(extents, key=lambda each: (each.group_id, each.first_id))
        self._look = look
        self._reads_all = reads_all
        topology = StreamTopology(
            record.version,
            record.members,
            record.old_members,
            record.first_entry_id,
            record.first_prev_chain,
        )
        # The origin of a trim is committed, and may be durable before the journal says so.
        self._record = record._replace(committed=max(record.committed, topology.origin))
        self._log = StreamLog(record.stream_id, record.name, topology)
        self._kept: list[Piece] = []
        self._findings: list[str] = []

    def recover(self) -> RecoveredStream:
        """Decides about every extent, in the order runs, aside runs, fill."""
        log, record = self._log, self._record
        log.promise = Promise(
            record.promised, record.address, record.lease_ms, record.older_lease_ms
        )
        log.accepted = record.accepted
        log.next_number = 1 + max((each.file_number for each in self._extents), default=0)
        self._recover_runs()
        history = self._history()
        self._recover_aside(history)
        self._recover_fill(history)
        for extent in log.extents():
            extent.segment.extents_count += 1
            if extent.is_sealed:
                extent.index = None
        self._close_gap(history)
        history.trim(log.topology.origin)
        if log.doubtful_id <= history.committed.entry_id:
            log.doubtful_id = 0
        state = State(
            record.stream_id,
            record.name,
            log.topology,
            history,
            log.promise,
            log.accepted,
            log.doubtful_id,
        )
        return RecoveredStream(log, state, self._findings)

    def _find(self, text: str) -> None:
        self._findings.append(f"stream {self._record.name}: {text}")

    def _of_kind(self, kind: Kind) -> list[ExtentRecord]:
        return [extent for extent in self._extents if extent.kind == kind]

    # --- the runs ---------------------------------------------------------------------------------

    def _recover_runs(self) -> None:
        """Applies FATES to all pieces, then TAILS."""
        log, committed = self._log, self._record.committed
        known_id = committed.entry_id
        examined: Examined | None = None
        strays: list[Extent] = []
        records = self._of_kind(Kind.RUN)
        first_read = self._first_to_read(records)
        for number, record in enumerate(records):
            is_recent = number >= first_read
            examined = self._look(record, is_recent or self._reads_all)
            known_id = max(known_id, examined.known_id)
            self._report(record, examined)
            for piece in examined.pieces:
                strays += self._place(piece if is_recent else _forget_chains(piece))
        log.runs = [piece.extent for piece in self._kept]
        _group(strays, log.aside)
        tail = log.tail
        log.durable_id = tail.entry_id
        log.committed = log.journaled = committed if committed.entry_id <= tail.entry_id else tail
        log.doubtful_id = self._record.doubtful_id
        if examined is not None:
            self._end_tail(examined, known_id)

    def _first_to_read(self, records: list[ExtentRecord]) -> int:
        """From which extent on records are looked at, to find the tail and the newest chains.

        The chains from the commit point on must be known. More are useful, up to a limit of
        entries, and of bytes: opening must not take long.
        """
        committed_id = self._record.committed.entry_id
        number, spare_bytes = len(records), CHAINS_READ_BYTES
        while number:
            record = records[number - 1]
            if record.is_sealed and record.last.entry_id < committed_id:
                spare_bytes -= record.end - record.offset
                floor_id = committed_id - COMMITTED_LAG_ENTRIES_MAX
                if record.last.entry_id <= floor_id or spare_bytes < 0:
                    break
            number -= 1
        return number

    def _report(self, record: ExtentRecord, examined: Examined) -> None:
        """Says what is missing of an extent."""
        start = record.first_id
        missing = []
        for piece in examined.pieces:
            if piece.extent.first_id > start:
                missing.append(IdRange(start, piece.extent.first_id))
            start = piece.extent.last.entry_id + 1
        if start <= examined.known_id:
            missing.append(IdRange(start, examined.known_id + 1))
        for entries in missing:
            self._find(f"entries {entries} are damaged or missing in file {record.file_number}")

    def _place(self, piece: Piece) -> list[Extent]:
        """Adds the piece to the runs, or returns it as one to be kept aside, or neither."""
        committed, extent = self._record.committed, piece.extent
        if extent.last.entry_id < self._record.first_entry_id:
            return []  # trimmed
        if not piece.is_named:
            found = Found.LOOSE
        else:
            tail = self._kept[-1].extent.last if self._kept else self._log.topology.origin
            found = Found.LINKED if extent.before == tail else Found.NAMED
        fate = FATES[found, side_of(piece, committed)]
        if fate is Fate.RUN:
            self._kept.append(piece)
        return [extent] if fate is Fate.ASIDE else []

    def _end_tail(self, examined: Examined, known_id: int) -> None:
        """Decides how the live run ends.

        examined: the last extent of the runs.
        known_id: the highest entry id that was held for certain.
        """
        log, tail = self._log, self._log.tail
        verdict = TAILS[known_id > tail.entry_id, examined.torn_bytes > 0]
        if verdict is Tail.CLEAN and examined.note is not None and tail == examined.note.last:
            live = log.runs[-1]
            live.is_sealed = False
            live.segment.resume(examined.note)
        elif verdict is Tail.TORN:
            self._find(
                f"an append of {examined.torn_bytes} bytes behind entry {tail}, which was never "
                "completed, was cut"
            )
        elif verdict is Tail.DAMAGED:
            # Notes that are lost, or older than the commit point, do not tell what was here.
            is_told = examined.note and self._record.committed.entry_id <= examined.known_id
            room_bytes = 0 if is_told else examined.room_bytes
            room_id = examined.known_id + -(-room_bytes // RECORD_HEADER_BYTES)
            log.doubtful_id = max(log.doubtful_id, known_id, room_id)
            self._find(
                f"entries behind {tail} are damaged or missing; up to entry {log.doubtful_id} may "
                "have been acknowledged, so this node does not answer for its tail until it has "
                "caught up with a newer writer"
            )

    def _history(self) -> History:
        """The runs for the core, with the chains of the newest entries."""
        log = self._log
        chains, base = array("Q"), log.tail
        for piece in reversed(self._kept):
            if piece.chains is None or piece.extent.last != base:
                break
            chains, base = piece.chains + chains, piece.extent.before
        surplus = log.committed.entry_id - COMMITTED_LAG_ENTRIES_MAX - base.entry_id
        if surplus > 0:
            base = Position(base.entry_id + surplus, chains[surplus - 1])
            del chains[:surplus]
        return History(
            log.topology.origin,
            _join(log.runs),
            committed=log.committed,
            base=base,
            chains=chains,
        )

    # --- aside runs and the fill ------------------------------------------------------------------

    def _recover_aside(self, history: History) -> None:
        """Keeps the aside runs that are still there and may still be needed.

        One that lies outside all gaps and below the commit point is not: what of it was committed
        is held.
        """
        log = self._log
        found = [
            piece.extent
            for record in self._of_kind(Kind.ASIDE)
            for piece in self._look(record, self._reads_all).pieces
        ]
        _group(found, log.aside)
        gaps, committed_id = history.gaps(), history.committed.entry_id
        log.aside = [
            group
            for group in log.aside
            if group[-1].last.entry_id > committed_id
            or any(
                group[0].first_id < gap.end and gap.start <= group[-1].last.entry_id for gap in gaps
            )
        ]
        history.aside = [run for group in log.aside for run in _join(group)]

    def _recover_fill(self, history: History) -> None:
        """Keeps the fill as far as it builds on what is below the lowest gap, without a break."""
        log, gap = self._log, history.lowest_gap()
        for record in self._of_kind(Kind.FILL):
            examined = self._look(record, self._reads_all or not record.is_sealed)
            if not examined.pieces or gap is None:
                break
            extent = examined.pieces[0].extent
            is_linked = extent.before == log.fill_position() or (
                extent.first_id < self._record.first_entry_id <= extent.last.entry_id
            )
            if not is_linked or extent.last.entry_id >= gap[1].start:
                break
            log.fill.append(extent)
            if extent.last.entry_id < examined.known_id or examined.torn_bytes:
                break
            if examined.note is not None:
                extent.is_sealed = False
                extent.segment.resume(examined.note)
        history.fill = _join(log.fill)[0] if log.fill else None

    def _close_gap(self, history: History) -> None:
        """Ends the fill if it spans the lowest gap: a crash came between it and its CloseGap."""
        log, gap = self._log, history.lowest_gap()
        if history.fill is None or gap is None or history.fill.end < gap[1].start:
            return
        if history.fill.last == gap[1].before:
            log.close_gap()
            history.close_gap()
        else:
            log.drop_fill()
            history.fill = None


def _forget_chains(piece: Piece) -> Piece:
    """The piece without what it takes memory for each of its entries to know."""
    piece.extent.index = None
    return piece._replace(chains=None)


def _join(extents: Iterable[Extent]) -> list[Run]:
    """The runs that these extents make up."""
    runs: list[Run] = []
    for extent in extents:
        if runs and runs[-1].last == extent.before:
            runs[-1].last = extent.last
        else:
            runs.append(Run(extent.first_id, extent.prev_chain, extent.last))
    return runs


def _group(extents: Iterable[Extent], groups: list[list[Extent]]) -> None:
    """Adds extents to the aside runs: each group is what one run is made of.

    Two aside runs may touch, so what was one group stays one, and two stay two.
    """
    former_id = None
    for extent in extents:
        group_id = extent.group_id if extent.kind is Kind.ASIDE else 0
        if group_id != former_id or groups[-1][-1].last != extent.before:
            groups.append([])
        former_id = group_id
        groups[-1].append(extent)
        extent.kind = Kind.ASIDE
        extent.group_id = groups[-1][0].first_id
