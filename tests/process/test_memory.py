"""A node's memory has a bound, whatever it is given to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.clusters import DevNodes, wait_until
from tools.node.stage import memory_of
from walle.limits import NODE_BYTES_MAX, SHARED_BYTES

pytestmark = pytest.mark.slow

DUE = ("--streams", "10", "--clients", "2", "--batch", "64", "--rate", "10000000")
"""Many times what three nodes on one machine can do."""
LASTING = ("--seconds", "5", "--warm-up-seconds", "0", "--json")


def node_bytes(nodes: DevNodes, name: str) -> int:
    return sum(memory_of(pid).total for pid in nodes.tree(name))


def unshared_bytes(pid: int) -> int:
    """What the process would have if it shared none of its anonymous memory."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("Anonymous:")[2].split()[0]) * 1_024


def test_processes_of_a_node_share_what_was_there_before_them(nodes: DevNodes) -> None:
    """The garbage collector, which would write into all of it, leaves it alone."""
    for name in nodes.names:
        pids = nodes.tree(name)
        shared = sum(memory_of(pid).anonymous for pid in pids)
        assert 2 * shared < sum(map(unshared_bytes, pids))


def test_a_node_takes_no_more_than_its_bound_however_much_is_due(tmp_path: Path) -> None:
    with DevNodes(tmp_path, apart=True) as nodes:
        at_rest = {name: node_bytes(nodes, name) for name in nodes.names}
        assert max(at_rest.values()) + SHARED_BYTES < NODE_BYTES_MAX
        loading = nodes.popen("bench", *DUE, *LASTING, stdout=-1)
        most = dict(at_rest)

        def has_ended() -> bool:
            for name in nodes.names:
                most[name] = max(most[name], node_bytes(nodes, name))
            return loading.poll() is not None

        assert loading.stdout is not None
        wait_until(has_ended, "the load ends", 120.0)
        puts = json.loads(loading.stdout.read())["puts"]
        assert puts["durable"] > 0
        assert puts["unanswered"] > puts["durable"], "far more was due than could be done"
    assert max(most.values()) < NODE_BYTES_MAX, f"{most}, at rest {at_rest}"
    assert all(most[name] > at_rest[name] for name in nodes.names)
