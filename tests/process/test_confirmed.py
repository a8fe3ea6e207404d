"""What was put is soon confirmed on disk, so that damage of it is not taken for a torn append."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from tests.clusters import DevNodes, wait_until
from walle.storage.notes import SegmentKey, newest

if TYPE_CHECKING:
    from pathlib import Path

_KEY = struct.Struct("<16xQQQ")


def is_confirmed(path: Path) -> bool:
    data = path.read_bytes()
    note = newest(memoryview(data), SegmentKey(*_KEY.unpack_from(data)))
    return note is not None and note.is_confirmed


@pytest.mark.slow
def test_all_segments_of_idle_nodes_are_confirmed(tmp_path: Path) -> None:
    with DevNodes(tmp_path) as nodes:
        nodes.cli("stream", "create", "/quiet")
        nodes.cli("put", "/quiet", data=b"one\ntwo\n")
        streams_count = 2 * len(nodes.names)  # /cluster and the stream, on each node

        def are_confirmed() -> bool:
            paths = list(tmp_path.rglob("*.segment"))  # two of one that was behind and has jumped
            are_all = len({path.parent for path in paths}) == streams_count
            return are_all and all(map(is_confirmed, paths))

        wait_until(are_confirmed, "every end is confirmed")
