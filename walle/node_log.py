"""A node's log file, as whoever started the node reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class NodeLog:
    """What a node writes from now on; what it wrote in former runs stays in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._start = path.stat().st_size if path.exists() else 0

    def last_words(self) -> str:
        """Why a node could not run, as it said itself; empty if it said nothing, or if somebody has
        removed the file."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._start)
                lines = file.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        critical = [line.partition(" CRITICAL ")[2] for line in lines if " CRITICAL " in line]
        return (critical or lines or [""])[-1]
