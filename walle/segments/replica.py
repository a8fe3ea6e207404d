"""A replica: what one node holds, in the data directory of a node that does not run, or a copy."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from walle.data_directory import lock_alone, lock_shared, read_owner
from walle.errors import ConfigError, CorruptionError
from walle.storage.journal import REMEDY, load
from walle.storage.opening import Disk, recover_stream
from walle.storage.pool import Pool
from walle.storage.reader import Reader, Wanted
from walle.storage.spare import Spare

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from walle.data_directory import Owner
    from walle.storage.extent import Extent
    from walle.storage.manifest import StreamRecord
    from walle.storage.recovery import RecoveredStream
    from walle.storage.vfs import Files

READ_BYTES = 1024 * 1024
"""Of one read."""


class Replica:
    """A data directory, to be looked at. Nothing in it is changed.

    loaded: the journal.

    Raises:
        CorruptionError: the journal is damaged or missing.
    """

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self.files = files
        loaded = load(path / "journal", files)
        if loaded is None:
            raise CorruptionError(
                str(path / "journal"), 0, expected="a journal", found=f"none: {REMEDY}"
            )
        self.loaded = loaded
        self.disk = Disk(path / "streams", files)
        self._reader = Reader(Pool(files, Spare(path / "spare", files)))

    @property
    def streams(self) -> dict[int, StreamRecord]:
        """What the journal says of each stream, by id."""
        return self.loaded.manifest.streams

    @property
    def owner(self) -> Owner | None:
        """Whose it is; None in a copy without the file that says so.

        Raises:
            ConfigError: that file is damaged.
        """
        return read_owner(self.path)

    def find(self, name: str) -> int:
        """The id of the stream of that name.

        Raises:
            ConfigError: there is none.
        """
        for stream_id, stream in self.streams.items():
            if stream.name == name:
                return stream_id
        names = ", ".join(sorted(stream.name for stream in self.streams.values())) or "none"
        raise ConfigError(name, f"is no stream in {self.path}; there are: {names}")

    def recover(self, stream_id: int, *, reads_all: bool = False) -> RecoveredStream:
        """What a node would make of the stream; with `reads_all`, of all damage to it."""
        manifest = self.loaded.manifest
        return recover_stream(manifest, self.disk, stream_id, reads_all=reads_all)

    def read(
        self, extents: Sequence[Extent], start: int, end: int, after: int | None = None
    ) -> bytes:
        """About READ_BYTES of the records in [start, end), as `Reader.read` gives them.

        Raises:
            CorruptionError: the record of `start` does not pass its checks.
        """
        return b"".join(self._reader.read(extents, Wanted(start, end, READ_BYTES, after)))


class ReplicaStream:
    """One stream of a replica, to be read, whatever is damaged of it.

    log, state: what a node would make of the stream; once damage was met, of all its damage.
    """

    def __init__(self, replica: Replica, stream_id: int) -> None:
        self._replica = replica
        self._stream_id = stream_id
        self.log, self.state, _ = replica.recover(stream_id)

    def read(self, start: int, end: int, after: int | None = None, *, aside: bool = False) -> bytes:
        """As `Replica.read`, of runs, or of aside runs. Nothing where `start` is damaged."""
        try:
            return self._read(start, end, after, aside=aside)
        except CorruptionError:
            # What lies behind the damage can be found only by a look at all records.
            self.log, self.state, _ = self._replica.recover(self._stream_id, reads_all=True)
            return self._read(start, end, after, aside=aside)

    def _read(self, start: int, end: int, after: int | None, *, aside: bool) -> bytes:
        for extents in self.log.aside if aside else [self.log.runs]:
            records = self._replica.read(extents, start, end, after)
            if records:
                return records
        return b""


def check_directory(path: Path) -> None:
    """Raises ConfigError, with a remedy, unless `path` looks like a data directory."""
    if (path / "journal").is_dir() or (path / "streams").is_dir():
        return
    inside = sorted(each.parent.name for each in path.glob("*/journal"))
    hint = f"; perhaps {path / inside[0]} is meant" if inside else ""
    raise ConfigError(str(path), f"is no node's data directory: it has no journal/{hint}")


@contextmanager
def locked(path: Path, *, is_alone: bool = False) -> Iterator[None]:
    """Keeps nodes out of the data directory; others who look, too, if `is_alone`.

    Raises:
        ConfigError: it is in use, or `path` is no data directory.
    """
    check_directory(path)
    try:
        fd = lock_alone(path) if is_alone else lock_shared(path)
    except BlockingIOError:
        remedy = "stop that node first, or look at a copy of the directory"
        raise ConfigError(str(path), f"is in use by another process; {remedy}") from None
    try:
        yield
    finally:
        if fd is not None:
            os.close(fd)
