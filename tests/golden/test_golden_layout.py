"""Every layout, number and bound, pinned: none changes by accident.

layout.txt is a dump of them. A test fails when the program and the dump differ; a change that is
meant is made by WALLE_REWRITE_GOLDEN=1 (see golden.py), and by a new protocol version or format
version where others would misunderstand it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.golden import golden
from walle import frame, ids, limits, messages, record
from walle.errors import Code
from walle.storage import journal, notes, segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def dump_fields(layout: Iterable[record.Field]) -> Iterator[str]:
    """A line for each field: its offset, its size, its name."""
    for name, offset, size in layout:
        yield f"    {offset:2} {size} {name}"


def dump_layouts() -> Iterator[str]:
    """The lines of layout.txt."""
    yield f"protocol version {messages.PROTOCOL_VERSION}"
    yield f"roles: client {messages.ROLE_CLIENT}, node {messages.ROLE_NODE}"
    yield f"stream {ids.STREAM_CLUSTER} is {ids.CLUSTER_STREAM_NAME}"
    yield ""
    yield f"frame header, {frame.HEADER_BYTES} bytes: {frame.HEADER.format}"
    yield f"    {' '.join(frame.Header._fields)}"
    yield f"frame alignment {frame.ALIGNMENT}"
    yield ""
    yield f"record header, {record.HEADER_BYTES} bytes: {record.HEADER.format}"
    yield from dump_fields(record.LAYOUT)
    yield f"    crc from {record.CRC_START}, chain from {record.CHAIN_START}"
    yield f"    length mask {record.LENGTH_MASK:#x}, flags from bit {record.FLAGS_SHIFT}"
    yield f"record alignment {record.ALIGNMENT}"
    yield ""
    yield f"segment, version {segment.VERSION}: records from {notes.RECORDS_START}"
    yield from dump_fields(segment.LAYOUT)
    yield f"note, from {notes.BLOCK_BYTES} or {2 * notes.BLOCK_BYTES}"
    yield from dump_fields(notes.LAYOUT)
    yield f"journal, version {journal.VERSION}: blocks of {journal.BLOCK_BYTES}"
    yield from dump_fields(journal.LAYOUT)
    yield "journal frame"
    yield from dump_fields(journal.FRAME_LAYOUT)
    yield ""
    for number, cls in messages.TYPES.items():
        remarks = [" + records"] if cls in messages.WITH_RECORDS else []
        remarks += [" (nodes only)"] if cls in messages.NODE_ONLY else []
        yield f"message {number} {cls.__name__}{''.join(remarks)}"
        for name, hint in golden.hints_of(cls).items():
            yield f"    {name}: {golden.type_name(hint)}"
    for parts in (
        messages.NodeAddress,
        messages.NodeRecord,
        messages.StreamCommitted,
        messages.StreamSettings,
    ):
        yield f"part {parts.__name__}"
        for name, hint in golden.hints_of(parts).items():
            yield f"    {name}: {golden.type_name(hint)}"
    yield ""
    for code in Code:
        yield f"code {code.value} {code.name}"
    yield ""
    for stop in record.Stop:
        yield f"stop {stop.value} {stop.name}"
    yield ""
    for name, value in vars(limits).items():
        if isinstance(value, int) and name.isupper():
            yield f"{name} = {value}"


def test_no_layout_number_or_bound_has_changed() -> None:
    golden.compare("layout.txt", "\n".join(dump_layouts()) + "\n")
