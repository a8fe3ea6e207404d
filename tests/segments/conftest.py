"""Replicas on simulated disks, of small files, of which opening reads little."""

from __future__ import annotations

import pytest

from tests.storage.conftest import make_files_small
from walle.storage import recovery


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    make_files_small(monkeypatch)
    monkeypatch.setattr(recovery, "COMMITTED_LAG_ENTRIES_MAX", 16)
