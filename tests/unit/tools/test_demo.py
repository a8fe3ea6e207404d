"""The demonstration, with a text that is put before a node can have missed anything of it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_a_short_text_is_put_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("one\ntwo\nthree\n")
    command = [sys.executable, "tools/demo.py", str(file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "n2: no gap is left" in done.stdout
    assert "nothing was lost" in done.stdout
