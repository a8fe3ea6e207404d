"""The direction of imports (docs/architecture.md, "The layout"), and a ratchet on sizes.

A module imports only from its own row or from lower ones, for the type checker's eyes too: a type
that points upwards is a dependency all the same.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).parent.parent
PACKAGE = "walle"

ROWS = (
    ("errors", "limits", "ids", "config", "sockets", "tls"),
    ("record", "messages", "frame", "native", "compression"),
    ("core",),
    ("storage", "ring"),
    ("process",),
    ("data_directory", "supervisor", "client", "node_log", "embedding", "sync"),
    ("segments", "bench"),
    ("dev", "cli", "testing", "__main__", ""),
)
"""Lowest first. "" is the package's own `__init__`."""

OUT_OF_REACH = {
    "core": {"compression"},
    "client": {"storage", "ring", "process", "supervisor"},
    "embedding": {"storage", "ring", "process", "supervisor"},
    "sync": {"storage", "ring", "process", "supervisor"},
    "segments": {"ring", "process", "supervisor", "client", "sync", "bench"},
    "bench": {"core", "storage", "ring", "process", "supervisor", "embedding", "segments"},
    "storage": {"ring"},
    "ring": {"storage"},
}
"""What a part may not import, though its row would allow that."""

NOT_IN_CORE = frozenset(
    {
        *("socket", "select", "selectors", "mmap", "time", "random", "threading"),
        *("asyncio", "logging", "subprocess", "os", "pathlib"),
    }
)
"""The outside world: the core is given the time, randomness and messages, and has no IO."""

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70

LARGE_FILES = {
    "tests/storage/test_recovery.py": "one case of damage after another, all on the same stage",
    "walle/messages.py": "every message of the wire on one page, with the codec",
}
LONG_FUNCTIONS: dict[str, str] = {}


# --- the checks -----------------------------------------------------------------------------------


class Import(NamedTuple):
    """One module imported by another; `is_runtime`: not only under TYPE_CHECKING."""

    target: str
    line: int
    is_runtime: bool


class Tree:
    """A package's modules, parsed."""

    def __init__(self, root: Path, package: str) -> None:
        self.package = package
        self.sources: dict[str, tuple[str, ast.Module]] = {}
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            shown = str(path.relative_to(root))
            self.sources[name] = (shown, ast.parse(path.read_text()))

    def imports(self, name: str) -> list[Import]:
        """What a module imports, of the package and of anything else."""
        return [
            Import(self._module(target), node.lineno, is_runtime)
            for node, is_runtime in _imports_in(self.sources[name][1], is_runtime=True)
            for target in self._targets(name, node)
        ]

    def part(self, name: str) -> str:
        """Which of the package's parts a module belongs to: "" for the package itself."""
        return name.partition(".")[2].partition(".")[0]

    def is_inside(self, name: str) -> bool:
        return name == self.package or name.startswith(f"{self.package}.")

    def _targets(self, name: str, node: ast.Import | ast.ImportFrom) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        base = node.module or ""
        if node.level:
            is_package = self.sources[name][0].endswith("__init__.py")
            parents = name.split(".")[: None if is_package else -1]
            above = parents[: len(parents) - node.level + 1]
            base = ".".join([*above, *([base] if base else [])])
        return [f"{base}.{alias.name}" for alias in node.names]

    def _module(self, target: str) -> str:
        """`walle.ids.Position` is in the module `walle.ids`."""
        if not self.is_inside(target):
            return target
        while target not in self.sources and target != self.package:
            target = target.rpartition(".")[0]
        return target


def _imports_in(
    parent: ast.AST, *, is_runtime: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, is_runtime
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for each in node.body:
                yield from _imports_in(ast.Module([each], []), is_runtime=False)
            for each in node.orelse:
                yield from _imports_in(ast.Module([each], []), is_runtime=is_runtime)
        else:
            yield from _imports_in(node, is_runtime=is_runtime)


def upward_imports(tree: Tree) -> list[str]:
    """The imports that point upwards or aside."""
    rows = {part: number for number, row in enumerate(ROWS, start=1) for part in row}
    found = []
    for name, (shown, _) in tree.sources.items():
        part = tree.part(name)
        if part not in rows:
            found.append(f"{shown}: {part} has no row")
            continue
        for each in tree.imports(name):
            target = tree.part(each.target)
            if not tree.is_inside(each.target):
                continue
            if rows.get(target, 0) > rows[part] or target in OUT_OF_REACH.get(part, ()):
                found.append(f"{shown}:{each.line}: imports {each.target}")
    return found


def worldly_imports(tree: Tree) -> list[str]:
    """The imports of the core that reach a socket, a clock, a file or randomness."""
    return [
        f"{shown}:{each.line}: imports {each.target}"
        for name, (shown, _) in tree.sources.items()
        if tree.part(name) == "core"
        for each in tree.imports(name)
        if each.target.partition(".")[0] in NOT_IN_CORE
    ]


def import_cycle(tree: Tree) -> list[str]:
    """Modules that import each other when they run, in a circle; empty if there are none."""
    graph = {
        name: {
            each.target
            for each in tree.imports(name)
            if each.is_runtime and each.target in tree.sources and each.target != name
        }
        for name in tree.sources
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def large_files(root: Path, *directories: str) -> set[str]:
    """The files that are longer than they may be."""
    return {
        str(path.relative_to(root))
        for directory in directories
        for path in (root / directory).rglob("*.py")
        if len(path.read_text().splitlines()) > FILE_LINES_MAX
    }


def long_functions(root: Path, *directories: str) -> set[str]:
    """The functions that are longer than they may be, as `path:Class.function`."""
    return {
        f"{path.relative_to(root)}:{name}"
        for directory in directories
        for path in (root / directory).rglob("*.py")
        for name, lines in _functions_in(ast.parse(path.read_text()), ())
        if lines > FUNCTION_LINES_MAX
    }


def _functions_in(parent: ast.AST, outer: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    for node in ast.iter_child_nodes(parent):
        inner = outer
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = (*outer, node.name)
            if not isinstance(node, ast.ClassDef):
                yield ".".join(inner), (node.end_lineno or 0) - node.lineno + 1
        yield from _functions_in(node, inner)


def differences(found: set[str], listed: Mapping[str, str]) -> list[str]:
    """What is over its bound without a reason, and reasons that are no longer needed."""
    return [f"{each} is too long" for each in sorted(found - set(listed))] + [
        f"{each} is listed, but need not be" for each in sorted(set(listed) - found)
    ]


# --- the project ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project() -> Tree:
    return Tree(ROOT, PACKAGE)


def test_no_module_imports_from_a_row_above_its_own(project: Tree) -> None:
    assert upward_imports(project) == []


def test_core_imports_nothing_of_the_outside_world(project: Tree) -> None:
    assert worldly_imports(project) == []


def test_modules_do_not_import_each_other_in_a_circle(project: Tree) -> None:
    assert import_cycle(project) == []


def test_core_brings_nothing_of_the_outside_world_into_a_process() -> None:
    """Beyond what the rows below it have loaded already. The package's `__init__` is left out."""
    code = f"""
import sys, types
package = sys.modules["{PACKAGE}"] = types.ModuleType("{PACKAGE}")
package.__path__ = [{str(ROOT / PACKAGE)!r}]
import walle.config, walle.errors, walle.frame, walle.ids, walle.limits, walle.messages
import walle.native, walle.record
before = set(sys.modules)
import walle.core.connection, walle.core.node, walle.core.pipeline
print(*sorted(set(sys.modules) - before))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = set(done.stdout.split())
    assert "walle.core.node" in added
    assert added & NOT_IN_CORE == set()


def test_files_are_short() -> None:
    found = large_files(ROOT, "walle", "tests", "tools")
    assert differences(found, LARGE_FILES) == []


def test_functions_are_short() -> None:
    found = long_functions(ROOT, "walle", "tests", "tools")
    assert differences(found, LONG_FUNCTIONS) == []


# --- the checks can fail --------------------------------------------------------------------------


@pytest.fixture
def build(tmp_path: Path) -> Callable[[dict[str, str]], Tree]:
    """Makes a package of files given by their paths in it."""

    def make(files: dict[str, str]) -> Tree:
        for name, text in {"__init__.py": "", **files}.items():
            path = tmp_path / PACKAGE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Tree(tmp_path, PACKAGE)

    return make


@pytest.mark.parametrize(
    ("path", "text", "target"),
    [
        ("ids.py", "import walle.record", "walle.record"),
        ("ids.py", "from walle import record", "walle.record"),
        ("ids.py", "from walle.record import Batch", "walle.record"),
        ("ids.py", "from . import record", "walle.record"),
        ("ids.py", "from .record import Batch", "walle.record"),
        ("ids.py", "def f():\n    import walle.record", "walle.record"),
        ("ids.py", "if TYPE_CHECKING:\n    from walle.record import Batch", "walle.record"),
        ("core/__init__.py", "from ..storage import store", "walle.storage.store"),
        ("core/node.py", "from walle.storage import store", "walle.storage.store"),
        ("core/node.py", "from walle.storage.store import Store", "walle.storage.store"),
        ("core/node.py", "from ..storage.store import Store", "walle.storage.store"),
        ("core/node.py", "from walle import connect", "walle"),
        ("client/client.py", "import walle.storage.store", "walle.storage.store"),
        ("sync.py", "import walle.storage.store", "walle.storage.store"),
        ("ring/spsc.py", "import walle.storage.store", "walle.storage.store"),
    ],
)
def test_upward_import_is_found(
    build: Callable[[dict[str, str]], Tree], path: str, text: str, target: str
) -> None:
    tree = build({"storage/store.py": "", "record.py": "", path: text})
    line = 1 + text.count("\n")
    assert upward_imports(tree) == [f"walle/{path}:{line}: imports {target}"]


def test_downward_and_level_imports_are_allowed(build: Callable[[dict[str, str]], Tree]) -> None:
    tree = build(
        {
            "ids.py": "import walle.errors, struct",
            "errors.py": "if TYPE_CHECKING:\n    import walle.ids",
            "core/node.py": "from walle import ids",
            "core/member.py": "from .node import Node",
            "client/client.py": "import walle.core.node, walle.sync",
            "sync.py": "import walle.client.client",
            "cli/__init__.py": "import walle",
        }
    )
    assert upward_imports(tree) == []


def test_part_without_a_row_is_found(build: Callable[[dict[str, str]], Tree]) -> None:
    assert upward_imports(build({"extras.py": ""})) == ["walle/extras.py: extras has no row"]


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("import time", "time"),
        ("import os.path", "os.path"),
        ("from random import random", "random.random"),
        ("def f():\n    import asyncio", "asyncio"),
        ("if TYPE_CHECKING:\n    from pathlib import Path", "pathlib.Path"),
    ],
)
def test_worldly_import_is_found(
    build: Callable[[dict[str, str]], Tree], text: str, target: str
) -> None:
    tree = build({"core/node.py": text, "process/loop.py": text})
    line = 1 + text.count("\n")
    assert worldly_imports(tree) == [f"walle/core/node.py:{line}: imports {target}"]


def test_cycle_is_found(build: Callable[[dict[str, str]], Tree]) -> None:
    tree = build(
        {
            "core/a.py": "from walle.core.b import b",
            "core/b.py": "from walle.core import c",
            "core/c.py": "def f():\n    import walle.core.a",
        }
    )
    assert set(import_cycle(tree)) == {"walle.core.a", "walle.core.b", "walle.core.c"}


def test_cycle_of_types_is_none(build: Callable[[dict[str, str]], Tree]) -> None:
    tree = build(
        {
            "core/a.py": "from walle.core.b import b",
            "core/b.py": "if TYPE_CHECKING:\n    from walle.core.a import A",
        }
    )
    assert import_cycle(tree) == []


def test_runtime_branch_beside_a_type_checking_one_counts(
    build: Callable[[dict[str, str]], Tree],
) -> None:
    tree = build({"core/a.py": "if TYPE_CHECKING:\n    pass\nelse:\n    import time"})
    assert worldly_imports(tree) == ["walle/core/a.py:4: imports time"]
    assert [each.is_runtime for each in tree.imports("walle.core.a")] == [True]


def test_large_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "walle").mkdir()
    (tmp_path / "walle" / "large.py").write_text("x = 1\n" * (FILE_LINES_MAX + 1))
    (tmp_path / "walle" / "fits.py").write_text("x = 1\n" * FILE_LINES_MAX)
    assert large_files(tmp_path, "walle") == {"walle/large.py"}


def test_long_function_is_found(tmp_path: Path) -> None:
    (tmp_path / "walle").mkdir()
    fits = "def fits():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX - 1)
    body = "        x = 1\n" * FUNCTION_LINES_MAX
    method = f"class Thing:\n    async def long(self):\n{body}"
    (tmp_path / "walle" / "a.py").write_text(fits + method)
    assert long_functions(tmp_path, "walle") == {"walle/a.py:Thing.long"}


def test_difference_is_told_in_both_directions() -> None:
    listed = {"a.py": "has a reason", "c.py": "had one"}
    assert differences({"a.py", "b.py"}, listed) == [
        "b.py is too long",
        "c.py is listed, but need not be",
    ]
