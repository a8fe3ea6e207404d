"""Random valid actions on a store and on the model, reopened at random points, with and without
the loss of power; what was recovered and what can be read must be the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.storage.model import (
    CLUSTER_ID,
    Driver,
    check_reads,
    check_recovered,
    read_action,
    read_bytes,
)
from walle.core import effects
from walle.messages import NodeRecord
from walle.storage.store import Store
from walle.testing.files import SimulatedFiles

STREAMS = (1, 2, 77)
DIRECTORY = Path("/data")
SEEDS = st.integers(0, 1 << 32)

pytestmark = pytest.mark.usefixtures("small_files_in_module")


class StoreMachine(RuleBasedStateMachine):
    """One store on a simulated disk."""

    @initialize()
    def open(self) -> None:
        self.files = SimulatedFiles()
        store = Store(DIRECTORY, self.files)
        self.driver = Driver(store)
        check_recovered(store.recovered(), self.driver.model)
        nodes = (NodeRecord("n1", "h:1", b"1" * 16), NodeRecord("n2", "h:2", b"2" * 16))
        self.driver.do(effects.SetCluster(CLUSTER_ID, nodes))
        for stream_id in STREAMS:
            self.driver.create(stream_id)

    @rule(stream_id=st.sampled_from(STREAMS), seed=SEEDS, count=st.integers(1, 8))
    def act(self, stream_id: int, seed: int, count: int) -> None:
        chance = random.Random(seed)
        for _ in range(count):
            self.driver.do_random(chance, stream_id)

    @rule()
    def sync(self) -> None:
        self.driver.store.sync()

    @rule(stream_id=st.sampled_from(STREAMS), seed=SEEDS)
    def read(self, stream_id: int, seed: int) -> None:
        """A read in the middle of a round sees what was executed."""
        chance = random.Random(seed)
        stream = self.driver.model.streams[stream_id]
        start = chance.randint(stream.history.origin.entry_id, stream.history.tail.entry_id) + 1
        action = read_action(
            stream_id,
            start,
            start + chance.choice([1, 2, 10, 1_000]),
            bytes_max=chance.choice([1, 100, 3_000, 1 << 20]),
            aside=chance.random() < 0.5,
        )
        if chance.random() < 0.5:
            runs = [*stream.history.aside, *stream.history.runs]
            if runs:
                run = chance.choice(runs)
                action = action._replace(start=run.start, end=run.end, after=run.prev_chain)
        assert read_bytes(self.driver.store, action) == stream.read(action)

    @rule()
    def read_all(self) -> None:
        check_reads(self.driver.store, self.driver.model)

    @rule(seed=SEEDS, is_orderly=st.booleans())
    def reopen(self, seed: int, is_orderly: bool) -> None:
        """After a sync, the loss of power changes nothing."""
        while self.driver.store.is_dirty:
            self.driver.store.sync()
        self.driver.store.close()
        if not is_orderly:
            self.files.lose_power(random.Random(seed))
        self.reopen_store()

    def reopen_store(self) -> None:
        store = Store(DIRECTORY, self.files)
        assert store.findings == ()
        recovered = store.recovered()
        check_recovered(recovered, self.driver.model)
        self.driver.store = store
        for state in recovered.states:
            # Like the core, go on from what was recovered.
            stream = self.driver.model.streams[state.stream_id]
            stream.history.committed = state.history.committed
        check_reads(store, self.driver.model)

    @precondition(lambda self: self.driver.store is not None)
    @rule()
    def count_files(self) -> None:
        """No file is left behind."""
        self.driver.store.sync()
        while self.driver.store.remove_some():
            pass
        for stream_id, status in self.driver.store.status().items():
            assert (
                len(self.files.names(DIRECTORY / "streams" / f"{stream_id:016x}"))
                == status["files"]
            )
        assert len(self.files.names(DIRECTORY / "journal")) == 1


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=60, stateful_step_count=40)
