"""A loss of power at every moment of recorded workloads: see explorer.py.

A round's journal frame is one, so afterwards the store is as before the round or as behind it, in
all streams; what was merely appended may have come to the tail. Nobody doubts a tail for it.
"""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tests.storage.checks import DIRECTORY, check_crashed, check_goes_on
from tests.storage.explorer import Explorer
from tests.storage.model import CLUSTER_ID, Driver, essence
from walle.core import effects
from walle.errors import CorruptionError
from walle.storage.log import StreamLog
from walle.storage.notes import BLOCK_BYTES, Note
from walle.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from walle.ids import Position
    from walle.testing.files import SimulatedFiles

GOES_ON_EVERY = 11
RECOVERY_EVERY = 97
"""Of so many images one is also written to, and one's recovery is crashed in turn."""

pytestmark = pytest.mark.usefixtures("small_files")

Step: TypeAlias = "Callable[[Driver], None]"


def idle(driver: Driver) -> None:
    """Nothing is appended until all is confirmed."""
    while driver.store.has_unconfirmed:
        driver.store.confirm()
        driver.store.sync()


def together(*steps: Step) -> Step:
    """In one round."""

    def step(driver: Driver) -> None:
        for each in steps:
            each(driver)

    return step


def append(*sizes: int, skip: int = 0) -> Step:
    return lambda d: d.append(1, list(sizes), skip=skip)


def replace(dropped: int) -> Step:
    return together(lambda d: d.truncate(1, dropped), lambda d: d.append(1, [5], is_accepted=True))


def jump(gap: int) -> Step:
    return lambda d: d.jump(1, [50] * gap, [60] * 3, skip=1)


def fill(count: int) -> Step:
    return lambda d: d.fill(1, count)


def commit(advance: int) -> Step:
    return lambda d: d.commit(1, advance)


def trim(ahead: int, *, is_held: bool = True) -> Step:
    return lambda d: d.trim(1, ahead, is_held=is_held)


def remove(driver: Driver) -> None:
    driver.store.remove_some()


def cut(start: int, count: int) -> Step:
    return lambda d: d.cut(1, start, count)


def promise(driver: Driver) -> None:
    driver.promise(1)


def accept(driver: Driver) -> None:
    driver.accept(1)


def leave(driver: Driver) -> None:
    driver.leave(1)


def drop_fill(driver: Driver) -> None:
    driver.do(effects.DropFill(1))


WORKLOADS: dict[str, list[Step]] = {
    # Each step is a round.
    "append": [append(10), append(300, 300), append(2_000), append(1, 2, 3, skip=1)],
    "idle": [append(10), idle, append(900), append(900), idle, idle, append(5)],
    "rotate": [append(*[900] * 3)] * 5,
    "rotate within a round": [append(9), together(*[append(900, 900)] * 8), idle, append(9)],
    "promise and stamp": [append(9), promise, accept, together(promise, append(700)), accept],
    "truncate": [append(9, 9, 9), lambda d: d.truncate(1, 2), append(8), replace(1), replace(9)],
    "commit": [append(*[30] * 20), commit(17), append(9), together(commit(2), promise), append(9)],
    "jump": [append(9, 9, 9), commit(1), append(9), jump(4), append(9), jump(3), idle, append(9)],
    "backfill": [append(9, 9), jump(6), fill(2), idle, fill(2), fill(9), append(9)],
    "backfill in vain": [append(9, 9), jump(6), fill(2), drop_fill, fill(3), jump(4), fill(9)],
    "trim": [
        *[append(*[900] * 3)] * 3,
        *(commit(9), trim(4), append(9), trim(3), remove, append(900)),
        together(append(9), trim(2)),
    ],
    "trim ahead": [
        *(append(9, 9, 9), commit(1), trim(2), append(9), trim(5, is_held=False), remove),
        *(append(9), idle, together(append(9), trim(2, is_held=False), append(9)), append(9)),
    ],
    "trim in a gap": [
        *(append(9, 9), jump(6), fill(2), trim(3), fill(1), trim(3), fill(9), trim(4), append(9))
    ],
    "trim with what is left": [
        *(append(9), together(append(9, 9), commit(3), trim(2)), append(9)),
        *(commit(1), together(append(9, 9), commit(2), trim(3), append(9)), append(9)),
    ],
    "leave": [
        *[append(*[900] * 3)] * 3,
        *(
            accept,
            commit(5),
            leave,
            remove,
            append(9),
            together(append(9), leave, append(9)),
            remove,
        ),
        *(jump(4), append(9), fill(2), append(9), leave, append(9)),
    ],
    "damage": [
        *(append(*[9] * 10), commit(8), cut(3, 2), together(append(9), cut(6, 1), append(9))),
        *(fill(9), fill(9), together(commit(1), cut(1, 8)), fill(9), jump(3), cut(9, 1)),
    ],
    "full journal": [promise] * 8,
    "two streams": [
        together(append(9), lambda d: d.append(2, [9])),
        together(append(600), lambda d: d.append(2, [600], is_accepted=True)),
        together(append(600), lambda d: d.promise(2)),
        together(replace(1), lambda d: d.jump(2, [9] * 3, [9])),
    ],
}


class Recorder:
    """Carries out a workload on a file system that is explored, and checks what it may become."""

    def __init__(self) -> None:
        self.files = Explorer()
        self.driver = Driver(Store(DIRECTORY, self.files))
        self.driver.do(effects.SetCluster(CLUSTER_ID, ()))
        self.driver.create(1)
        self.driver.create(2)
        self.driver.store.sync()
        self.acknowledged = self.driver.model.copy()

    def run(self, step: Step) -> None:
        """One round."""
        self.files.visit = self.check
        step(self.driver)
        self.settle()
        self.files.explore()
        self.files.visit = None

    def settle(self) -> None:
        """What was executed is acknowledged."""
        while self.driver.store.is_dirty:
            self.driver.store.sync()
        self.acknowledged = self.driver.model.copy()

    def check(self, image: SimulatedFiles) -> None:
        count = self.files.count
        if count % RECOVERY_EVERY == 0:
            check_recovery(image)
        store = check_crashed(image, self.acknowledged, self.driver)
        if count % GOES_ON_EVERY == 0:
            check_goes_on(image, store, copy.copy(self.driver))


def check_recovery(image: SimulatedFiles) -> None:
    """A crash in the recovery is as though that had not begun."""
    wanted = essence(Store(DIRECTORY, copy.deepcopy(image)).recovered())
    files = Explorer()
    files.names_now, files.names_durable = copy.deepcopy((image.names_now, image.names_durable))

    def check(again: SimulatedFiles) -> None:
        assert essence(Store(DIRECTORY, again).recovered()) == wanted

    files.visit = check
    Store(DIRECTORY, files)
    files.explore()


@pytest.fixture(scope="module")
def counts(request: pytest.FixtureRequest) -> Iterator[list[int]]:
    """Of images, one for each workload; they are told in the end."""
    counts: list[int] = []
    yield counts
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        writer = request.config.get_terminal_writer()
        writer.line(f"\n{sum(counts)} losses of power, of {len(counts)} workloads, were survived")


@pytest.mark.parametrize("name", WORKLOADS)
def test_loss_of_power_at_any_moment(counts: list[int], name: str) -> None:
    recorder = Recorder()
    for step in WORKLOADS[name]:
        recorder.run(step)
    counts.append(recorder.files.count)
    assert recorder.files.count > 100


@pytest.mark.parametrize("seed", range(12))
def test_loss_of_power_at_any_moment_of_a_random_round(counts: list[int], seed: int) -> None:
    recorder = Recorder()
    chance = random.Random(seed)

    def act(driver: Driver) -> None:
        driver.do_random(chance, chance.choice([1, 2]))

    for _ in range(chance.randint(0, 40)):
        act(recorder.driver)
        if chance.random() < 0.2:
            recorder.driver.store.sync()
    recorder.settle()
    recorder.run(together(*[act] * chance.randint(1, 8)))
    counts.append(recorder.files.count)


def test_loss_of_power_while_the_first_journal_is_made(counts: list[int]) -> None:
    files = Explorer()

    def check(image: SimulatedFiles) -> None:
        assert Store(DIRECTORY, image).recovered().states == ()

    files.visit = check
    Store(DIRECTORY, files)
    files.explore()
    counts.append(files.count)


def never(_: object) -> bool:
    return False


def overwrite(note: Note) -> int:
    return BLOCK_BYTES


def claim_too_much(note: Note, end: int, last: Position) -> Note:
    return Note(note.number + 1, end, end, last)


BROKEN: dict[str, tuple[object, str, object, str]] = {
    # Where, what, what stands in its place, and the workload that shows it.
    "the journal is ahead": (StreamLog, "depends_on_data", property(never), "jump"),
    "a note is written over the last": (Note, "offset", property(overwrite), "append"),
    "a note says too much": (Note, "following", claim_too_much, "append"),
    "names are not synced": (Explorer, "sync_directory", lambda *_: None, "rotate"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_explorer_finds_what_is_broken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, what, broken, workload = BROKEN[name]
    recorder = Recorder()
    monkeypatch.setattr(where, what, broken)

    def run() -> None:
        for step in WORKLOADS[workload]:
            recorder.run(step)

    with pytest.raises((AssertionError, CorruptionError)):
        run()
