"""One node becomes three, five and three again, under load, by the command line alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clusters import DevNodes
from tests.process.load import PAUSE_S_MAX, STREAM, Load, run_under_load
from tests.process.test_members import check_replicas
from tests.process.test_nodes import listed, wait_up

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_one_node_becomes_three_and_five_and_three_again(tmp_path: Path) -> None:
    """As docs/operations.md tells it. No put fails, and none waits for long."""
    with DevNodes(tmp_path, count=1) as nodes:
        nodes.cli("stream", "create", STREAM)

        def join(*names: str) -> None:
            for name in names:
                address = nodes.spare_address(int(name[1:]) - 2)
                nodes.run_node(name, listen=address, join=nodes.addresses)
            for name in names:
                wait_up(nodes, name)

        def set_members(names: str, load: Load) -> None:
            for stream in ("/cluster", STREAM):
                nodes.cli("stream", "members", stream, "--set", names)
            load.wait_for_more()

        def disturb(load: Load) -> None:
            load.wait_for_more()
            join("n2", "n3")
            set_members("n1,n2,n3", load)
            join("n4", "n5")
            set_members("n1,n2,n3,n4,n5", load)
            set_members("n1,n4,n5", load)
            for name in ("n2", "n3"):
                nodes.cli("node", "remove", name)
            load.wait_for_more()

        load = run_under_load(nodes, disturb, Load)
        assert load.pause_s < PAUSE_S_MAX
        assert list(listed(nodes)) == ["n1", "n4", "n5"]
        check_replicas(nodes, ("n1", "n4", "n5"), load)
