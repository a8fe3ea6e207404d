"""The bare client, which knows nothing but docs/wire.md, against a real cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.clusters import DevNodes

PROGRAM = Path(__file__).parent / "bare_client.py"
ALONE = (sys.executable, "-I", "-S")
"""An interpreter that finds the standard library and nothing else."""

pytestmark = pytest.mark.slow


def run_alone(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ALONE, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("module", ["walle", "xxhash"])
def test_nothing_but_the_standard_library_can_be_imported(module: str, tmp_path: Path) -> None:
    done = run_alone("-c", f"import {module}", cwd=tmp_path)
    assert "ModuleNotFoundError" in done.stderr


def test_the_bare_client_writes_and_reads_through_one_node(nodes: DevNodes, tmp_path: Path) -> None:
    """Twice: it creates the stream, then finds it with entries."""
    for count, address in ((50, nodes.addresses[0]), (100, nodes.addresses[1])):
        done = run_alone(str(PROGRAM), address, "/bare", "50", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("released\n")
        assert f"50 entries are durable, the last is {count}\n" in done.stdout
    written = b"".join(b"entry %d " % number * (number % 9) + b"\n" for number in range(50))
    assert nodes.cli("read", "/bare", "--raw") == 2 * written


def test_the_program_can_read_what_others_wrote(nodes: DevNodes, tmp_path: Path) -> None:
    """Entries of many sizes, of another writer, in several answers."""
    nodes.cli("stream", "create", "/mixed")
    lines = b"".join(b"y" * (size * size) + b"\n" for size in range(1, 400, 13))
    nodes.cli("put", "/mixed", data=lines)
    done = run_alone(str(PROGRAM), nodes.addresses[2], "/mixed", "50", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
