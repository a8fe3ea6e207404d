"""Nodes that have as many clients as they take: nodes still find each other."""

from __future__ import annotations

import resource
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.clusters import DevNodes, wait_until
from tests.wire.peer import HELLO, Peer, peers
from walle.errors import Code
from walle.limits import SESSIONS_COUNT_MAX
from walle.messages import ClaimReply, CreateStream, Failure, StreamInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


@pytest.fixture
def _many_files() -> Iterator[None]:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.mark.usefixtures("_many_files")
def test_idle_clients_do_not_lock_out_a_node_that_starts(tmp_path: Path) -> None:
    with DevNodes(tmp_path, apart=True) as nodes, ExitStack() as stack:
        with Peer(nodes.addresses[0]) as peer:
            info = peer.insist(CreateStream("/full", ()))
            assert isinstance(info, StreamInfo)
        nodes.kill("n3")
        for address in nodes.addresses[:2]:
            stack.enter_context(peers(address, SESSIONS_COUNT_MAX - 5))  # `walle dev` asks, too
            late: list[Failure] = []
            while not late:
                late += _refusals(stack, address)
            assert late[0].code == Code.BUSY
        nodes.start("n3")
        peer = stack.enter_context(Peer(nodes.addresses[2]))

        def claims() -> bool:
            return isinstance(peer.claim(info), ClaimReply)

        wait_until(claims, "n3 reaches the others")


def _refusals(stack: ExitStack, address: str) -> list[Failure]:
    """Of one more client."""
    try:
        stack.enter_context(Peer(address))
    except AssertionError:  # it was refused, instead of welcomed
        with Peer(address, is_greeting=False) as peer:
            peer.send(HELLO)
            failure = peer.last_words(5.0)
            return [failure] if failure is not None else []
    return []
