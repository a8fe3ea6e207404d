"""A cluster for the wire tests, and the watch over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clusters import DevNodes
from tests.wire.watch import Load, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNodes]:
    """A cluster that the tests of a file share."""
    with DevNodes(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture(scope="module")
def load(nodes: DevNodes) -> Iterator[Load]:
    """A client that is to be served while the tests of a file do their worst."""
    with Load(nodes.connect, "/load") as running:
        yield running


@pytest.fixture
def watch(nodes: DevNodes, load: Load) -> Iterator[Watch]:
    """The shared cluster is as well after the test as before, and serves all the while."""
    watching = Watch(nodes, load)
    yield watching
    watching.finish()


@pytest.fixture
def own_nodes(tmp_path: Path) -> Iterator[DevNodes]:
    """A cluster for one test alone, which may do it lasting harm."""
    with DevNodes(tmp_path) as running:
        yield running


@pytest.fixture
def own_watch(own_nodes: DevNodes) -> Iterator[Watch]:
    """The watch over a test's own cluster; the test calls `finish` itself."""
    with Load(own_nodes.connect, "/load") as load:
        yield Watch(own_nodes, load)
