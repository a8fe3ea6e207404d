"""Opening a data directory: reads the journal, recovers each stream, tidies up.

Everything that recovery concludes takes effect at once, by a fresh journal. Until that is durable
nothing is changed or removed; so a crash on the way leaves the same work to be done again. Whoever
only wants to look does the same, with `Disk` and `recover_stream`, and stops there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from walle.core.effects import NO_CLUSTER, SetCluster
from walle.core.node import Recovered
from walle.errors import CorruptionError
from walle.limits import KIB
from walle.storage.examine import (
    Examined,
    examine_growing,
    examine_sealed,
    take_lost,
    take_unread,
)
from walle.storage.journal import REMEDY, Journal, Loaded, load, remove_unfinished
from walle.storage.log import StreamLog, snapshot
from walle.storage.manifest import Kind, Manifest
from walle.storage.notes import RECORDS_START, newest
from walle.storage.recovery import RecoveredStream, StreamRecovery
from walle.storage.segment import (
    DAMAGED_SUFFIX,
    Segment,
    check_header,
    directory_of,
    number_of,
    path_of,
    stream_id_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from walle.storage.manifest import ExtentRecord, StreamRecord
    from walle.storage.notes import Note
    from walle.storage.vfs import Files

SETTLED_AT_ONCE_COUNT = 256
"""How many files are open at once while tails are synced."""
AHEAD_BYTES = 256 * KIB
"""How much of each is read ahead, all files at once; behind that, reading is sequential."""


class Opened(NamedTuple):
    """A recovered store.

    streams, spare: the directories of the streams' directories and of spare files.
    findings: what was cut, lost or doubted, in sentences for the operator.
    """

    streams: Path
    spare: Path
    journal: Journal
    cluster: SetCluster | None
    logs: dict[int, StreamLog]
    recovered: Recovered
    findings: tuple[str, ...]


def open_directory(directory: Path, files: Files, *, reads_all: bool = False) -> Opened:
    """Opens the data directory, or makes it; its parent must be there.

    Args:
        reads_all: read every record, so that all damage becomes gaps; it takes its time.

    Raises:
        CorruptionError: the journal is damaged or missing, or a file is of another format version.
        OSError: the disk refuses.
    """
    journals, streams = directory / "journal", directory / "streams"
    spare = directory / "spare"
    for path in (directory, journals, streams, spare):
        files.make_directory(path)
    remove_unfinished(journals, files)
    loaded = load(journals, files) or _start(directory, files, journals, streams)
    manifest = loaded.manifest
    disk = Disk(streams, files)
    disk.settle(manifest)
    found = [
        recover_stream(manifest, disk, stream_id, reads_all=reads_all)
        for stream_id in manifest.streams
    ]
    logs = {each.log.stream_id: each.log for each in found}
    journal = Journal(journals, files, number=loaded.number, sequence=loaded.sequence)
    journal.replace(snapshot(manifest.cluster, logs.values()))
    disk.tidy(logs)
    for name in files.names(spare):
        files.remove(spare / name)
    return Opened(
        streams,
        spare,
        journal,
        manifest.cluster,
        logs,
        Recovered(manifest.cluster or NO_CLUSTER, tuple([each.state for each in found])),
        (
            *loaded.findings,
            *disk.findings,
            *[text for each in found for text in each.findings],
        ),
    )


def recover_stream(
    manifest: Manifest, disk: Disk, stream_id: int, *, reads_all: bool = False
) -> RecoveredStream:
    """What recovery makes of one of the journal's streams. Nothing is changed."""
    stream, extents = manifest.streams[stream_id], manifest.extents[stream_id].values()
    return StreamRecovery(stream, extents, disk.look(stream), reads_all=reads_all).recover()


def _start(directory: Path, files: Files, journals: Path, streams: Path) -> Loaded:
    """A data directory without a journal: a new one, or one that has lost everything."""
    if files.names(streams):
        raise CorruptionError(
            str(journals),
            0,
            expected="a journal",
            found=f"none, although there are streams in {streams}: {REMEDY}",
        )
    for path in (directory.parent, directory):
        files.sync_directory(path)
    return Loaded(Manifest(), 0, 0, 0)


class Disk:
    """The segment files, as recovery finds them.

    findings: files that are not what the journal says, in sentences.
    """

    def __init__(self, streams: Path, files: Files) -> None:
        self.findings: list[str] = []
        self._streams = streams
        self._files = files
        self._segments: dict[Path, Segment] = {}
        self._damaged: set[Path] = set()
        self._names: dict[int, set[str]] = {}
        for name in files.names(streams):
            stream_id = stream_id_of(name)
            if stream_id is not None:
                self._names[stream_id] = set(files.names(streams / name))

    def settle(self, manifest: Manifest) -> None:
        """Makes what unsealed extents hold durable, and lets it be read from the device.

        What a process wrote before it died may be in memory only, and what it could not write may
        look written there. After this, what is read is what is on the disk.
        """
        paths = [
            path_of(self._streams, stream_id, extent.file_number)
            for stream_id, extents in manifest.extents.items()
            for extent in extents.values()
            if not extent.is_sealed and self._has(stream_id, extent.file_number)
        ]
        for start in range(0, len(paths), SETTLED_AT_ONCE_COUNT):
            chunk = paths[start : start + SETTLED_AT_ONCE_COUNT]
            opened = [self._files.open(path) for path in chunk]
            self._files.sync(opened)
            for file in opened:
                file.reload(AHEAD_BYTES)
                file.close()

    def look(self, stream: StreamRecord) -> Callable[[ExtentRecord, bool], Examined]:
        """For one stream: what an extent holds; whether its records are to be read."""

        def look_at(extent: ExtentRecord, is_read: bool) -> Examined:
            segment = self._segment(stream.stream_id, extent)
            if not self._has(stream.stream_id, extent.file_number):
                self.findings.append(f"{segment.path} is missing")
                return take_lost(extent)
            if not is_read:
                return take_unread(extent, segment)
            # Copies: where the device cannot read, looking at a map would end the process.
            head = self._files.read(segment.path, 0, RECORDS_START)
            reason = check_header(head, segment)
            if reason is None and extent.is_sealed:
                view = self._files.read(segment.path, 0, extent.end)
                return examine_sealed(extent, segment, view)
            if reason is None:
                note = newest(head, segment.key)
                if note is not None:
                    # Of the fill nothing is known to be durable, wherever the commit point is.
                    durable_id = stream.committed.entry_id if extent.kind == Kind.RUN else 0
                    return self._look_at_end(extent, segment, note, durable_id)
                reason = "no valid note of where it ends"
            self.findings.append(f"{segment.path} is not what it should be: it has {reason}")
            self._damaged.add(segment.path)
            return take_lost(extent)

        return look_at

    def _look_at_end(
        self, extent: ExtentRecord, segment: Segment, note: Note, durable_id: int
    ) -> Examined:
        """What an extent that is not sealed holds."""
        view = self._files.read(segment.path, 0, note.end)
        size = self._files.size_of(segment.path)
        if size == segment.size:
            return examine_growing(extent, segment, view, note, durable_id)
        # Whoever shortened it: no loss of power did, so what is missing is not torn; and what is to
        # be written must find its space reserved.
        self.findings.append(f"{segment.path} has {size} bytes, not {segment.size}")
        note = note._replace(start=note.end)
        examined = examine_growing(extent, segment, view, note, durable_id)
        return examined._replace(note=None, room_bytes=0)

    def tidy(self, logs: Mapping[int, StreamLog]) -> None:
        """Removes the files in which no extent lies. What is damaged gets another name, so that
        somebody may still look into it."""
        for stream_id, names in self._names.items():
            log = logs.get(stream_id)
            used = {segment.path for segment in log.segments()} if log else set()
            if log:
                log.garbage, log.trimmed = [], []
            directory = directory_of(self._streams, stream_id)
            for name in names:
                path = directory / name
                if number_of(name) is None or path in used:
                    continue
                if path in self._damaged:
                    self._files.rename(path, path.with_suffix(DAMAGED_SUFFIX))
                else:
                    self._files.remove(path)

    def _has(self, stream_id: int, number: int) -> bool:
        path = path_of(self._streams, stream_id, number)
        return path.name in self._names.get(stream_id, ())

    def _segment(self, stream_id: int, extent: ExtentRecord) -> Segment:
        """The segment that the extent lies in, the same for all its extents."""
        path = path_of(self._streams, stream_id, extent.file_number)
        if path not in self._segments:
            self._segments[path] = Segment(
                path, stream_id, extent.file_number, extent.incarnation, extent.file_bytes
            )
        return self._segments[path]
