"""The data directory: one process, one node, one identity. And how ends are described."""

from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from walle.config import NodeConfig
from walle.errors import ConfigError
from walle.supervisor import DataDirectory, Ended, describe_status, listen

if TYPE_CHECKING:
    from pathlib import Path


def config(path: Path, node: str = "n1") -> NodeConfig:
    return NodeConfig(node, "127.0.0.1:1", path, {node: "127.0.0.1:1"})


def identity_of(path: Path) -> bytes:
    directory = DataDirectory(config(path))
    directory.close()
    return directory.identity


def test_identity_is_made_with_the_directory_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "some" / "data"
    identity = identity_of(path)
    assert len(identity) == 16
    assert identity_of(path) == identity
    assert json.loads((path / "node.json").read_text()) == {
        "node": "n1",
        "identity": identity.hex(),
    }
    assert not list(path.glob("*.new"))


def test_wiped_directory_is_another_node(tmp_path: Path) -> None:
    before = identity_of(tmp_path)
    (tmp_path / "node.json").unlink()
    assert identity_of(tmp_path) != before


def test_identity_that_was_half_written_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "node.new").write_text('{"no')
    assert len(identity_of(tmp_path)) == 16


def test_directory_in_use_is_refused_until_its_lock_is_given_up(tmp_path: Path) -> None:
    held = DataDirectory(config(tmp_path))
    with pytest.raises(ConfigError, match=r"data: .* is in use by another process; stop that"):
        DataDirectory(config(tmp_path))
    held.close()
    assert identity_of(tmp_path) == held.identity


def test_directory_of_another_node_is_refused(tmp_path: Path) -> None:
    identity_of(tmp_path)
    with pytest.raises(ConfigError, match=r"belongs to node n1, not to n2; check `node` and"):
        DataDirectory(config(tmp_path, "n2"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '"n1"',
        '{"node": "n1"}',
        '{"node": "n1", "identity": "xy"}',
        '{"node": "n1", "identity": 3}',
        "7",
    ],
)
def test_damaged_identity_is_refused_not_replaced(tmp_path: Path, text: str) -> None:
    """With a new one the node could vote again without its promises."""
    path = tmp_path / "node.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"node.json is no node's identity file"):
        DataDirectory(config(tmp_path))
    assert path.read_text() == text


@pytest.mark.parametrize("value", ["", "00", "00" * 17])
def test_identity_of_another_size_is_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "node.json").write_text(json.dumps({"node": "n1", "identity": value}))
    with pytest.raises(ConfigError, match=r"node.json is no node's identity file"):
        DataDirectory(config(tmp_path))


@pytest.mark.parametrize("node", [None, "n2"])
def test_lock_is_given_up_where_the_directory_is_refused(tmp_path: Path, node: str | None) -> None:
    good = tmp_path / "node.json"
    good.write_text(json.dumps({"node": node, "identity": "00" * 16}))
    with pytest.raises(ConfigError):
        DataDirectory(config(tmp_path))
    good.write_text(json.dumps({"node": "n1", "identity": "00" * 16}))
    DataDirectory(config(tmp_path)).close()


# --- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "ended with status 0"),
        (70, "ended with status 70"),
        (-signal.SIGKILL, "was killed by SIGKILL (by hand, or for want of memory)"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
    ],
)
def test_end_of_a_process_is_described(status: int, text: str) -> None:
    assert describe_status(status) == text
    assert str(Ended("storage", status)) == f"storage {text}"


# --- listening ------------------------------------------------------------------------------------


def test_address_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"listen: cannot listen on {address}: Address alre"):
            listen(address)


def test_listener_does_not_block() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with listen(f"127.0.0.1:{port}") as listener:
        assert not listener.getblocking()
        assert listener.getsockname() == ("127.0.0.1", port)
