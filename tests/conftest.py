"""A cluster for the tests of the command line and of the client; and time for all tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.clusters import DevNodes

if TYPE_CHECKING:
    from collections.abc import Iterator

# How long an example takes is the machine's affair: it may stand still in the middle of one.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


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
