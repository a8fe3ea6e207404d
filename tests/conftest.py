"""A cluster for the tests of the command line and of the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clusters import DevNodes

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNodes]:
    """A cluster that the tests of a file share."""
    with DevNodes(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def stream(nodes: DevNodes, request: pytest.FixtureRequest) -> str:
    """A stream of the test's own."""
    name = f"/{request.node.name}"
    nodes.cli("stream", "create", name)
    return name
