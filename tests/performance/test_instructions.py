"""How many instructions the C core takes for an entry, as callgrind counts them: the same on a busy
machine as on an idle one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("records", "crc32c", "xxh64")
FLAGS = ("-O3", "-std=c11", "-pthread")
FEW, MANY = 100, 1_100


class Cost(NamedTuple):
    """Instructions for one entry with `data_bytes` of data, at most."""

    function: str
    data_bytes: int
    instructions_max: int


COSTS = (
    Cost("walle_records_encode", 16, 410),
    Cost("walle_records_encode", 1_024, 2_050),
    Cost("walle_records_scan", 16, 440),
    Cost("walle_records_scan", 1_024, 1_930),
    Cost("walle_records_seek", 1_024, 60),
)
"""A third more than there are: compilers differ."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes, checks and seeks records."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed: apt-get install valgrind")
    path = tmp_path_factory.mktemp("core") / "core_cost"
    native = ROOT / "walle" / "native"
    sources = [Path(__file__).parent / "core_cost.c", *(native / f"{name}.c" for name in SOURCES)]
    command = ["cc", *FLAGS, "-I", str(native), "-o", str(path), *map(str, sources)]
    subprocess.run(command, check=True)
    return path


def instructions(program: Path, function: str, count: int, data_bytes: int) -> int:
    """That `function`, with all that it calls, takes for so many entries."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += [f"--toggle-collect={function}", str(program), str(count), str(data_bytes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    collected = re.search(r"Collected : (\d+)", done.stderr)
    assert collected is not None, done.stderr
    return int(collected[1])


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: f"{cost.function}-{cost.data_bytes}")
def test_an_entry_takes_few_instructions(program: Path, cost: Cost) -> None:
    few = instructions(program, cost.function, FEW, cost.data_bytes)
    many = instructions(program, cost.function, MANY, cost.data_bytes)
    each = (many - few) / (MANY - FEW)
    assert 0 < each <= cost.instructions_max
