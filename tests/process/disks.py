"""Disks of real clusters that are full, fail or take their time."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

SOURCE = Path(__file__).with_name("faults.c")


class Faults:
    """What faults.c does to all processes that are started from now on, until the test ends."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        library = directory / "faults.so"
        compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
        command = [*compiler, "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        self._file = directory / "faults"
        self._in_force: dict[tuple[str, Path], int] = {}
        monkeypatch.setenv("FAULTS", str(self._file))
        monkeypatch.setenv("LD_PRELOAD", str(library))

    def set(self, kind: str, path: Path, number: int) -> None:
        """From now on there is that fault below the path."""
        self._in_force[kind, path] = number
        self._write()

    def clear(self, kind: str, path: Path) -> None:
        """There is no such fault any more."""
        del self._in_force[kind, path]
        self._write()

    def _write(self) -> None:
        lines = [f"{kind} {number} {path}\n" for (kind, path), number in self._in_force.items()]
        unfinished = self._file.with_suffix(".new")
        unfinished.write_text("".join(lines))
        unfinished.rename(self._file)
