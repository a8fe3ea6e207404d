"""Small segments and journals, so that a few kilobytes go through all that a node would see in
gigabytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from walle.storage import extent, journal, pool, reader, segment, store

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    make_files_small(monkeypatch)


@pytest.fixture(scope="module")
def small_files_in_module() -> Iterator[None]:
    """The same for tests that hypothesis runs many times over."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_files_small(monkeypatch)
        yield


def make_files_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MIN", 16 * 1024)
    monkeypatch.setattr(segment, "SEGMENT_BYTES_MAX", 40 * 1024)
    monkeypatch.setattr(segment, "SIZES_COUNT", 1)
    monkeypatch.setattr(journal, "BYTES_MIN", 64 * 1024)
    monkeypatch.setattr(extent, "INDEX_STEP_BYTES", 1024)
    monkeypatch.setattr(extent, "_STEP_RECORDS_MAX", 1024 // 48 + 1)
    monkeypatch.setattr(pool, "WRITERS_COUNT_MAX", 3)
    monkeypatch.setattr(pool, "MAPS_COUNT_MAX", 2)
    monkeypatch.setattr(reader, "INDEXES_COUNT_MAX", 2)
    monkeypatch.setattr(store, "JOURNAL_LAG_ENTRIES", 16)
