"""How much Python runs for a batch in each of a node's processes: counted, so that it is the same
on every machine. A step of a microsecond too many is found here before it can be measured."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.performance.one_client import one_client
from tests.performance.one_node import one_node
from tests.unit.client.test_reading import Stream, follow
from walle.client import turns as turns_module
from walle.client.turns import TURNS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

CALLS_MAX = {
    "network receives": 64,
    "consensus": 147,
    "storage": 113,
    "network sends": 43,
}
"""Of Python functions and of built-in ones, for one put; a few more than there are."""
FOLLOWERS = 50
FOLLOWER_CALLS_MAX = {"network receives": 0, "consensus": 34, "storage": 6, "network sends": 37}
"""The same, for one more that is sent what is committed."""
FOLLOWER_OF_A_CLIENT_CALLS_MAX = 64
"""The same in a client that has followers of the stream already."""

TOGETHER = 30
CALLS_TOGETHER_MAX = {"consensus": 110, "storage": 42, "network sends": 5}
"""The same for each of so many puts that one turn finds: what their answers share is done once."""


CLIENT_CALLS_MAX = {"entry": 28, "batch": 480}
"""Of a client whose writers wait for their turns: for one more entry that is put then, and for a
batch, from its turn to the last of three answers."""


def calls_of(work: Callable[[], object]) -> int:
    """How many functions are called in it."""
    count = 0

    def on_event(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_a_batch_costs_few_calls_whatever_is_in_it(tmp_path: Path) -> None:
    rounds = 8
    with one_node(tmp_path) as node:
        found: dict[int, dict[str, int]] = {}
        for count in (1, 400):
            costs: dict[str, list[int]] = {name: [] for name in node.steps}
            for _ in range(rounds):
                node.put(count, 1_000)
                for name, step in node.steps.items():
                    costs[name].append(calls_of(step))
            # The least: now and then a segment is begun, or the commit point is noted.
            found[count] = {name: min(calls) for name, calls in costs.items()}
        answers = len(node.transport.sent) - 1
    assert answers == 2 * rounds, "each put was answered"
    for name, calls in found[1].items():
        assert calls <= CALLS_MAX[name], f"{name}: {calls} calls for a put"
        assert found[400][name] < calls + 40, f"{name}: its cost is that of batches, not of entries"


def test_batches_that_come_together_cost_less(tmp_path: Path) -> None:
    costs: dict[str, list[int]] = {name: [] for name in CALLS_TOGETHER_MAX}
    with one_node(tmp_path) as node:
        for _ in range(4):
            for _ in range(TOGETHER):
                node.put(1, 100)
                node.steps["network receives"]()
            for name, calls in costs.items():
                calls.append(calls_of(node.steps[name]))
    for name, most in CALLS_TOGETHER_MAX.items():
        each = min(costs[name]) / TOGETHER
        assert each <= most, f"{name}: {each} calls for a put"


def test_many_followers_share_what_is_read(tmp_path: Path) -> None:
    costs: dict[int, dict[str, int]] = {}
    for count in (1, FOLLOWERS):
        with one_node(tmp_path / str(count)) as node:
            node.add_followers(count)
            node.follow()
            batch = node.put(100, 1_000)
            node.run()
            assert not any(node.answers()), "nothing is committed yet"
            node.put(1, 10)  # it tells that they are
            with patch.object(node.store, "read", wraps=node.store.read) as read:
                costs[count] = {name: calls_of(step) for name, step in node.steps.items()}
            assert read.call_count == 1, "one read for all of them"
            for answers in node.answers():
                (sent,) = answers
                assert sent.endswith(batch.payload.view())
    for name, calls in costs[1].items():
        each = (costs[FOLLOWERS][name] - calls) / (FOLLOWERS - 1)
        assert each <= FOLLOWER_CALLS_MAX[name], f"{name}: {each:.1f} calls for a follower more"


def test_one_more_follower_of_a_client_costs_few_calls() -> None:
    async def take(stream: Stream, all_have: asyncio.Barrier) -> None:
        async for entries in follow(stream, 1):
            assert len(entries) == 100
            await all_have.wait()

    async def calls_with(count: int) -> int:
        stream = Stream([100] * 100)
        stream.committed = 0
        all_have = asyncio.Barrier(count + 1)
        tasks = [asyncio.create_task(take(stream, all_have)) for _ in range(count)]
        await stream.waited.wait()
        for _ in range(200):  # turns, by which the last follower waits, too
            await asyncio.sleep(0)
        calls = 0

        def on_event(_frame: Any, event: str, _argument: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(on_event)
        try:
            stream.commit(100)
            await all_have.wait()
        finally:
            sys.setprofile(None)
        for task in tasks:
            task.cancel()
        return calls

    few, many = (asyncio.run(calls_with(count)) for count in (1, FOLLOWERS))
    each = (many - few) / (FOLLOWERS - 1)
    assert each <= FOLLOWER_OF_A_CLIENT_CALLS_MAX, f"{each:.1f} calls for a follower more"


def test_batch_of_one_of_many_streams_costs_the_client_few_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns_module, "COUNTED_S", 60.0)
    costs: dict[str, list[int]] = {"entry": [], "batch": []}

    async def work() -> None:
        async with one_client(3 * TURNS) as client:

            def put() -> None:
                for writer in client.writers:
                    writer.put(b"data")

            for _ in range(9):
                costs["entry"].append(calls_of(put) // len(client.writers))
                client.end_turn()
                receive = partial(client.receive, client.answers())
                calls = calls_of(receive) + calls_of(client.end_turn)
                costs["batch"].append(calls // TURNS)
            assert sum(node.puts for node in client.nodes.values()) == 9 * TURNS * 3

    asyncio.run(work())
    for name, calls in costs.items():
        assert min(calls[3:]) <= CLIENT_CALLS_MAX[name], f"{name}: {calls} calls"
