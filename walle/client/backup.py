"""Copying a stream to a backup file, by position, and putting a file's entries to a new stream."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from walle.client.backup_file import Header, open_backup
from walle.client.reader import read_answers
from walle.errors import Refused
from walle.ids import IdRange
from walle.record import decode_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from walle.client.backup_file import BackupFile
    from walle.client.client import Client
    from walle.client.writer import Writer
    from walle.ids import Position
    from walle.messages import StreamInfo
    from walle.record import Batch, Entry


def describe(entries: IdRange) -> str:
    """The ids as people say them."""
    if entries.end == entries.start:
        return "no entries"
    return f"entries {entries.start} to {entries.end - 1}"


# --- backup ---------------------------------------------------------------------------------------


async def back_up(
    client: Client, name: str, path: str, on_progress: Callable[[int, int], None]
) -> tuple[IdRange, int]:
    """Brings the file up to all that was acknowledged by now; makes it if there is none.

    Returns the entries that it then holds, durably, and how many of them are new.

    Args:
        on_progress: is told how many entries were copied, and of how many.

    Raises:
        Refused: the file is another stream's, or cannot be gone on with.
        CorruptionError: the file is no backup, or damaged.
        OSError: the file cannot be written.
    """
    info = await client.describe(name, refresh=True)
    committed = await client.committed(name)
    with open_backup(path, is_writable=True) as file:
        if file.is_empty:
            origin = await _find_origin(client, info, committed)
            file.begin(Header(client.cluster_id, info.stream_id, info.name, origin))
        _check_stream(file, client, info)
        file.find_end()
        _check_history(file, info, committed)
        before_id, end = file.tail.entry_id, committed.entry_id + 1
        async for _, batch, _ in read_answers(client, name, start=before_id + 1, end=end):
            if batch.before != file.tail:
                raise _differing(file, info)
            file.append(batch)
            done = file.tail.entry_id - before_id
            on_progress(done, max(done, committed.entry_id - before_id))
        file.finish(time.time_ns() // 1000)
        return file.held, file.tail.entry_id - before_id


async def _find_origin(client: Client, info: StreamInfo, committed: Position) -> Position:
    """The position before the stream's first entry."""
    first_id = info.first_entry_id
    if committed.entry_id < first_id:
        return committed
    answers = read_answers(client, info.name, start=first_id, end=first_id + 1)
    _, batch, _ = await anext(answers)
    return batch.before


def _check_stream(file: BackupFile, client: Client, info: StreamInfo) -> None:
    header = file.header
    if (header.cluster_id, header.stream_id) != (client.cluster_id, info.stream_id):
        raise Refused(
            f"{file.path} is a backup of {header.name}, stream {header.stream_id} of cluster "
            f"{header.cluster_id.hex()}, not of {info.name}, stream {info.stream_id} of cluster "
            f"{client.cluster_id.hex()}; name another file"
        )


def _check_history(file: BackupFile, info: StreamInfo, committed: Position) -> None:
    """The stream must have the file's last entry, or begin right behind it."""
    last_id = file.tail.entry_id
    if info.first_entry_id > last_id + 1:
        raise Refused(
            f"{file.path} ends at entry {last_id}, and {info.name} begins at entry "
            f"{info.first_entry_id} by now: what lay between was trimmed; begin another file"
        )
    if committed.entry_id <= last_id and committed != file.tail:
        raise _differing(file, info)


def _differing(file: BackupFile, info: StreamInfo) -> Refused:
    return Refused(
        f"{file.path} holds another history than {info.name} up to entry {file.tail.entry_id}; "
        "keep it, and begin another file"
    )


# --- restore --------------------------------------------------------------------------------------


def survey(
    file: BackupFile, to: int | None, until_us: int | None, on_progress: Callable[[int], None]
) -> IdRange:
    """Checks every record of the file up to the last wanted one; returns the wanted entries.

    Args:
        to: the last wanted entry.
        until_us: the wanted entries end before the first that is of a later time.
        on_progress: is told how many entries were checked.

    Raises:
        Refused: the file does not hold what is wanted, or is incomplete.
        CorruptionError: it is damaged.
    """
    start = file.header.origin.entry_id + 1
    for batch in file.batches():
        if to is not None and start <= to <= batch.last_id:
            return IdRange(start, to + 1)
        later = None if until_us is None else _find_later(batch, until_us)
        if later is not None and later.entry_id == start:
            raise Refused(f"entry {start}, the first in {file.path}, is of a later time")
        if later is not None:
            return IdRange(start, later.entry_id)
        on_progress(batch.last_id + 1 - start)
    if to is not None:
        raise Refused(f"{file.path} holds {describe(file.held)} of {file.header.name}, not {to}")
    if not file.is_complete:
        raise Refused(
            f"{file.path} holds {describe(file.held)}, but is incomplete: its last backup was "
            "interrupted, or the file was cut; run that backup again, or restore what is there by "
            f"--to {file.tail.entry_id}"
        )
    return file.held


def _find_later(batch: Batch, until_us: int) -> Entry | None:
    """The first entry of a later time."""
    return next((entry for entry in decode_all(batch) if entry.time_us > until_us), None)


async def make_stream(client: Client, name: str, file: BackupFile) -> None:
    """Makes the stream to which the file's entries can be put, under the same ids.

    Raises:
        StreamExists, Refused: one of that name begins elsewhere.
    """
    origin = file.header.origin
    info = await client.create_stream(name, origin=origin)
    if info.first_entry_id != origin.entry_id + 1:
        raise Refused(
            f"{name} begins at entry {info.first_entry_id}, {file.path} at entry "
            f"{origin.entry_id + 1}; name a new stream"
        )


async def put_backup(client: Client, writer: Writer, file: BackupFile, wanted: IdRange) -> None:
    """Puts the wanted entries. Those that the stream has must be the first of them: a restore that
    was interrupted is gone on with.

    Data and times are as they were, in the same form; writers and chains are new.

    Raises:
        Refused: the stream has other entries.
    """
    held = IdRange(wanted.start, writer.tail.entry_id + 1)
    if held.end > wanted.end:
        raise Refused(
            f"{writer.stream} holds {describe(held)}, more than the {describe(wanted)} to be "
            "restored; name a new stream"
        )
    entries = _entries(file, wanted)
    answers = read_answers(client, writer.stream, start=held.start, end=held.end)
    async for answer, _, count in answers:
        for found, entry in zip(answer.entries[:count], entries, strict=False):
            if _content(found) != _content(entry):
                raise Refused(
                    f"entry {found.entry_id} of {writer.stream} is another one than that of "
                    f"{file.path}; name a new stream"
                )
    for entry in entries:
        await writer.drain()
        writer.put_stored(entry.data, entry.flags, entry.time_us)
    if writer.tail.entry_id + 1 != wanted.end:
        raise Refused(f"{file.path} was cut while it was read; restore it again")


def _entries(file: BackupFile, wanted: IdRange) -> Iterator[Entry]:
    """The file's entries before the end of `wanted`, as they are stored."""
    for batch in file.batches():
        yield from decode_all(batch, wanted.end - batch.first_id)
        if batch.last_id + 1 >= wanted.end:
            return  # what follows may be damaged


def _content(entry: Entry) -> tuple[int, int, int, bytes]:
    """What of an entry is the same in a restored stream."""
    return entry.entry_id, entry.time_us, entry.flags, entry.data
