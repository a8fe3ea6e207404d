"""How a process ends says whether it helps to start the node again."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.process.stages import Disk
from walle.config import NodeConfig
from walle.core import effects
from walle.errors import ConfigError, CorruptionError, InvariantError
from walle.ids import ORIGIN
from walle.process import child, orders
from walle.process.child import EX_CONFIG, EX_DATAERR, EX_IOERR, EX_SOFTWARE, HOPELESS
from walle.ring.region import Region

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from walle.core.effects import Send
    from walle.core.node import Recovered
    from walle.process.mail import Destination

DAMAGE = CorruptionError("a file", 8, expected="this", found="that")


@pytest.fixture(autouse=True)
def own_signal() -> Iterator[None]:
    """A process's loop takes over SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def region() -> Iterator[Region]:
    made = Region()
    yield made
    made.close()


def config(path: Path) -> NodeConfig:
    return NodeConfig("n1", "127.0.0.1:1", path, {"n1": "127.0.0.1:1"})


class Damaged(Disk):
    """A disk on which damage is found only when somebody wants to truncate."""

    def __init__(self, *_: object) -> None:
        super().__init__(lambda _read: [])

    def execute(self, action: effects.Action) -> None:
        super().execute(action)
        raise DAMAGE


def to_frame(_send: Send) -> tuple[Destination, bytes]:
    raise AssertionError("nothing is sent")


def test_damage_that_is_found_while_the_node_runs_is_left_to_recovery(
    region: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "Store", Damaged)
    truncate = effects.Truncate(2, ORIGIN)
    assert region.orders.try_write(
        *orders.pack_order(1, truncate, gives_place=lambda _: False, to_frame=to_frame)
    )
    region.orders.publish()
    status = child._run(lambda: child.run_storage(region, config(tmp_path)))
    assert status == EX_IOERR
    assert status not in HOPELESS


class Stopped(Disk):
    """A disk of a node that is told to stop as soon as it has been opened."""

    def __init__(self, *_: object) -> None:
        super().__init__(lambda _read: [])

    def recovered(self) -> Recovered:
        signal.raise_signal(signal.SIGTERM)
        return super().recovered()


def test_what_was_appended_last_is_confirmed_before_the_node_stops(
    region: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Stopped()
    monkeypatch.setattr(child, "Store", lambda *_: disk)
    assert child._run(lambda: child.run_storage(region, config(tmp_path))) == 0
    assert disk.done == ["finish"]


def test_a_directory_that_cannot_be_opened_ends_the_node(
    region: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise DAMAGE

    monkeypatch.setattr(child, "Store", refuse)
    status = child._run(lambda: child.run_storage(region, config(tmp_path)))
    assert status == EX_DATAERR
    assert status in HOPELESS


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("listen", "is wrong"), EX_CONFIG),
        (OSError(5, "Input/output error"), EX_IOERR),
        (InvariantError("cannot be"), EX_SOFTWARE),
        (KeyError("a bug"), EX_SOFTWARE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_other_ends(error: Exception, status: int) -> None:
    def work() -> None:
        raise error

    assert child._run(work) == status


def test_an_end_in_good_order() -> None:
    assert child._run(lambda: None) == 0
