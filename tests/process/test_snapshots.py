"""Snapshots of `/cluster` on real nodes: streams come and go; nodes restart, come back, join."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

import walle
from tests.clusters import DevNodes, wait_until
from walle.core.snapshot import INTERVAL_ENTRIES

if TYPE_CHECKING:
    from pathlib import Path

AT_ONCE = 50

pytestmark = pytest.mark.slow


async def churn(nodes: DevNodes) -> None:
    """Creates and deletes streams, until the last snapshot is two intervals away."""
    async with walle.connect(nodes.addresses[:2]) as client:
        for _ in range(INTERVAL_ENTRIES // AT_ONCE):
            names = [f"/come/and/go/{number}" for number in range(AT_ONCE)]
            await asyncio.gather(*(client.create_stream(name) for name in names))
            await asyncio.gather(*(client.delete_stream(name) for name in names))


def streams(nodes: DevNodes, address: str) -> Any:
    """What a node knows of all streams."""
    found = json.loads(nodes.cli("stream", "list", "--json", "--connect", address))
    return {each["name"]: (each["id"], each["version"], each["first_entry_id"]) for each in found}


def test_all_nodes_know_the_same_streams_though_cluster_was_trimmed(tmp_path: Path) -> None:
    with DevNodes(tmp_path, apart=True) as nodes:
        nodes.cli("stream", "create", "/gone")
        nodes.cli("stream", "create", "/stays")
        nodes.cli("put", "/stays", data=b"one\n")
        nodes.kill("n3")
        nodes.cli("stream", "delete", "/gone", "--yes")
        asyncio.run(churn(nodes))
        nodes.cli("stream", "create", "/new", "--members", "n1,n2,n3")
        left = {"/cluster", "/stays", "/new"}
        wait_until(lambda: streams(nodes, nodes.addresses[0]).keys() == left, "n1 knows all")
        known = streams(nodes, nodes.addresses[0])
        assert known["/cluster"][2] > INTERVAL_ENTRIES
        nodes.start("n3")
        nodes.run_node("n4", join=nodes.addresses)
        for address in (*nodes.addresses, nodes.spare_address()):
            wait_until(
                lambda at=address: (
                    nodes.run("stream", "list", "--connect", at).returncode == 0
                    and streams(nodes, at) == known
                ),
                f"{address} knows all streams",
                60,
            )
        wait_until(lambda: set(nodes.node_status("n3")["streams"]) == known.keys(), "n3 left", 60)
        nodes.kill(*nodes.names)
        nodes.start(*nodes.names)
        wait_until(lambda: streams(nodes, nodes.addresses[2]) == known, "n3 knows them again")
        assert nodes.cli("read", "/stays", "--raw") == b"one\n"
