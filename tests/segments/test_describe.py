"""What `inspect` tells, and the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.segments.replicas import (
    STREAM,
    all_kinds,
    bytes_of,
    long_run,
    make,
    opened,
    segment,
    spoil,
)
from walle.ids import IdRange
from walle.record import decode
from walle.segments.describe import describe_replica
from walle.segments.picture import draw

if TYPE_CHECKING:
    from walle.testing.files import SimulatedFiles


def stream_of(files: SimulatedFiles) -> dict[str, Any]:
    (stream,) = describe_replica(opened(files), [STREAM])["streams"]
    found: dict[str, Any] = stream
    return found


def bounds(parts: list[dict[str, Any]]) -> list[tuple[int, int]]:
    return [(part["start"], part["end"]) for part in parts]


def test_all_kinds_of_parts_are_told() -> None:
    files, driver = make(all_kinds)
    stream, found = driver.model.streams[STREAM], stream_of(files)
    history = stream.history
    assert bounds(found["runs"]) == [(run.start, run.end) for run in history.runs]
    assert found["gaps"] == history.gaps()
    assert bounds(found["aside"]) == [(run.start, run.end) for run in history.aside]
    assert bounds(found["fill"]) == [(3, 5)]
    assert found["members"] == ("n1", "n2", "n3")
    assert found["accepted"] == str(stream.accepted)
    assert found["promised"]["address"] == stream.promise.address
    assert found["tail"]["entry_id"] == history.tail.entry_id
    assert {each["file"] for each in found["files"]} == {
        path.name for path in files.names_now if path.suffix == ".segment"
    }


def test_nothing_is_changed_by_looking() -> None:
    files, _ = make(all_kinds)
    before, steps = bytes_of(files), files.steps
    stream_of(files)
    assert (bytes_of(files), files.steps) == (before, steps)


def test_times_and_writers_are_those_of_the_entries() -> None:
    files, driver = make(long_run)
    (run,) = stream_of(files)["runs"]
    entries = [decode(record) for record in driver.model.streams[STREAM].runs.values()]
    wanted = [
        {"writer_id": str(entry.writer), "first_entry_id": entry.entry_id}
        for number, entry in enumerate(entries)
        if number == 0 or entries[number - 1].writer != entry.writer
    ]
    assert len(wanted) == 91
    assert run["writers"] == wanted
    assert (run["first_time_us"], run["last_time_us"]) == (1, 361)
    assert run["bytes"] == sum(map(len, driver.model.streams[STREAM].runs.values()))


def test_what_a_node_would_find_is_told() -> None:
    files, _ = make(all_kinds)
    del files.names_now[segment(1)]
    found = describe_replica(opened(files), [STREAM])
    assert f"{segment(1)} is missing" in found["findings"]
    assert found["streams"][0]["gaps"] == [(1, 7)]


def test_unreadable_entries_have_no_times() -> None:
    """Of what lies far below the commit point a node that starts reads nothing."""
    files, _ = make(long_run)
    spoil(files, 1)
    found = describe_replica(opened(files), [STREAM])
    assert found["streams"][0]["runs"][0]["first_time_us"] is None
    assert any("expected records that pass" in text for text in found["findings"])


# --- the picture ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "unproved", "committed_id", "width", "picture"),
    [
        ([(1, 11)], [], 10, 20, "##########"),
        ([(1, 11)], [], 10, 5, "#####"),
        ([(1, 11)], [], 6, 5, "###=="),
        ([(1, 5), (7, 11)], [], 10, 10, "####..####"),
        ([(1, 5), (7, 11)], [(5, 6)], 10, 10, "####?.####"),
        ([(1, 4), (7, 11)], [], 10, 5, "#+.##"),
        ([], [], 0, 5, "....."),
        ([(1, 11)], [], 10, 3, "###"),
    ],
)
def test_picture(
    runs: list[tuple[int, int]],
    unproved: list[tuple[int, int]],
    committed_id: int,
    width: int,
    picture: str,
) -> None:
    assert picture == draw(
        IdRange(1, 11),
        [IdRange(*each) for each in runs],
        [IdRange(*each) for each in unproved],
        committed_id=committed_id,
        width=width,
    )
