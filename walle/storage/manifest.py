"""What the journal says: the cluster, each stream's small state, and its extents.

An *extent* is a stretch of a segment file that holds consecutive records. A stream's entries are
the sum of its extents; what none names does not exist, whatever the files hold. A file may hold
two: what a jump makes of a suffix stays where it is.

The types here are the bodies of journal frames, in the form that walle/messages.py describes.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from walle.core.effects import SetCluster  # noqa: TC001 - as below
from walle.errors import RemoteProtocolError, invariant
from walle.ids import Position, WriterId  # noqa: TC001 - the codec reads the annotations
from walle.messages import U8, U32, U64, Codec
from walle.record import ALIGNMENT
from walle.storage.notes import RECORDS_START


class Kind(IntEnum):
    """What an extent is a part of. The values are the journal's."""

    RUN = 0
    ASIDE = 1
    FILL = 2


class ExtentKey(NamedTuple):
    """What names an extent within its stream: its file, and where in it the extent begins."""

    file_number: U32
    offset: U64


class ExtentRecord(NamedTuple):
    """An extent, as the journal holds it.

    file_number, incarnation, file_bytes: the segment file and its size.
    offset: where the first record begins.
    first_id, prev_chain: the first record's id, and the chain of the entry before it.
    is_sealed: 1: the extent is final. 0: it may grow, and what it holds is found by a scan; its
        first record at least was durable when this was written.
    end, last: of a sealed extent: the offset behind its last record, and that entry's position.
    group_id: of an extent of an aside run: the first entry id of that run, which names it.
    """

    file_number: U32
    kind: U8
    is_sealed: U8
    file_bytes: U32
    incarnation: U64
    offset: U64
    end: U64
    first_id: U64
    prev_chain: U64
    last: Position
    group_id: U64

    @property
    def key(self) -> ExtentKey:
        return ExtentKey(self.file_number, self.offset)


class StreamRecord(NamedTuple):
    """One stream's small state, whole, and what has changed of its extents.

    committed: durable when this was written, so a recovered tail below it proves damage.
    doubtful_id: as in `walle.core.member.State`; 0: no doubt.
    extents: new or changed ones, by key.
    removed: extents that are no more. One that came and went in one round is named here only.
    """

    stream_id: U64
    version: U64
    first_entry_id: U64
    first_prev_chain: U64
    promised: WriterId
    lease_ms: U32
    older_lease_ms: U32
    accepted: WriterId
    committed: Position
    doubtful_id: U64
    name: str
    address: str
    members: tuple[str, ...]
    old_members: tuple[str, ...]
    extents: tuple[ExtentRecord, ...]
    removed: tuple[ExtentKey, ...]


class Update(NamedTuple):
    """The body of one journal frame: what one round changed, or all there is.

    clusters: none or one.
    """

    clusters: tuple[SetCluster, ...]
    streams: tuple[StreamRecord, ...]


_UPDATE = Codec(Update)


def encode(update: Update) -> bytes:
    """The update's bytes."""
    for stream in update.streams:
        for extent in stream.extents:
            invariant(_is_sound(extent), "an extent makes sense", extent=extent)
    return _UPDATE.encode(update)


def decode(body: bytes) -> Update | None:
    """The update that the bytes begin with; None: there is none, or one that makes no sense."""
    try:
        update: Update = _UPDATE.decode(body, 0)[0]
    except (struct.error, UnicodeDecodeError, RemoteProtocolError):
        return None
    extents = [extent for stream in update.streams for extent in stream.extents]
    return update if len(update.clusters) <= 1 and all(map(_is_sound, extents)) else None


def _is_sound(extent: ExtentRecord) -> bool:
    """Whether the extent lies in its file, and begins and ends where records can."""
    is_placed = (
        extent.kind in Kind.__members__.values()
        and RECORDS_START <= extent.offset <= extent.file_bytes
        and extent.offset % ALIGNMENT == 0
        and extent.first_id >= 1
    )
    if not extent.is_sealed:
        return is_placed
    return (
        is_placed
        and extent.offset < extent.end <= extent.file_bytes
        and extent.end % ALIGNMENT == 0
        and extent.first_id <= extent.last.entry_id
    )


class Manifest:
    """The sum of all updates.

    streams: by id; `extents` and `removed` in these records mean nothing.
    extents: by stream and key.
    """

    def __init__(self) -> None:
        self.cluster: SetCluster | None = None
        self.streams: dict[int, StreamRecord] = {}
        self.extents: dict[int, dict[ExtentKey, ExtentRecord]] = {}

    def apply(self, update: Update) -> None:
        """Takes one more update into account."""
        for cluster in update.clusters:
            self.cluster = cluster
        for stream in update.streams:
            self.streams[stream.stream_id] = stream
            extents = self.extents.setdefault(stream.stream_id, {})
            for key in stream.removed:
                extents.pop(key, None)
            for extent in stream.extents:
                extents[extent.key] = extent
