"""The tests of the C core and of the storage once more, on a C core built with the sanitizers.

The tree is copied, built there with WALLE_NATIVE_SANITIZE=1, and its tests run in a process into
which the sanitizers' runtime is loaded first, as the interpreter itself is built without it. Python
takes its memory from malloc there, so that reading behind a small object is seen as well.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PARTS = ("walle", "tests", "docs", "setup.py", "pyproject.toml", "README.md")
RUNTIMES = ("libasan.so", "libubsan.so")


def runtime_paths() -> list[str]:
    """Where the compiler keeps the sanitizers' runtime; skips the test if it has none."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    paths = []
    for name in RUNTIMES:
        command = [compiler, f"-print-file-name={name}"]
        path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        if not Path(path).is_absolute():
            pytest.skip(f"{compiler} lacks the sanitizer runtime {name}")
        paths.append(path)
    return paths


def copy_tree(target: Path) -> None:
    skipped = shutil.ignore_patterns("*.so", "__pycache__")
    for name in PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=skipped)
        elif source.exists():
            shutil.copy(source, target)


def run(command: list[str], directory: Path, settings: dict[str, str]) -> str:
    environment = {**os.environ, **settings}
    result = subprocess.run(
        command, check=False, cwd=directory, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def run_tests(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Builds the tree with sanitizers; runs pytest in it, with these arguments."""
    runtimes = runtime_paths()
    tree = tmp_path_factory.mktemp("sanitized")
    copy_tree(tree)
    strict = {"WALLE_NATIVE_SANITIZE": "1", "WALLE_NATIVE_STRICT": "1"}
    run([sys.executable, "setup.py", "build_ext", "--inplace"], tree, strict)
    settings = {
        "PYTHONPATH": str(tree),
        "PYTHONMALLOC": "malloc",
        "LD_PRELOAD": " ".join(runtimes),
        # The interpreter does not free all it allocates.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    where = "import walle.native._core as core; print(core.__file__)"
    assert run([sys.executable, "-c", where], tree, settings).startswith(str(tree))
    # The sanitizers report to the descriptor, which must not be captured as they end the process.
    command = [sys.executable, "-m", "pytest", "-q", "--capture=sys"]
    return lambda *arguments: run([*command, *arguments], tree, settings)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_native_tests_pass_under_the_sanitizers(run_tests: Callable[..., str]) -> None:
    ignored = "--ignore=tests/native/test_sanitized.py"
    assert " passed" in run_tests(ignored, "tests/native", "tests/property/test_ring_property.py")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_storage_tests_pass_under_the_sanitizers(run_tests: Callable[..., str]) -> None:
    """All but the exhaustive flips, which do the same 70,000 times."""
    arguments = ("-k", "not flipped_bit", "--override-ini=timeout=900", "tests/storage")
    assert " passed" in run_tests(*arguments)
